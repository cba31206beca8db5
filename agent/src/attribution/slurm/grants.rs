//! Jobs as metering takes them: which of the node's GPUs each holds, and since when in ledger time. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use tonnage_runtime::clock::Reading;

use crate::attribution::Now;
use crate::attribution::device_ids::{At, DeviceId, Parent};
use crate::attribution::devices::{Devices, Place};
use crate::attribution::grants::Grant;
use crate::attribution::slurm::{DeviceRef, Job, JobDevice, Moment};
use crate::model::{Owner, OwnerKind};

/// A job that ended longer ago than this is in no interval that is still open.
const ENDED_NS: i64 = 60_000_000_000;
/// By how much a hook's two clocks may be apart: it reads them in turn, and one of them in hundredths of a second.
const SET_NS: u64 = 200_000_000;

/// What the jobs hold, and how many devices of theirs are none of this node's.
pub(in crate::attribution) fn grants(jobs: &[Job], devices: &Devices<'_>, now: Now) -> (Vec<Grant>, usize) {
    let (mut grants, mut mapped, mut unresolved) = (Vec::new(), Vec::new(), 0);
    for job in jobs {
        let from_ns = job.from.map(|from| in_ledger_time(from, now));
        let until_ns = job.until.map(|until| in_ledger_time(until, now).max(from_ns.unwrap_or(i64::MIN)));
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
        for JobDevice { at, parts, of, shared_by, .. } in &job.devices {
            let Some(found) = devices.find(&DeviceId { at: place(*at), replica: None }) else {
                unresolved += 1;
                continue;
            };
            let mut part = found.part;
            part.parts *= u64::from(*parts);
            part.of *= u64::from(*of).max(1);
            let grants = if job.by_hooks { &mut grants } else { &mut mapped };
            grants.extend(found.places().into_iter().map(|place| Grant {
                place,
                owner: Arc::clone(&owner),
                part,
                from_ns,
                until_ns,
                inferred: job.inferred || found.guessed,
                shared_by: *shared_by,
            }));
        }
    }
    // Where a hook says who holds a device, it knows more than the mapping folder.
    let held: BTreeSet<Place> =
        grants.iter().filter(|grant| grant.until_ns.is_none()).map(|grant| grant.place.clone()).collect();
    grants.extend(mapped.into_iter().filter(|grant| !held.contains(&grant.place)));
    (grants, unresolved)
}

/// The wall clock and ledger time differ by no more now than they did then. Unless the wall clock was set in between,
/// which the boot clock tells: then the boot clock carries the moment over, as it does a process's start.
fn in_ledger_time(moment: Moment, now: Now) -> i64 {
    let Reading { wall_ns, boot_ns, .. } = now.reading;
    let since_wall_ns = wall_ns.saturating_sub(moment.wall_ns);
    let since_boot_ns = boot_ns.saturating_sub(moment.boot_ns);
    let was_set = since_wall_ns.abs_diff(since_boot_ns) > SET_NS;
    now.ledger_ns.saturating_sub(if was_set { since_boot_ns } else { since_wall_ns })
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
