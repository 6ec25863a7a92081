//! Holds `docs/QUEUES.md` and `docs/RELIABILITY.md` to their word: every test they name is there, and
//! the latter speaks of every rule that a planted defect is to break.
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

const CRATES: [&str; 8] = [
    "protocol",
    "storage",
    "engine",
    "server",
    "client",
    "cli",
    "faultdisk",
    "fuzz",
];

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
    for folder in CRATES {
        for path in harness::files_under(&workspace().join(folder), ".rs") {
            let text = fs::read_to_string(&path).unwrap();
            functions.visit_file(&syn::parse_file(&text).unwrap());
        }
    }
    functions.0
}

/// First and last cells of the rows of all tables whose last column says what shows the rest.
fn shown_by(page: &str) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut shows = false;
    for line in page.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
        let (first, last) = (cells[0].trim(), cells.last().unwrap().trim());
        if is_heading(page, line) {
            shows = last == "Shown by";
        } else if shows && !first.starts_with("---") {
            rows.push((first.to_owned(), last.to_owned()));
        }
    }
    rows
}

fn is_heading(page: &str, line: &str) -> bool {
    page.contains(&format!("\n{line}\n| ---")) || page.starts_with(&format!("{line}\n| ---"))
}

/// Rows of `page` whose last cell names no test, or one that is not there. A limit needs none.
fn unproven(page: &str, functions: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (row, tests) in shown_by(page) {
        if tests.starts_with("limit: ") {
            continue;
        }
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            wrong.push(format!("{row}: no test is named: {tests}"));
        }
        let missing = names.iter().filter(|name| !functions.contains(**name));
        wrong.extend(missing.map(|name| format!("{row}: {name} is not there")));
    }
    wrong
}

fn page(name: &str) -> String {
    fs::read_to_string(workspace().join("docs").join(name)).unwrap()
}

#[test]
fn every_row_names_tests_and_every_test_is_there() {
    let functions = functions();
    for (name, rows_min) in [("QUEUES.md", 40), ("RELIABILITY.md", 55)] {
        let page = page(name);
        let rows = shown_by(&page).len();
        assert!(
            rows >= rows_min,
            "{name}: the tables are found: {rows} rows"
        );
        let wrong = unproven(&page, &functions);
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    }
}

#[test]
fn a_test_that_is_not_there_is_noticed() {
    let page = "| What | Shown by |\n| --- | --- |\n| a | `no_such_test` |\n| b | trust |\n| c | limit: none |\n";
    let wrong = unproven(page, &BTreeSet::new());
    assert_eq!(wrong.len(), 2, "{wrong:?}");
}

#[test]
fn every_rule_with_a_defect_has_its_row() {
    let page = page("RELIABILITY.md");
    let rows = shown_by(&page);
    let defects = workspace().join("defects");
    let mut rules = BTreeSet::new();
    for entry in fs::read_dir(defects).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("# rule: "));
        let named = line
            .expect("each defect says which rule it breaks")
            .split_whitespace();
        rules.extend(named.map(|word| word.trim_end_matches([':', ',']).to_owned()));
    }
    let rules = rules.into_iter().filter(|rule| {
        let mut letters = rule.chars();
        letters
            .next()
            .is_some_and(|first| first.is_ascii_uppercase())
            && letters.next().is_some_and(|second| second.is_ascii_digit())
    });
    for rule in rules {
        let stated = rows
            .iter()
            .any(|(row, _)| row.split_whitespace().any(|word| word == rule));
        assert!(stated, "{rule} is broken by a defect and has no row");
    }
}
