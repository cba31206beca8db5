//! How budgets that come in parts do. What has come is a function of dates, so it is worked out at each scrape, and is the same at each
//! aggregator of one ledger; only what somebody has processed by hand is counted where it is done.
//!
//! Bounded: at most [`ACCOUNTS_MAX`] accounts have series of their own; how many have none is one more.

use prometheus::{Gauge, GaugeVec, IntCounterVec, Opts, Registry};

use super::kept;
use super::scrape::{billionths, count};
use crate::budgets::allocation::Standing;

/// Accounts with schedules that have series of their own, the oldest first.
pub const ACCOUNTS_MAX: usize = 500;

/// What became of a run by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Parts came.
    Allocated,
    NothingDue,
    /// It only said what would come.
    Dry,
    /// Of what was due something may have come before.
    Failed,
}

impl Run {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Allocated, "allocated"),
        (Self::NothingDue, "nothing_due"),
        (Self::Dry, "dry_run"),
        (Self::Failed, "failed"),
    ];
}

#[derive(Debug)]
pub(crate) struct Runs {
    runs: IntCounterVec,
}

impl Runs {
    pub(super) fn new(registry: &Registry) -> Self {
        let runs = Opts::new(
            "tonnage_allocation_runs_total",
            "Runs of allocations by hand at this process, by result: allocated, nothing_due, dry_run, failed.",
        );
        let runs = kept(registry, IntCounterVec::new(runs, &["result"]));
        // Each is there from the beginning, so that the first is an increase.
        Run::ALL.iter().for_each(|(_, name)| drop(runs.with_label_values(&[name])));
        Self { runs }
    }

    pub(crate) fn ran(&self, run: Run) {
        let named = Run::ALL.iter().find(|(known, _)| *known == run);
        named.into_iter().for_each(|(_, name)| self.runs.with_label_values(&[name]).inc());
    }
}

/// Schedules of all open accounts as of now.
#[derive(Debug, Default)]
pub struct Allocations {
    /// By [`Standing`].
    pub schedules: [usize; Standing::NAMES.len()],
    /// Parts that have come at their dates, and those that somebody let come.
    pub parts: [i64; 2],
    pub rows: Vec<Allocated>,
    /// Accounts without a row.
    pub hidden: usize,
}

/// What has come of all schedules of one account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocated {
    pub account: String,
    pub allocated_nanos: i128,
    /// Its date is over, and it waits for somebody's word.
    pub due_nanos: i128,
    /// When the next part has its date.
    pub next_ns: Option<i64>,
}

pub(super) fn show(registry: &Registry, found: &Allocations) {
    let gauges =
        |name: &str, help: &str, label: &str| kept(registry, GaugeVec::new(Opts::new(name, help), &[label]));
    let schedules = gauges(
        "tonnage_allocation_schedules",
        "Schedules of open accounts, by how they stand: active, paused, completed, cancelled.",
        "standing",
    );
    for (name, number) in std::iter::zip(Standing::NAMES, found.schedules) {
        schedules.with_label_values(&[name]).set(count(number));
    }
    let parts = gauges(
        "tonnage_allocation_parts",
        "Parts of budgets that have come so far, by how: at their date, or by hand.",
        "way",
    );
    for (way, number) in std::iter::zip(["date", "hand"], found.parts) {
        parts.with_label_values(&[way]).set(count(usize::try_from(number).unwrap_or(0)));
    }
    let allocated = gauges(
        "tonnage_allocation_allocated_dollars",
        "What has come by an account's schedules so far, in the price book's currency.",
        "account",
    );
    let due = gauges(
        "tonnage_allocation_due_dollars",
        "What of it is due and waits for somebody to process it.",
        "account",
    );
    let next = gauges(
        "tonnage_allocation_next_timestamp_seconds",
        "When the next part of an account has its date; not there where none is to come.",
        "account",
    );
    for row in &found.rows {
        let account = [row.account.as_str()];
        allocated.with_label_values(&account).set(billionths(row.allocated_nanos));
        due.with_label_values(&account).set(billionths(row.due_nanos));
        if let Some(next_ns) = row.next_ns {
            next.with_label_values(&account).set(super::seconds(next_ns));
        }
    }
    let hidden = Gauge::new(
        "tonnage_allocation_hidden_accounts",
        "Accounts with schedules that have no series of their own, since they are too many.",
    );
    kept(registry, hidden).set(count(found.hidden));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::metrics::budgets::Balances;
    use crate::metrics::scrape::Facts;

    #[test]
    fn what_came_and_what_waits_is_shown_and_runs_by_hand_are_counted_by_result() {
        let row = Allocated {
            account: "a".into(),
            allocated_nanos: 1_500_000_000,
            due_nanos: 250_000_000,
            next_ns: Some(1_800_000_000_000_000_000),
        };
        let ended = Allocated { account: "b".into(), ..Allocated::default() };
        let allocations =
            Allocations { schedules: [1, 0, 2, 0], parts: [7, 3], rows: vec![row, ended], hidden: 4 };
        let found = Balances { allocations, ..Balances::default() };
        let metrics = Metrics::new();
        metrics.allocations.ran(Run::Allocated);
        metrics.allocations.ran(Run::Dry);
        let text = metrics.render(&Facts { budgets: Some(&found), ..Facts::default() });
        for line in [
            "tonnage_allocation_schedules{standing=\"completed\"} 2",
            "tonnage_allocation_parts{way=\"date\"} 7",
            "tonnage_allocation_parts{way=\"hand\"} 3",
            "tonnage_allocation_allocated_dollars{account=\"a\"} 1.5",
            "tonnage_allocation_due_dollars{account=\"a\"} 0.25",
            "tonnage_allocation_next_timestamp_seconds{account=\"a\"} 1800000000",
            "tonnage_allocation_hidden_accounts 4",
            "tonnage_allocation_runs_total{result=\"allocated\"} 1",
            "tonnage_allocation_runs_total{result=\"dry_run\"} 1",
            "tonnage_allocation_runs_total{result=\"failed\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("tonnage_allocation_next_timestamp_seconds{account=\"b\"}"), "{text}");
    }
}
