//! `tonnage ecosystem`: how the parts stand. The API tells of the aggregator, its price book, agents, clusters that are watched, an OpenCost
//! beside it, gates, alerts, and who reports jobs; Slurm's own commands tell of Slurm. What nobody tells is `unknown`, with why.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};
use tonnage_proto::rest::{NodesAnswer, VersionAnswer};

use super::Show;
use super::budgets::{csv, text_of};
use crate::error::Error;
use crate::output::{Grid, left};

mod slurm;

/// Open holds that are looked at for their gates.
const HOLDS: usize = 1000;
/// Seconds after which usage is old: the ledger calls it silence then.
const OLD_SECONDS: f64 = 900.0;

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
        let fresh = age.parse::<f64>().is_ok_and(|age| age < OLD_SECONDS);
        parts.push(part("usage", ok(fresh), format!("the newest is {age} s old")));
    }
    for (labels, up) in series(&metrics, "tonnage_kubernetes_up") {
        parts.push(part("kubernetes", ok(up == "1"), labels));
    }
    parts.extend(slurm::parts().into_iter().map(|(name, state, detail)| part(name, state, detail)));
    let (state, detail) = upstream(&metrics);
    parts.push(part("opencost", state, detail));
    parts.extend(gates(&holds).into_iter().map(|detail| part("gate", "unknown", detail)));
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

/// What the aggregator knows of an OpenCost that it asks.
fn upstream(metrics: &str) -> (&'static str, String) {
    let tries = series(metrics, "tonnage_opencost_upstream_tries_total");
    if tries.is_empty() {
        return ("unknown", "the aggregator has none to ask (--opencost-upstream)".to_owned());
    }
    let count = |result: &str| {
        let of = tries.iter().find(|(labels, _)| labels.contains(&format!("\"{result}\"")));
        of.map_or("0", |(_, value)| value.as_str()).to_owned()
    };
    let detail = format!(
        "{} requests answered, {} failed since the aggregator started",
        count("answered"),
        count("failed")
    );
    match series(metrics, "tonnage_opencost_upstream_up").first().map(|(_, value)| value.as_str()) {
        Some("1") => ("ok", detail),
        Some(_) => ("not ok", format!("the last request failed; {detail}")),
        None => (
            "unknown",
            "the aggregator has not asked it yet: it does when clients of OpenCost ask".to_owned(),
        ),
    }
}

/// What open holds tell of gates: whose they are, and how new the newest is. How a gate is only its own metrics say.
fn gates(holds: &[Value]) -> Vec<String> {
    let mut gates: BTreeMap<String, (usize, String)> = BTreeMap::new();
    for hold in holds {
        let name = text_of(&hold["metadata"], "gate");
        if !name.is_empty() {
            let (count, newest) = gates.entry(name).or_default();
            *count += 1;
            *newest = text_of(hold, "created_at").max(std::mem::take(newest));
        }
    }
    if gates.is_empty() {
        return vec!["no open hold is of any".to_owned()];
    }
    let most = if holds.len() == HOLDS { format!(" of the newest {HOLDS}") } else { String::new() };
    let told = |(gate, (count, newest)): (String, (usize, String))| {
        format!("{gate}: {count} open holds{most}, the last made at {newest}; its own metrics say how it is")
    };
    gates.into_iter().map(told).collect()
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
    fn an_upstream_is_as_it_answered_last_and_a_gate_is_not_well_for_having_holds() {
        let tries = "tonnage_opencost_upstream_tries_total{result=\"answered\"} 3\ntonnage_opencost_upstream_tries_total{result=\"failed\"} 1\n";
        assert_eq!(upstream("").0, "unknown");
        assert_eq!(upstream(tries).0, "unknown");
        for (up, state) in [("1", "ok"), ("0", "not ok")] {
            let (is, detail) = upstream(&format!("{tries}tonnage_opencost_upstream_up {up}\n"));
            assert!(is == state && detail.contains("3 requests answered, 1 failed"), "{is} {detail}");
        }
        let hold = |gate: &str, at: &str| json!({ "metadata": { "gate": gate }, "created_at": at });
        let found = gates(&[hold("a", "2027-02-01"), hold("a", "2027-01-01"), json!({ "metadata": {} })]);
        assert!(
            found.len() == 1 && found[0].starts_with("a: 2 open holds, the last made at 2027-02-01;"),
            "{found:?}"
        );
        assert_eq!(gates(&[]), ["no open hold is of any"]);
    }

    #[test]
    fn a_series_is_of_its_name_alone() {
        let metrics = "# HELP up x\nup{cluster=\"a b\"} 1\nup{cluster=\"c\"} 0\nup_total 7\nage 1.5\n";
        let text = |labels: &str, value: &str| (labels.to_owned(), value.to_owned());
        assert_eq!(series(metrics, "up"), [text("cluster=\"a b\"", "1"), text("cluster=\"c\"", "0")]);
        assert_eq!(series(metrics, "age"), [text("", "1.5")]);
        assert_eq!(series(metrics, "none"), []);
    }
}
