//! The rules of style that a machine can check, over every crate of the workspace.
//!
//! Sizes are counted in the lines of the syntax tree, so a function inside a macro call is not
//! seen. [`EXCEPTIONS`] lists what is over a budget today: an entry may shrink, never grow, and
//! goes when its item is within the budget.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Lines of a file without its unit tests.
const FILE_LINES_MAX: usize = 800;
/// Lines of a function, its signature and braces included.
const FUNCTION_LINES_MAX: usize = 70;
/// Parameters of a function, a receiver not counted.
const PARAMETERS_MAX: usize = 5;
/// Fields of a struct, or variants of an enum's largest struct.
const FIELDS_MAX: usize = 25;
/// Methods of a type in one file, those of traits not counted.
const METHODS_MAX: usize = 40;
/// Lines above and below an atomic ordering within which its comment must stand.
const COMMENT_LINES_ABOVE: usize = 4;
const COMMENT_LINES_BELOW: usize = 3;

/// Variants that give a record back.
const SETTLES: [&str; 5] = [
    "SettleVerb::Release",
    "Settling::Release",
    "Verb::Release",
    "Verdict::Release",
    "Self::Release",
];

/// Crates from the bottom up: each may use those before it, and `client` only the first.
const CRATES: [&str; 8] = [
    "protocol",
    "storage",
    "engine",
    "server",
    "client",
    "faultdisk",
    "benches",
    "cli",
];

/// What is over a budget: file, item, its size today.
const EXCEPTIONS: &[(&str, &str, usize)] = &[
    // Tables of golden bytes and of refusals: one row after the other.
    (
        "protocol/tests/frame_refusals.rs",
        "fn a_stored_frame_names_the_field_that_is_wrong",
        75,
    ),
    (
        "protocol/tests/frame_refusals.rs",
        "fn columns_that_disagree_are_named",
        91,
    ),
    (
        "protocol/tests/message_refusals.rs",
        "fn no_topic_has_a_name_that_could_be_a_path_or_hide",
        74,
    ),
    (
        "protocol/tests/vectors/frames.rs",
        "fn published_vectors",
        109,
    ),
    ("protocol/tests/vectors/messages.rs", "fn connection", 86),
    ("protocol/tests/vectors/messages.rs", "fn publishing", 102),
    ("protocol/tests/vectors/messages.rs", "fn reading", 90),
    ("protocol/tests/vectors/queues.rs", "fn cursors", 101),
    ("protocol/tests/vectors/queues.rs", "fn lists", 75),
    ("protocol/tests/vectors/work.rs", "fn settles", 88),
    (
        "protocol/tests/queue_messages.rs",
        "fn lists_keep_to_their_limits",
        85,
    ),
    // What each input means to the model, and how each event of the table comes about.
    (
        "engine/src/queue/scheduler/tests/model.rs",
        "fn Model::input",
        87,
    ),
    (
        "engine/src/queue/scheduler/tests/table.rs",
        "fn Table::happen",
        79,
    ),
    // The file system's interface, as its crate has it.
    ("faultdisk/src/device.rs", "fn Offered::read parameters", 8),
    ("faultdisk/src/device.rs", "fn Offered::write parameters", 9),
    // One log: its claims, its syncs, its chain. Each reads one of its parts.
    ("storage/src/log.rs", "Log methods", 42),
];

/// Where unsafe code may stand: the cells, the memory modules, the buffers of the ring.
const UNSAFE_PLACES: &[&str] = &[
    "storage/src/sync/",
    "storage/src/disk/map.rs",
    "storage/src/disk/fault.rs",
    "storage/src/heap/block.rs",
    "storage/src/heap.rs",
    "storage/src/memory.rs",
    // The disk that loses sectors is memory, too.
    "storage/src/crash/memory.rs",
    // A model's own cell, so that loom sees every access to it.
    "storage/src/models/exchange.rs",
    "server/src/ring_buffers.rs",
    // One ioctl of a tool for tests.
    "faultdisk/src/shutdown.rs",
];

#[test]
fn files_functions_and_types_keep_their_budgets() {
    let mut over = BTreeMap::new();
    for source in sources() {
        source.over_budget(&mut over);
    }
    let mut wrong = String::new();
    for (path, item, size_today) in EXCEPTIONS {
        match over.remove(&((*path).to_owned(), (*item).to_owned())) {
            None => writeln!(
                wrong,
                "{path}: {item} is within its budget: remove its exception"
            ),
            Some(size) if size > *size_today => {
                writeln!(wrong, "{path}: {item} grew from {size_today} to {size}")
            }
            Some(_) => Ok(()),
        }
        .unwrap();
    }
    for ((path, item), size) in over {
        writeln!(wrong, "{path}: {item} has {size}").unwrap();
    }
    assert!(wrong.is_empty(), "over budget:\n{wrong}");
}

#[test]
fn files_are_named_by_what_they_define() {
    let banned = [
        "util", "utils", "helper", "helpers", "manager", "impls", "common", "misc",
    ];
    let words_with_a_number = ["base64", "crc32c", "lz4", "v1"];
    let mut wrong = Findings::default();
    for source in sources() {
        let path = Path::new(&source.path);
        for part in path.iter().map(|part| part.to_string_lossy()) {
            let stem = part.trim_end_matches(".rs");
            wrong.add_if(
                banned.contains(&stem),
                &source,
                1,
                "named after nothing it defines",
            );
        }
        let stem = path.file_stem().unwrap().to_string_lossy();
        let number = stem.ends_with(|last: char| last.is_ascii_digit());
        let word = words_with_a_number.contains(&&*stem);
        wrong.add_if(number && !word, &source, 1, "its name ends in a number");
        wrong.add_if(
            !source.text.starts_with("//!"),
            &source,
            1,
            "begins without a module doc",
        );
    }
    wrong.assert_none();
}

#[test]
fn nothing_is_left_for_later() {
    let banned = [
        "TO-DO",
        "FIX-ME",
        "X-X-X",
        "HA-CK",
        "to-do!",
        "unimple-mented!",
        "d-bg!",
    ]
    .map(|word| word.replace('-', ""));
    let mut wrong = Findings::default();
    for source in sources() {
        for (number, line) in source.lines() {
            let found = line
                .split(|c: char| !c.is_alphanumeric() && c != '_' && c != '!')
                .any(|word| banned.iter().any(|banned| banned == word));
            wrong.add_if(found, &source, number, "left for later");
        }
    }
    wrong.assert_none();
}

#[test]
fn nothing_names_a_place_outside_the_repository() {
    let places = ["work", "home", "root"].map(|place| format!("/{place}/"));
    for file in repository_files() {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        for (number, line) in (1..).zip(text.lines()) {
            let named = places.iter().find(|place| line.contains(place.as_str()));
            assert!(
                named.is_none(),
                "{}:{number}: names {named:?}",
                file.display()
            );
        }
    }
}

#[test]
fn tests_never_sleep() {
    let mut wrong = Findings::default();
    for source in sources() {
        for (number, line) in source.lines().filter(|(number, _)| source.is_test(*number)) {
            let sleeps = code_words(line).any(|word| word == "sleep");
            wrong.add_if(sleeps, &source, number, "a test that sleeps");
        }
    }
    wrong.assert_none();
}

#[test]
fn every_memory_order_says_what_for() {
    let orders = ["SeqCst", "Acquire", "Release", "AcqRel"];
    let mut wrong = Findings::default();
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, line) in source
            .lines()
            .filter(|(number, _)| !source.is_test(*number))
        {
            let import = code_words(line).any(|word| word == "use");
            // A verb of queues has the name of an order, and no atomic is near it.
            let line = SETTLES
                .iter()
                .fold(line.to_owned(), |line, settle| line.replace(settle, ""));
            let orders = !import && code_words(&line).any(|word| orders.contains(&word));
            let first = number.saturating_sub(COMMENT_LINES_ABOVE + 1);
            let last = (number + COMMENT_LINES_BELOW).min(lines.len());
            let explained = lines[first..last].iter().any(|line| line.contains("//"));
            wrong.add_if(
                orders && !explained,
                &source,
                number,
                "an order without edge or reason",
            );
        }
    }
    wrong.assert_none();
}

#[test]
fn lints_are_silenced_with_a_reason() {
    let mut wrong = Findings::default();
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (number, line) in source.lines() {
            let silences = ["#[allow(", "#![allow(", "#[expect(", "#![expect("]
                .iter()
                .any(|start| line.trim_start().starts_with(start));
            let end = (number + 5).min(lines.len());
            let reason = lines[number - 1..end]
                .iter()
                .any(|line| line.contains("reason"));
            wrong.add_if(
                silences && !reason,
                &source,
                number,
                "a lint silenced without a reason",
            );
        }
    }
    wrong.assert_none();
}

#[test]
fn unsafe_code_stays_where_it_belongs() {
    let mut wrong = Findings::default();
    for source in sources() {
        let allowed = UNSAFE_PLACES
            .iter()
            .any(|place| source.path.starts_with(place));
        for (number, line) in source
            .lines()
            .filter(|(number, _)| !source.is_test(*number))
        {
            let found = code_words(line).any(|word| word == "unsafe");
            wrong.add_if(found && !allowed, &source, number, "unsafe code");
        }
    }
    wrong.assert_none();
    for name in CRATES
        .iter()
        .filter(|name| !["storage", "server", "faultdisk", "benches"].contains(name))
    {
        let root = ["lib.rs", "main.rs"]
            .map(|file| workspace().join(name).join("src").join(file))
            .into_iter()
            .find_map(|path| fs::read_to_string(path).ok())
            .unwrap();
        assert!(
            root.contains("#![forbid(unsafe_code)]"),
            "{name} does not forbid unsafe code"
        );
    }
}

#[test]
fn crates_use_only_crates_above_them() {
    let package = |name: &str| match name {
        "engine" => "millstream".to_owned(),
        other => format!("millstream-{other}"),
    };
    for (place, name) in CRATES.iter().enumerate() {
        let manifest = fs::read_to_string(workspace().join(name).join("Cargo.toml")).unwrap();
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{name} sets its own lints"
        );
        let above = if *name == "client" { 1 } else { place };
        let allowed: Vec<String> = CRATES[..above].iter().map(|name| package(name)).collect();
        let normal = manifest.split("[dev-dependencies]").next().unwrap();
        let used = normal.lines().filter(|line| line.starts_with("millstream"));
        for line in used {
            let dependency = line.split(['.', ' ', '=']).next().unwrap();
            assert!(
                allowed.iter().any(|name| name == dependency),
                "{name} uses {dependency}"
            );
        }
    }
}

/// Places that break a rule.
#[derive(Default)]
struct Findings(String);

impl Findings {
    fn add_if(&mut self, broken: bool, source: &Source, line: usize, what: &str) {
        if broken {
            writeln!(self.0, "{}:{line}: {what}", source.path).unwrap();
        }
    }

    fn assert_none(&self) {
        assert!(self.0.is_empty(), "the style rules are broken:\n{}", self.0);
    }
}

/// One source file, parsed.
struct Source {
    /// From the workspace's root.
    path: String,
    text: String,
    syntax: syn::File,
    /// Lines of unit tests.
    tests: Vec<RangeInclusive<usize>>,
}

impl Source {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let syntax = syn::parse_file(&text)
            .unwrap_or_else(|error| panic!("{} does not parse: {error}", path.display()));
        let tests = syntax
            .items
            .iter()
            .filter_map(|item| match item {
                syn::Item::Mod(module) if is_for_tests(&module.attrs) => Some(lines_of(module)),
                _ => None,
            })
            .collect();
        let path = path
            .strip_prefix(workspace())
            .unwrap()
            .to_string_lossy()
            .into_owned();
        Self {
            path,
            text,
            syntax,
            tests,
        }
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    /// Whether the line stands in a unit test, or the file in a folder of tests.
    fn is_test(&self, line: usize) -> bool {
        self.path.contains("/tests/") || self.tests.iter().any(|tests| tests.contains(&line))
    }

    fn over_budget(&self, over: &mut BTreeMap<(String, String), usize>) {
        let mut add = |item: &str, size: usize, max: usize| {
            if size > max {
                over.insert((self.path.clone(), item.to_owned()), size);
            }
        };
        let tests: usize = self
            .tests
            .iter()
            .map(|lines| lines.end() - lines.start() + 1)
            .sum();
        if !self.path.contains("/tests/") {
            add("file", self.text.lines().count() - tests, FILE_LINES_MAX);
        }
        let mut sizes = Sizes::default();
        sizes.visit_file(&self.syntax);
        for (name, lines, parameters) in sizes.functions {
            add(&format!("fn {name}"), lines, FUNCTION_LINES_MAX);
            add(&format!("fn {name} parameters"), parameters, PARAMETERS_MAX);
        }
        for (name, fields) in sizes.types {
            add(&format!("{name} fields"), fields, FIELDS_MAX);
        }
        for (name, methods) in sizes.methods {
            add(&format!("{name} methods"), methods, METHODS_MAX);
        }
    }
}

/// Sizes of what one file defines.
#[derive(Default)]
struct Sizes {
    /// Name, lines, parameters.
    functions: Vec<(String, usize, usize)>,
    /// Name, fields.
    types: Vec<(String, usize)>,
    /// Methods by type.
    methods: BTreeMap<String, usize>,
    /// The type whose methods are being visited.
    owner: Option<String>,
}

impl Sizes {
    /// Takes a function, without its doc and attributes.
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let name = match &self.owner {
            Some(owner) => format!("{owner}::{}", signature.ident),
            None => signature.ident.to_string(),
        };
        let lines = lines_of(block).end() - lines_of(signature).start() + 1;
        let parameters = signature
            .inputs
            .iter()
            .filter(|input| matches!(input, syn::FnArg::Typed(_)))
            .count();
        self.functions.push((name, lines, parameters));
    }
}

impl<'ast> Visit<'ast> for Sizes {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let owner = self.owner.take();
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
        self.owner = owner;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let name = match &*item.self_ty {
            syn::Type::Path(path) => path.path.segments.last().map(|last| last.ident.to_string()),
            _ => None,
        };
        if let (Some(name), None) = (&name, &item.trait_) {
            let methods = item
                .items
                .iter()
                .filter(|item| matches!(item, syn::ImplItem::Fn(_)))
                .count();
            *self.methods.entry(name.clone()).or_default() += methods;
        }
        let outer = std::mem::replace(&mut self.owner, name);
        visit::visit_item_impl(self, item);
        self.owner = outer;
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.types.push((item.ident.to_string(), item.fields.len()));
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        let fields = item
            .variants
            .iter()
            .map(|variant| variant.fields.len())
            .max();
        self.types
            .push((item.ident.to_string(), fields.unwrap_or(0)));
    }
}

/// The words of a line of code, without comments and what stands in quotes on that line.
fn code_words(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    code.split('"')
        .step_by(2)
        .flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .filter(|word| !word.is_empty())
}

fn lines_of(item: &impl Spanned) -> RangeInclusive<usize> {
    let span = item.span();
    span.start().line..=span.end().line
}

/// Whether the attributes say `#[cfg(test)]` or `#[cfg(all(test, ...))]`.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        let words = list.tokens.to_string();
        list.path.is_ident("cfg")
            && words
                .split(|c: char| !c.is_alphanumeric())
                .any(|word| word == "test")
    })
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn sources() -> Vec<Source> {
    let sources: Vec<Source> = repository_files()
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| Source::read(path))
        .collect();
    assert!(
        sources.len() > CRATES.len(),
        "the sources are where they are looked for"
    );
    sources
}

/// Every file of the crates, of `docs` and of the root: what is committed, and nothing built.
fn repository_files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let folders = CRATES.iter().chain(&["fuzz", "docs", ".ci"]);
    let mut waiting: Vec<PathBuf> = folders.map(|name| workspace().join(name)).collect();
    files.extend(
        entries(&workspace())
            .into_iter()
            .filter(|path| path.is_file()),
    );
    while let Some(folder) = waiting.pop() {
        for path in entries(&folder) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if !path.is_dir() {
                files.push(path);
            } else if !["target", "corpus", "artifacts"].contains(&name.as_str()) {
                waiting.push(path);
            }
        }
    }
    files.sort();
    files
}

/// What lies in `folder`; nothing when it is absent.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.map(|entry| entry.unwrap().path()).collect()
}
