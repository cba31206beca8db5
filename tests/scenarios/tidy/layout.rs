//! Where things are and how large they may be.

use super::{Source, has_word, none, sources};

const LINES_MAX: usize = 500;
/// Folders that say nothing of what is in them.
const FORBIDDEN: [&str; 8] = ["util", "utils", "common", "helpers", "helper", "types", "misc", "shared"];

fn findings(source: &Source) -> Vec<String> {
    let path = &source.path;
    let mut found = Vec::new();
    if path.ends_with("/mod.rs") {
        found.push(format!("{path}: is named mod.rs; put foo.rs beside foo/"));
    }
    let names = path.trim_end_matches(".rs").split('/');
    if let Some(name) = names.into_iter().find(|name| FORBIDDEN.contains(name)) {
        found.push(format!("{path}: {name} says nothing of what is in it"));
    }
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{path}: {lines} lines are over {LINES_MAX}; split it by what it does"));
    }
    // Here they stand in quotes.
    if path.starts_with("tests/scenarios/tidy") {
        return found;
    }
    for (at, line) in source.text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for left in ["todo!", "unimplemented!", "dbg!"] {
            if code.contains(left) {
                found.push(format!("{path}:{}: {left} is left", at + 1));
            }
        }
        for left in ["TODO", "FIXME", "XXX", "HACK"] {
            if has_word(line, left) {
                found.push(format!("{path}:{}: {left} is left; do it, or leave it", at + 1));
            }
        }
    }
    found
}

/// A file's head says what it is for; unit tests beside a file are for that file.
fn headless(source: &Source) -> Vec<String> {
    if source.path.ends_with("/tests.rs") {
        return Vec::new();
    }
    let first = source.text.lines().next().unwrap_or_default();
    if first.starts_with("//!") {
        return Vec::new();
    }
    vec![format!("{}:1: a file begins with what it is for (//!)", source.path)]
}

/// `main.rs` of a process is a table of contents.
fn main_is_short(source: &Source) -> Vec<String> {
    let mains = ["agent/src/main.rs", "aggregator/src/main.rs", "cli/src/main.rs"];
    let lines = source.text.lines().count();
    if mains.contains(&source.path.as_str()) && lines > 60 {
        return vec![format!("{}: {lines} lines; it parses, logs and runs", source.path)];
    }
    Vec::new()
}

#[test]
fn files_lie_where_they_belong_and_are_of_a_size_to_read() {
    let rules = |source: &Source| [findings(source), headless(source), main_is_short(source)].concat();
    none(&sources().iter().flat_map(rules).collect::<Vec<_>>());
}

#[test]
fn what_is_out_of_order_is_found() {
    let good = "//! Good.\n";
    let long = "//! Long.\n".repeat(LINES_MAX + 1);
    for (path, text) in [
        ("agent/src/spool/mod.rs", good),
        ("agent/src/util/time.rs", good),
        ("agent/src/common.rs", good),
        ("agent/src/spool.rs", &long),
        ("agent/src/spool.rs", "//! Good.\nfn f() { todo!() }\n"),
        ("agent/src/spool.rs", "//! Good.\nfn f() { dbg!(1); }\n"),
        ("agent/src/spool.rs", "//! Good.\n// TODO: later\n"),
        ("agent/src/spool.rs", "use x;\n"),
        ("agent/src/main.rs", &"//! Long.\n".repeat(61)),
    ] {
        let source = Source::new(path, text);
        let found = [findings(&source), headless(&source), main_is_short(&source)].concat();
        assert_eq!(found.len(), 1, "{path}: {found:?}");
    }
    let source = Source::new("agent/src/spool.rs", "//! Good.\nfn common() { \"// todo!\"; }\n");
    assert_eq!(findings(&source).len(), 0);
}
