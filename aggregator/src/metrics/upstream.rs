//! How an OpenCost does that is asked on behalf of our clients.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::kept;

#[derive(Debug)]
pub(crate) struct Upstream {
    tries: IntCounterVec,
    up: IntGaugeVec,
}

impl Upstream {
    pub(super) fn new(registry: &Registry) -> Self {
        let tries = Opts::new(
            "tonnage_opencost_upstream_tries_total",
            "Requests to the OpenCost upstream, by result: answered, failed. Not there without an upstream.",
        );
        let up = Opts::new(
            "tonnage_opencost_upstream_up",
            "1 if the OpenCost upstream answered the last request to it, 0 if not. Not there before the first: it is asked when clients ask.",
        );
        Self {
            tries: kept(registry, IntCounterVec::new(tries, &["result"])),
            up: kept(registry, IntGaugeVec::new(up, &[])),
        }
    }

    /// There is one.
    pub(crate) fn is_set(&self) {
        for result in ["answered", "failed"] {
            self.tries.with_label_values(&[result]);
        }
    }

    pub(crate) fn asked(&self, answered: bool) {
        let result = if answered { "answered" } else { "failed" };
        self.tries.with_label_values(&[result]).inc();
        self.up.with_label_values::<&str>(&[]).set(i64::from(answered));
    }
}

#[cfg(test)]
mod tests {
    use crate::metrics::Metrics;
    use crate::metrics::scrape::Facts;

    #[test]
    fn an_upstream_is_told_of_once_it_is_set_and_up_once_it_was_asked() {
        let metrics = Metrics::new();
        let shown = || metrics.render(&Facts::default());
        assert!(!shown().contains("tonnage_opencost_upstream"), "{}", shown());
        metrics.upstream.is_set();
        assert!(
            shown().contains("tonnage_opencost_upstream_tries_total{result=\"answered\"} 0"),
            "{}",
            shown()
        );
        assert!(!shown().contains("tonnage_opencost_upstream_up"));
        metrics.upstream.asked(true);
        assert!(shown().contains("tonnage_opencost_upstream_up 1"));
        metrics.upstream.asked(false);
        assert!(shown().contains("tonnage_opencost_upstream_up 0"));
        assert!(shown().contains("tonnage_opencost_upstream_tries_total{result=\"failed\"} 1"));
    }
}
