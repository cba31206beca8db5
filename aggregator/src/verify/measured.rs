//! What was measured of one (slot, tenure), and what its rows are by it: the formulas of docs/ledger.md.

use std::collections::BTreeMap;

use tonnage_proto::metering as pb;

use crate::model::{Owner, OwnerKind, RowKind};
use crate::prices::Rate;
use crate::store::audit::Bucket;

#[derive(Default)]
pub(super) struct Measured {
    covered_ns: i128,
    /// Held, and intruders.
    owners: BTreeMap<(Owner, RowKind), Bucket>,
    idle: Bucket,
    unobserved: Bucket,
}

impl Measured {
    pub(super) fn add(&mut self, window: &pb::Window, owners: &[Owner], slices: i128) {
        self.covered_ns += i128::from(window.duration_ns) * slices;
        for usage in &window.usages {
            let kind = match usage.kind() {
                pb::usage::Kind::Intruder => RowKind::Intruder,
                _ => RowKind::Held,
            };
            let bucket = self.owners.entry((owners[usage.owner as usize].clone(), kind)).or_default();
            bucket.time_ns += i128::from(usage.held_ns);
            bucket.busy_ns += i128::from(usage.busy_ns);
            bucket.memory_byte_seconds += i128::from(usage.memory_byte_seconds);
            bucket.energy_uj += i128::from(usage.energy_uj);
        }
        self.idle.busy_ns += i128::from(window.busy_unattributed_ns);
        self.idle.energy_uj += i128::from(window.energy_idle_uj);
        self.unobserved.energy_uj += i128::from(window.energy_unobserved_uj);
    }
}

/// A slot's rows: the formulas of docs/ledger.md.
pub(super) fn priced(
    measured: &Measured,
    existence_ns: i128,
    rate: Option<Rate>,
) -> BTreeMap<(Option<Owner>, RowKind), Bucket> {
    let held_ns: i128 = measured.owners.values().map(|bucket| bucket.time_ns).sum();
    let idle = Bucket { time_ns: measured.covered_ns - held_ns, ..measured.idle };
    let unobserved = Bucket { time_ns: existence_ns - measured.covered_ns, ..measured.unobserved };
    let owned = measured.owners.iter().map(|((owner, kind), bucket)| ((Some(owner.clone()), *kind), *bucket));
    let mut rows: BTreeMap<_, _> = owned.collect();
    rows.insert((None, RowKind::Idle), idle);
    rows.insert((None, RowKind::Unobserved), unobserved);
    let mut charged = 0;
    for row in rows.values_mut() {
        match rate {
            Some(rate) => row.cost_nanos = rate.charge(row.time_ns),
            None => row.unpriced_ns = row.time_ns,
        }
        charged += row.cost_nanos;
    }
    if let Some(rate) = rate {
        let cost_nanos = rate.charge(existence_ns) - charged;
        rows.insert((None, RowKind::Rounding), Bucket { cost_nanos, ..Bucket::default() });
    }
    rows.retain(|_, row| *row != Bucket::default());
    rows
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
