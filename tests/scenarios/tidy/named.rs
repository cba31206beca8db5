//! Documents that say which test shows a thing name tests that are there.

use super::{none, root, sources};

const SECTION: &str = "## What cannot happen here";

/// What is in backticks in the last column of the tables of the section.
fn named(text: &str) -> Vec<String> {
    let of_section = text.lines().skip_while(|line| *line != SECTION).skip(1);
    let rows = of_section.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with('|'));
    let last = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next());
    last.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// A file by the end of its path, or a test by the beginning of its name.
fn is_there(name: &str, sources: &[(&str, &str)]) -> bool {
    if name.ends_with(".rs") {
        return sources.iter().any(|(path, _)| path.ends_with(name));
    }
    let test = match name.strip_suffix("...") {
        Some(beginning) => format!("fn {beginning}"),
        None => format!("fn {name}("),
    };
    sources.iter().any(|(_, text)| text.contains(&test))
}

#[test]
fn tests_that_documents_name_are_there() {
    let all = sources();
    let all: Vec<(&str, &str)> = all.iter().map(|of| (of.path.as_str(), of.text.as_str())).collect();
    let mut missing = Vec::new();
    let mut count = 0;
    for document in ["alerts", "budgets", "gate", "grants"] {
        let text = std::fs::read_to_string(root().join(format!("docs/{document}.md"))).expect("a document");
        for name in named(&text) {
            count += 1;
            if !is_there(&name, &all) {
                missing.push(format!("docs/{document}.md: {name} is no test"));
            }
        }
    }
    assert!(count > 20, "{count} tests are named");
    none(&missing);
}

#[test]
fn a_name_without_its_test_is_found() {
    let text = format!(
        "| a | `not_this...` |\n{SECTION}\n| why | test |\n| x `y` | `is_there...`, `a/b.rs`, `gone` |\n## Next\n| `no` |"
    );
    assert_eq!(named(&text), ["is_there...", "a/b.rs", "gone"]);
    let sources = [("x/a/b.rs", "fn is_there_and_more() {}\nfn gone_by() {}")];
    let there: Vec<bool> = named(&text).iter().map(|name| is_there(name, &sources)).collect();
    assert_eq!(there, [true, true, false]);
}
