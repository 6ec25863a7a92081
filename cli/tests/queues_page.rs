//! Holds `docs/QUEUES.md` to its word: every test it names is there.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};

/// Functions of a file, those in macro calls included by name: the suites define theirs so.
#[derive(Default)]
struct Functions(BTreeSet<String>);

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.0.insert(item.sig.ident.to_string());
        visit::visit_item_fn(self, item);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        // Property tests and models stand inside macro calls.
        let text = call.tokens.to_string();
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            if word == "fn"
                && let Some(name) = words.next()
            {
                self.0.insert(name.to_owned());
            }
        }
        visit::visit_macro(self, call);
    }
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn functions() -> BTreeSet<String> {
    let mut functions = Functions::default();
    for folder in ["protocol", "storage", "engine", "server", "client", "cli"] {
        for path in harness::files_under(&workspace().join(folder), ".rs") {
            let text = fs::read_to_string(&path).unwrap();
            functions.visit_file(&syn::parse_file(&text).unwrap());
        }
    }
    functions.0
}

/// The last cells of all tables: what shows the rest of the row.
fn shown_by(page: &str) -> Vec<(String, String)> {
    page.lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("| ---"))
        .filter_map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
            let last = cells.last().unwrap().trim().to_owned();
            (last != "Shown by").then(|| (cells[0].trim().to_owned(), last))
        })
        .collect()
}

#[test]
fn every_row_names_tests_and_every_test_is_there() {
    let page = fs::read_to_string(workspace().join("docs/QUEUES.md")).unwrap();
    let functions = functions();
    let rows = shown_by(&page);
    assert!(rows.len() > 40, "the tables are found: {} rows", rows.len());
    let mut missing = Vec::new();
    for (row, tests) in rows {
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{row}: no test is named: {tests}");
        for name in names {
            if !functions.contains(name) {
                missing.push(format!("{row}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "tests that are not there: {missing:#?}");
}
