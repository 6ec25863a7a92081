//! `millstream doctor`: is this machine, this disk and this folder fit to serve, and if not, what to do.
//!
//! Each check is one line: ok, warn or fail, what was found, and what to do about it. Nothing is
//! changed; the file that syncs are measured with has no name where the file system allows that, and
//! is removed where it does not.

mod disk;
mod folder;
mod machine;

use serde::Serialize;

use crate::args::DoctorArgs;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Grade {
    /// As it should be.
    Ok,
    /// The server runs, and somebody should know.
    Warn,
    /// The server does not run, or what it promises does not hold.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    grade: Grade,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            grade: Grade::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            check,
            grade: Grade::Warn,
            found: found.into(),
            advice: Some(advice.into()),
        }
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            grade: Grade::Fail,
            ..Self::warn(check, found, advice)
        }
    }
}

/// All of it, as `--json` prints it.
#[derive(Debug, Serialize)]
struct ReportObject<'a> {
    grade: Grade,
    checks: &'a [Finding],
}

/// Looks at everything and says what was found.
pub(crate) fn run(args: &DoctorArgs, output: Output) -> Result<(), Failure> {
    let mut findings = vec![machine::kernel(), machine::io_uring()];
    let place = disk::existing(&args.data);
    findings.extend(disk::file_system(&place));
    findings.push(disk::sync_cost(&place, args.syncs));
    findings.extend(disk::space(&place));
    findings.extend(machine::limits());
    findings.extend(machine::clock());
    findings.extend(folder::folder(&args.data));
    let grade = findings.iter().map(|finding| finding.grade).max();
    let grade = grade.unwrap_or(Grade::Ok);
    let object = ReportObject {
        grade,
        checks: &findings,
    };
    output.line(&object, format_args!("{}", describe(&findings).trim_end()))?;
    match grade {
        Grade::Ok | Grade::Warn => Ok(()),
        Grade::Fail => Err(Failure::said(Exit::Unfit)),
    }
}

fn describe(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let grade = match finding.grade {
            Grade::Ok => "ok",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        };
        text += &format!("{grade:<5} {:<12} {}\n", finding.check, finding.found);
        if let Some(advice) = &finding.advice {
            text += &format!("{:19}{advice}\n", "");
        }
    }
    text
}

/// A number of bytes in the largest unit that leaves it above one.
fn show_bytes(bytes: u64) -> String {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = UNITS.iter().find(|(_, shift)| bytes >> shift > 0);
    match unit {
        Some((unit, shift)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_a_unit_that_fits() {
        assert_eq!(show_bytes(5), "5 bytes");
        assert_eq!(show_bytes(4096), "4 KiB");
        assert_eq!(show_bytes((3 << 30) + 1), "3 GiB");
    }

    #[test]
    fn advice_stands_under_its_finding() {
        let findings = [Finding::ok("a", "b"), Finding::fail("c", "d", "e")];
        let text = describe(&findings);
        assert_eq!(
            text,
            "ok    a            b\nFAIL  c            d\n                   e\n"
        );
    }
}
