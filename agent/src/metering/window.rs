//! A window while it is open: sums of parts that follow each other without a gap, within one cell of the grid.

use std::collections::BTreeMap;
use std::sync::Arc;

use tonnage_proto::limits;

use crate::metering::interval::{Part, Role, Share, Who};
use crate::model::{DeviceInfo, Usage, Window};

const NS_PER_SECOND: u128 = 1_000_000_000;

#[derive(Debug)]
pub(super) struct Open {
    end_ns: i64,
    /// Its `usages` and `intruders` stay empty until it closes.
    sums: Window,
    shares: BTreeMap<Who, Share>,
}

impl Open {
    pub(super) fn new(info: &Arc<DeviceInfo>, start_ns: i64) -> Self {
        let sums = Window {
            info: Arc::clone(info),
            start_ns,
            duration_ns: 0,
            idle_ns: 0,
            instance_idle_ns: BTreeMap::new(),
            stranded_ns: 0,
            usages: BTreeMap::new(),
            intruders: BTreeMap::new(),
            busy_unattributed_ns: 0,
            energy_idle_uj: 0,
            energy_unobserved_uj: 0,
            samples: 0,
        };
        Self { end_ns: start_ns, sums, shares: BTreeMap::new() }
    }

    /// Whether `part` follows without a gap, in the same cell, and leaves the window within its limit of usages.
    pub(super) fn takes(&self, part: &Part) -> bool {
        let new = part.shares.keys().filter(|who| !self.shares.contains_key(*who)).count();
        let known = &self.sums.instance_idle_ns;
        let new_idles =
            part.instance_idle_ns.keys().filter(|instance| !known.contains_key(*instance)).count();
        part.start_ns == self.end_ns
            && known.len() + new_idles <= limits::INSTANCE_IDLES_PER_WINDOW_MAX
            && !self.is_full()
            && self.shares.len() + new <= limits::USAGES_PER_WINDOW_MAX
    }

    pub(super) fn add(&mut self, part: Part, energy_unobserved_uj: u64) {
        let sums = &mut self.sums;
        sums.duration_ns += part.duration_ns;
        sums.idle_ns += part.idle_ns;
        sums.stranded_ns += part.stranded_ns;
        for (instance, idle_ns) in part.instance_idle_ns {
            *sums.instance_idle_ns.entry(instance).or_default() += idle_ns;
        }
        sums.busy_unattributed_ns = sums.busy_unattributed_ns.saturating_add(part.busy_unattributed_ns);
        sums.energy_idle_uj = sums.energy_idle_uj.saturating_add(part.energy_idle_uj);
        sums.energy_unobserved_uj = sums.energy_unobserved_uj.saturating_add(energy_unobserved_uj);
        sums.samples = sums.samples.saturating_add(1);
        for (who, more) in part.shares {
            let share = self.shares.entry(who).or_default();
            share.held_ns += more.held_ns;
            share.busy_ns += more.busy_ns;
            share.memory_byte_ns = share.memory_byte_ns.saturating_add(more.memory_byte_ns);
            share.energy_uj = share.energy_uj.saturating_add(more.energy_uj);
            share.method |= more.method;
        }
        self.end_ns = part.start_ns.saturating_add_unsigned(part.duration_ns);
    }

    /// Its cell of the grid is over.
    pub(super) fn is_full(&self) -> bool {
        self.end_ns > self.sums.start_ns && limits::window_start(self.end_ns) == self.end_ns
    }

    pub(super) fn close(self) -> Window {
        let mut window = self.sums;
        for ((role, instance, owner), share) in self.shares {
            let usages = match role {
                Role::Holder => &mut window.usages,
                Role::Intruder => &mut window.intruders,
            };
            usages.insert((instance, owner), usage(share));
        }
        window
    }
}

fn usage(share: Share) -> Usage {
    Usage {
        held_ns: share.held_ns,
        busy_ns: share.busy_ns,
        memory_byte_seconds: u64::try_from(share.memory_byte_ns / NS_PER_SECOND).unwrap_or(u64::MAX),
        energy_uj: share.energy_uj,
        method: share.method,
    }
}
