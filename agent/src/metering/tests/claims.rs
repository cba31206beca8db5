//! Devices that are allocated: who holds what, and who is an intruder.

use super::*;
use crate::model::{Claim, SharedBy};

fn claim(pod_uid: &str, parts: u64) -> Claim {
    Claim {
        owner: owner(pod_uid),
        parts,
        from_ns: None,
        until_ns: None,
        inferred: false,
        shared_by: SharedBy::default(),
    }
}

fn allocated(holders: &[Holder], claims: &[Claim], parts: u64) -> Observation {
    let allocation = Allocation { claims: claims.to_vec(), parts, mps: false };
    Observation { allocation, ..reading(holders) }
}

/// One second of a device that shows `observation` at both ends.
fn one_second(observation: &Observation) -> Window {
    let mut meter = started(observation.clone());
    meter.observe(at(T0 + S), vec![observation.clone()]);
    only(meter.finish())
}

#[test]
fn who_has_the_device_holds_it_without_any_process() {
    let window = one_second(&allocated(&[], &[claim("a", 1)], 1));
    let held = usage(&window, "a");
    assert_eq!((held.held_ns, held.busy_ns, window.idle_ns), (1_000_000_000, 0, 0));
    assert_eq!(held.method, method::HELD_ALLOCATION);
}

#[test]
fn a_process_of_the_one_who_has_the_device_adds_use_and_no_second_share() {
    let mut seen = allocated(&[holder(1, "a", T0)], &[claim("a", 1)], 1);
    seen.holders[0].memory_bytes = Some(8);
    let mut meter = started(seen.clone());
    seen.utilisation = Some(vec![used(1, T0 + S, 40)]);
    meter.observe(at(T0 + S), vec![seen]);
    let window = only(meter.finish());
    let held = usage(&window, "a");
    assert_eq!((held.held_ns, held.busy_ns, held.memory_byte_seconds), (1_000_000_000, 400_000_000, 8));
    assert_eq!(held.method, method::HELD_ALLOCATION | method::MEMORY_PROCESS | method::BUSY_PROCESS);
    assert!(window.intruders.is_empty());
}

#[test]
fn a_process_on_what_others_have_is_an_intruder_with_use_and_energy_and_no_time() {
    let mut seen = allocated(&[holder(1, "a", T0), holder(2, "b", T0)], &[claim("a", 1)], 1);
    seen.holders[1].memory_bytes = Some(8);
    let mut meter = started(Observation { energy_mj: Some(0), ..seen.clone() });
    seen.utilisation = Some(vec![used(1, T0 + S, 25), used(2, T0 + S, 75)]);
    seen.energy_mj = Some(100);
    meter.observe(at(T0 + S), vec![seen]);
    let window = only(meter.finish());
    let intruder = window.intruders[&(None, owner("b"))];
    assert_eq!((intruder.held_ns, intruder.busy_ns), (0, 750_000_000));
    assert_eq!((intruder.memory_byte_seconds, intruder.energy_uj), (8, 75_000));
    let held = usage(&window, "a");
    assert_eq!((held.held_ns, held.busy_ns, held.energy_uj), (1_000_000_000, 250_000_000, 25_000));
    assert!(!window.usages.contains_key(&(None, owner("b"))));
    assert_eq!(window.busy_unattributed_ns, 0);
}

#[test]
fn use_on_an_allocated_device_by_nobody_knows_whom_is_unattributed() {
    let nobody = Holder { owner: Arc::default(), ..holder(2, "", T0) };
    let mut seen = allocated(&[nobody], &[claim("a", 1)], 1);
    let mut meter = started(seen.clone());
    seen.utilisation = Some(vec![used(2, T0 + S, 30)]);
    meter.observe(at(T0 + S), vec![seen]);
    let window = only(meter.finish());
    assert_eq!((window.busy_unattributed_ns, window.intruders.len()), (300_000_000, 0));
}

#[test]
fn replicas_split_the_device_by_how_many_each_has_and_those_that_nobody_has_are_idle() {
    let window = one_second(&allocated(&[], &[claim("a", 2), claim("b", 1)], 4));
    let held = ["a", "b"].map(|pod| usage(&window, pod).held_ns);
    assert_eq!((held, window.idle_ns), ([500_000_000, 250_000_000], 250_000_000));
    assert_eq!(
        usage(&window, "b").method,
        method::HELD_ALLOCATION | method::HELD_SPLIT | method::SHARED_TIME_SLICING
    );
}

#[test]
fn by_what_a_device_is_shared_is_told_and_who_has_it_alone_shares_by_nothing() {
    for (by, mps, bit) in [
        (SharedBy::Contexts, false, method::SHARED_TIME_SLICING),
        (SharedBy::Contexts, true, method::SHARED_MPS),
        (SharedBy::Mps, false, method::SHARED_MPS),
        (SharedBy::Shards, true, method::SHARED_SHARDS),
        (SharedBy::VirtualGpus, false, method::SHARED_VGPU),
        (SharedBy::Slices, false, 0),
    ] {
        let with = |parts| {
            let mut reading = allocated(&[], &[Claim { shared_by: by, ..claim("a", 1) }], parts);
            reading.allocation.mps = mps;
            usage(&one_second(&reading), "a").method
        };
        assert_eq!(with(2), method::HELD_ALLOCATION | method::HELD_SPLIT | bit, "{by:?} {mps}");
        assert_eq!(with(1), method::HELD_ALLOCATION, "{by:?}");
    }
    let mut processes = reading(&[holder(1, "a", T0), holder(2, "b", T0)]);
    processes.allocation.mps = true;
    let shared = method::HELD_CGROUP | method::HELD_SPLIT | method::SHARED_MPS;
    assert_eq!(usage(&one_second(&processes), "b").method, shared);
}

#[test]
fn more_than_all_parts_makes_the_parts_smaller() {
    let window = one_second(&allocated(&[], &[claim("a", 1), claim("b", 3)], 2));
    let held = ["a", "b"].map(|pod| usage(&window, pod).held_ns);
    assert_eq!((held, window.idle_ns), ([250_000_000, 750_000_000], 0));
}

#[test]
fn claims_begin_and_end_when_their_evidence_says_and_processes_hold_before_and_after() {
    let timed = Claim { from_ns: Some(T0 + 300 * MS), until_ns: Some(T0 + 700 * MS), ..claim("a", 1) };
    let mut seen = allocated(&[holder(2, "b", T0)], &[timed], 1);
    let mut meter = started(reading(&seen.holders));
    seen.utilisation = Some(vec![used(2, T0 + S, 50)]);
    meter.observe(at(T0 + S), vec![seen]);
    let window = only(meter.finish());
    assert_eq!(usage(&window, "a").held_ns, 400_000_000);
    let other = usage(&window, "b");
    assert_eq!(other.method & (method::HELD_CGROUP | method::HELD_ALLOCATION), method::HELD_CGROUP);
    // Half of the time that it was there, as a holder and as an intruder alike.
    let intruder = window.intruders[&(None, owner("b"))];
    assert_eq!((other.held_ns, other.busy_ns, intruder.busy_ns), (600_000_000, 300_000_000, 200_000_000));
}

#[test]
fn weaker_evidence_is_marked() {
    let weak = Claim { inferred: true, ..claim("a", 1) };
    assert_ne!(usage(&one_second(&allocated(&[], &[weak], 1)), "a").method & method::HELD_INFERRED, 0);
    let elsewhere = Holder { inferred: true, ..holder(1, "b", T0) };
    let window = one_second(&reading(&[elsewhere]));
    assert_eq!(usage(&window, "b").method, method::HELD_CGROUP | method::HELD_INFERRED);
}

#[test]
fn a_window_stays_within_its_limit_of_usages_however_many_claim_and_intrude() {
    let names: Vec<String> = (0..900).map(|n| format!("pod-{n:04}")).collect();
    let (claiming, intruding) = names.split_at(400);
    let claims: Vec<Claim> = claiming.iter().map(|name| claim(name, 1)).collect();
    let holders: Vec<Holder> = (1..).zip(intruding).map(|(pid, name)| holder(pid, name, T0)).collect();
    let window = one_second(&allocated(&holders, &claims, 400));
    assert!(window.usages.len() + window.intruders.len() <= tonnage_proto::limits::USAGES_PER_WINDOW_MAX);
    assert_eq!(window.idle_ns, 0);
}
