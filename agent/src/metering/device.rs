//! One device between two ticks: what it showed last, and its open window.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use tonnage_proto::limits;

use crate::metering::busy::Busy;
use crate::metering::energy::Energy;
use crate::metering::interval::{self, Lane, Present, ProcessKey};
use crate::metering::window::Open;
use crate::metering::{busy, energy, rest};
use crate::model::{Allocation, DeviceInfo, Holder, Instance, Observation, Owner, Window};

/// An interval `(from_ns, to_ns]` of ledger time that a sample covers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Covered {
    pub(super) from_ns: i64,
    pub(super) to_ns: i64,
    /// More real time passed than this: the energy counter ran on meanwhile.
    pub(super) stood_still: bool,
}

impl Covered {
    pub(super) fn length_ns(self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns).max(0).unsigned_abs()
    }
}

#[derive(Debug)]
pub(super) struct Device {
    info: Arc<DeviceInfo>,
    window: Option<Open>,
    /// Processes in the reading before: they held the device when this interval began.
    present: HashSet<ProcessKey>,
    busy: Busy,
    energy: Energy,
    unobserved_ns: u64,
    /// It was read once in this run.
    was_read: bool,
}

impl Device {
    /// A device that is known to be here and was not read yet.
    pub(super) fn known(info: Arc<DeviceInfo>) -> Self {
        Self {
            info,
            window: None,
            present: HashSet::new(),
            busy: Busy::default(),
            energy: Energy::default(),
            unobserved_ns: 0,
            was_read: false,
        }
    }

    pub(super) fn first_seen(observation: Observation) -> Self {
        let mut device = Self::known(Arc::clone(&observation.info));
        device.look(observation, &mut Vec::new());
        device
    }

    pub(super) fn info(&self) -> &Arc<DeviceInfo> {
        &self.info
    }

    pub(super) fn was_read(&self) -> bool {
        self.was_read
    }

    /// Takes note that so much real time passed since the tick before.
    pub(super) fn pass(&mut self, passed_ns: u64) {
        self.energy.pass(passed_ns);
    }

    /// Books a covered interval by the reading at its end.
    pub(super) fn cover(&mut self, covered: Covered, mut observation: Observation, closed: &mut Vec<Window>) {
        self.keep_info(&observation.info, closed);
        limit_owners(&mut observation);
        let slices = u64::from(self.info.slices.max(1));
        let rest = rest::of(&self.info, &observation);
        let lanes = lanes(slices, &observation, &self.present, rest.as_ref());
        let mut parts = interval::cut(covered.from_ns, covered.to_ns, &lanes);
        let used =
            observation.utilisation.as_ref().map(|samples| self.busy.take(samples, covered.length_ns()));
        match (&observation.partition, used) {
            (Some(partition), _) => busy::lay_instances(&mut parts, &partition.instances, slices),
            (None, Some(used)) => busy::lay(&mut parts, &used, slices, &observation.holders),
            (None, None) => {}
        }
        let whole = !covered.stood_still;
        let delta_uj = self.energy.covered_delta(observation.energy_mj, whole);
        if let Some(delta_uj) = delta_uj {
            energy::lay(&mut parts, delta_uj);
        }
        for part in parts {
            if self.window.as_ref().is_some_and(|window| !window.takes(&part)) {
                self.close(closed);
            }
            let window = self.window.get_or_insert_with(|| Open::new(&self.info, part.start_ns));
            window.add(part, self.energy.take_unobserved());
            if window.is_full() {
                self.close(closed);
            }
        }
        self.remember(&observation);
    }

    /// Takes note of a reading that covers nothing.
    pub(super) fn look(&mut self, observation: Observation, closed: &mut Vec<Window>) {
        self.keep_info(&observation.info, closed);
        if let Some(samples) = &observation.utilisation {
            self.busy.take(samples, 0);
        }
        self.energy.uncovered(observation.energy_mj);
        self.remember(&observation);
    }

    /// Ledger time passed that no sample covers.
    pub(super) fn gap(&mut self, gap_ns: u64, closed: &mut Vec<Window>) {
        self.unobserved_ns = self.unobserved_ns.saturating_add(gap_ns);
        self.close(closed);
    }

    /// The device was not in the reading.
    pub(super) fn absent(&mut self, gap_ns: Option<u64>, closed: &mut Vec<Window>) {
        self.energy.uncovered(None);
        if let Some(gap_ns) = gap_ns {
            self.gap(gap_ns, closed);
        }
    }

    pub(super) fn close(&mut self, closed: &mut Vec<Window>) {
        closed.extend(self.window.take().map(Open::close));
    }

    pub(super) fn unobserved_ns(&self) -> u64 {
        self.unobserved_ns
    }

    /// A window is of one description of the device; another number of slices weighs time otherwise.
    fn keep_info(&mut self, info: &Arc<DeviceInfo>, closed: &mut Vec<Window>) {
        if self.info != *info {
            self.close(closed);
            self.info = Arc::clone(info);
        }
    }

    fn remember(&mut self, observation: &Observation) {
        self.was_read = true;
        self.present.clear();
        let of_instances = observation.partition.iter().flat_map(|partition| &partition.instances);
        let holders = of_instances.flat_map(|instance| &instance.holders).chain(&observation.holders);
        self.present.extend(holders.map(interval::key));
    }
}

/// A device as one lane, a partitioned one as its instances and what is in none. Instances never weigh more than the
/// device, whatever the driver says of them.
fn lanes<'a>(
    slices: u64,
    observation: &'a Observation,
    before: &'a HashSet<ProcessKey>,
    rest: Option<&'a Arc<Instance>>,
) -> Vec<Lane<'a>> {
    let Observation { partition, holders, allocation, .. } = observation;
    let mut lanes = Vec::new();
    let mut left = slices;
    for of in partition.iter().flat_map(|partition| &partition.instances) {
        let slices = u64::from(of.instance.slices).min(left);
        left -= slices;
        let present = Present { holders: &of.holders, allocation: &of.allocation, before };
        let instance = Some(&of.instance);
        lanes.push(Lane { instance, is_rest: false, slices, stranded_slices: 0, present });
    }
    if left > 0 {
        let stranded = partition.as_ref().map_or(0, |partition| partition.stranded_slices);
        let (stranded_slices, present) =
            (u64::from(stranded).min(left), Present { holders, allocation, before });
        lanes.push(Lane { instance: rest, is_rest: true, slices: left, stranded_slices, present });
    }
    lanes
}

/// A window has at most `USAGES_PER_WINDOW_MAX` usages. Where a single reading would make more, the last owners in
/// their order become one that is unowned: no time is lost, and it shows that it could not be said whose it was.
fn limit_owners(observation: &mut Observation) {
    let Observation { partition, holders, allocation, .. } = observation;
    let instances = partition.as_mut().map_or(&mut [][..], |partition| &mut partition.instances);
    let max = limits::USAGES_PER_WINDOW_MAX / (instances.len() + 1);
    limit(holders, allocation, max);
    for of in instances {
        limit(&mut of.holders, &mut of.allocation, max);
    }
}

fn limit(holders: &mut [Holder], allocation: &mut Allocation, max: usize) {
    // Who holds one piece of an interval may be an intruder in the next.
    let roles = if allocation.claims.is_empty() { 1 } else { 2 };
    let max = (max / roles).max(1);
    if holders.len() + allocation.claims.len() <= max {
        return;
    }
    let claimed = allocation.claims.iter().map(|claim| &claim.owner);
    let owners: BTreeSet<Arc<Owner>> =
        claimed.chain(holders.iter().map(|holder| &holder.owner)).map(Arc::clone).collect();
    if owners.len() <= max {
        return;
    }
    let named: BTreeSet<Arc<Owner>> = owners.into_iter().take(max - 1).collect();
    let nobody = Arc::new(Owner::default());
    let claimed = allocation.claims.iter_mut().map(|claim| &mut claim.owner);
    for owner in claimed.chain(holders.iter_mut().map(|holder| &mut holder.owner)) {
        if !named.contains(owner) {
            *owner = Arc::clone(&nobody);
        }
    }
}
