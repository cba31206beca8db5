//! A duty cycle: pulses of work at a fixed distance. Pure.

/// Short beside the driver's sample period, long beside what a launch costs.
pub const PERIOD_NS: u64 = 100_000_000;

/// One pulse of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// When it begins, from the first one's beginning.
    pub at_ns: u64,
    pub work_ns: u64,
}

/// The pulses of so many seconds at so many percent, one for each period; at 0 they have nothing to do. More than 100 is
/// 100.
pub fn pulses(percent: u32, seconds: u32) -> impl Iterator<Item = Pulse> {
    let work_ns = PERIOD_NS / 100 * u64::from(percent.min(100));
    let periods = u64::from(seconds) * 1_000_000_000 / PERIOD_NS;
    (0..periods).map(move |n| Pulse { at_ns: n * PERIOD_NS, work_ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_its_part_of_the_time() {
        for (percent, work_ns) in [(0, 0), (25, 750_000_000), (50, 1_500_000_000), (100, 3_000_000_000)] {
            assert_eq!(pulses(percent, 3).map(|pulse| pulse.work_ns).sum::<u64>(), work_ns, "{percent} %");
        }
    }

    #[test]
    fn pulses_do_not_overlap_and_full_load_has_no_gap() {
        for percent in [1, 99, 100, 200] {
            let pulses: Vec<Pulse> = pulses(percent, 2).collect();
            let gaps =
                pulses.windows(2).map(|pair| pair[1].at_ns.checked_sub(pair[0].at_ns + pair[0].work_ns));
            let gaps: Vec<u64> = gaps.map(|gap| gap.expect("an overlap")).collect();
            assert_eq!(gaps.iter().all(|gap| *gap == 0), percent >= 100, "{percent} %");
        }
        assert_eq!(pulses(50, 0).count(), 0);
    }
}
