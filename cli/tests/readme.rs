//! Runs what the README shows: every command, in its order, and the example it prints.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Ended, MILLSTREAM, Server, run};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn readme() -> String {
    fs::read_to_string(workspace().join("README.md")).unwrap()
}

/// The lines of all blocks of `language`.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut rest = text;
    let fence = format!("```{language}\n");
    while let Some((_, after)) = rest.split_once(&fence) {
        let (block, behind) = after.split_once("```").unwrap();
        blocks.push(block.to_owned());
        rest = behind;
    }
    blocks
}

/// The commands of the README, in order.
fn commands() -> Vec<String> {
    let blocks = blocks(&readme(), "sh");
    blocks
        .iter()
        .flat_map(|block| block.lines())
        .map(str::to_owned)
        .collect()
}

/// Runs `command` in a shell, with the built binary in place of the one cargo would build.
fn shell(command: &str, folder: &Path, server: &Server) -> Ended {
    let command = command.replace("cargo run --release --", &format!("'{MILLSTREAM}'"));
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &command])
        .current_dir(folder)
        .env("MILLSTREAM_SERVER", server.address());
    run(&mut shell, b"")
}

#[test]
fn every_command_does_what_it_is_shown_for() {
    let commands = commands();
    assert_eq!(commands[0], "cargo run --release -- serve");
    assert_eq!(commands[1], "cargo test --workspace");
    assert_eq!(
        commands.len(),
        11,
        "a command that this test does not know: {commands:?}"
    );
    let ci = fs::read_to_string(workspace().join(".ci/run")).unwrap();
    assert!(
        ci.contains(&commands[1]),
        "the README's test command is what is run before a change"
    );

    // No option but the port, so that tests can run side by side.
    let place = tempfile::tempdir().unwrap();
    let mut serve = Command::new(MILLSTREAM);
    serve
        .args(["serve", "--json", "--listen", "127.0.0.1:0"])
        .current_dir(place.path());
    serve
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let server = Server::of(&mut serve);
    assert!(place.path().join("millstream-data").is_dir());

    fs::write(place.path().join("README.md"), readme()).unwrap();
    shell(&commands[2], place.path(), &server).expect(0);
    let back = shell(&commands[3], place.path(), &server).expect(0);
    assert_eq!(String::from_utf8(back.stdout).unwrap(), readme());
    let told = shell(&commands[4], place.path(), &server).expect(0);
    let told = String::from_utf8(told.stdout).unwrap();
    assert_eq!(
        told.trim(),
        "readme keeps the newest 10.0 GiB of what is younger than 7d"
    );
    shell(&commands[5], place.path(), &server).expect(0);
    let again = shell(&commands[5], place.path(), &server).expect(0);
    let again = String::from_utf8(again.stdout).unwrap();
    assert!(again.contains("published 0 messages"), "{again}");
    for command in &commands[6..8] {
        shell(command, place.path(), &server).expect(0);
    }
    let worked = shell(&commands[8], place.path(), &server).expect(0);
    let lines = readme().lines().count().to_string();
    assert_eq!(String::from_utf8(worked.stdout).unwrap().trim(), lines);
    assert!(worked.stderr.contains("acked 1"), "{}", worked.stderr);
    let shown = shell(&commands[9], place.path(), &server).expect(0);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("1 acked at once"), "{shown}");
    server.terminate().expect(0);
}

#[test]
fn the_embedded_example_is_the_one_that_is_built() {
    let shown = blocks(&readme(), "rust");
    let example = fs::read_to_string(workspace().join("engine/examples/embed.rs")).unwrap();
    let code = example.split_once("\n\n").unwrap().1;
    assert_eq!(shown, [code]);

    let command = commands().pop().unwrap();
    assert_eq!(command, "cargo run --release -p millstream --example embed");
    let place = tempfile::tempdir().unwrap();
    for round in 0..2 {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["run", "--quiet", "-p", "millstream", "--example", "embed"]);
        cargo
            .arg("--manifest-path")
            .arg(workspace().join("Cargo.toml"))
            .current_dir(place.path());
        let said = run(&mut cargo, b"").expect(0).stdout;
        assert_eq!(
            String::from_utf8(said).unwrap(),
            format!("{round}: b\"hello\"\n")
        );
    }
}
