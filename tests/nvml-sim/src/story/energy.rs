//! Power and its exact integral. Power is idle power, and its way to busy power by the percent that is used.

use super::{Actor, Story};

/// Percent times nanoseconds times milliwatts in a millijoule.
const PER_MILLIJOULE: i128 = 100 * 1_000_000_000;

impl Story {
    /// Sum of all use of a device: over 100 where a scenario overcommits it.
    #[must_use]
    pub fn percent(&self, device: usize, wall_ns: i64) -> u32 {
        let used = self.on(device).map(|actor| self.share(actor, i128::from(actor.percent(wall_ns))));
        u32::try_from(used.sum::<i128>()).unwrap_or(u32::MAX)
    }

    #[must_use]
    pub fn power_mw(&self, device: usize, wall_ns: i64) -> u32 {
        let device_info = &self.scenario.device[device];
        let range_mw = device_info.busy_mw - device_info.idle_mw;
        device_info.idle_mw.saturating_add(range_mw.saturating_mul(self.percent(device, wall_ns)) / 100)
    }

    /// Energy since the epoch: never less than it was before.
    #[must_use]
    pub fn energy_mj(&self, device: usize, wall_ns: i64) -> u64 {
        let info = &self.scenario.device[device];
        let idle = i128::from(info.idle_mw) * 100 * i128::from((wall_ns - self.epoch_ns).max(0));
        let used: i128 = self.on(device).map(|actor| self.share(actor, actor.percent_ns(wall_ns))).sum();
        let total = idle + i128::from(info.busy_mw - info.idle_mw) * used;
        u64::try_from(total / PER_MILLIJOULE).unwrap_or(u64::MAX)
    }

    /// Of a MIG device's use, what it is of the whole device's.
    fn share(&self, actor: &Actor, used: i128) -> i128 {
        let Some((device, part)) = actor.part else { return used };
        let slices = self.cut(device, part).map_or(1, |cut| cut.compute_slices);
        used * i128::from(slices) / i128::from(self.model(device).slices)
    }

    fn on(&self, device: usize) -> impl Iterator<Item = &Actor> {
        self.actors.iter().filter(move |actor| self.uses(actor, device))
    }
}

impl Actor {
    /// Integral of its percent from its first start.
    pub(super) fn percent_ns(&self, wall_ns: i64) -> i128 {
        let Some((rounds, into_ns)) = self.round(wall_ns) else { return 0 };
        let length_ns = self.length_ns.unwrap_or(i64::MAX);
        let whole = if rounds == 0 { 0 } else { i128::from(rounds) * self.within_ns(length_ns) };
        whole + self.within_ns(into_ns.min(length_ns))
    }

    /// The same over the first `into_ns` of one life.
    pub(super) fn within_ns(&self, into_ns: i64) -> i128 {
        let ends = self.steps.iter().skip(1).map(|(from_ns, _)| *from_ns).chain([i64::MAX]);
        self.steps
            .iter()
            .zip(ends)
            .map(|(&(from_ns, percent), end_ns)| {
                i128::from(percent) * i128::from((end_ns.min(into_ns) - from_ns).max(0))
            })
            .sum()
    }
}
