//! Energy: the device's counter, whose delta over an interval is split by use, else by holding.

use tonnage_proto::method;

use crate::metering::interval::{self, Part};
use crate::metering::split::{self, Spread};

/// More than any device draws, 100 kW. A counter that says so has jumped.
const POWER_MAX_UJ_PER_NS: u64 = 100;
/// Room for years of a gap, and far below what the ledger turns away.
const UNOBSERVED_UJ_MAX: u64 = 1 << 56;

/// The counter as it was read last.
#[derive(Debug, Default)]
pub(super) struct Energy {
    last_mj: Option<u64>,
    /// Time that has passed since then, at least.
    since_ns: u64,
    /// The last tick gave `last_mj`: the next delta is that of one interval.
    fresh: bool,
    /// Drawn across gaps, and not yet in a window.
    unobserved_uj: u64,
}

impl Energy {
    /// Takes note that time passes until the next reading.
    pub(super) fn pass(&mut self, passed_ns: u64) {
        self.since_ns = self.since_ns.saturating_add(passed_ns);
    }

    /// The delta over a covered interval. A delta over more than that interval goes to `unobserved`.
    pub(super) fn covered_delta(&mut self, now_mj: Option<u64>, whole: bool) -> Option<u64> {
        let fresh = self.fresh && whole;
        let delta_uj = self.advance(now_mj)?;
        if fresh {
            return Some(delta_uj);
        }
        self.add_unobserved(delta_uj);
        None
    }

    fn add_unobserved(&mut self, delta_uj: u64) {
        self.unobserved_uj = self.unobserved_uj.saturating_add(delta_uj).min(UNOBSERVED_UJ_MAX);
    }

    /// Takes note of a reading, or of its absence, at a tick that covers nothing.
    pub(super) fn uncovered(&mut self, now_mj: Option<u64>) {
        let delta_uj = self.advance(now_mj).unwrap_or(0);
        self.add_unobserved(delta_uj);
    }

    /// What the next window is to say was drawn unobserved.
    pub(super) fn take_unobserved(&mut self) -> u64 {
        std::mem::take(&mut self.unobserved_uj)
    }

    /// A counter that went down, or up by more than any device draws in the time since it was read, is another than it
    /// was: it says nothing about this time.
    fn advance(&mut self, now_mj: Option<u64>) -> Option<u64> {
        self.fresh = now_mj.is_some();
        let now_mj = now_mj?;
        let most_uj = std::mem::take(&mut self.since_ns).saturating_mul(POWER_MAX_UJ_PER_NS);
        let delta_uj = now_mj.checked_sub(self.last_mj.replace(now_mj)?)?.saturating_mul(1_000);
        (delta_uj <= most_uj).then_some(delta_uj)
    }
}

/// Lays a delta on the parts: by busy time if there is any, else by held time with the idle part to idle.
pub(super) fn lay(parts: &mut [Part], delta_uj: u64) {
    let busy = interval::sums(parts, |share| share.busy_ns);
    let room = interval::sums(parts, |share| share.room_ns);
    let idle_ns: u64 = parts.iter().map(|part| part.idle_ns).sum();
    let by_busy = busy.values().any(|busy_ns| *busy_ns > 0);
    let (mut weights, method): (Vec<u64>, u32) = if by_busy {
        (busy.into_values().collect(), method::ENERGY_BY_BUSY)
    } else {
        // Intruders hold nothing.
        let held = interval::sums(parts, |share| share.held_ns);
        (held.into_values().collect(), method::ENERGY_BY_HELD)
    };
    weights.push(if by_busy { 0 } else { idle_ns });
    let mut energies = split::by_largest_remainder(delta_uj, &weights);

    let mut idle = Spread::new(energies.pop().unwrap_or(0), idle_ns);
    for ((who, room_ns), energy_uj) in room.iter().zip(energies) {
        let mut spread = Spread::new(energy_uj, *room_ns);
        for share in parts.iter_mut().filter_map(|part| part.shares.get_mut(who)) {
            share.energy_uj = spread.next(share.room_ns);
            share.method |= method;
        }
    }
    for part in parts {
        part.energy_idle_uj = idle.next(part.idle_ns);
    }
}
