//! Allocations as metering takes them: for each device its claims, as parts of one whole; and the processes' owners
//! joined with them.
//!
//! Pure. Not for: where allocations come from (`kubelet`, `slurm`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::attribution::devices::{Fraction, Place, common};
use crate::attribution::slurm::sluid::is_sluid;
use crate::model::{Allocation, Claim, Holder, Owner, OwnerKind, SharedBy};

/// A device, or a part of it, that somebody was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) place: Place,
    pub(super) owner: Arc<Owner>,
    pub(super) part: Fraction,
    /// In ledger time.
    pub(super) from_ns: Option<i64>,
    pub(super) until_ns: Option<i64>,
    pub(super) inferred: bool,
    pub(super) shared_by: SharedBy,
}

/// Grants by device and instance.
pub(super) fn by_place(grants: Vec<Grant>) -> BTreeMap<Place, Allocation> {
    let mut of_place: BTreeMap<Place, Vec<Grant>> = BTreeMap::new();
    for grant in grants {
        of_place.entry(grant.place.clone()).or_default().push(grant);
    }
    let allocation = |grants: Vec<Grant>| {
        let fractions: Vec<Fraction> = grants.iter().map(|grant| grant.part).collect();
        let (parts, of) = common(&fractions);
        let claim = |(grant, parts): (Grant, u64)| {
            let Grant { owner, from_ns, until_ns, inferred, shared_by, .. } = grant;
            Claim { owner, parts, from_ns, until_ns, inferred, shared_by }
        };
        Allocation { claims: grants.into_iter().zip(parts).map(claim).collect(), parts: of, mps: false }
    };
    of_place.into_iter().map(|(place, grants)| (place, allocation(grants))).collect()
}

/// Gives each process that is of somebody with a claim on this device that claim's owner: so they are one row.
///
/// A process whose job's number is not known yet is taken to be of the one Slurm job that goes on here, which is marked.
/// Where the node does not say which uid a pod's name stands for, and one such pod has a claim and processes of one nameless
/// pod are on the device, they are taken to be the same, which is marked.
pub(super) fn join(holders: &mut [Holder], allocation: &Allocation) {
    let nameless = |owner: &Owner| owner.kind == OwnerKind::Pod && owner.pod.is_empty();
    let unknown = |claim: &&Claim| claim.owner.kind == OwnerKind::Pod && claim.owner.pod_uid.is_empty();
    let mut unjoined = allocation.claims.iter().filter(|claim| unknown(claim) && claim.inferred);
    let only_claim = unjoined.next().filter(|first| unjoined.all(|other| other.owner == first.owner));
    let mut uids = holders.iter().filter(|holder| nameless(&holder.owner)).map(|h| h.owner.pod_uid.as_str());
    let only_uid = uids.next().filter(|first| uids.all(|other| other == *first)).map(str::to_owned);
    let mut jobs = allocation
        .claims
        .iter()
        .filter(|claim| claim.owner.kind == OwnerKind::SlurmJob && claim.until_ns.is_none());
    let only_job = jobs.next().filter(|first| jobs.all(|other| other.owner == first.owner));
    for holder in holders {
        if let Some(claim) = allocation.claims.iter().find(|claim| is_of(&holder.owner, &claim.owner)) {
            holder.owner = Arc::clone(&claim.owner);
        } else if let (Some(claim), Some(uid)) = (only_claim, &only_uid)
            && nameless(&holder.owner)
            && holder.owner.pod_uid == *uid
        {
            (holder.owner, holder.inferred) = (Arc::clone(&claim.owner), true);
        } else if let Some(claim) = only_job
            && holder.owner.kind == OwnerKind::SlurmJob
            && is_sluid(&holder.owner.job_id)
        {
            (holder.owner, holder.inferred) = (Arc::clone(&claim.owner), true);
        }
    }
}

/// Whether a process of `process` is of the one to whom `claim` was given.
fn is_of(process: &Owner, claim: &Owner) -> bool {
    if process.kind != claim.kind {
        return false;
    }
    match claim.kind {
        OwnerKind::Pod if claim.pod_uid.is_empty() => {
            !process.pod.is_empty() && (&process.namespace, &process.pod) == (&claim.namespace, &claim.pod)
        }
        OwnerKind::Pod => process.pod_uid == claim.pod_uid,
        OwnerKind::SlurmJob => process.job_id == claim.job_id,
        OwnerKind::VirtualMachine => process.unit == claim.unit,
        OwnerKind::Unowned | OwnerKind::SystemdUnit | OwnerKind::User | OwnerKind::Container => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(pod: &str, pod_uid: &str) -> Arc<Owner> {
        let (pod, pod_uid) = (pod.to_owned(), pod_uid.to_owned());
        Arc::new(Owner { kind: OwnerKind::Pod, namespace: "ml".into(), pod, pod_uid, ..Owner::default() })
    }

    fn grant(owner: &Arc<Owner>, parts: u64, of: u64) -> Grant {
        let part = Fraction { parts, of };
        let (place, owner) = (("GPU-a".into(), None), Arc::clone(owner));
        Grant {
            place,
            owner,
            part,
            from_ns: None,
            until_ns: None,
            inferred: false,
            shared_by: SharedBy::default(),
        }
    }

    fn process(owner: Owner) -> Holder {
        let owner = Arc::new(owner);
        Holder { pid: 1, owner, started_ns: None, memory_bytes: None, inferred: false }
    }

    /// The owners after joining.
    fn joined(processes: Vec<Owner>, claims: &[&Arc<Owner>]) -> Vec<(String, bool)> {
        let unconfirmed =
            |owner: &&Arc<Owner>| Grant { inferred: owner.pod_uid.is_empty(), ..grant(owner, 1, 1) };
        let grants = claims.iter().map(unconfirmed).collect();
        let allocation = by_place(grants).remove(&("GPU-a".into(), None)).unwrap_or_default();
        let mut holders: Vec<Holder> = processes.into_iter().map(process).collect();
        join(&mut holders, &allocation);
        holders.into_iter().map(|holder| (holder.owner.pod.clone(), holder.inferred)).collect()
    }

    fn nameless(uid: &str) -> Owner {
        Owner { kind: OwnerKind::Pod, pod_uid: uid.into(), container_id: "c".into(), ..Owner::default() }
    }

    #[test]
    fn parts_of_different_kinds_are_brought_to_one_whole() {
        let [a, b] = [pod("a", "1"), pod("b", "2")];
        let allocation =
            by_place(vec![grant(&a, 1, 4), grant(&b, 2, 7)]).remove(&("GPU-a".into(), None)).unwrap();
        let parts: Vec<u64> = allocation.claims.iter().map(|claim| claim.parts).collect();
        assert_eq!((parts, allocation.parts), (vec![7, 8], 28));
    }

    #[test]
    fn a_process_is_joined_by_uid_or_by_name_and_a_strangers_is_not() {
        let claim = pod("a", "1");
        assert_eq!(
            joined(vec![nameless("1"), nameless("2")], &[&claim]),
            [("a".into(), false), (String::new(), false)]
        );
        let by_name = Owner { pod_uid: "9".into(), ..(*pod("a", "")).clone() };
        assert_eq!(joined(vec![by_name], &[&pod("a", "")]), [("a".into(), false)]);
    }

    #[test]
    fn one_nameless_pod_is_taken_for_the_one_claim_without_a_uid_and_marked() {
        let [a, b] = [pod("a", ""), pod("b", "")];
        assert_eq!(joined(vec![nameless("1"), nameless("1")], &[&a]), vec![("a".into(), true); 2]);
        assert_eq!(joined(vec![nameless("1"), nameless("2")], &[&a]), vec![(String::new(), false); 2]);
        assert_eq!(joined(vec![nameless("1")], &[&a, &b]), [(String::new(), false)]);
    }

    #[test]
    fn steps_and_sessions_of_a_job_are_the_jobs() {
        let job = |step: &str, user: &str| Owner {
            kind: OwnerKind::SlurmJob,
            job_id: "12".into(),
            step: step.into(),
            user: user.into(),
            ..Owner::default()
        };
        let claim = Arc::new(Owner { account: "physics".into(), ..job("", "ada") });
        let allocation = by_place(vec![grant(&claim, 1, 1)]).remove(&("GPU-a".into(), None)).unwrap();
        let mut holders = vec![process(job("0", "1000")), process(job("extern", "1000"))];
        join(&mut holders, &allocation);
        assert!(holders.iter().all(|holder| holder.owner == claim));
    }

    #[test]
    fn a_process_whose_jobs_number_is_not_known_yet_is_of_the_one_job_that_goes_on_and_marked() {
        let job =
            |id: &str| Arc::new(Owner { kind: OwnerKind::SlurmJob, job_id: id.into(), ..Owner::default() });
        let by_sluid = |claims: &[(&str, Option<i64>)]| {
            let grants =
                claims.iter().map(|(id, until_ns)| Grant { until_ns: *until_ns, ..grant(&job(id), 1, 1) });
            let allocation = by_place(grants.collect()).remove(&("GPU-a".into(), None)).unwrap_or_default();
            let mut holders = vec![process((*job("s5K1KKYAYG5D00")).clone())];
            join(&mut holders, &allocation);
            (holders[0].owner.job_id.clone(), holders[0].inferred)
        };
        assert_eq!(by_sluid(&[("12", None)]), ("12".into(), true));
        assert_eq!(by_sluid(&[("11", Some(5)), ("12", None)]), ("12".into(), true));
        for claims in [&[("12", None), ("13", None)][..], &[]] {
            assert_eq!(by_sluid(claims), ("s5K1KKYAYG5D00".into(), false));
        }
    }
}
