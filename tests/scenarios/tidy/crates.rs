//! runtime, proto <- agent, aggregator, cli <- tests. Read from the manifests.

use super::{none, root};

/// Crate, its folder, and which of the project's crates it may depend on.
const ALLOWED: [(&str, &str, &[&str]); 10] = [
    ("tonnage-proto", "proto", &[]),
    ("tonnage-runtime", "runtime", &[]),
    ("tonnage-agent", "agent", &["tonnage-proto", "tonnage-runtime"]),
    ("tonnage-aggregator", "aggregator", &["tonnage-proto", "tonnage-runtime"]),
    // A thin client of REST: it has no clock, no signals and no telemetry to share.
    ("tonnage", "cli", &["tonnage-proto"]),
    // The simulated driver lives under the clock that tests move.
    ("nvml-sim", "tests/nvml-sim", &["tonnage-runtime"]),
    // Knows system calls, and nothing of what makes them.
    ("disk-trace", "tests/disk-trace", &[]),
    // Knows a server of others.
    ("postgres-server", "tests/postgres", &[]),
    // Its load has a clock; what it holds against the agent reads the ledger as scenarios do.
    ("tonnage-gpu", "tests/gpu", &["tonnage-runtime", "tonnage-aggregator", "tonnage-tests"]),
    (
        "tonnage-tests",
        "tests",
        &["nvml-sim", "tonnage-agent", "tonnage-aggregator", "tonnage-proto", "tonnage-runtime"],
    ),
];

/// Dependencies of the project's own that a manifest has and may not have.
fn findings(folder: &str, manifest: &str, allowed: &[&str]) -> Vec<String> {
    let table: toml::Table = manifest.parse().expect("a manifest");
    let mut found = Vec::new();
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(dependencies) = table.get(kind).and_then(toml::Value::as_table) else { continue };
        for name in dependencies.keys() {
            let ours = name.starts_with("tonnage") || name == "nvml-sim";
            if ours && !allowed.contains(&name.as_str()) {
                found.push(format!("{folder}/Cargo.toml: {kind}: {name} is not below {folder}"));
            }
        }
    }
    found
}

#[test]
fn crates_import_one_way_only() {
    let workspace: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    let known: Vec<&str> = ALLOWED.iter().map(|(_, folder, _)| *folder).collect();
    for member in members {
        assert!(
            known.contains(&member.as_str().unwrap()),
            "{member} has no rule here: say whom it may import"
        );
    }
    let mut all = Vec::new();
    for (_, folder, allowed) in ALLOWED {
        let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        all.extend(findings(folder, &manifest, allowed));
    }
    none(&all);
}

#[test]
fn an_agent_that_imports_the_aggregator_is_found_even_for_tests() {
    let manifest = "[dependencies]\ntonnage-proto.workspace = true\n[dev-dependencies]\n\
                    tonnage-aggregator.workspace = true\n";
    let found = findings("agent", manifest, ALLOWED[2].2);
    assert!(found.len() == 1 && found[0].contains("tonnage-aggregator"), "{found:?}");
    assert_eq!(findings("aggregator", "[dependencies]\nrusqlite = '1'\n", ALLOWED[3].2).len(), 0);
}
