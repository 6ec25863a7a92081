//! The data folder: whose it is, who uses it, how it was left.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use millstream_storage::{
    Acknowledged, Inspection, LockError, ManifestError, VerifyError, quarantine,
};
use rustix::fs::Access;
use rustix::process::geteuid;

use super::Finding;

/// A file may be so much younger than the clock says it is now before that is told.
const SLACK: Duration = Duration::from_secs(2);
/// From here on retention by age, expiry and schedules hold.
const LARGE_JUMP: Duration = Duration::from_secs(3600);

pub(super) fn folder(data: &Path) -> Vec<Finding> {
    const CHECK: &str = "folder";
    let metadata = match fs::metadata(data) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => {
            let found = format!("{} is no folder", data.display());
            return vec![Finding::fail(CHECK, found, "name another with --data")];
        }
        Err(_) => {
            let found = format!("{} is not there; `serve` makes it", data.display());
            return vec![Finding::ok(CHECK, found)];
        }
    };
    let mut findings = vec![owner(data, metadata.uid())];
    findings.extend(jump(data, SystemTime::now()));
    match Inspection::open(data) {
        Ok(found) => findings.extend(state(data, &found)),
        Err(error) => findings.push(refused(data, &error)),
    }
    findings
}

fn owner(data: &Path, uid: u32) -> Finding {
    const CHECK: &str = "owner";
    let ours = geteuid().as_raw();
    let may = rustix::fs::access(data, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK);
    match may {
        Err(_) => Finding::fail(
            CHECK,
            format!("user {uid} owns the folder, and this user ({ours}) may not write there"),
            "run as its owner, or give it to this user (chown -R)",
        ),
        Ok(()) if uid != ours => Finding::warn(
            CHECK,
            format!("user {uid} owns the folder, and this is user {ours}"),
            "files made now belong to this user: run the server as the owner",
        ),
        Ok(()) => Finding::ok(CHECK, format!("user {uid}, who this is")),
    }
}

/// Whether the clock went back since something in the folder was written.
fn jump(data: &Path, now: SystemTime) -> Option<Finding> {
    let youngest = fs::read_dir(data)
        .ok()?
        .filter_map(|entry| entry.ok()?.metadata().ok()?.modified().ok())
        .max()?;
    let ahead = youngest
        .duration_since(now)
        .ok()
        .filter(|ahead| *ahead > SLACK)?;
    let found = format!(
        "files were written {} s later than it is now: the clock went back",
        ahead.as_secs()
    );
    let advice = if ahead > LARGE_JUMP {
        "set it right: until then expiry, schedules and retention by age can't be relied on"
    } else {
        "see that it is set right"
    };
    Some(Finding::warn("clock jump", found, advice))
}

fn refused(data: &Path, error: &VerifyError) -> Finding {
    const CHECK: &str = "folder";
    let found = error.to_string();
    match error {
        VerifyError::Lock(LockError::InUse { .. }) => {
            Finding::ok(CHECK, format!("{found}; it was not looked into"))
        }
        VerifyError::Manifest(ManifestError::Missing) if is_empty(data) => {
            Finding::ok(CHECK, "empty; `serve` makes a data folder of it")
        }
        VerifyError::Manifest(ManifestError::Missing) => Finding::fail(
            CHECK,
            found,
            "it holds something else, or its manifest was lost: name another, or restore the file",
        ),
        VerifyError::Manifest(ManifestError::NewerFormat { .. }) => Finding::fail(
            CHECK,
            found,
            "use the millstream that wrote it, or a newer one",
        ),
        VerifyError::Manifest(_) => Finding::fail(
            CHECK,
            found,
            "the server refuses to start and changes nothing: put the manifest back from a backup",
        ),
        _ => Finding::fail(
            CHECK,
            found,
            "the server will be refused for the same reason",
        ),
    }
}

fn is_empty(data: &Path) -> bool {
    let harmless = ["lock", "manifest.new", "lost+found"];
    fs::read_dir(data).is_ok_and(|mut entries| {
        entries.all(|entry| {
            entry.is_ok_and(|entry| harmless.iter().any(|name| entry.file_name() == *name))
        })
    })
}

fn state(data: &Path, found: &Inspection) -> Vec<Finding> {
    let state = found.state();
    let mut findings = vec![Finding::ok(
        "folder",
        format!(
            "format {}, {} topics, started {} times; nobody uses it",
            state.format,
            state.logs.len(),
            state.boot_epoch
        ),
    )];
    let open = state.logs.values().filter(|log| log.open).count();
    findings.push(if open == 0 {
        Finding::ok("stop", "clean")
    } else {
        Finding::warn(
            "stop",
            format!("the last stop was unclean: {open} topics are open"),
            "the next start recovers them; `millstream verify` says beforehand what it will do",
        )
    });
    findings.extend(set_aside(data));
    findings
}

fn set_aside(data: &Path) -> Option<Finding> {
    const CHECK: &str = "quarantine";
    let found = quarantine(data).ok()?;
    let bytes: u64 = found.cuts.iter().map(|cut| cut.cut_bytes).sum();
    let possibly = found
        .cuts
        .iter()
        .filter(|cut| cut.acknowledged == Acknowledged::Possibly)
        .count();
    Some(match (possibly, found.cuts.len(), found.others.len()) {
        (0, 0, 0) => Finding::ok(CHECK, "empty"),
        (0, cuts, others) => Finding::ok(
            CHECK,
            format!("{cuts} cuts, {bytes} bytes, none to decide about; {others} other files"),
        ),
        (possibly, ..) => Finding::fail(
            CHECK,
            format!("{possibly} cuts may have taken something acknowledged"),
            "see `millstream quarantine ls` and `show`; when that is dealt with, `millstream repair --apply` releases them",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Grade;

    #[test]
    fn a_clock_that_went_back_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("file"), "x").expect("a file");
        let now = SystemTime::now();
        assert_eq!(jump(folder.path(), now), None);
        let before = now - Duration::from_secs(7200);
        let told = jump(folder.path(), before).expect("it went back");
        assert_eq!(told.grade, Grade::Warn);
        assert!(
            told.found.contains("7200 s") || told.found.contains("7199 s"),
            "{}",
            told.found
        );
    }

    #[test]
    fn what_is_no_data_folder_fails_and_what_is_none_yet_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let worst = |path: &Path| folder_grade(path);
        assert_eq!(worst(&folder.path().join("absent")), Grade::Ok);
        assert_eq!(worst(folder.path()), Grade::Ok);
        let file = folder.path().join("file");
        fs::write(&file, "x").expect("a file");
        assert_eq!(worst(&file), Grade::Fail);
        assert_eq!(worst(folder.path()), Grade::Fail);
    }

    fn folder_grade(path: &Path) -> Grade {
        let findings = super::folder(path);
        findings
            .iter()
            .map(|finding| finding.grade)
            .max()
            .expect("something was found")
    }
}
