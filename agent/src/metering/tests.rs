use tonnage_proto::{limits, method};

use super::*;
use crate::model::{Allocation, DeviceInfo, Holder, Owner, OwnerKind, Usage, UtilisationSample};

mod claims;
mod instances;

const MS: i64 = 1_000_000;
const S: i64 = 1_000 * MS;
/// On the edge of a cell of the grid.
const T0: i64 = 1_800_000_000 * S;

fn info(slices: u32) -> Arc<DeviceInfo> {
    Arc::new(DeviceInfo {
        uuid: "GPU-a".into(),
        model: "H100".into(),
        memory_bytes: 80 << 30,
        slices,
        minor: Some(0),
        pci_bus_id: String::new(),
    })
}

fn owner(pod_uid: &str) -> Arc<Owner> {
    Arc::new(Owner { kind: OwnerKind::Pod, pod_uid: pod_uid.into(), ..Owner::default() })
}

fn holder(pid: u32, pod_uid: &str, started_ns: i64) -> Holder {
    Holder { pid, owner: owner(pod_uid), started_ns: Some(started_ns), memory_bytes: None, inferred: false }
}

fn reading(holders: &[Holder]) -> Observation {
    let (holders, allocation) = (holders.to_vec(), Allocation::default());
    Observation { info: info(1), partition: None, holders, allocation, utilisation: None, energy_mj: None }
}

fn at(now_ns: i64) -> Tick {
    Tick { now_ns, continuous: true, gap: GapReason::Clock, overlap_ns: 0, new_epoch: false }
}

/// A meter that has seen `first` at T0.
fn started(first: Observation) -> Meter {
    let mut meter = Meter::new(S);
    assert!(meter.observe(Tick { continuous: false, ..at(T0) }, vec![first]).is_empty());
    meter
}

fn only(windows: Vec<Window>) -> Window {
    let [window] = <[Window; 1]>::try_from(windows).unwrap();
    let held: u64 = window.usages.values().map(|usage| usage.held_ns).sum();
    assert_eq!(held + window.idle_ns, window.duration_ns * u64::from(window.info.slices));
    window
}

fn usage(window: &Window, pod_uid: &str) -> Usage {
    window.usages[&(None, owner(pod_uid))]
}

fn used(pid: u32, at_ns: i64, sm_percent: u32) -> UtilisationSample {
    UtilisationSample { pid, timestamp_us: (at_ns / 1_000).unsigned_abs(), sm_percent }
}

#[test]
fn a_device_without_processes_is_idle_and_a_window_closes_with_its_cell() {
    let mut meter = started(reading(&[]));
    for n in 1..10 {
        assert!(meter.observe(at(T0 + n * S), vec![reading(&[])]).is_empty());
    }
    let window = only(meter.observe(at(T0 + 10 * S), vec![reading(&[])]));
    assert_eq!((window.start_ns, window.duration_ns, window.samples), (T0, 10_000_000_000, 10));
    assert_eq!(window.idle_ns, 10_000_000_000);
    assert!(meter.finish().is_empty());
}

#[test]
fn several_processes_of_one_owner_hold_once_and_several_owners_share_equally() {
    let holders = [holder(1, "a", T0), holder(2, "a", T0), holder(3, "b", T0), holder(4, "c", T0)];
    let mut meter = started(reading(&holders));
    meter.observe(at(T0 + S), vec![reading(&holders)]);
    let window = only(meter.finish());
    let held = ["a", "b", "c"].map(|pod| usage(&window, pod).held_ns);
    assert_eq!(held, [333_333_334, 333_333_333, 333_333_333], "the first in order has the odd nanosecond");
    assert_eq!(
        usage(&window, "a").method,
        method::HELD_CGROUP | method::HELD_SPLIT | method::SHARED_TIME_SLICING
    );
}

#[test]
fn a_slice_nanosecond_counts_for_each_slice() {
    let first = Observation { info: info(7), ..reading(&[holder(1, "a", T0)]) };
    let mut meter = started(first.clone());
    meter.observe(at(T0 + S), vec![first]);
    assert_eq!(usage(&only(meter.finish()), "a").held_ns, 7_000_000_000);
}

#[test]
fn a_new_process_holds_from_its_start_and_one_seen_before_from_the_beginning() {
    let mut meter = started(reading(&[holder(1, "a", T0 + 900 * MS)]));
    let holders = [holder(1, "a", T0 + 900 * MS), holder(2, "b", T0 + 600 * MS)];
    meter.observe(at(T0 + S), vec![reading(&holders)]);
    let window = only(meter.finish());
    assert_eq!(usage(&window, "a").held_ns, 800_000_000);
    assert_eq!(usage(&window, "b").held_ns, 200_000_000);
    let mut meter = started(reading(&[]));
    meter.observe(at(T0 + S), vec![reading(&[holder(2, "b", T0 + 600 * MS)])]);
    let window = only(meter.finish());
    assert_eq!((usage(&window, "b").held_ns, window.idle_ns), (400_000_000, 600_000_000));
}

#[test]
fn a_process_of_unknown_start_holds_the_whole_interval_and_nobody_vouches_for_it() {
    let unowned =
        Holder { pid: 9, owner: Arc::default(), started_ns: None, memory_bytes: None, inferred: false };
    let mut meter = started(reading(&[]));
    meter.observe(at(T0 + S), vec![reading(&[unowned])]);
    let window = only(meter.finish());
    let usage = window.usages[&(None, Arc::default())];
    assert_eq!((usage.held_ns, usage.method), (1_000_000_000, 0));
}

#[test]
fn a_missing_device_an_interval_too_long_and_a_jump_are_unobserved() {
    let here = || vec![reading(&[])];
    let mut meter = started(reading(&[]));
    meter.observe(at(T0 + S), here());
    assert_eq!(only(meter.observe(at(T0 + 2 * S), vec![])).duration_ns, 1_000_000_000);
    assert!(meter.observe(at(T0 + 3 * S), here()).is_empty());
    let closed = only(meter.observe(at(T0 + 5 * S + 1), here()));
    assert_eq!((closed.start_ns, closed.duration_ns), (T0 + 2 * S, 1_000_000_000));
    meter.observe(Tick { continuous: false, ..at(T0 + 6 * S) }, here());
    assert_eq!(meter.unobserved_ns()["GPU-a"], 1_000_000_000 + 2_000_000_001 + 999_999_999);
    meter.observe(at(T0 + 8 * S), here());
    assert_eq!(only(meter.finish()).duration_ns, 2_000_000_000, "twice the period is still covered");
}

#[test]
fn time_that_stands_still_covers_nothing_and_leaves_the_window_open() {
    let mut meter = started(reading(&[]));
    meter.observe(at(T0 + S), vec![reading(&[])]);
    let overlap_ns = 1_000_000_000;
    assert!(meter.observe(Tick { overlap_ns, ..at(T0 + S) }, vec![reading(&[])]).is_empty());
    assert!(meter.observe(Tick { overlap_ns, ..at(T0 + S) }, vec![]).is_empty());
    meter.observe(at(T0 + 2 * S), vec![reading(&[])]);
    assert_eq!(only(meter.finish()).duration_ns, 2_000_000_000);
    assert_eq!(meter.unobserved_ns()["GPU-a"], 0);
}

#[test]
fn a_new_epoch_closes_what_the_old_one_measured() {
    let mut meter = started(reading(&[]));
    meter.observe(at(T0 + S), vec![reading(&[])]);
    let anew = Tick { continuous: false, new_epoch: true, ..at(T0 - 100 * S) };
    assert_eq!(only(meter.observe(anew, vec![reading(&[])])).start_ns, T0);
    meter.observe(at(T0 - 99 * S), vec![reading(&[])]);
    assert_eq!(only(meter.finish()).start_ns, T0 - 100 * S);
}

#[test]
fn use_beyond_held_time_is_scaled_and_use_of_nobody_is_unattributed() {
    let with = |samples: &[UtilisationSample]| Observation {
        utilisation: Some(samples.to_vec()),
        ..reading(&[holder(1, "a", T0), holder(2, "b", T0)])
    };
    let mut meter = started(with(&[used(1, T0, 50), used(2, T0, 50), used(7, T0, 1)]));
    let later = T0 + 500 * MS;
    meter.observe(at(T0 + S), vec![with(&[used(2, later, 80), used(1, T0 + S, 80), used(7, later, 10)])]);
    let window = only(meter.finish());
    let (a, b) = (usage(&window, "a"), usage(&window, "b"));
    assert_eq!((a.busy_ns, a.method & method::BUSY_SCALED), (500_000_000, method::BUSY_SCALED));
    assert_eq!((b.busy_ns, b.method & method::BUSY_SCALED), (400_000_000, 0));
    assert_eq!(b.method & method::BUSY_PROCESS, method::BUSY_PROCESS);
    assert_eq!(window.busy_unattributed_ns, 50_000_000);
}

#[test]
fn energy_goes_by_use_else_by_holding_with_idle_to_idle() {
    let with = |energy_mj: u64, samples: &[UtilisationSample]| Observation {
        energy_mj: Some(energy_mj),
        utilisation: Some(samples.to_vec()),
        ..reading(&[holder(1, "a", T0), holder(2, "b", T0)])
    };
    let mut meter = started(with(100, &[used(1, T0, 0)]));
    meter.observe(at(T0 + S), vec![with(200, &[used(1, T0 + S, 30)])]);
    let window = only(meter.finish());
    assert_eq!((usage(&window, "a").energy_uj, usage(&window, "b").energy_uj), (100_000, 0));
    meter.observe(at(T0 + 2 * S), vec![with(201, &[])]);
    let window = only(meter.finish());
    assert_eq!((usage(&window, "a").energy_uj, usage(&window, "b").energy_uj), (500, 500));
    assert_eq!(usage(&window, "b").method & method::ENERGY_BY_HELD, method::ENERGY_BY_HELD);
    let fresh = Observation { holders: vec![holder(3, "c", T0 + 2_750 * MS)], ..with(205, &[]) };
    meter.observe(at(T0 + 3 * S), vec![fresh]);
    let window = only(meter.finish());
    assert_eq!((usage(&window, "c").energy_uj, window.energy_idle_uj), (1_000, 3_000));
}

#[test]
fn a_counter_that_jumps_by_more_than_any_device_draws_says_nothing() {
    let with = |energy_mj: u64| vec![Observation { energy_mj: Some(energy_mj), ..reading(&[]) }];
    let mut meter = started(with(100).remove(0));
    meter.observe(at(T0 + S), with(u64::MAX / 2));
    meter.observe(at(T0 + 2 * S), with(u64::MAX / 2 + 700_000));
    assert_eq!(only(meter.finish()).energy_idle_uj, 700_000_000);
}

#[test]
fn energy_across_a_gap_is_unobserved_and_a_counter_that_went_down_says_nothing() {
    let with = |energy_mj: u64| vec![Observation { energy_mj: Some(energy_mj), ..reading(&[]) }];
    let mut meter = started(with(100).remove(0));
    meter.observe(at(T0 + S), vec![]);
    meter.observe(at(T0 + 2 * S), with(107));
    meter.observe(at(T0 + 3 * S), with(110));
    meter.observe(at(T0 + 4 * S), with(2));
    let window = only(meter.finish());
    assert_eq!((window.energy_unobserved_uj, window.energy_idle_uj), (7_000, 3_000));
}

#[test]
fn a_counter_that_jumps_across_a_gap_by_more_than_any_device_draws_in_it_was_reset() {
    let with = |energy_mj: u64| vec![Observation { energy_mj: Some(energy_mj), ..reading(&[]) }];
    // 100 kW for two seconds, and a millijoule more.
    for (energy_mj, unobserved_uj) in [(200_000_000, 200_000_000_000), (200_000_001, 0), (u64::MAX, 0)] {
        let mut meter = started(with(0).remove(0));
        meter.observe(at(T0 + S), vec![]);
        meter.observe(at(T0 + 2 * S), with(energy_mj));
        meter.observe(at(T0 + 3 * S), with(energy_mj.saturating_add(3)));
        let window = only(meter.finish());
        assert_eq!(window.energy_unobserved_uj, unobserved_uj, "{energy_mj}");
        assert!(window.energy_idle_uj <= 3_000, "it goes on from there");
    }
    // A clock that was set back hides what time has passed.
    let mut meter = started(with(0).remove(0));
    meter.observe(Tick { continuous: false, new_epoch: true, ..at(T0 - 100 * S) }, with(900_000));
    meter.observe(at(T0 - 99 * S), with(900_000));
    assert_eq!(only(meter.finish()).energy_unobserved_uj, 900_000_000);
}

#[test]
fn memory_is_summed_over_an_owners_processes_and_rounded_once_per_window() {
    let with_memory = |pid, bytes| Holder { memory_bytes: Some(bytes), ..holder(pid, "a", T0) };
    let first = reading(&[with_memory(1, 1), with_memory(2, 2)]);
    let mut meter = started(first.clone());
    for n in 1..=3 {
        meter.observe(at(T0 + n * 250 * MS), vec![first.clone()]);
    }
    let usage = usage(&only(meter.finish()), "a");
    assert_eq!(usage.memory_byte_seconds, 2, "3 bytes for 0.75 s");
    assert_eq!(usage.method & method::MEMORY_PROCESS, method::MEMORY_PROCESS);
}

#[test]
fn an_interval_over_a_cells_edge_is_parted_there() {
    let first = Observation { energy_mj: Some(0), ..reading(&[holder(1, "a", T0)]) };
    let mut meter = Meter::new(S);
    meter.observe(at(T0 - 400 * MS), vec![first.clone()]);
    let second = Observation { energy_mj: Some(1), ..first };
    let before = only(meter.observe(at(T0 + 600 * MS), vec![second]));
    let after = only(meter.finish());
    assert_eq!([before.duration_ns, after.duration_ns], [400_000_000, 600_000_000]);
    assert_eq!([usage(&before, "a").energy_uj, usage(&after, "a").energy_uj], [400, 600]);
}

#[test]
fn more_owners_than_a_window_may_name_become_one_that_is_unowned() {
    let holders: Vec<Holder> = (0..600).map(|pid| holder(pid, &format!("{pid:03}"), T0)).collect();
    let mut meter = started(reading(&holders));
    meter.observe(at(T0 + S), vec![reading(&holders)]);
    let window = only(meter.finish());
    assert_eq!(window.usages.len(), 512);
    assert!(window.usages.contains_key(&(None, Arc::default())));
    let others: Vec<Holder> = (0..600).map(|pid| holder(pid, &format!("x{pid:03}"), T0)).collect();
    let mut meter = started(reading(&holders));
    meter.observe(at(T0 + S), vec![reading(&holders)]);
    let first = only(meter.observe(at(T0 + 2 * S), vec![reading(&others)]));
    let second = only(meter.finish());
    assert_eq!(first.start_ns + S, second.start_ns, "churn closes a window early");
}

#[test]
fn what_a_driver_reports_of_long_gone_processes_stays_within_what_the_ledger_takes() {
    let mut meter = started(reading(&[]));
    let samples = (1..=1_000).map(|pid| used(pid, T0 + S, 100)).collect();
    meter.observe(at(T0 + S), vec![Observation { utilisation: Some(samples), ..reading(&[]) }]);
    let window = only(meter.finish());
    let most_ns = window.duration_ns * tonnage_proto::limits::UNATTRIBUTED_FACTOR_MAX;
    assert_eq!(window.busy_unattributed_ns, most_ns);
}
