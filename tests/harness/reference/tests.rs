//! Examples worked by hand. One device, ticks every second; times are seconds after the scenario's epoch.

use nvidia_ml::scenario::Process;
use tonnage_runtime::clock::Reading;

use super::*;
use crate::scenario;
use crate::sim_clock::BEGIN_NS;

const S: i64 = 1_000_000_000;

fn scenario(processes: Vec<Process>) -> Scenario {
    Scenario { epoch_ns: Some(BEGIN_NS), process: processes, ..scenario::node(1) }
}

fn process(pid: u32, owner: &str, start_s: f64, end_s: f64) -> Process {
    let whose = scenario::Whose { owner: owner.to_owned(), ..scenario::unit("x.service") };
    Process { end_s: Some(end_s), ..scenario::process(pid, &whose, &[0], start_s) }
}

fn record(at_ns: i64, call: &str, ret: u32) -> Record {
    let now = Reading { wall_ns: BEGIN_NS + at_ns, monotonic_ns: at_ns, ..Reading::default() };
    Record::new(now, call, ret)
}

/// The same, with the wall clock set by so much.
fn off(by_ns: i64, record: Record) -> Record {
    Record { wall_ns: record.wall_ns + by_ns, ..record }
}

fn init(at_ns: i64) -> Record {
    init_by(1, at_ns)
}

fn init_by(pid: u32, at_ns: i64) -> Record {
    Record { pid: Some(pid), boot_ns: Some(at_ns + 3_600 * S), ..record(at_ns, INIT, 0) }
}

fn list(at_ns: i64, pids: &[u32]) -> Record {
    let processes = Some(pids.iter().map(|pid| (*pid, 0)).collect());
    Record { device: Some(scenario::uuid(0)), processes, ..record(at_ns, COMPUTE, 0) }
}

fn unreadable(at_ns: i64) -> Record {
    Record { device: Some(scenario::uuid(0)), ..record(at_ns, COMPUTE, 999) }
}

fn judged(log: &[Record], scenario: &Scenario) -> Sums {
    let pieces = pieces(log, scenario, S).unwrap();
    for piece in &pieces {
        assert_eq!(
            window_start(piece.start_ns),
            window_start(piece.end_ns - 1),
            "{piece:?} crosses the grid"
        );
    }
    sums(&pieces, &scenario::uuid(0), BEGIN_NS, BEGIN_NS + 1_000 * S)
}

fn expect(idle_ns: i64, held: &[(&str, i64)]) -> Sums {
    Sums { idle_ns, held_ns: held.iter().map(|(owner, ns)| ((*owner).to_owned(), *ns)).collect() }
}

#[test]
fn the_first_sample_of_a_run_covers_nothing() {
    let sums = judged(&[init(0), list(0, &[])], &scenario(vec![]));
    assert_eq!(sums, Sums::default());
}

#[test]
fn a_process_holds_from_its_start_told_in_ticks_of_10_ms() {
    let scenario = scenario(vec![process(1, "unit:a", 0.256, 9.0)]);
    let log = [init(0), list(0, &[]), list(S, &[1]), list(2 * S, &[1])];
    assert_eq!(judged(&log, &scenario), expect(250_000_000, &[("unit:a", 1_750_000_000)]));
}

#[test]
fn a_process_that_came_late_to_the_device_holds_all_of_the_interval() {
    // It lived before the interval, so what is not known to be later counts from the beginning.
    let scenario = scenario(vec![process(1, "unit:a", 0.0, 9.0)]);
    let log = [init(0), list(3 * S, &[]), list(4 * S, &[1])];
    assert_eq!(judged(&log, &scenario), expect(0, &[("unit:a", S)]));
}

#[test]
fn a_process_that_is_gone_at_the_reading_held_nothing_of_the_interval() {
    let scenario = scenario(vec![process(1, "unit:a", 0.0, 1.9)]);
    let log = [init(0), list(0, &[1]), list(S, &[1]), list(2 * S, &[])];
    assert_eq!(judged(&log, &scenario), expect(S, &[("unit:a", S)]));
}

#[test]
fn owners_split_a_piece_and_the_first_in_order_get_the_odd_nanoseconds() {
    let owners = ["slurm:1/0", "pod:b/c", "unit:z"];
    let processes = owners.iter().zip(1..).map(|(owner, pid)| process(pid, owner, 0.0, 9.0));
    let mut processes: Vec<_> = processes.collect();
    // A second process of one owner gets it no more.
    processes.push(process(4, "pod:b/c", 0.0, 9.0));
    let log = [init(0), list(0, &[1, 2, 3, 4]), list(S + 2 - 1, &[1, 2, 3, 4])];
    // 1,000,000,001 = 3 * 333,333,333 + 2: one more for the pod and one for the job.
    let third = 333_333_333;
    let expected = [("pod:b/c", third + 1), ("slurm:1/0", third + 1), ("unit:z", third)];
    assert_eq!(judged(&log, &scenario(processes)), expect(0, &expected));
}

#[test]
fn pieces_are_cut_at_the_window_grid_before_they_are_split() {
    let processes = vec![process(1, "unit:a", 0.0, 99.0), process(2, "unit:b", 0.0, 99.0)];
    // 9.5 s to 10.3 s and 1 ns: 500,000,000 before the edge and 300,000,001 after it.
    let log = [init(0), list(9_500_000_000, &[1, 2]), list(10_300_000_001, &[1, 2])];
    let scenario = scenario(processes);
    assert_eq!(judged(&log, &scenario), expect(0, &[("unit:a", 400_000_001), ("unit:b", 400_000_000)]));
    let all = pieces(&log, &scenario, S).unwrap();
    assert_eq!(sums(&all, &scenario::uuid(0), BEGIN_NS, BEGIN_NS + 10 * S).covered_ns(), 500_000_000);
}

#[test]
fn an_interval_over_twice_the_period_is_not_covered_and_one_of_twice_is() {
    let log = [init(0), list(0, &[]), list(2 * S, &[]), list(4 * S + 1, &[]), list(5 * S, &[])];
    assert_eq!(judged(&log, &scenario(vec![])), expect(2 * S + S - 1, &[]));
}

#[test]
fn another_process_that_loads_the_driver_ends_the_run_before() {
    let log = [init(0), list(0, &[]), list(S, &[]), init_by(2, S), list(2 * S, &[]), list(3 * S, &[])];
    assert_eq!(judged(&log, &scenario(vec![])), expect(2 * S, &[]));
}

#[test]
fn a_process_that_loads_the_driver_again_goes_on() {
    let log = [init(0), list(0, &[]), init(S), list(S, &[])];
    assert_eq!(judged(&log, &scenario(vec![])), expect(S, &[]));
}

#[test]
fn a_device_whose_list_could_not_be_read_is_not_covered_back_to_the_sample_before() {
    let log = [init(0), list(0, &[]), unreadable(S), list(2 * S, &[])];
    assert_eq!(judged(&log, &scenario(vec![])), expect(S, &[]));
}

#[test]
fn a_pid_used_again_is_another_holder_from_its_own_start() {
    let processes = vec![process(1, "unit:a", 0.0, 1.2), process(1, "unit:b", 1.5, 9.0)];
    let log = [init(0), list(0, &[1]), list(S, &[1]), list(2 * S, &[1])];
    let expected = [("unit:a", S), ("unit:b", 500_000_000)];
    assert_eq!(judged(&log, &scenario(processes)), expect(500_000_000, &expected));
}

#[test]
fn graphics_and_mps_processes_hold_too() {
    let scenario = scenario(vec![process(1, "unit:a", 0.0, 9.0)]);
    let graphics = |at| Record { call: LISTS[1].to_owned(), ..list(at, &[1]) };
    let refused = Record { device: Some(scenario::uuid(0)), ..record(S, LISTS[2], 13) };
    let log = [init(0), list(0, &[]), graphics(0), list(S, &[]), graphics(S), refused];
    assert_eq!(judged(&log, &scenario), expect(0, &[("unit:a", S)]));
}

#[test]
fn every_nanosecond_of_a_random_day_is_somebodys_or_idle() {
    for seed in 0..10 {
        let scenario = Scenario { epoch_ns: Some(BEGIN_NS), ..scenario::random(seed, 2, 60) };
        let story = Story::new(scenario.clone(), 0);
        let mut log = vec![init(0)];
        for at_ns in (0..=70 * S).step_by(1_000_000_000) {
            for device in 0..2_u32 {
                let processes =
                    story.processes(device as usize, nvidia_ml::scenario::List::Compute, BEGIN_NS + at_ns);
                let device = Some(scenario::uuid(device));
                log.push(Record { device, processes: Some(processes), ..record(at_ns, COMPUTE, 0) });
            }
        }
        let pieces = pieces(&log, &scenario, S).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        for device in 0..2 {
            let sums = sums(&pieces, &scenario::uuid(device), BEGIN_NS, BEGIN_NS + 70 * S);
            assert_eq!(sums.covered_ns(), 70 * S, "seed {seed}");
            assert!(sums.held_ns.len() > 1 && sums.idle_ns > 0, "seed {seed}: {sums:?}");
        }
    }
}

/// From one second before to three after a clock was set by `by_ns`, in whole stretches of the device's time.
fn around_a_step(by_ns: i64) -> Vec<(i64, i64)> {
    let after = (2..=4).map(|n| off(by_ns, list(n * S, &[])));
    let log: Vec<Record> = [init(0), list(0, &[]), list(S, &[])].into_iter().chain(after).collect();
    let pieces = pieces(&log, &scenario(vec![]), S).unwrap();
    pieces.iter().map(|piece| (piece.start_ns - BEGIN_NS, piece.end_ns - BEGIN_NS)).collect()
}

#[test]
fn a_clock_that_is_set_forward_leaves_a_gap() {
    assert_eq!(around_a_step(0), [(0, S), (S, 2 * S), (2 * S, 3 * S), (3 * S, 4 * S)]);
    assert_eq!(around_a_step(700_000_000)[..2], [(0, S), (2_700_000_000, 3_700_000_000)]);
}

#[test]
fn while_a_clock_is_behind_nothing_is_covered_and_then_it_goes_on_without_a_gap() {
    assert_eq!(around_a_step(-1_500_000_000), [(0, S), (S, 1_500_000_000), (1_500_000_000, 2_500_000_000)]);
    assert_eq!(around_a_step(-60 * S), [(0, S)]);
}

#[test]
fn a_clock_that_is_set_back_further_begins_again() {
    let begins_ns = 2 * S - 100 * S;
    // The grid's edges fall on whole tens of seconds.
    assert_eq!(
        around_a_step(-100 * S),
        [(0, S), (begins_ns, begins_ns + S), (begins_ns + S, begins_ns + 2 * S)]
    );
}
