//! Sums samples into windows: how long each owner held each device, and how much of that was use.
//!
//! The rules are those of `docs/ledger.md`, "Samples and windows". In short: a tick covers the interval back to the
//! tick before, for each device that was read at it. An interval is cut at the window grid and where holders begin and
//! end, split among them, and closed into windows without a gap. Time is in slice-nanoseconds.
//!
//! Invariants of every window: `sum(held) + idle = duration * slices`, `busy <= held`, within one cell of the grid,
//! and windows of one device never overlap (within an epoch of ledger time).
//!
//! Flow of one device and tick: `interval` cuts and splits -> `busy` and `energy` lay use on the parts ->
//! `window` sums parts until the cell ends or a gap begins.
//!
//! Pure: no clock, no I/O, and no error: what cannot be known is left out and shows as unobserved or unattributed.
//! Not for: who an owner is (attribution), or what time costs (the ledger).

mod busy;
mod device;
mod energy;
mod interval;
mod rest;
mod split;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::metering::device::{Covered, Device};
use crate::model::{DeviceInfo, Gap, GapReason, Observation, Tick, Window};

/// A clock that is set back hides how much time passes over it: as good as never more than this.
const HIDDEN_NS: u64 = 60_000_000_000;

/// All devices of this node, since the agent's start. A device that was seen once stays known.
#[derive(Debug)]
pub struct Meter {
    covered_ns_max: u64,
    last_ns: Option<i64>,
    devices: BTreeMap<Arc<str>, Device>,
    /// There were devices when the node was metered last, whichever they were.
    expects: bool,
    gaps: Vec<Gap>,
}

impl Meter {
    /// A meter for samples every `period_ns`: an interval of over twice that is not covered.
    #[must_use]
    pub fn new(period_ns: i64) -> Self {
        let covered_ns_max = period_ns.max(0).unsigned_abs().saturating_mul(2);
        Self { covered_ns_max, last_ns: None, devices: BTreeMap::new(), expects: false, gaps: Vec::new() }
    }

    /// Goes on where another run of the agent ended: everything before `until_ns` is accounted for.
    pub fn resume(&mut self, until_ns: i64) {
        self.last_ns = Some(until_ns);
    }

    /// The node has this device, whether or not it can be read.
    pub fn know(&mut self, info: &Arc<DeviceInfo>) {
        let device = || Device::known(Arc::clone(info));
        self.devices.entry(Arc::clone(&info.uuid)).or_insert_with(device);
    }

    /// Whether the node should have devices, where none is known.
    pub fn expect(&mut self, devices: bool) {
        self.expects = devices;
    }

    /// The devices that are known.
    pub fn known(&self) -> impl Iterator<Item = &Arc<DeviceInfo>> {
        self.devices.values().map(Device::info)
    }

    /// Time that is in no window and why, since this was asked last. Pieces that follow each other are not joined.
    pub fn take_gaps(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.gaps)
    }

    /// Takes one tick with the devices that could be read at it, and returns the windows that closed by it.
    ///
    /// To be called for every tick of the ledger clock, also where reading failed (with no observations): a device
    /// that is absent is not covered back to the tick before. A second observation of a device counts for nothing.
    pub fn observe(&mut self, tick: Tick, observations: Vec<Observation>) -> Vec<Window> {
        let from_ns = self.last_ns.replace(tick.now_ns);
        let step = Step::of(&tick, from_ns, self.covered_ns_max);
        let passed_ns = passed_ns(&tick, from_ns);
        self.devices.values_mut().for_each(|device| device.pass(passed_ns));
        let mut closed = Vec::new();
        let mut seen = BTreeSet::new();
        let mut unread = Vec::new();
        for observation in observations {
            let uuid = Arc::clone(&observation.info.uuid);
            if !seen.insert(Arc::clone(&uuid)) {
                continue;
            }
            // What covers nothing before its first sample is a device that nobody has seen before.
            let Some(device) = self.devices.get_mut(&uuid) else {
                self.devices.insert(uuid, Device::first_seen(observation));
                continue;
            };
            match step {
                Step::Covered(covered) if device.was_read() => {
                    device.cover(covered, observation, &mut closed);
                }
                Step::Covered(covered) => {
                    unread.push(Arc::clone(device.info()));
                    device.gap(covered.length_ns(), &mut closed);
                    device.look(observation, &mut closed);
                }
                Step::Still => device.look(observation, &mut closed),
                Step::Gap { length_ns, .. } => {
                    device.gap(length_ns, &mut closed);
                    device.look(observation, &mut closed);
                }
            }
        }
        for (uuid, device) in &mut self.devices {
            if !seen.contains(uuid) {
                device.absent(step.gap_ns(), &mut closed);
                unread.push(Arc::clone(device.info()));
            }
        }
        self.explain(step, tick.now_ns, unread);
        closed
    }

    /// Notes why the time of this step is in no window, for every device that it is in no window of.
    fn explain(&mut self, step: Step, now_ns: i64, unread: Vec<Arc<DeviceInfo>>) {
        let mut gap = |device, start_ns, reason| {
            if start_ns < now_ns {
                self.gaps.push(Gap { device, start_ns, end_ns: now_ns, reason });
            }
        };
        let all = unread.len() == self.devices.len() && (self.expects || !self.devices.is_empty());
        match step {
            Step::Gap { from_ns, reason, .. } if self.expects || !self.devices.is_empty() => {
                gap(None, from_ns, reason);
            }
            Step::Covered(covered) if all => gap(None, covered.from_ns, GapReason::NotRead),
            Step::Covered(covered) => {
                unread.into_iter().for_each(|info| gap(Some(info), covered.from_ns, GapReason::NotRead));
            }
            Step::Gap { .. } | Step::Still => {}
        }
    }

    /// Closes all windows as they stand, for a clean end.
    pub fn finish(&mut self) -> Vec<Window> {
        let mut closed = Vec::new();
        for device in self.devices.values_mut() {
            device.close(&mut closed);
        }
        closed
    }

    /// Ledger time per device, since its first sample in this run, that no sample covered. For the agent's own
    /// metrics: the ledger works out unobserved time by itself.
    #[must_use]
    pub fn unobserved_ns(&self) -> BTreeMap<Arc<str>, u64> {
        self.devices.iter().map(|(uuid, device)| (Arc::clone(uuid), device.unobserved_ns())).collect()
    }
}

/// Real time since the tick before, or more.
fn passed_ns(tick: &Tick, from_ns: Option<i64>) -> u64 {
    let moved_ns = from_ns.map_or(0, |from_ns| tick.now_ns.saturating_sub(from_ns).max(0).unsigned_abs());
    let hidden_ns = if tick.new_epoch { HIDDEN_NS } else { 0 };
    moved_ns.saturating_add(tick.overlap_ns).saturating_add(hidden_ns)
}

/// What lies between a tick and the one before.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// An interval that a device's sample covers.
    Covered(Covered),
    /// No ledger time passed.
    Still,
    /// Nobody knows what happened in this much ledger time.
    Gap { from_ns: i64, length_ns: u64, reason: GapReason },
}

impl Step {
    fn of(tick: &Tick, from_ns: Option<i64>, covered_ns_max: u64) -> Self {
        let from_ns = from_ns.unwrap_or(tick.now_ns);
        let length_ns = tick.now_ns.saturating_sub(from_ns).max(0).unsigned_abs();
        if !tick.continuous || tick.new_epoch || tick.now_ns < from_ns || length_ns > covered_ns_max {
            let too_late = tick.continuous && !tick.new_epoch;
            let reason = if too_late { GapReason::NotRead } else { tick.gap };
            // The time before an agent's start is none of this run's.
            let length_ns = if reason == GapReason::AgentDown { 0 } else { length_ns };
            return Self::Gap { from_ns, length_ns, reason };
        }
        if length_ns == 0 {
            return Self::Still;
        }
        let stood_still = tick.overlap_ns > 0;
        Self::Covered(Covered { from_ns, to_ns: tick.now_ns, stood_still })
    }

    /// Ledger time that this step leaves uncovered for a device that was not read; `None` if none passed.
    fn gap_ns(self) -> Option<u64> {
        match self {
            Self::Covered(covered) => Some(covered.length_ns()),
            Self::Still => None,
            Self::Gap { length_ns, .. } => Some(length_ns),
        }
    }
}

#[cfg(test)]
mod tests;
