//! Jobs as metering takes them: which of the node's GPUs each holds, and since when in ledger time. Pure.

use std::sync::Arc;

use crate::attribution::Now;
use crate::attribution::device_ids::{At, DeviceId, Parent};
use crate::attribution::devices::Devices;
use crate::attribution::grants::Grant;
use crate::attribution::slurm::{DeviceRef, Job, JobDevice};
use crate::model::{Owner, OwnerKind};

/// A job that ended longer ago than this is in no interval that is still open.
const ENDED_NS: i64 = 60_000_000_000;

/// What the jobs hold, and how many devices of theirs are none of this node's.
pub(in crate::attribution) fn grants(jobs: &[Job], devices: &Devices<'_>, now: Now) -> (Vec<Grant>, usize) {
    // The hooks write the wall clock; it and ledger time differ by no more now than they did then, or the wall clock
    // was set, and then the ledger's is believed.
    let in_ledger_time =
        |wall_ns: i64| now.ledger_ns.saturating_sub(now.reading.wall_ns.saturating_sub(wall_ns));
    let (mut grants, mut unresolved) = (Vec::new(), 0);
    for job in jobs {
        let until_ns = job.until_wall_ns.map(in_ledger_time);
        if until_ns.is_some_and(|until_ns| now.ledger_ns.saturating_sub(until_ns) > ENDED_NS) {
            continue;
        }
        let owner = Arc::new(Owner {
            kind: OwnerKind::SlurmJob,
            job_id: job.job_id.clone(),
            user: job.user.clone(),
            account: job.account.clone(),
            partition: job.partition.clone(),
            ..Owner::default()
        });
        for JobDevice { at, parts, of } in &job.devices {
            let Some((device, mut part, guessed)) = devices.find(&DeviceId { at: place(*at), replica: None })
            else {
                unresolved += 1;
                continue;
            };
            part.parts *= u64::from(*parts);
            part.of *= u64::from(*of).max(1);
            grants.push(Grant {
                device,
                owner: Arc::clone(&owner),
                part,
                from_ns: job.from_wall_ns.map(in_ledger_time),
                until_ns,
                inferred: job.inferred || guessed,
            });
        }
    }
    (grants, unresolved)
}

fn place(at: DeviceRef) -> At {
    let instance = |parent, instance| At::Instance { parent, instance, slices: None };
    match at {
        DeviceRef::Minor(minor) => At::Minor(minor),
        DeviceRef::Index(index) => At::Index(index),
        DeviceRef::IndexInstance { index, gpu_instance } => {
            instance(Parent::Index(index), gpu_instance.to_string())
        }
        DeviceRef::Instance { minor, gpu_instance, compute_instance } => {
            instance(Parent::Minor(minor), format!("{gpu_instance}/{compute_instance}"))
        }
    }
}
