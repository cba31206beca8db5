//! Use: the driver's utilisation samples per process, made into nanoseconds and laid on the parts of an interval.
//!
//! Of a partitioned device the driver says at most how much of each GPU instance was in use: that is the use of the one
//! owner who had processes there. Of several nobody knows whose it was.
//!
//! Sample timestamps are the driver's and lag; only differences between two of the same pid are used.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tonnage_proto::{limits, method};

use crate::metering::interval::{self, Part, Share, Who};
use crate::metering::split::Spread;
use crate::model::{Holder, InstanceObservation, Owner, UtilisationSample};

/// A pid is forgotten when its last sample is older than the newest by this: the driver reports what was used, so
/// it has been idle, and its next sample is cut to one interval anyway.
const FORGET_AFTER_US: u64 = 60_000_000;
/// Pids remembered. The driver gives at most 1024 samples at once; beyond this, all are forgotten.
const PIDS_MAX: usize = 4096;

/// Timestamp of the last sample of each pid.
#[derive(Debug, Default)]
pub(super) struct Busy {
    last_us: HashMap<u32, u64>,
}

/// `sm_percent * nanoseconds` of one sample: divided by 100 only once, and after slices.
pub(super) type PercentNs = Vec<(u32, u64)>;

impl Busy {
    /// Takes note of all samples; returns `(pid, sm_percent * ns)` of each, cut to the interval's length.
    pub(super) fn take(&mut self, samples: &[UtilisationSample], interval_ns: u64) -> PercentNs {
        let mut samples = samples.to_vec();
        samples.sort_unstable_by_key(|sample| (sample.pid, sample.timestamp_us));
        let mut used = Vec::with_capacity(samples.len());
        for sample in &samples {
            let before_us = self.last_us.get(&sample.pid).copied();
            if before_us.is_some_and(|before_us| sample.timestamp_us <= before_us) {
                continue;
            }
            self.last_us.insert(sample.pid, sample.timestamp_us);
            let since_ns =
                before_us.map_or(interval_ns, |us| (sample.timestamp_us - us).saturating_mul(1_000));
            let percent = u64::from(sample.sm_percent.min(100));
            used.push((sample.pid, since_ns.min(interval_ns).saturating_mul(percent)));
        }
        self.forget();
        used
    }

    fn forget(&mut self) {
        let newest_us = self.last_us.values().copied().max().unwrap_or(0);
        self.last_us.retain(|_, at_us| newest_us - *at_us <= FORGET_AFTER_US);
        if self.last_us.len() > PIDS_MAX {
            self.last_us.clear();
        }
    }
}

/// Lays use on the parts: to the owner of its process if that owner held the device or was seen on it, else
/// unattributed.
///
/// An owner's use is spread in proportion to what it held, and to the time for which it was an intruder; what nobody
/// owns in proportion to time.
pub(super) fn lay(parts: &mut [Part], used: &PercentNs, slices: u64, holders: &[Holder]) {
    let mut room: BTreeMap<Arc<Owner>, u64> = BTreeMap::new();
    for ((_, _, owner), room_ns) in interval::sums(parts, |share| share.room_ns) {
        *room.entry(owner).or_default() += room_ns;
    }
    let owners: HashMap<u32, &Arc<Owner>> = holders
        .iter()
        .filter(|holder| room.get(&holder.owner).is_some_and(|room_ns| *room_ns > 0))
        .map(|holder| (holder.pid, &holder.owner))
        .collect();
    let mut busy: BTreeMap<&Arc<Owner>, u64> = BTreeMap::new();
    let mut unattributed_ns = 0_u64;
    for (pid, percent_ns) in used {
        let busy_ns = percent_ns.saturating_mul(slices) / 100;
        let sum = owners.get(pid).map_or(&mut unattributed_ns, |owner| busy.entry(owner).or_default());
        *sum = sum.saturating_add(busy_ns);
    }
    for (owner, room_ns) in &room {
        let busy_ns = busy.get(owner).copied().unwrap_or(0);
        let scaled = if busy_ns > *room_ns { method::BUSY_SCALED } else { 0 };
        let mut spread = Spread::new(busy_ns.min(*room_ns), *room_ns);
        let shares = parts.iter_mut().flat_map(|part| &mut part.shares);
        for (_, share) in shares.filter(|((_, _, of), _)| of == owner) {
            share.busy_ns = spread.next(share.room_ns);
            share.method |= method::BUSY_PROCESS | scaled;
        }
    }
    lay_unattributed(parts, unattributed_ns, slices);
}

/// Lays the use of GPU instances on the parts of a partitioned device.
pub(super) fn lay_instances(parts: &mut [Part], instances: &[InstanceObservation], slices: u64) {
    let duration_ns: u64 = parts.iter().map(|part| part.duration_ns).sum();
    let mut unattributed_ns = 0_u64;
    for of_one in gpu_instances(instances) {
        let Some(used) = of_one.iter().find_map(|of| of.utilisation) else { continue };
        let busy_ns = duration_ns.saturating_mul(u64::from(used.slices)) / 1_000;
        let busy_ns = busy_ns.saturating_mul(u64::from(used.permille.min(1_000)));
        let users: BTreeSet<&Arc<Owner>> =
            of_one.iter().flat_map(|of| &of.holders).map(|holder| &holder.owner).collect();
        let only = users.first().filter(|_| users.len() == 1).copied();
        let here = |who: &Who| who.1.as_ref().is_some_and(|at| of_one.iter().any(|of| of.instance == *at));
        let known = |who: &Who| here(who) && (only == Some(&who.2) || !users.contains(&who.2));
        let room_ns = |who: &Who, share: &Share| {
            if here(who) && only == Some(&who.2) { share.room_ns } else { 0 }
        };
        let all_shares = || parts.iter().flat_map(|part| &part.shares);
        let all_room_ns: u64 = all_shares().map(|(who, share)| room_ns(who, share)).sum();
        if all_room_ns == 0 {
            unattributed_ns = unattributed_ns.saturating_add(busy_ns);
        }
        let scaled = if busy_ns > all_room_ns && only.is_some() { method::BUSY_SCALED } else { 0 };
        let mut spread = Spread::new(busy_ns.min(all_room_ns), all_room_ns);
        for (who, share) in parts.iter_mut().flat_map(|part| &mut part.shares).filter(|(who, _)| known(who)) {
            share.busy_ns = spread.next(room_ns(who, share));
            share.method |= method::BUSY_INSTANCE | if only == Some(&who.2) { scaled } else { 0 };
        }
    }
    lay_unattributed(parts, unattributed_ns, slices);
}

/// Compute instances by the GPU instance that they are in; one whose number is not known is by itself.
fn gpu_instances(instances: &[InstanceObservation]) -> Vec<Vec<&InstanceObservation>> {
    let mut groups: Vec<Vec<&InstanceObservation>> = Vec::new();
    for of in instances {
        let number = of.instance.gpu_instance;
        let same = |group: &&mut Vec<&InstanceObservation>| {
            number.is_some() && group.iter().any(|other| other.instance.gpu_instance == number)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(of),
            None => groups.push(vec![of]),
        }
    }
    groups
}

fn lay_unattributed(parts: &mut [Part], unattributed_ns: u64, slices: u64) {
    let duration_ns: u64 = parts.iter().map(|part| part.duration_ns).sum();
    let most_ns = duration_ns.saturating_mul(slices).saturating_mul(limits::UNATTRIBUTED_FACTOR_MAX);
    let mut spread = Spread::new(unattributed_ns.min(most_ns), duration_ns);
    for part in parts {
        part.busy_unattributed_ns = spread.next(part.duration_ns);
    }
}
