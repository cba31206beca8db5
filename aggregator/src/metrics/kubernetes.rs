//! How the watchers of clusters do.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::kept;

#[derive(Debug)]
pub(crate) struct Kubernetes {
    up: IntGaugeVec,
    errors: IntCounterVec,
    put_off: IntCounter,
    trimmed: IntCounter,
}

impl Kubernetes {
    pub(super) fn new(registry: &Registry) -> Self {
        let up = Opts::new(
            "tonnage_kubernetes_up",
            "1 while the cluster's API server says which pods there are, 0 while it is away; of the aggregator that watches.",
        );
        let errors = Opts::new(
            "tonnage_kubernetes_errors_total",
            "Lists and watches of the cluster's API server that failed.",
        );
        let put_off = IntCounter::new(
            "tonnage_kubernetes_put_off_total",
            "Changes of pods and namespaces that wait for the next day, since theirs are too many in this one.",
        );
        let trimmed = IntCounter::new(
            "tonnage_kubernetes_trimmed_total",
            "Pods and namespaces of which not all labels are kept.",
        );
        Self {
            up: kept(registry, IntGaugeVec::new(up, &["cluster"])),
            errors: kept(registry, IntCounterVec::new(errors, &["cluster", "resource"])),
            put_off: kept(registry, put_off),
            trimmed: kept(registry, trimmed),
        }
    }

    /// Does a cluster's API server say what there is? `None`: it is not asked. `cluster` is one of few.
    pub(crate) fn up(&self, cluster: &str, up: Option<bool>) {
        match up {
            Some(up) => self.up.with_label_values(&[cluster]).set(i64::from(up)),
            // Fails if it was not asked before.
            None => drop(self.up.remove_label_values(&[cluster])),
        }
    }

    /// A cluster's API server failed; `resource` is one of few.
    pub(crate) fn error(&self, cluster: &str, resource: &'static str) {
        self.errors.with_label_values(&[cluster, resource]).inc();
    }

    /// So many changes wait for the next day.
    pub(crate) fn put_off(&self, count: usize) {
        self.put_off.inc_by(count as u64);
    }

    /// Of so many subjects not all labels are kept.
    pub(crate) fn trimmed(&self, count: u64) {
        self.trimmed.inc_by(count);
    }
}
