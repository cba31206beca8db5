//! Gauges that are worked out at each scrape, from what the ledger, the price book and the live view say.
//!
//! Costs are gauges, not counters: late data and corrections may lower them, and a counter that goes down looks like
//! a restart to Prometheus. At most [`NAMESPACES_MAX`] namespaces have a label; the rest are one.

use std::collections::BTreeMap;

use prometheus::{Gauge, GaugeVec, Opts, Registry};
use tonnage_proto::rest::sentinel;

use super::budgets::{self, Balances};
use super::kept;
use crate::live::Share;
use crate::model::GpuTime;
use crate::store::query::Sums;

/// Namespaces (with their cluster) that have labels of their own: the dearest.
pub const NAMESPACES_MAX: usize = 500;

/// What a scrape is made from. What is not known is left out of it.
#[derive(Debug, Default)]
pub struct Facts<'a> {
    pub version: &'a str,
    pub streams: usize,
    pub shares: &'a [Share],
    /// Prices in force, and whether the book's file is as it should be.
    pub price_rows: usize,
    pub price_book_good: bool,
    /// Since the newest usage in the ledger ended.
    pub data_age_ns: Option<i64>,
    pub costs: Option<&'a Costs>,
    /// Quarantined windows that are not counted, by kind.
    pub held: &'a [(String, i64)],
    /// (slot, tenure) of closed slots that wait to be posted.
    pub unposted: i64,
    pub budgets: Option<&'a Balances>,
}

/// Sums since the ledger began, by (cluster, namespace); what nobody held has a sentinel for its namespace.
pub type Costs = BTreeMap<(String, String), Sums>;

pub(super) fn registry(facts: &Facts<'_>) -> Registry {
    let registry = Registry::new();
    let gauges = |name: &str, help: &str, labels: &[&str]| {
        kept(&registry, GaugeVec::new(Opts::new(name, help), labels))
    };
    let gauge = |name: &str, help: &str| kept(&registry, Gauge::new(name, help));
    gauges("tonnage_build_info", "Always 1; the version is a label.", &["version"])
        .with_label_values(&[facts.version])
        .set(1.0);
    gauge("tonnage_ingest_streams", "Agents' streams that are open.").set(count(facts.streams));
    gauge("tonnage_price_book_rows", "Prices in force.").set(count(facts.price_rows));
    gauge(
        "tonnage_price_book_good",
        "1 if the files of prices and nodes are in force as they are, 0 if one is wrong.",
    )
    .set(if facts.price_book_good { 1.0 } else { 0.0 });
    if let Some(age_ns) = facts.data_age_ns {
        gauge("tonnage_data_age_seconds", "Time since the newest usage in the ledger ended.")
            .set(super::seconds(age_ns));
    }
    rates(
        facts.shares,
        &gauges(
            "tonnage_gpu_cost_rate_dollars_per_hour",
            "What GPUs cost now, in the price book's currency, by the newest windows.",
            &["cluster", "namespace", "kind"],
        ),
        &gauge("tonnage_gpu_unpriced_devices", "GPUs with a fresh window for which the book has no price."),
    );
    let held = gauges(
        "tonnage_quarantined_windows",
        "Windows that are quarantined and not counted, by kind. See `tonnage quarantine list`.",
        &["kind"],
    );
    for (kind, windows) in facts.held {
        held.with_label_values(&[kind]).set(count(usize::try_from(*windows).unwrap_or(0)));
    }
    gauge("tonnage_unposted_slots", "Devices' slots that are closed and wait to be posted.")
        .set(count(usize::try_from(facts.unposted).unwrap_or(0)));
    if let Some(found) = facts.budgets {
        budgets::show(&registry, found);
    }
    if let Some(found) = facts.costs {
        costs(
            found,
            &gauges(
                "tonnage_gpu_cost_dollars",
                "Cost since the ledger began, in the price book's currency. Late data may lower it.",
                &["cluster", "namespace", "kind"],
            ),
            &gauges(
                "tonnage_gpu_unpriced_seconds",
                "Slice-seconds since the ledger began for which the book had no price.",
                &["cluster"],
            ),
        );
    }
    registry
}

fn rates(shares: &[Share], rates: &GaugeVec, unpriced: &Gauge) {
    let mut sums: BTreeMap<[&str; 3], i128> = BTreeMap::new();
    let mut devices = std::collections::BTreeSet::new();
    for share in shares {
        let Some(hourly_nanos) = share.hourly_nanos else {
            devices.insert((&share.node, &share.device.uuid));
            continue;
        };
        // It has no time here, so no rate either.
        if share.intruder {
            continue;
        }
        let (namespace, kind) = match share.owner.as_deref() {
            Some(owner) => (owner.namespace.as_str(), owner.kind.name()),
            None => ("", "idle"),
        };
        *sums.entry([share.node.cluster.as_str(), namespace, kind]).or_default() += hourly_nanos;
    }
    unpriced.set(count(devices.len()));
    set_dearest(rates, sums.into_iter().collect());
}

fn costs(costs: &Costs, dollars: &GaugeVec, unpriced: &GaugeVec) {
    let mut held = Vec::new();
    let mut rest: BTreeMap<[&str; 3], i128> = BTreeMap::new();
    let mut unpriced_time: BTreeMap<&str, GpuTime> = BTreeMap::new();
    for ((cluster, namespace), sums) in costs {
        let cluster = cluster.as_str();
        *unpriced_time.entry(cluster).or_default() += sums.unpriced;
        if !matches!(namespace.as_str(), sentinel::IDLE | sentinel::UNOBSERVED | sentinel::ROUNDING) {
            held.push(([cluster, namespace, "held"], sums.held_cost_nanos));
            continue;
        }
        for (kind, nanos) in [
            ("idle", sums.idle_cost_nanos),
            ("unobserved", sums.unobserved_cost_nanos),
            ("rounding", sums.rounding_cost_nanos),
        ] {
            *rest.entry([cluster, "", kind]).or_default() += nanos;
        }
    }
    set_dearest(dollars, held);
    for (labels, nanos) in rest {
        dollars.with_label_values(&labels).set(billionths(nanos));
    }
    for (cluster, time) in unpriced_time {
        unpriced.with_label_values(&[cluster]).set(billionths(time.ns()));
    }
}

/// Sets the dearest, and adds up the others by kind under one name.
fn set_dearest(gauges: &GaugeVec, mut nanos: Vec<([&str; 3], i128)>) {
    nanos.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut others: BTreeMap<&str, i128> = BTreeMap::new();
    for (at, (labels, nanos)) in nanos.into_iter().enumerate() {
        if at < NAMESPACES_MAX {
            gauges.with_label_values(&labels).set(billionths(nanos));
        } else {
            *others.entry(labels[2]).or_default() += nanos;
        }
    }
    for (kind, nanos) in others {
        gauges.with_label_values(&[sentinel::OTHER, sentinel::OTHER, kind]).set(billionths(nanos));
    }
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus has only doubles")]
pub(super) fn billionths(value: i128) -> f64 {
    value as f64 / 1e9
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus has only doubles")]
pub(super) fn count(value: usize) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn held(nanos: i128) -> Sums {
        Sums { held_cost_nanos: nanos, ..Sums::default() }
    }

    #[test]
    fn costs_are_shown_by_namespace_and_what_nobody_held_by_kind() {
        let costs: Costs = [
            (("c".to_owned(), "ml".to_owned()), held(1_500_000_000)),
            (
                ("c".to_owned(), sentinel::IDLE.to_owned()),
                Sums {
                    idle_cost_nanos: 2_000_000_000,
                    unpriced: GpuTime::of_slices(5_000_000_000, 1),
                    ..Sums::default()
                },
            ),
        ]
        .into();
        let facts = Facts { version: "1", costs: Some(&costs), data_age_ns: Some(0), ..Facts::default() };
        let text = Metrics::new().render(&facts);
        for line in [
            "tonnage_gpu_cost_dollars{cluster=\"c\",kind=\"held\",namespace=\"ml\"} 1.5",
            "tonnage_gpu_cost_dollars{cluster=\"c\",kind=\"idle\",namespace=\"\"} 2",
            "tonnage_gpu_unpriced_seconds{cluster=\"c\"} 5",
            "tonnage_data_age_seconds 0",
            "tonnage_build_info{version=\"1\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn the_dearest_namespaces_have_labels_and_the_others_are_one_sum() {
        let costs: Costs = (0..600_u16)
            .map(|n| (("c".to_owned(), format!("ns-{n:03}")), held(i128::from(n) * 1_000_000_000)))
            .collect();
        let text = Metrics::new().render(&Facts { costs: Some(&costs), ..Facts::default() });
        let lines = text.lines().filter(|line| line.starts_with("tonnage_gpu_cost_dollars{")).count();
        assert_eq!(lines, NAMESPACES_MAX + 1);
        let others: u32 = (0..100).sum();
        let line = format!(
            "tonnage_gpu_cost_dollars{{cluster=\"__other__\",kind=\"held\",namespace=\"__other__\"}} {others}"
        );
        assert!(text.contains(&line), "{text}");
    }
}
