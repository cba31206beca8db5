//! How alerts do.

use std::collections::BTreeMap;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::kept;
use crate::model::{Alert, AlertState};

#[derive(Debug)]
pub(crate) struct Alerts {
    open: IntGaugeVec,
    waiting: IntGaugeVec,
    left_out: IntGaugeVec,
    deliveries: IntCounterVec,
    file_good: IntGauge,
}

impl Alerts {
    pub(super) fn new(registry: &Registry) -> Self {
        let open = Opts::new(
            "tonnage_alerts_open",
            "Alerts that are not resolved, by severity and whether a person knows; of the aggregator that looks after them.",
        );
        let waiting = Opts::new(
            "tonnage_alert_deliveries_waiting",
            "Channels that are still to be told of something; of the aggregator that looks after alerts.",
        );
        let left_out = Opts::new(
            "tonnage_alerts_left_out",
            "What rules find and nobody is told of, since too many alerts are open; of the aggregator that looks after alerts.",
        );
        let deliveries = Opts::new(
            "tonnage_alert_deliveries_total",
            "Tries to tell a channel, by result: told, failed (and tried again), refused, given_up (after a day).",
        );
        let good = IntGauge::new(
            "tonnage_alerts_file_good",
            "0 while the alerts file is wrong and the last good one is kept; 1 also if there is none.",
        );
        let alerts = Self {
            open: kept(registry, IntGaugeVec::new(open, &["severity", "state"])),
            waiting: kept(registry, IntGaugeVec::new(waiting, &[])),
            left_out: kept(registry, IntGaugeVec::new(left_out, &[])),
            deliveries: kept(registry, IntCounterVec::new(deliveries, &["channel", "result"])),
            file_good: kept(registry, good),
        };
        alerts.file_good(true);
        alerts
    }

    /// `None`: another aggregator looks after them.
    pub(crate) fn show(&self, open: Option<&[Alert]>, (waiting, left_out): (i64, usize)) {
        self.open.reset();
        self.waiting.reset();
        self.left_out.reset();
        let Some(open) = open else { return };
        let mut counts: BTreeMap<(&str, AlertState), i64> = BTreeMap::new();
        for alert in open {
            *counts.entry((alert.finding.severity.name(), alert.state)).or_default() += 1;
        }
        for severity in ["info", "warning", "critical"] {
            for state in [AlertState::Active, AlertState::Acknowledged] {
                let count = counts.get(&(severity, state)).copied().unwrap_or_default();
                self.open.with_label_values(&[severity, state.name()]).set(count);
            }
        }
        self.waiting.with_label_values::<&str>(&[]).set(waiting);
        let left_out = i64::try_from(left_out).unwrap_or(i64::MAX);
        self.left_out.with_label_values::<&str>(&[]).set(left_out);
    }

    /// `channel` is one of the alerts file, or empty.
    pub(crate) fn sent(&self, channel: &str, result: &'static str) {
        self.deliveries.with_label_values(&[channel, result]).inc();
    }

    pub(crate) fn file_good(&self, good: bool) {
        self.file_good.set(i64::from(good));
    }
}
