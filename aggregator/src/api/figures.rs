//! Exact sums as the API writes them. Pure.

use tonnage_proto::decimal::from_nanos;
use tonnage_proto::rest::Figures;

use crate::model::GpuTime;
use crate::store::query::Sums;

const HOUR_NS: i128 = 3_600_000_000_000;

/// `elapsed_ns` is the part of the window that has passed; without any, the rate is zero.
pub(super) fn figures(sums: &Sums, elapsed_ns: i64) -> Figures {
    let cost = sums.cost_nanos();
    let rate = if elapsed_ns > 0 { (cost * HOUR_NS).div_euclid(i128::from(elapsed_ns)) } else { 0 };
    Figures {
        held_seconds: from_nanos(sums.held.ns()),
        busy_seconds: from_nanos(sums.busy.ns()),
        intruder_busy_seconds: from_nanos(sums.intruder_busy.ns()),
        idle_seconds: from_nanos(sums.idle.ns()),
        stranded_seconds: from_nanos(sums.stranded.ns()),
        unobserved_seconds: from_nanos(sums.unobserved.ns()),
        unpriced_seconds: from_nanos(sums.unpriced.ns()),
        memory_byte_seconds: sums.memory_byte_seconds.to_string(),
        energy_joules: from_nanos(sums.energy_uj * 1000),
        held_cost: from_nanos(sums.held_cost_nanos),
        idle_cost: from_nanos(sums.idle_cost_nanos),
        stranded_cost: from_nanos(sums.stranded_cost_nanos),
        unobserved_cost: from_nanos(sums.unobserved_cost_nanos),
        rounding_cost: from_nanos(sums.rounding_cost_nanos),
        cpu_seconds: from_nanos(sums.cpu_ns),
        unpriced_cpu_seconds: from_nanos(sums.unpriced_cpu_ns),
        ram_byte_seconds: sums.ram_byte_seconds.to_string(),
        job_cpu_cost: from_nanos(sums.cpu_cost_nanos),
        job_ram_cost: from_nanos(sums.ram_cost_nanos),
        cost: from_nanos(cost),
        hourly_rate: from_nanos(rate),
    }
}

/// The observed part of existence with three places, rounded down: only a whole is `1.000`. Empty if nothing was.
pub(super) fn coverage(totals: &Sums) -> String {
    let observed = totals.held + totals.idle;
    let existence = observed + totals.unobserved;
    if existence == GpuTime::default() {
        return String::new();
    }
    let permille = observed.share_of(existence, 1000);
    format!("{}.{:03}", permille / 1000, permille % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_per_hour_of_the_time_that_passed() {
        let sums = Sums { held_cost_nanos: 5_000_000_001, energy_uj: 1, ..Sums::default() };
        let shown = figures(&sums, 7_200_000_000_000);
        assert_eq!((shown.cost.as_str(), shown.hourly_rate.as_str()), ("5.000000001", "2.500000000"));
        assert_eq!(shown.energy_joules, "0.000001000");
        assert_eq!(figures(&sums, 0).hourly_rate, "0.000000000");
    }

    #[test]
    fn coverage_is_whole_only_if_nothing_is_missing() {
        let sums = |unobserved_ns| {
            let [held, idle, unobserved] =
                [600_000, 399_999, unobserved_ns].map(|ns| GpuTime::of_slices(ns, 1));
            Sums { held, idle, unobserved, ..Sums::default() }
        };
        assert_eq!(coverage(&sums(0)), "1.000");
        assert_eq!(coverage(&sums(1)), "0.999");
        assert_eq!(coverage(&Sums::default()), "");
    }
}
