//! The demo's table: owners with what they held, used and cost, and what nobody held.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tonnage_proto::rest::{CostAnswer, CostRow, Figures, sentinel};

use crate::fleet::Fleet;

/// Who held what until now; with where to look, while there is something to look at.
pub(crate) fn draw(fleet: &Fleet, running: bool) -> anyhow::Result<String> {
    let cost = fleet.cost()?;
    let devices = fleet.devices()?.devices.len();
    let mut text = String::new();
    if devices == 0 {
        writeln!(text, "Metering; the first windows close within 10 seconds.\n")?;
    } else {
        table(&mut text, &cost, devices)?;
    }
    if !running {
        return Ok(text);
    }
    for (what, url) in fleet.urls() {
        writeln!(text, "  {what:<22} {url}")?;
    }
    writeln!(text, "\n  Ctrl-C stops everything and has the ledger recomputed.")?;
    Ok(text)
}

fn table(text: &mut String, cost: &CostAnswer, devices: usize) -> anyhow::Result<()> {
    writeln!(text, "{:<10} {:<46} {:>10} {:>10} {:>12}", "NODE", "OWNER", "HELD s", "BUSY s", "USD")?;
    for row in cost.rows.iter().filter(|row| !is_sentinel(row)) {
        let node = row.key.get("node").map_or("", String::as_str);
        let Figures { held_seconds, busy_seconds, cost, .. } = &row.figures;
        let (held, busy, cost) = (short(held_seconds, 1), short(busy_seconds, 1), short(cost, 6));
        writeln!(
            text,
            "{node:<10} {:<46} {held:>10} {busy:>10} {cost:>12}",
            owner(&row.key) + &part(&row.key)
        )?;
    }
    let totals = &cost.totals;
    for (name, seconds, money) in [
        ("idle: observed, held by nobody", &totals.idle_seconds, &totals.idle_cost),
        ("unobserved", &totals.unobserved_seconds, &totals.unobserved_cost),
    ] {
        let (seconds, money) = (short(seconds, 1), short(money, 6));
        writeln!(text, "{:<10} {name:<46} {seconds:>10} {:>10} {money:>12}", "", "")?;
    }
    let rounding = short(&totals.rounding_cost, 9);
    let all = short(&totals.cost, 6);
    writeln!(text, "{:<10} {:<46} {:>10} {:>10} {all:>12}", "", format!("{devices} GPUs"), "", "")?;
    writeln!(text, "\n  of which rounding {rounding}; coverage {}\n", cost.coverage)?;
    Ok(())
}

fn is_sentinel(row: &CostRow) -> bool {
    let sentinels = [sentinel::IDLE, sentinel::UNOBSERVED, sentinel::ROUNDING];
    row.key.values().any(|value| sentinels.contains(&value.as_str()))
}

/// The fields that this kind of owner has, in one phrase.
fn owner(key: &BTreeMap<String, String>) -> String {
    let value = |name: &str| key.get(name).map_or("", String::as_str);
    let named = |name: &str| !value(name).starts_with("__");
    match value("kind") {
        "pod" => format!("pod {}/{}", value("namespace"), value("pod")),
        "slurm_job" if named("user") => format!("job {} ({})", value("job"), value("user")),
        "slurm_job" => format!("job {}", value("job")),
        "systemd_unit" => format!("unit {}", value("unit")),
        "user" => format!("user {}", value("user")),
        "container" => format!("container {:.12}", value("container")),
        "virtual_machine" => format!("vm {}", value("unit")),
        _ => "unowned: a process that belongs to nobody known".to_owned(),
    }
}

/// The profile of its instances, where its GPU is cut into some.
fn part(key: &BTreeMap<String, String>) -> String {
    let profile = key.get("profile").filter(|profile| !profile.is_empty() && !profile.starts_with("__"));
    profile.map_or_else(String::new, |profile| format!(" on {profile}"))
}

/// A decimal with fewer places, cut, not rounded: a table's figures never sum to more than the bill.
fn short(decimal: &str, places: usize) -> String {
    match decimal.split_once('.') {
        Some((whole, fraction)) => format!("{whole}.{}", &fraction[..places.min(fraction.len())]),
        None => decimal.to_owned(),
    }
}
