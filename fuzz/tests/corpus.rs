//! Every input of every corpus is run through its target.

use std::path::{Path, PathBuf};

use millstream_fuzz::{Outcome, TARGETS};

fn inputs(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_corpus_holds_inputs_that_pass_and_inputs_that_do_not() {
    for (name, check) in TARGETS {
        let (mut accepted, mut refused) = (0, 0);
        for path in inputs(name) {
            let data = std::fs::read(&path).unwrap();
            println!("{}", path.display());
            match check(&data) {
                Outcome::Accepted => accepted += 1,
                Outcome::Refused => refused += 1,
            }
        }
        println!("{name}: {accepted} accepted, {refused} refused");
        assert!(accepted > 0, "{name}: no input gets through");
        assert!(refused > 0, "{name}: no input is refused");
    }
}

#[test]
fn every_corpus_has_a_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            TARGETS.iter().any(|(target, _)| *target == name),
            "{name} is no target"
        );
    }
}
