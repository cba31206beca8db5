//! What the metrics show of the ledger: sums since it began, from the table of days.
//!
//! Read at most every 15 s, by one query at a time, and not for more than a twentieth of the time, since budgets that are bound by labels
//! take long to read. Days that are over by two are read once an hour only: they
//! change by corrections alone. A scrape waits 5 s at most, and else shows what was last known.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tonnage_proto::limits::DAY_NS;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::telemetry::chain;

use super::budgets::seen;
use crate::metrics::budgets::Balances;
use crate::metrics::scrape::Costs;
use crate::metrics::{Metrics, Operation};
use crate::store::query::{self, CostQuery, Dimension, QueryError, Range, Table};
use crate::store::{Readers, closing, quarantine};

const FRESH_NS: i64 = 15_000_000_000;
/// For how many times as long as they took to read.
const FRESH_TIMES: i64 = 20;
const SETTLED_NS: i64 = 3_600_000_000_000;
const WAIT: Duration = Duration::from_secs(5);

pub(super) struct Totals {
    clock: Clock,
    readers: Readers,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// And until when it is fresh.
    found: Option<(i64, Arc<Found>)>,
    reading: bool,
    settled: Option<Settled>,
}

/// Sums of the days before `until_ns`.
struct Settled {
    read_ns: i64,
    until_ns: i64,
    costs: Costs,
}

pub(super) struct Found {
    pub(super) costs: Costs,
    pub(super) newest_ns: Option<i64>,
    /// Quarantined windows that are not counted, by kind.
    pub(super) held: Vec<(String, i64)>,
    /// (slot, tenure) that wait to be posted.
    pub(super) unposted: i64,
    pub(super) budgets: Balances,
}

impl Totals {
    pub(super) fn new(clock: Clock, readers: Readers, metrics: Arc<Metrics>) -> Self {
        Self { clock, readers, metrics, state: Mutex::default() }
    }

    /// Sums that are fresh if they can be had soon, else the last known.
    pub(super) async fn get(self: &Arc<Self>) -> Option<Arc<Found>> {
        if self.begin() {
            let totals = Arc::clone(self);
            let task = tokio::task::spawn_blocking(move || totals.read());
            // Whether it ended in time or not: what it found is in the state, now or for the next scrape.
            let _ = tokio::time::timeout(WAIT, task).await;
        }
        self.lock().found.as_ref().map(|(_, found)| Arc::clone(found))
    }

    /// Is it time to read, and is nobody at it?
    fn begin(&self) -> bool {
        let now_ns = self.clock.monotonic_ns();
        let mut state = self.lock();
        let fresh = state.found.as_ref().is_some_and(|(until_ns, _)| now_ns < *until_ns);
        if fresh || state.reading {
            return false;
        }
        state.reading = true;
        true
    }

    fn read(&self) {
        let now_ns = self.clock.monotonic_ns();
        let today_ns = self.clock.wall_ns().div_euclid(DAY_NS) * DAY_NS;
        let settled = self
            .lock()
            .settled
            .take()
            .filter(|settled| now_ns - settled.read_ns < SETTLED_NS && settled.until_ns <= today_ns);
        let result = self.sums(settled, now_ns, today_ns);
        let mut state = self.lock();
        state.reading = false;
        match result {
            Ok((settled, found)) => {
                state.settled = Some(settled);
                let took_ns = self.clock.monotonic_ns() - now_ns;
                let fresh_ns = FRESH_NS.max(took_ns.saturating_mul(FRESH_TIMES));
                state.found = Some((now_ns.saturating_add(fresh_ns), Arc::new(found)));
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "Kept the metrics' last sums of the ledger.");
                if matches!(error, QueryError::Store(_)) {
                    self.metrics.store_failed(Operation::Scrape);
                }
            }
        }
    }

    fn sums(
        &self,
        settled: Option<Settled>,
        now_ns: i64,
        today_ns: i64,
    ) -> Result<(Settled, Found), QueryError> {
        let settled = match settled {
            Some(settled) => settled,
            None => {
                let until_ns = today_ns - DAY_NS;
                Settled { read_ns: now_ns, until_ns, costs: self.days(i64::MIN, until_ns)?.0 }
            }
        };
        let (mut costs, newest_ns) = self.days(settled.until_ns, i64::MAX)?;
        for (key, sums) in &settled.costs {
            costs.entry(key.clone()).or_default().add(sums);
        }
        let wall_ns = self.clock.wall_ns();
        let (held, unposted, budgets) = self.readers.with(|connection| {
            let held = quarantine::held_counts(connection)?;
            Ok((held, closing::unposted_count(connection)?, seen::balances(connection, wall_ns)?))
        })?;
        Ok((settled, Found { costs, newest_ns, held, unposted, budgets }))
    }

    fn days(&self, start_ns: i64, end_ns: i64) -> Result<(Costs, Option<i64>), QueryError> {
        let query = CostQuery {
            ranges: vec![Range { table: Table::Day, start_ns, end_ns }],
            by: vec![Dimension::Cluster, Dimension::Namespace],
            idle: true,
            ..CostQuery::default()
        };
        let found = self.readers.with(|connection| {
            let found = query::cost(connection, &query, || false);
            Ok(found.map(|found| (found, query::newest_usage_ns(connection))))
        })??;
        let (groups, newest_ns) = (found.0.groups, found.1?);
        let costs = groups.into_iter().filter_map(|group| {
            let [cluster, namespace] = <[String; 2]>::try_from(group.key).ok()?;
            Some(((cluster, namespace), group.sums))
        });
        Ok((costs.collect(), newest_ns))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
