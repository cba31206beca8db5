//! How budgets do: checks and ends of holds are counted where they are committed, balances worked out at each scrape.
//!
//! Balances are gauges: late data moves them either way. Bounded: at most [`LIMITS_MAX`] limits have series. How many
//! have none is a series of its own.

use std::collections::BTreeMap;

use prometheus::{Gauge, GaugeVec, IntCounterVec, Opts, Registry};

use super::allocations::{self, Allocations};
use super::kept;
use super::scrape::{billionths, count};
use crate::budgets::Standing;
use crate::budgets::hold::{Code, State};

/// Limits that have series of their own.
pub const LIMITS_MAX: usize = 500;
/// What becomes of a check that is not refused, and of one of usage that is nobody's budget's.
const GRANTED: &str = "granted";
const UNASSIGNED: &str = "unassigned";

/// What one transaction did; counted once it is committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<(bool, &'static str), u64>);

impl Counts {
    /// A check was decided; one that is answered as before is not decided again.
    pub fn checked(&mut self, refusal: Option<Code>) {
        *self.0.entry((true, refusal.map_or(GRANTED, Code::name))).or_default() += 1;
    }

    /// A check was of usage that no account is bound to.
    pub fn unassigned(&mut self) {
        *self.0.entry((true, UNASSIGNED)).or_default() += 1;
    }

    pub fn ended(&mut self, state: State) {
        *self.0.entry((false, state.name())).or_default() += 1;
    }
}

#[derive(Debug)]
pub(crate) struct Counters {
    checks: IntCounterVec,
    ended: IntCounterVec,
}

impl Counters {
    pub(super) fn new(registry: &Registry) -> Self {
        let checks = Opts::new(
            "tonnage_budget_checks_total",
            "Checks decided by this process, by result: granted, or why not.",
        );
        let ended = Opts::new(
            "tonnage_budget_holds_ended_total",
            "Holds ended by this process, by how: settled, voided, expired.",
        );
        let counters = Self {
            checks: kept(registry, IntCounterVec::new(checks, &["result"])),
            ended: kept(registry, IntCounterVec::new(ended, &["state"])),
        };
        // Each is there from the beginning, so that the first is an increase.
        for result in Code::ALL.map(Code::name).into_iter().chain([GRANTED, UNASSIGNED]) {
            counters.checks.with_label_values(&[result]);
        }
        for state in [State::Settled, State::Voided, State::Expired] {
            counters.ended.with_label_values(&[state.name()]);
        }
        counters
    }

    /// Counts what a transaction did.
    pub(crate) fn add(&self, counts: &Counts) {
        for ((is_check, label), number) in &counts.0 {
            let counter = if *is_check { &self.checks } else { &self.ended };
            counter.with_label_values(&[label]).inc_by(*number);
        }
    }
}

/// How accounts stand.
#[derive(Debug, Default)]
pub struct Balances {
    pub rows: Vec<Balance>,
    pub open_holds: usize,
    /// By [`Standing`].
    pub accounts: [usize; Standing::NAMES.len()],
    /// Charged since the ledger began to nobody's budget.
    pub unassigned_nanos: i128,
    pub allocations: Allocations,
}

/// One limit of an account, or what an account without limits spent and holds in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// The account's number, and which of its limits it is.
    pub of: (i64, usize),
    pub account: String,
    pub period: String,
    /// When it began; `None` of one that moves on, or has no end.
    pub start_ns: Option<i64>,
    pub partition: String,
    pub model: String,
    pub limit_nanos: Option<i64>,
    pub charged_nanos: i128,
    pub held_nanos: i128,
}

pub(super) fn show(registry: &Registry, found: &Balances) {
    let gauges = |name: &str, help: &str, labels: &[&str]| {
        kept(registry, GaugeVec::new(Opts::new(name, help), labels))
    };
    let gauge = |name: &str, help: &str| kept(registry, Gauge::new(name, help));
    let of_limit = |name: &str, help: &str| gauges(name, help, &["account", "period", "partition", "model"]);
    let limit = of_limit("tonnage_budget_limit_dollars", "Limits of accounts, in the price book's currency.");
    let charged = of_limit(
        "tonnage_budget_charged_dollars",
        "Charges in the limit's present period, of the account and all below it.",
    );
    let held = of_limit("tonnage_budget_held_dollars", "What open holds reserve from the limit.");
    let available =
        of_limit("tonnage_budget_available_dollars", "Limit less charges and holds; below 0 if overspent.");
    let mut least: BTreeMap<[&str; 4], &Balance> = BTreeMap::new();
    for row in found.rows.iter().take(LIMITS_MAX) {
        // Months of two zones are one series: that which has less left.
        let labels = [&row.account, &row.period, &row.partition, &row.model].map(String::as_str);
        let known = least.entry(labels).or_insert(row);
        if row.available_nanos() < known.available_nanos() {
            *known = row;
        }
    }
    for (labels, row) in least {
        charged.with_label_values(&labels).set(billionths(row.charged_nanos));
        held.with_label_values(&labels).set(billionths(row.held_nanos));
        if let (Some(nanos), Some(left)) = (row.limit_nanos, row.available_nanos()) {
            limit.with_label_values(&labels).set(billionths(i128::from(nanos)));
            available.with_label_values(&labels).set(billionths(left));
        }
    }
    gauge(
        "tonnage_budget_hidden_limits",
        "Limits of accounts that have no series here, since they are too many.",
    )
    .set(count(found.rows.len().saturating_sub(LIMITS_MAX)));
    gauge("tonnage_budget_open_holds", "Holds that are open.").set(count(found.open_holds));
    let accounts = gauges("tonnage_budget_accounts", "Accounts, by how they stand.", &["standing"]);
    for (name, number) in std::iter::zip(Standing::NAMES, found.accounts) {
        accounts.with_label_values(&[name]).set(count(number));
    }
    gauge(
        "tonnage_budget_unassigned_dollars",
        "Charged since the ledger began for usage that no account is bound to.",
    )
    .set(billionths(found.unassigned_nanos));
    allocations::show(registry, &found.allocations);
}

impl Balance {
    fn available_nanos(&self) -> Option<i128> {
        Some(i128::from(self.limit_nanos?) - self.charged_nanos - self.held_nanos)
    }
}

#[cfg(test)]
mod tests {
    use crate::metrics::Metrics;
    use crate::metrics::scrape::Facts;

    use super::*;

    fn row(account: &str, limit_nanos: Option<i64>, charged_nanos: i128) -> Balance {
        Balance {
            of: (1, 0),
            account: account.into(),
            period: "month".into(),
            start_ns: None,
            partition: String::new(),
            model: String::new(),
            limit_nanos,
            charged_nanos,
            held_nanos: 500_000_000,
        }
    }

    #[test]
    fn a_balance_is_its_limit_less_charges_and_holds_and_without_a_limit_there_is_none() {
        let mut rows = vec![
            row("a", Some(9_000_000_000), 1_000_000_000),
            row("a", Some(4_000_000_000), 4_000_000_000),
            row("free", None, 2_000_000_000),
        ];
        rows.extend((0..LIMITS_MAX).map(|at| row(&format!("n{at}"), Some(1), 0)));
        let found = Balances { rows, open_holds: 7, unassigned_nanos: 1, ..Balances::default() };
        let text = Metrics::new().render(&Facts { budgets: Some(&found), ..Facts::default() });
        let of = |name: &str, account: &str| {
            let labels = format!("{{account=\"{account}\",model=\"\",partition=\"\",period=\"month\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{labels}")));
            line.map(str::to_owned)
        };
        assert_eq!(of("tonnage_budget_available_dollars", "a").as_deref(), Some("-0.5"), "{text}");
        assert_eq!(of("tonnage_budget_limit_dollars", "a").as_deref(), Some("4"));
        assert_eq!(of("tonnage_budget_charged_dollars", "free").as_deref(), Some("2"));
        assert_eq!(of("tonnage_budget_available_dollars", "free"), None);
        assert_eq!(of("tonnage_budget_limit_dollars", "n496").as_deref(), Some("0.000000001"));
        assert_eq!(of("tonnage_budget_limit_dollars", "n497"), None, "too many");
        for line in ["tonnage_budget_open_holds 7", "tonnage_budget_hidden_limits 3"] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn checks_and_ends_are_counted_by_what_became_of_them() {
        let metrics = Metrics::new();
        let mut counts = Counts::default();
        counts.checked(None);
        counts.checked(Some(Code::Unpriced));
        counts.checked(Some(Code::Unpriced));
        counts.unassigned();
        counts.ended(State::Expired);
        metrics.budgets.add(&counts);
        let text = metrics.render(&Facts::default());
        for line in [
            "tonnage_budget_checks_total{result=\"granted\"} 1",
            "tonnage_budget_checks_total{result=\"unpriced\"} 2",
            "tonnage_budget_checks_total{result=\"unassigned\"} 1",
            "tonnage_budget_checks_total{result=\"account_expired\"} 0",
            "tonnage_budget_holds_ended_total{state=\"expired\"} 1",
            "tonnage_budget_holds_ended_total{state=\"settled\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
