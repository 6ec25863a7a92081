//! Golden vectors: the bytes of layout and wire version 1, which decode and encode for ever.
//!
//! Each file of `tests/golden/v1` is one example: a meaning, then its bytes in hex with what each
//! run of them is. A file that is there is never rewritten. With `MILLSTREAM_GOLDEN=write` in the
//! environment, files that are missing are made.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod vectors;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use vectors::{Part, Vector};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// The file of a vector: its meaning, and its bytes part by part.
fn drawn(vector: &Vector) -> String {
    let mut text = String::new();
    for line in vector.meaning.lines() {
        writeln!(text, "# {}", line.trim()).unwrap();
    }
    let mut at = 0;
    for Part { bytes, label } in &vector.parts {
        let part = &vector.bytes[at..at + bytes];
        for (row, chunk) in part.chunks(16).enumerate() {
            let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
            let label = if row == 0 { label } else { "" };
            writeln!(text, "{:<48}# {:>4} {label}", hex.join(" "), at + 16 * row).unwrap();
        }
        if *bytes == 0 {
            writeln!(text, "{:<48}# {at:>4} {label}: empty", "").unwrap();
        }
        at += bytes;
    }
    assert_eq!(
        at,
        vector.bytes.len(),
        "{}: the parts are all of it",
        vector.name
    );
    text
}

fn read_hex(text: &str) -> Vec<u8> {
    let hex = text.lines().filter_map(|line| line.split('#').next());
    hex.flat_map(str::split_whitespace)
        .map(|pair| u8::from_str_radix(pair, 16).expect("two hex digits"))
        .collect()
}

#[test]
fn every_golden_vector_decodes_and_encodes_as_it_always_did() {
    let write = std::env::var("MILLSTREAM_GOLDEN").is_ok_and(|value| value == "write");
    for vector in vectors::all() {
        let path = folder().join(format!("{}.hex", vector.name));
        if write && !path.exists() {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(&path, drawn(&vector)).unwrap();
        }
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let golden = read_hex(&text);
        (vector.decodes)(&golden);
        if vector.encodes_alike {
            assert_eq!(
                vector.bytes, golden,
                "{} encodes as it always did",
                vector.name
            );
            assert_eq!(
                drawn(&vector),
                text,
                "{} is explained as it is",
                vector.name
            );
        }
    }
}

#[test]
fn every_golden_file_is_tested() {
    let names: BTreeSet<String> = vectors::all()
        .iter()
        .map(|vector| format!("{}.hex", vector.name))
        .collect();
    let files: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, files);
}

#[test]
fn every_message_kind_has_a_golden_vector() {
    use millstream_protocol::wire::MessageKind;
    let vectors = vectors::all();
    for kind in MessageKind::ALL {
        assert!(
            vectors.iter().any(|vector| vector.message == Some(*kind)),
            "{kind:?} has no golden vector"
        );
    }
}

#[test]
fn no_golden_vector_survives_a_flipped_bit() {
    for vector in vectors::all() {
        for bit in 0..8 * vector.bytes.len() {
            let mut bytes = vector.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(
                !(vector.accepts)(&bytes),
                "{}: bit {bit} flipped unseen",
                vector.name
            );
        }
    }
}
