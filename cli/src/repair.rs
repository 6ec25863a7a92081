//! `millstream repair`: says what it would do about a damaged folder, and does it when told to.

use millstream_storage::{
    ManifestError, RepairAction, RepairError, RepairPlan, VerifyError, plan_repair, repair,
};
use serde::Serialize;

use crate::args::RepairArgs;
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::verify;

/// What is done, or would be.
#[derive(Debug, Serialize)]
struct PlanObject<'a> {
    /// Whether it was done.
    applied: bool,
    actions: Vec<ActionObject<'a>>,
    remains: Vec<RemainsObject<'a>>,
}

#[derive(Debug, Serialize)]
struct ActionObject<'a> {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segment: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a str>,
    text: String,
}

#[derive(Debug, Serialize)]
struct RemainsObject<'a> {
    problem: &'a str,
    advice: &'a str,
}

/// Plans, and carries out with `--apply`.
pub(crate) fn run(args: &RepairArgs, output: Output) -> Result<(), Failure> {
    let plan = if args.apply {
        repair(&args.data).map_err(|error| match error {
            RepairError::Folder(error) => failure(args, &error),
            step => Failure::new(Exit::Failed, step),
        })?
    } else {
        plan_repair(&args.data).map_err(|error| failure(args, &error))?
    };
    let object = PlanObject::of(&plan, args.apply);
    let text = describe(&plan, args);
    output.line(&object, format_args!("{}", text.trim_end()))?;
    if plan.remains.is_empty() && (args.apply || plan.actions.is_empty()) {
        Ok(())
    } else {
        Err(Failure::said(Exit::Damaged))
    }
}

/// A manifest that can't be read is said to be beyond repair, and why.
fn failure(args: &RepairArgs, error: &VerifyError) -> Failure {
    let beyond = "this can't be repaired: nothing else says which segments belong to which topic, where \
                  they end and which offsets were given out, and its records vouch for each other. \
                  Nothing was changed. Put the file back from a backup of the whole folder";
    match error {
        VerifyError::Manifest(
            damage @ (ManifestError::Corrupt { .. }
            | ManifestError::Invalid { .. }
            | ManifestError::Foreign),
        ) => Failure::new(
            Exit::Damaged,
            format_args!("{}: {damage}; {beyond}", args.data.display()),
        ),
        error => verify::failure(&args.data, error),
    }
}

fn describe(plan: &RepairPlan, args: &RepairArgs) -> String {
    let mut text = String::new();
    for action in &plan.actions {
        let word = if args.apply { "done" } else { "would" };
        text += &format!("{word}: {action}\n");
    }
    for remains in &plan.remains {
        text += &format!(
            "remains: {}\n         {}\n",
            remains.problem, remains.advice
        );
    }
    text += &match (plan.actions.len(), plan.remains.len(), args.apply) {
        (0, 0, _) => "nothing to repair".to_owned(),
        (0, remain, _) => format!("nothing can be repaired; {remain} problems remain"),
        (actions, remain, true) => format!("{actions} repairs done; {remain} problems remain"),
        (actions, remain, false) => format!(
            "{actions} repairs possible, {remain} problems would remain; nothing was changed. \
             --apply does it"
        ),
    };
    text
}

impl<'a> PlanObject<'a> {
    fn of(plan: &'a RepairPlan, applied: bool) -> Self {
        Self {
            applied,
            actions: plan.actions.iter().map(ActionObject::of).collect(),
            remains: plan
                .remains
                .iter()
                .map(|remains| RemainsObject {
                    problem: &remains.problem,
                    advice: remains.advice,
                })
                .collect(),
        }
    }
}

impl<'a> ActionObject<'a> {
    fn of(action: &'a RepairAction) -> Self {
        let blank = Self {
            action: "other",
            topic: None,
            log: None,
            segment: None,
            file: None,
            to: None,
            text: action.to_string(),
        };
        match action {
            RepairAction::ReleaseCut {
                topic,
                log,
                segment,
                ..
            } => Self {
                action: "release",
                topic: Some(topic),
                log: Some(log.0),
                segment: Some(segment.0),
                ..blank
            },
            RepairAction::Rebuild {
                topic,
                log,
                segment,
                ..
            } => Self {
                action: "rebuild",
                topic: Some(topic),
                log: Some(log.0),
                segment: Some(segment.0),
                ..blank
            },
            RepairAction::MoveAside { file, to } => Self {
                action: "move_aside",
                file: Some(file),
                to: Some(to),
                ..blank
            },
            _ => blank,
        }
    }
}
