//! Neighbouring stages do not import each other: they share words (`model`) and meet in the wiring. What is allowed
//! beyond that is listed here with its reason.

use super::{Source, imports, none, sources};

/// A part of a process, and what it may import besides itself: `(stage, imports, why)`.
type Rule = (&'static str, &'static [&'static str], &'static str);

const AGENT: &[Rule] = &[
    ("model", &[], "words have no behaviour to share"),
    ("driver", &["model"], ""),
    (
        "sampler",
        &["driver", "model", "metrics", "release"],
        "it drives the driver, and counts what it had to drop",
    ),
    ("release", &[], "an operator's word, kept for the sampler"),
    ("kubelet", &["model"], ""),
    ("attribution", &["model"], ""),
    ("mps", &["attribution"], "which process is whose is attribution's to say"),
    ("ledger_clock", &["model"], ""),
    ("metering", &["model"], "pure"),
    ("seal", &["model"], "pure"),
    ("spool", &["seal"], "sealing happens where it is made durable"),
    ("uplink", &["spool"], "it sends what the spool holds, and nothing else"),
    ("gate", &["metrics"], "beside slurmctld, and not a stage of metering; counts what it does"),
    ("metrics", &["kubelet", "model", "mps", "uplink"], "shows how they do"),
    ("facts", &[], "words, and their precedence"),
    ("cloud", &["facts"], ""),
    ("dmi", &["facts"], ""),
    (
        "config",
        &["driver", "attribution", "gate", "kubelet", "mps", "release", "uplink", "cloud", "facts"],
        "knows the default library and socket, and fills in paths and files",
    ),
];
/// The wiring may name every stage; so may what looks at all of them.
const AGENT_WIRING: [&str; 7] = ["lib", "main", "node", "gate_node", "pump", "check", "orders"];

const AGGREGATOR: &[Rule] = &[
    ("model", &[], "words have no behaviour to share"),
    ("budgets", &["model"], "accounts, limits and holds, pure"),
    ("filter", &[], "a language over fields that its callers name, pure"),
    ("wire", &["model"], "sealed bytes to a valid batch, pure"),
    ("ledger", &["model"], "pure arithmetic"),
    ("prices", &["model"], "pure, but for watching the book's file"),
    (
        "store",
        &["budgets", "filter", "ledger", "model"],
        "stores rows, coverage and tenures as the ledger has them; asks rows what a filter says",
    ),
    ("live", &["model", "prices"], "shows what a moment costs"),
    ("metrics", &["budgets", "live", "model", "store"], "counts what they show"),
    (
        "commit",
        &["budgets", "ledger", "live", "metrics", "model", "prices", "store", "wire"],
        "the transaction joins them",
    ),
    (
        "follow",
        &["live", "metrics", "store", "wire"],
        "brings what other aggregators took in into the live view",
    ),
    ("kubernetes", &["commit", "metrics", "model"], "tells the commit thread what it sees"),
    ("http", &[], "asks others, whatever it is about"),
    (
        "estimator",
        &["budgets", "http", "metrics"],
        "says what checks may cost, before they go to the commit thread",
    ),
    (
        "alerts",
        &["budgets", "commit", "http", "metrics", "model", "store"],
        "finds by the sums that are shown, and tells the commit thread",
    ),
    ("ingest", &["commit", "live", "metrics", "model", "wire"], "hands over to the commit thread"),
    ("export", &["model", "store"], "makes files of what the store gives, pure"),
    (
        "api",
        &["budgets", "export", "filter", "ledger", "live", "metrics", "model", "prices", "store", "wire"],
        "reads, and explains what it read",
    ),
    (
        "opencost",
        &["api", "filter", "http", "live", "metrics", "model", "prices", "store"],
        "another face of what the API reads, by the same tokens, windows and limits",
    ),
    (
        "verify",
        &["budgets", "model", "prices", "store"],
        "shares no code with folding: that is what it is for",
    ),
    (
        "config",
        &["estimator", "export", "http", "kubernetes", "model", "opencost", "store"],
        "knows what the address of an upstream and of a database is like, and who is who on a bill",
    ),
];
const AGGREGATOR_WIRING: [&str; 4] = ["lib", "main", "serve", "admin"];

/// The stage that a file below `folder` belongs to.
fn stage<'a>(folder: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(folder)?;
    Some(rest.split(['/', '.']).next().unwrap_or_default())
}

/// Imports of one crate's files that no rule allows, and stages without a rule.
fn findings(folder: &str, sources: &[Source], rules: &[Rule], wiring: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test()) {
        let Some(stage) = stage(folder, &source.path).filter(|stage| !wiring.contains(stage)) else {
            continue;
        };
        let Some((_, allowed, _)) = rules.iter().find(|(name, ..)| *name == stage) else {
            found.push(format!("{}: stage {stage} has no rule here: say what it may import", source.path));
            continue;
        };
        for import in imports(source) {
            if import != stage && !allowed.contains(&import.as_str()) {
                found.push(format!("{}: {stage} may not import {import}", source.path));
            }
        }
    }
    found
}

#[test]
fn the_agents_stages_do_not_import_each_other() {
    none(&findings("agent/src/", &sources(), AGENT, &AGENT_WIRING));
}

#[test]
fn the_aggregators_parts_do_not_import_each_other() {
    none(&findings("aggregator/src/", &sources(), AGGREGATOR, &AGGREGATOR_WIRING));
}

#[test]
fn no_list_of_rules_has_a_circle() {
    for rules in [AGENT, AGGREGATOR] {
        let mut left: Vec<Rule> = rules.to_vec();
        while !left.is_empty() {
            let names: Vec<&str> = left.iter().map(|(name, ..)| *name).collect();
            let before = left.len();
            // Metrics are counted by everybody and show the uplink's state: not a flow of data.
            left.retain(|(_, imports, _)| {
                imports.iter().any(|name| *name != "metrics" && names.contains(name))
            });
            assert!(left.len() < before, "these import each other: {names:?}");
        }
    }
}

#[test]
fn the_clock_and_the_book_stay_out_of_pure_parts() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let pure = [
            "agent/src/metering",
            "agent/src/seal.rs",
            "aggregator/src/ledger",
            "aggregator/src/prices",
            "aggregator/src/budgets",
        ];
        if pure.iter().any(|path| source.path.starts_with(path)) && !source.path.ends_with("/watch.rs") {
            found.extend(impure(source));
        }
    }
    none(&found);
}

/// I/O, time and tasks in a file that is to be pure.
fn impure(source: &Source) -> Vec<String> {
    let not_pure =
        ["std::fs", "std::io", "std::net", "std::thread", "tokio::", "rusqlite", "sled::", "runtime::clock"];
    source.wrong("is to be pure", |line| not_pure.iter().any(|word| line.contains(word)))
}

#[test]
fn forbidden_imports_are_found() {
    let found = |path: &str, text: &str| {
        let source = [Source::new(path, text)];
        [
            findings("agent/src/", &source, AGENT, &AGENT_WIRING),
            findings("aggregator/src/", &source, AGGREGATOR, &AGGREGATOR_WIRING),
        ]
        .concat()
    };
    assert_eq!(found("agent/src/metering/busy.rs", "use crate::driver::Driver;\n").len(), 1);
    assert_eq!(found("agent/src/driver/nvml.rs", "let x = crate::sampler::QUEUE_MAX;\n").len(), 1);
    assert_eq!(found("aggregator/src/ledger/settle.rs", "use crate::{model::Owner, store};\n").len(), 1);
    assert_eq!(found("aggregator/src/verify.rs", "use crate::commit::fold::Working;\n").len(), 1);
    assert_eq!(found("agent/src/gossip.rs", "").len(), 1, "a new stage needs a rule");
    assert_eq!(found("agent/src/pump.rs", "use crate::{driver, spool, uplink};\n").len(), 0);
    assert_eq!(found("agent/src/spool.rs", "use crate::seal;\nuse crate::spool::store;\n").len(), 0);
    assert_eq!(impure(&Source::new("aggregator/src/prices/unit.rs", "use std::fs::File;\n")).len(), 1);
}
