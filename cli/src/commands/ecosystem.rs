//! `tonnage ecosystem`: how the parts stand, as far as the API tells: the aggregator, its price book, agents, clusters that are watched,
//! gates, alerts, and who reports jobs. What is not told is `unknown`, and no guess.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};
use tonnage_proto::rest::{NodesAnswer, VersionAnswer};

use super::Show;
use super::budgets::{csv, text_of};
use crate::error::Error;
use crate::output::{Grid, left};

/// Open holds that are looked at for their gates.
const HOLDS: usize = 1000;

pub(super) fn ecosystem(show: &Show<'_>, out: &mut dyn Write) -> Result<(), Error> {
    let client = show.client;
    let version: VersionAnswer = client.parse(&client.get("/version", &[])?)?;
    let (ready, said) = client.ask("GET", "/readyz", "")?;
    let metrics = client.get("/metrics", &[])?;
    let nodes: NodesAnswer = client.parse(&client.get("/api/v1/nodes", &[])?)?;
    let query = [("status", "pending".to_owned()), ("limit", HOLDS.to_string())];
    let holds: Vec<Value> = client.parse(&client.get("/api/v1/transactions", &query)?)?;
    let asbx: Value = client.parse(&client.get("/api/v1/asbx/status", &[])?)?;
    let ok = |good: bool| if good { "ok" } else { "not ok" };
    let part =
        |part: &str, state: &str, detail: String| json!({ "part": part, "state": state, "detail": detail });

    let ready_text = if ready.is_success() { String::new() } else { format!(": {}", said.trim()) };
    let detail = format!("version {}, ledger {}{ready_text}", version.version, version.ledger_id);
    let mut parts = vec![part("aggregator", ok(ready.is_success()), detail)];
    let value = |name: &str| series(&metrics, name).into_iter().next().map(|(_, value)| value);
    let rows = value("tonnage_price_book_rows").unwrap_or_default();
    let good = value("tonnage_price_book_good");
    parts.push(part("price book", good.map_or("unknown", |good| ok(good == "1")), format!("{rows} prices")));
    let connected = nodes.nodes.iter().filter(|node| node.connected).count();
    let state = if nodes.nodes.is_empty() { "unknown" } else { ok(connected == nodes.nodes.len()) };
    parts.push(part("agents", state, format!("{connected} of {} connected", nodes.nodes.len())));
    if let Some(age) = value("tonnage_data_age_seconds") {
        parts.push(part("usage", "ok", format!("the newest is {age} s old")));
    }
    for (labels, up) in series(&metrics, "tonnage_kubernetes_up") {
        parts.push(part("kubernetes", ok(up == "1"), labels));
    }
    let mut gates: BTreeMap<String, usize> = BTreeMap::new();
    for gate in holds.iter().map(|hold| text_of(&hold["metadata"], "gate")).filter(|gate| !gate.is_empty()) {
        *gates.entry(gate).or_default() += 1;
    }
    for (gate, count) in &gates {
        parts.push(part("gate", "ok", format!("{gate}: {count} open holds")));
    }
    if gates.is_empty() {
        parts.push(part("gate", "unknown", "no open hold is of any".to_owned()));
    }
    if let Some(waiting) = value("tonnage_alert_deliveries_waiting") {
        let good = value("tonnage_alerts_file_good").is_none_or(|good| good == "1");
        parts.push(part("alerts", ok(good && waiting == "0"), format!("{waiting} wait to be told")));
    }
    let enabled = asbx["integration_enabled"] == true;
    let [count, last] = ["total_jobs_reconciled", "last_data_import"].map(|field| text_of(&asbx, field));
    let detail = if enabled {
        format!("{count} jobs reported, the last at {last}")
    } else {
        "nothing was reported".to_owned()
    };
    parts.push(part("asbx", if enabled { "ok" } else { "unknown" }, detail));
    show.write(&Value::Array(parts).to_string(), grid, csv, out)
}

#[expect(clippy::ptr_arg, reason = "what is written is decoded as a `Vec`")]
fn grid(parts: &Vec<Value>) -> Grid {
    let names = ["part", "state", "detail"];
    let rows = parts.iter().map(|part| names.map(|name| text_of(part, name)).to_vec());
    Grid { columns: names.map(left).to_vec(), rows: rows.collect(), notes: Vec::new() }
}

/// Labels and value of each series of a metric.
fn series(metrics: &str, name: &str) -> Vec<(String, String)> {
    let of = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        let (labels, value) = rest.rsplit_once(' ')?;
        Some((labels.trim_matches(['{', '}']).to_owned(), value.to_owned()))
    });
    of.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_of_its_name_alone() {
        let metrics = "# HELP up x\nup{cluster=\"a b\"} 1\nup{cluster=\"c\"} 0\nup_total 7\nage 1.5\n";
        let text = |labels: &str, value: &str| (labels.to_owned(), value.to_owned());
        assert_eq!(series(metrics, "up"), [text("cluster=\"a b\"", "1"), text("cluster=\"c\"", "0")]);
        assert_eq!(series(metrics, "age"), [text("", "1.5")]);
        assert_eq!(series(metrics, "none"), []);
    }
}
