//! What a price in the book is for: a GPU or a node, an hour or a month of the calendar.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{HOUR_NS, Rate};

const DAY_NS: i128 = 24 * HOUR_NS;

/// The unit of a price; a node's price is split evenly among its GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    GpuHour,
    GpuMonth,
    NodeHour { gpus: u32 },
    NodeMonth { gpus: u32 },
}

impl Unit {
    pub(super) const NAMES: [&str; 4] = ["gpu_hour", "gpu_month", "node_hour", "node_month"];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::GpuHour => "gpu_hour",
            Self::GpuMonth => "gpu_month",
            Self::NodeHour { .. } => "node_hour",
            Self::NodeMonth { .. } => "node_month",
        }
    }

    /// The rate of a GPU of `slices` slices in the slot that starts at `slot_start_ns`. `None` only without slices.
    pub(super) fn rate(self, price_nanos: i128, slot_start_ns: i64, slices: u32) -> Option<Rate> {
        let (time_ns, gpus) = match self {
            Self::GpuHour => (HOUR_NS, 1),
            Self::GpuMonth => (month_ns(slot_start_ns), 1),
            Self::NodeHour { gpus } => (HOUR_NS, gpus),
            Self::NodeMonth { gpus } => (month_ns(slot_start_ns), gpus),
        };
        Rate::new(price_nanos, time_ns * i128::from(gpus) * i128::from(slices))
    }
}

/// Length of the UTC month that `at_ns` is in.
fn month_ns(at_ns: i64) -> i128 {
    // Every i64 of nanoseconds is a timestamp (1677 to 2262), so the epoch never stands in for one.
    let at = Timestamp::from_nanosecond(i128::from(at_ns)).unwrap_or(Timestamp::UNIX_EPOCH);
    i128::from(at.to_zoned(TimeZone::UTC).days_in_month()) * DAY_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> i64 {
        i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    #[test]
    fn a_month_costs_the_same_however_long_it_is() {
        for (slot, days) in
            [("2026-02-10T00:00:00Z", 28), ("2028-02-29T23:45:00Z", 29), ("2026-03-01T00:00:00Z", 31)]
        {
            let rate = Unit::GpuMonth.rate(730_000_000_000, ns(slot), 1).unwrap();
            assert_eq!(rate.charge(days * DAY_NS), 730_000_000_000, "{slot}");
        }
    }

    #[test]
    fn a_nodes_price_is_split_among_its_gpus() {
        let rate = Unit::NodeHour { gpus: 8 }.rate(98_320_000_000, 0, 1).unwrap();
        assert_eq!(rate.per_gpu_hour_nanos(1), 12_290_000_000);
        let month = Unit::NodeMonth { gpus: 8 }.rate(8_000_000_000, 0, 7).unwrap();
        assert_eq!(month.charge(31 * DAY_NS * 7), 1_000_000_000);
    }

    #[test]
    fn every_time_that_the_ledger_can_hold_has_a_month() {
        for at_ns in [i64::MIN, -1, 0, i64::MAX] {
            assert!((28..=31).contains(&(month_ns(at_ns) / DAY_NS)));
        }
    }
}
