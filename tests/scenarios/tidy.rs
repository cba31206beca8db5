//! The rules of the house, read from the sources as text. Each rule is a function of files, shown below to be able to
//! fail; the tree itself must pass them all.
//!
//! Comments and what stands in quotes are left out where a rule is about code. Test files count as tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Which crate may import which: one way only.
mod crates;

/// Which stage of a process may import which.
mod stages;

/// Which file may touch which library.
mod confined;

/// Layout, sizes, and what must not be left lying about.
mod layout;

/// Which tests documents name.
mod named;

/// A file of the tree: its path from the root, with slashes, and its text.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    #[cfg(test)]
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// A file of tests alone.
    pub(crate) fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    /// Lines of code with their numbers: no comments, and nothing in the unit tests at the end of a file.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let own = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        let lines = self.text[..own].lines().enumerate().map(|(at, line)| (at + 1, line));
        lines.map(|(at, line)| (at, line.split("//").next().unwrap_or_default()))
    }

    /// The code as one text.
    pub(crate) fn code_text(&self) -> String {
        self.code().flat_map(|(_, line)| [line, "\n"]).collect()
    }

    /// `path:line: what`, for a line of code that `is` finds wrong.
    pub(crate) fn wrong(&self, what: &str, is: impl Fn(&str) -> bool) -> Vec<String> {
        let lines = self.code().filter(|(_, line)| is(line));
        lines.map(|(at, _)| format!("{}:{at}: {what}", self.path)).collect()
    }
}

/// Where the workspace is.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

/// Every `.rs` file of the tree.
pub(crate) fn sources() -> Vec<Source> {
    let root = root();
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the tree").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                let path =
                    path.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
                sources.push(Source { path, text });
            }
        }
    }
    assert!(sources.len() > 100, "only {} sources below {}", sources.len(), root.display());
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Fails with every finding on a line of its own.
pub(crate) fn none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Words that stand before or after a name in code.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// True if `name` stands in `line` as a word of its own.
pub(crate) fn has_word(line: &str, name: &str) -> bool {
    line.match_indices(name)
        .any(|(at, _)| !line[..at].ends_with(is_word) && !line[at + name.len()..].starts_with(is_word))
}

/// Modules of the same crate that a file names: the first part of every `crate::` path, braces taken apart.
pub(crate) fn imports(source: &Source) -> BTreeSet<String> {
    let code = source.code_text();
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => names.extend(heads(list)),
            None => names.extend(rest.split(|c| !is_word(c)).next().map(str::to_owned)),
        }
    }
    names
}

/// The first names of a list in braces, up to its end.
fn heads(list: &str) -> Vec<String> {
    let (mut depth, mut names, mut word) = (0, Vec::new(), String::new());
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut word)),
            c if depth == 0 => word.push(c),
            _ => {}
        }
    }
    names.push(word);
    let head = |name: String| name.trim().split(|c| !is_word(c)).next().unwrap_or_default().to_owned();
    names.into_iter().map(head).filter(|name| !name.is_empty()).collect()
}

#[test]
fn imports_are_seen_in_every_form() {
    let text = "use crate::spool::{Spool, SpoolError};\nuse crate::{seal::{self, Header}, model};\n\
                fn f() { crate::uplink::State::default(); }\n// use crate::driver;\nlet x = mycrate::no;\n\
                #[cfg(test)]\nmod tests {\n    use crate::metrics;\n}\n";
    let seen = imports(&Source::new("agent/src/pump.rs", text));
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["model", "seal", "spool", "uplink"]);
}

#[test]
fn a_word_is_not_a_part_of_another() {
    assert!(has_word("x sled::open", "sled") && has_word("sled", "sled"));
    assert!(!has_word("unsledded", "sled") && !has_word("is_sled", "sled"));
}
