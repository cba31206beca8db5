//! The aggregator's own metrics, for Prometheus. Counters are kept here by whoever does the work; what the ledger
//! and the live view know is worked out at each scrape ([`scrape`]).
//!
//! Labels have few values: outcomes, routes, status codes; namespaces and accounts are limited here and in [`scrape`]. No
//! label has the name of a pod or a job.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    CounterVec, Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
    TextEncoder,
};
use tonnage_proto::method::{BUSY_INSTANCE, BUSY_PROCESS, HELD_ALLOCATION};
use tonnage_proto::rest::sentinel;

use crate::model::{GpuTime, UsageBatch};

mod alerts;
pub mod allocations;
pub mod budgets;
pub mod estimator;
mod kubernetes;
pub mod opencost;
pub mod scrape;
mod upstream;

use alerts::Alerts;
use kubernetes::Kubernetes;

/// Sub-second work.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// From fresh to a week's backlog.
const AGES: [f64; 8] = [5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 86_400.0, 604_800.0];

/// What a process wants of its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// To take in batches, books and orders.
    Commit,
    /// To note silence, to close and post slots, to purge.
    Close,
    /// To price slots by a new book.
    Reprice,
    /// To answer a request.
    Query,
    Export,
    Verify,
    /// To look up who asks.
    Token,
    /// To show sums in the metrics.
    Scrape,
    /// To learn what other aggregators took in.
    Follow,
    /// To look after alerts.
    Alert,
}

impl Operation {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Commit, "commit"),
        (Self::Close, "close"),
        (Self::Reprice, "reprice"),
        (Self::Query, "query"),
        (Self::Export, "export"),
        (Self::Verify, "verify"),
        (Self::Token, "token"),
        (Self::Scrape, "scrape"),
        (Self::Follow, "follow"),
        (Self::Alert, "alert"),
    ];
}

/// Everything that is counted. Share it by `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    batches: IntCounterVec,
    windows: IntCounter,
    quarantined: IntCounterVec,
    bytes: IntCounter,
    /// By cluster, namespace and account: exact, so no Prometheus counter.
    held_idle: Mutex<BTreeMap<[String; 3], GpuTime>>,
    batch_age: Histogram,
    commits: Histogram,
    unauthenticated: IntCounterVec,
    refused_streams: IntCounterVec,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    pub(crate) kubernetes: Kubernetes,
    pub(crate) alerts: Alerts,
    pub(crate) budgets: budgets::Counters,
    pub(crate) estimator: estimator::Estimates,
    pub(crate) allocations: allocations::Runs,
    pub(crate) upstream: upstream::Upstream,
    /// In the order of [`Operation::ALL`].
    store_errors: [IntCounter; Operation::ALL.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            kept(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let counter = |name: &str, help: &str| kept(&registry, IntCounter::new(name, help));
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            kept(&registry, Histogram::with_opts(options))
        };
        let batches = counters(
            "tonnage_ingest_batches_total",
            "Batches answered, by what became of them.",
            &["outcome"],
        );
        let windows = counter("tonnage_ingest_windows_total", "Windows folded into the ledger.");
        let quarantined = counters(
            "tonnage_ingest_quarantined_windows_total",
            "Windows journalled but not folded, by reason.",
            &["reason"],
        );
        let bytes = counter("tonnage_ingest_bytes_total", "Bytes of sealed batches received.");
        let batch_age = histogram(
            "tonnage_ingest_batch_age_seconds",
            "Age of batches when they were committed, since they were sealed.",
            &AGES,
        );
        let commits = histogram(
            "tonnage_commit_duration_seconds",
            "Time from the first write of a group of batches until it is on disk.",
            &SECONDS,
        );
        let unauthenticated = counters(
            "tonnage_unauthenticated_total",
            "Requests and streams turned away for want of a good token, by where.",
            &["at"],
        );
        let refused_streams = counters(
            "tonnage_ingest_refused_streams_total",
            "Streams turned away although their token is good, and connections that came to none, by reason.",
            &["reason"],
        );
        let requests = counters("tonnage_http_requests_total", "HTTP requests answered.", &["route", "code"]);
        let options =
            HistogramOpts::new("tonnage_http_request_duration_seconds", "Time to answer an HTTP request.")
                .buckets(SECONDS.to_vec());
        let request_seconds = kept(&registry, HistogramVec::new(options, &["route"]));
        let kubernetes = Kubernetes::new(&registry);
        let alerts = Alerts::new(&registry);
        let budgets = budgets::Counters::new(&registry);
        let estimator = estimator::Estimates::new(&registry);
        let allocations = allocations::Runs::new(&registry);
        let upstream = upstream::Upstream::new(&registry);
        let store_errors = counters(
            "tonnage_store_errors_total",
            "Times that the ledger's store failed, or its database was not there, by what it was wanted for. What was too slow is not one.",
            &["operation"],
        );
        // Each is there from the beginning, so that the first error is an increase.
        let store_errors = Operation::ALL.map(|(_, name)| store_errors.with_label_values(&[name]));
        Self {
            registry,
            kubernetes,
            alerts,
            budgets,
            estimator,
            allocations,
            upstream,
            batches,
            windows,
            quarantined,
            bytes,
            held_idle: Mutex::default(),
            batch_age,
            commits,
            unauthenticated,
            refused_streams,
            requests,
            request_seconds,
            store_errors,
        }
    }

    /// The store failed at it.
    pub fn store_failed(&self, at: Operation) {
        for ((operation, _), counter) in std::iter::zip(Operation::ALL, &self.store_errors) {
            if operation == at {
                counter.inc();
            }
        }
    }

    /// A batch was answered; `outcome` as `metering.v1.Ack.Outcome` in lower case: `accepted`, `duplicate`, ...
    pub fn batch(&self, outcome: &'static str) {
        self.batches.with_label_values(&[outcome]).inc();
    }

    /// `count` windows were folded.
    pub fn windows(&self, count: u64) {
        self.windows.inc_by(count);
    }

    /// `count` windows were quarantined; `reason` is one of few.
    pub fn quarantined(&self, reason: &'static str, count: u64) {
        self.quarantined.with_label_values(&[reason]).inc_by(count);
    }

    /// Sealed bytes came in.
    pub fn ingest_bytes(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
    }

    /// Counts what the windows of a batch, all of which count, say was held by allocation and not used.
    pub fn held_idle(&self, cluster: &str, batch: &UsageBatch) {
        let mut sums: BTreeMap<[&str; 3], GpuTime> = BTreeMap::new();
        let usages = batch.windows.iter().flat_map(|window| window.usages.iter().map(move |of| (window, of)));
        for (window, usage) in usages {
            let idle_ns = i128::from(usage.held_ns) - i128::from(usage.busy_ns);
            let busy_known = usage.method & (BUSY_PROCESS | BUSY_INSTANCE) != 0;
            if usage.intruder || usage.method & HELD_ALLOCATION == 0 || !busy_known || idle_ns <= 0 {
                continue;
            }
            let slices = batch.devices.get(window.device).map_or(1, |device| device.slices);
            if let Some(owner) = batch.owners.get(usage.owner) {
                *sums.entry([cluster, &owner.namespace, &owner.account]).or_default() +=
                    GpuTime::of_slices(idle_ns, slices);
            }
        }
        let mut kept = self.held_idle.lock().unwrap_or_else(PoisonError::into_inner);
        for (labels, idle) in sums {
            let labels = labels.map(str::to_owned);
            let room = kept.len() < scrape::NAMESPACES_MAX || kept.contains_key(&labels);
            let labels = if room { labels } else { [sentinel::OTHER; 3].map(str::to_owned) };
            *kept.entry(labels).or_default() += idle;
        }
    }

    fn held_idle_now(&self) -> Registry {
        let registry = Registry::new();
        let help = "GPU-time that was held by allocation (kubelet, Slurm) and not used, of batches that entered whole \
                    since this process started. Only where the driver says who was busy: by samples of processes, or of MIG instances.";
        let options = Opts::new("tonnage_held_idle_seconds_total", help);
        let counters = kept(&registry, CounterVec::new(options, &["cluster", "namespace", "account"]));
        for (labels, idle) in self.held_idle.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            counters.with_label_values(labels).inc_by(scrape::billionths(idle.ns()));
        }
        registry
    }

    /// A batch was committed so long after it was sealed.
    pub fn batch_age_ns(&self, age_ns: i64) {
        self.batch_age.observe(seconds(age_ns.max(0)));
    }

    /// A group commit took so long.
    pub fn commit_ns(&self, duration_ns: i64) {
        self.commits.observe(seconds(duration_ns.max(0)));
    }

    /// Somebody had no good token; `at` is `ingest` or `api`.
    pub fn unauthenticated(&self, at: &'static str) {
        self.unauthenticated.with_label_values(&[at]).inc();
    }

    /// A stream was turned away; `reason` is one of few.
    pub fn refused_stream(&self, reason: &'static str) {
        self.refused_streams.with_label_values(&[reason]).inc();
    }

    /// A request was answered; `route` is the pattern, never the path that was asked for.
    pub fn request(&self, route: &str, code: u16, duration_ns: i64) {
        self.requests.with_label_values(&[route, &code.to_string()]).inc();
        self.request_seconds.with_label_values(&[route]).observe(seconds(duration_ns.max(0)));
    }

    /// Prometheus text: what is counted here, and what `facts` say now.
    #[must_use]
    pub fn render(&self, facts: &scrape::Facts<'_>) -> String {
        let mut families = self.registry.gather();
        families.extend(scrape::registry(facts).gather());
        families.extend(self.held_idle_now().gather());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        text(&families)
    }
}

fn text(families: &[MetricFamily]) -> String {
    let mut text = Vec::new();
    // Writing to memory fails only where a family has no metrics, and gather leaves those out.
    if let Err(error) = TextEncoder::new().encode(families, &mut text) {
        tracing::error!(%error, "Metrics could not be written.");
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Registers a collector. Names and labels are constants of this module, so a failure is a slip in the code that
/// the first test of this file meets.
fn kept<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> C {
    let collector = match collector {
        Ok(collector) => collector,
        Err(error) => panic!("metric: {error}"),
    };
    if let Err(error) = registry.register(Box::new(collector.clone())) {
        panic!("metric: {error}");
    }
    collector
}

/// Only for display: nothing is added up in floats.
#[allow(clippy::cast_precision_loss, reason = "Prometheus has only doubles")]
fn seconds(ns: i64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_and_not_used_is_counted_by_few_namespaces_and_accounts() {
        use crate::model::{NodeFacts, Owner, Usage, Window};
        let metrics = Metrics::new();
        let usage = |owner, method, intruder| Usage {
            owner,
            instance: None,
            intruder,
            held_ns: if intruder { 0 } else { 3_000_000_000 },
            busy_ns: 1_000_000_000,
            memory_byte_seconds: 0,
            energy_uj: 0,
            method,
        };
        let both = HELD_ALLOCATION | BUSY_PROCESS;
        let batch = |name: String| UsageBatch {
            epoch: [0; 16],
            seq: 1,
            sealed_at_ns: 0,
            boot_id: String::new(),
            instance_id: String::new(),
            facts: NodeFacts::default(),
            devices: Vec::new(),
            instances: Vec::new(),
            owners: vec![Owner { namespace: name, account: "a".into(), ..Owner::default() }],
            windows: vec![Window {
                device: 0,
                start_ns: 0,
                end_ns: 1,
                idle_ns: 0,
                instance_idles: Vec::new(),
                stranded_ns: 0,
                usages: vec![usage(0, both, false), usage(0, BUSY_PROCESS, false), usage(0, both, true)],
                busy_unattributed_ns: 0,
                energy_idle_uj: 0,
                energy_unobserved_uj: 0,
                samples: 1,
            }],
            overlap_ns: 0,
            gaps: Vec::new(),
        };
        for at in 0..scrape::NAMESPACES_MAX + 7 {
            metrics.held_idle("c", &batch(format!("ns-{at}")));
        }
        let text = metrics.render(&scrape::Facts::default());
        let lines: Vec<&str> =
            text.lines().filter(|line| line.starts_with("tonnage_held_idle_seconds_total{")).collect();
        assert_eq!(lines.len(), scrape::NAMESPACES_MAX + 1);
        for line in [
            "tonnage_held_idle_seconds_total{account=\"a\",cluster=\"c\",namespace=\"ns-7\"} 2",
            "tonnage_held_idle_seconds_total{account=\"__other__\",cluster=\"__other__\",namespace=\"__other__\"} 14",
        ] {
            assert!(lines.contains(&line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::new();
        metrics.batch("accepted");
        metrics.windows(3);
        metrics.quarantined("overlap", 1);
        metrics.ingest_bytes(100);
        metrics.batch_age_ns(7_000_000_000);
        metrics.commit_ns(2_000_000);
        metrics.unauthenticated("api");
        metrics.refused_stream("protocol");
        metrics.store_failed(Operation::Token);
        metrics.request("/api/v1/live", 200, 1_000_000);
        let text = metrics.render(&scrape::Facts::default());
        for line in [
            "tonnage_ingest_batches_total{outcome=\"accepted\"} 1",
            "tonnage_ingest_windows_total 3",
            "tonnage_ingest_batch_age_seconds_bucket{le=\"15\"} 1",
            "tonnage_commit_duration_seconds_count 1",
            "tonnage_store_errors_total{operation=\"token\"} 1",
            "tonnage_store_errors_total{operation=\"commit\"} 0",
            "tonnage_http_requests_total{code=\"200\",route=\"/api/v1/live\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
