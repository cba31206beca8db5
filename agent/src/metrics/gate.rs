//! What the gate counts: answers and how long they took, sweeps and what they did.

use std::sync::{Mutex, PoisonError};

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, TextEncoder};

/// Seconds within which an answer comes.
const BUCKETS: [f64; 10] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.05, 0.1, 0.4, 2.0];

/// What an ask was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    NoGpus,
    Held,
    /// Let in for leased money.
    Escrow,
    Refused,
    Unbudgeted,
    /// The ask could not be read.
    Invalid,
    /// Nobody could say, and the policy let it in, or did not.
    Open,
    Closed,
}

impl Outcome {
    const ALL: [(Self, &'static str); 8] = [
        (Self::NoGpus, "no_gpus"),
        (Self::Held, "held"),
        (Self::Escrow, "escrow"),
        (Self::Refused, "refused"),
        (Self::Unbudgeted, "unbudgeted"),
        (Self::Invalid, "invalid"),
        (Self::Open, "open"),
        (Self::Closed, "closed"),
    ];
}

/// What a sweep did to a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    Bound,
    /// Tasks of its array were named.
    Named,
    /// More for a job was made one with its hold.
    Joined,
    Renewed,
    Settled,
    Voided,
    /// Taken out of an escrow.
    Drawn,
    /// Held for a job that was let in without asking,
    Overdrawn,
    /// and one for which nothing can be held.
    NotHeld,
}

impl Swept {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Bound, "bound"),
        (Self::Named, "named"),
        (Self::Joined, "joined"),
        (Self::Renewed, "renewed"),
        (Self::Settled, "settled"),
        (Self::Voided, "voided"),
        (Self::Drawn, "drawn"),
        (Self::Overdrawn, "overdrawn"),
        (Self::NotHeld, "not_held"),
    ];
}

const REPORTED: [&str; 2] = ["taken", "refused"];

/// See the module.
pub struct Counts {
    registry: Registry,
    requests: IntCounterVec,
    seconds: Histogram,
    sweeps: IntCounterVec,
    swept_at: Gauge,
    failed: IntCounter,
    jobs: IntCounterVec,
    reports_failed: IntCounter,
    last: Mutex<Option<Result<i64, String>>>,
}

impl Counts {
    /// # Errors
    /// Never, unless two names are the same.
    pub fn new(version: &str, cluster: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let requests = IntCounterVec::new(
            Opts::new("tonnage_gate_requests_total", "Asks of Slurm's submit plugin, by their answer."),
            &["answer"],
        )?;
        let opts = HistogramOpts::new("tonnage_gate_request_seconds", "From an ask to its answer.");
        let seconds = Histogram::with_opts(opts.buckets(BUCKETS.to_vec()))?;
        let sweeps = IntCounterVec::new(
            Opts::new("tonnage_gate_holds_swept_total", "What sweeps did to holds."),
            &["action"],
        )?;
        let swept_at = Gauge::new(
            "tonnage_gate_last_sweep_timestamp_seconds",
            "When a sweep last came to its end; 0: never.",
        )?;
        let failed = IntCounter::new(
            "tonnage_gate_sweep_failures_total",
            "Sweeps without a whole answer of Slurm's and the aggregator's.",
        )?;
        let jobs = IntCounterVec::new(
            Opts::new(
                "tonnage_gate_jobs_reported_total",
                "Runs of jobs without GPUs that the ledger was told of.",
            ),
            &["result"],
        )?;
        let reports_failed = IntCounter::new(
            "tonnage_gate_report_failures_total",
            "Looks at Slurm's accounting of which not all was told.",
        )?;
        let opts = Opts::new("tonnage_gate_info", "The gate's version and cluster.")
            .const_label("version", version)
            .const_label("cluster", cluster);
        let info = Gauge::with_opts(opts)?;
        info.set(1.0);
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(sweeps.clone()))?;
        registry.register(Box::new(swept_at.clone()))?;
        registry.register(Box::new(failed.clone()))?;
        registry.register(Box::new(jobs.clone()))?;
        registry.register(Box::new(reports_failed.clone()))?;
        registry.register(Box::new(info))?;
        // So that all are there from the start.
        Outcome::ALL.iter().for_each(|(_, name)| drop(requests.with_label_values(&[name])));
        Swept::ALL.iter().for_each(|(_, name)| drop(sweeps.with_label_values(&[name])));
        REPORTED.iter().for_each(|name| drop(jobs.with_label_values(&[name])));
        let last = Mutex::default();
        Ok(Self { registry, requests, seconds, sweeps, swept_at, failed, jobs, reports_failed, last })
    }

    /// A look at Slurm's accounting: how many runs were told, and how many of them refused; `None`: it failed.
    pub fn reported(&self, told: Option<(u64, u64)>) {
        match told {
            Some((told, refused)) => {
                let counts = [told.saturating_sub(refused), refused];
                for (name, count) in REPORTED.iter().zip(counts) {
                    self.jobs.with_label_values(&[name]).inc_by(count);
                }
            }
            None => self.reports_failed.inc(),
        }
    }

    pub fn answered(&self, outcome: Outcome, took_ns: i64) {
        let named = Outcome::ALL.iter().find(|(known, _)| *known == outcome);
        named.into_iter().for_each(|(_, name)| self.requests.with_label_values(&[name]).inc());
        self.seconds.observe(took_ns as f64 * 1e-9);
    }

    pub fn did(&self, what: Swept) {
        let named = Swept::ALL.iter().find(|(known, _)| *known == what);
        named.into_iter().for_each(|(_, name)| self.sweeps.with_label_values(&[name]).inc());
    }

    /// A sweep ended at a time, or why it did not come to its end.
    pub fn swept(&self, ended: Result<i64, String>) {
        match &ended {
            Ok(wall_ns) => self.swept_at.set((*wall_ns / 1_000_000) as f64 * 1e-3),
            Err(_) => self.failed.inc(),
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
    }

    /// How the last sweep ended; `None` before the first.
    #[must_use]
    pub fn last_sweep(&self) -> Option<Result<i64, String>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_and_action_is_counted_under_its_name() {
        let counts = Counts::new("1", "c").unwrap();
        counts.answered(Outcome::Refused, 1_500_000);
        counts.did(Swept::Overdrawn);
        counts.swept(Ok(5_500_000_000));
        counts.swept(Err("no".into()));
        let text = counts.render();
        for line in [
            "tonnage_gate_requests_total{answer=\"refused\"} 1",
            "tonnage_gate_requests_total{answer=\"held\"} 0",
            "tonnage_gate_request_seconds_bucket{le=\"0.002\"} 1",
            "tonnage_gate_holds_swept_total{action=\"overdrawn\"} 1",
            "tonnage_gate_last_sweep_timestamp_seconds 5.5",
            "tonnage_gate_sweep_failures_total 1",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert_eq!(counts.last_sweep(), Some(Err("no".into())));
    }
}
