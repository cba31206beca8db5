//! What was measured of one (slot, tenure), and what its rows are by it: the formulas of docs/ledger.md.

use std::collections::BTreeMap;

use tonnage_proto::metering as pb;

use super::memory;
use crate::model::{Instance, MemoryShare, Owner, OwnerKind, RowKind};
use crate::prices::Rate;
use crate::store::audit::Bucket;

#[derive(Default)]
pub(super) struct Measured {
    covered_ns: i128,
    /// Held, and intruders.
    owners: BTreeMap<(Option<Instance>, Owner, RowKind), Bucket>,
    instances_idle_ns: BTreeMap<Instance, i128>,
    stranded_ns: i128,
    idle: Bucket,
    unobserved: Bucket,
}

impl Measured {
    pub(super) fn add(
        &mut self,
        window: &pb::Window,
        owners: &[Owner],
        instances: &[Instance],
        slices: i128,
    ) {
        // Positions begin at 1.
        let instance = |number: u32| number.checked_sub(1).map(|at| instances[at as usize].clone());
        self.covered_ns += i128::from(window.duration_ns) * slices;
        for usage in &window.usages {
            let kind = match usage.kind() {
                pb::usage::Kind::Intruder => RowKind::Intruder,
                _ => RowKind::Held,
            };
            let key = (instance(usage.instance), owners[usage.owner as usize].clone(), kind);
            let bucket = self.owners.entry(key).or_default();
            bucket.time_ns += i128::from(usage.held_ns);
            bucket.busy_ns += i128::from(usage.busy_ns);
            bucket.memory_byte_seconds += i128::from(usage.memory_byte_seconds);
            bucket.energy_uj += i128::from(usage.energy_uj);
        }
        for idle in &window.instance_idles {
            if let Some(of) = instance(idle.instance) {
                *self.instances_idle_ns.entry(of).or_default() += i128::from(idle.idle_ns);
            }
        }
        self.stranded_ns += i128::from(window.stranded_ns);
        self.idle.busy_ns += i128::from(window.busy_unattributed_ns);
        self.idle.energy_uj += i128::from(window.energy_idle_uj);
        self.unobserved.energy_uj += i128::from(window.energy_unobserved_uj);
    }
}

/// A row's instance, owner and kind.
pub(super) type Key = (Option<Instance>, Option<Owner>, RowKind);

/// A slot's rows: the formulas of docs/ledger.md.
pub(super) fn priced(
    measured: &Measured,
    existence_ns: i128,
    rate: Option<Rate>,
    slices: u32,
) -> BTreeMap<Key, Bucket> {
    let held_ns: i128 = measured.owners.values().map(|bucket| bucket.time_ns).sum();
    let of_instances: i128 = measured.instances_idle_ns.values().sum();
    let left_ns = measured.covered_ns - held_ns - of_instances - measured.stranded_ns;
    let idle = Bucket { time_ns: left_ns, ..measured.idle };
    let unobserved = Bucket { time_ns: existence_ns - measured.covered_ns, ..measured.unobserved };
    let owned = measured
        .owners
        .iter()
        .map(|((instance, owner, kind), bucket)| ((instance.clone(), Some(owner.clone()), *kind), *bucket));
    let mut rows: BTreeMap<_, _> = owned.collect();
    for (instance, idle_ns) in &measured.instances_idle_ns {
        let bucket = Bucket { time_ns: *idle_ns, ..Bucket::default() };
        rows.insert((Some(instance.clone()), None, RowKind::Idle), bucket);
    }
    let stranded = Bucket { time_ns: measured.stranded_ns, ..Bucket::default() };
    rows.insert((None, None, RowKind::Stranded), stranded);
    rows.insert((None, None, RowKind::Idle), idle);
    rows.insert((None, None, RowKind::Unobserved), unobserved);
    let shares = match rate {
        Some(rate) if rate.is_by_memory() => memory::shares(&rows, measured.covered_ns, slices),
        _ => None,
    };
    let mut charged = 0;
    for (key, row) in &mut rows {
        match rate {
            Some(rate) if shares.is_some() => {
                let part = shares.as_ref().and_then(|shares| shares.get(key));
                row.cost_nanos = part.map_or(0, |part| rate.charge_part(part.num, part.den, slices));
            }
            Some(rate) => row.cost_nanos = rate.charge(row.time_ns),
            None => row.unpriced_ns = row.time_ns,
        }
        charged += row.cost_nanos;
    }
    if let Some(rate) = rate {
        let cost_nanos = rate.charge(existence_ns) - charged;
        rows.insert((None, None, RowKind::Rounding), Bucket { cost_nanos, ..Bucket::default() });
    }
    rows.retain(|_, row| *row != Bucket::default());
    rows
}

/// `told`: what it says of its memory slices was known of when it was folded.
pub(super) fn instance(instance: &pb::Instance, devices: &[pb::Device], told: bool) -> Instance {
    Instance {
        device: devices[instance.device as usize].uuid.clone(),
        generation: instance.generation,
        gpu_instance: instance.gpu_instance,
        compute_instance: instance.compute_instance,
        slices: instance.slices,
        uuid: instance.uuid.clone(),
        profile: instance.profile.clone(),
        memory_bytes: instance.memory_bytes,
        memory: (told && instance.gpu_memory_slices > 0).then_some(MemoryShare {
            slices: instance.memory_slices,
            compute_slices: instance.gpu_instance_slices,
            of: instance.gpu_memory_slices,
        }),
    }
}

pub(super) fn owner(owner: &pb::Owner) -> Owner {
    Owner {
        kind: OwnerKind::from_number(i64::from(owner.kind)).unwrap_or_default(),
        namespace: owner.namespace.clone(),
        pod: owner.pod.clone(),
        pod_uid: owner.pod_uid.clone(),
        container: owner.container.clone(),
        container_id: owner.container_id.clone(),
        job_id: owner.job_id.clone(),
        step: owner.step.clone(),
        unit: owner.unit.clone(),
        user: owner.user.clone(),
        account: owner.account.clone(),
        partition: owner.partition.clone(),
    }
}
