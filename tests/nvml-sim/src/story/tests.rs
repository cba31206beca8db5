use super::*;

const S: i64 = 1_000_000_000;
/// Wall time of scenario second 0.
const EPOCH: i64 = 1_800_000_000 * S;

fn story(processes: &str) -> Story {
    let text = format!(
        "epoch_ns = {EPOCH}\n\
         [[device]]\nuuid = 'GPU-a'\nmodel = 'H200'\nmemory_bytes = 1000\nminor = 0\n\
         pci_bus_id = '00000000:3B:00.0'\nidle_mw = 100000\nbusy_mw = 700000\n{processes}"
    );
    Story::new(Scenario::parse(&text).unwrap(), 0)
}

fn one(fields: &str) -> Story {
    story(&format!("[[process]]\npid = 10\ndevices = ['GPU-a']\n{fields}"))
}

#[test]
fn a_process_is_there_at_its_start_and_gone_at_its_end() {
    let story = one("start_s = 5\nend_s = 7\nmemory_bytes = 400");
    let pids = |at| story.processes(0, List::Compute, EPOCH + at);
    assert_eq!(pids(5 * S - 1), []);
    assert_eq!(pids(5 * S), [(10, 400)]);
    assert_eq!(pids(7 * S - 1), [(10, 400)]);
    assert_eq!(pids(7 * S), []);
}

#[test]
fn a_process_that_repeats_comes_again_with_a_new_start() {
    let story = one("start_s = 5\nend_s = 7\nrepeat_s = 10");
    let start = |at| story.live(EPOCH + at).next().map(|(_, started_ns)| started_ns - EPOCH);
    assert_eq!(start(6 * S), Some(5 * S));
    assert_eq!(start(9 * S), None);
    assert_eq!(start(16 * S), Some(15 * S));
    assert_eq!(start(1_000_006 * S), Some(1_000_005 * S));
}

#[test]
fn the_next_change_is_the_next_start_or_end() {
    let story = one("start_s = 5\nend_s = 7\nrepeat_s = 10");
    let next = |at| story.next_change_ns(EPOCH + at * S) - EPOCH;
    assert_eq!([0, 5, 6, 7, 14, 15, 17].map(next), [5, 7, 7, 15, 15, 17, 25].map(|at| at * S));
    assert_eq!(one("start_s = 5").next_change_ns(EPOCH + 6 * S), i64::MAX);
}

#[test]
fn speed_brings_things_forward_and_leaves_time_stamps_alone() {
    let text = "epoch_ns = 0\nspeed = 10\n[[process]]\npid = 1\nstart_s = 5\nend_s = 7";
    let story = Story::new(Scenario::parse(text).unwrap(), 0);
    let start = |at| story.live(at).next().map(|(_, started_ns)| started_ns);
    assert_eq!(start(S / 2 - 1), None);
    assert_eq!(start(S / 2), Some(S / 2));
    assert_eq!(start(7 * S / 10), None);
}

#[test]
fn energy_is_the_exact_integral_of_power() {
    // 100 W idle; 600 W more at 100 percent: 50 percent for 2 s, 100 percent for 1 s, each 10 s.
    let story =
        one("start_s = 1\nend_s = 5\nrepeat_s = 10\nutilisation = [[1, 50], [3, 100]]\nmemory_bytes = 1");
    let energy = |at| story.energy_mj(0, EPOCH + at);
    assert_eq!(energy(-S), 0);
    assert_eq!(energy(2 * S), 200_000);
    assert_eq!(energy(3 * S), 300_000 + 300_000);
    assert_eq!(energy(10 * S), 1_000_000 + 600_000 + 600_000);
    assert_eq!(energy(1_000 * S), 100 * 2_200_000);
    assert_eq!(story.power_mw(0, EPOCH + 2 * S), 400_000);
}

#[test]
fn energy_never_goes_down() {
    let story = one("start_s = 0.3\nend_s = 0.9\nrepeat_s = 1.1\nutilisation = [[0, 33]]");
    let mut last = 0;
    for at in (0..20 * S).step_by(37_000_001) {
        let energy_mj = story.energy_mj(0, EPOCH + at);
        assert!(energy_mj >= last, "{energy_mj} < {last} at {at}");
        last = energy_mj;
    }
}

#[test]
fn a_sample_has_the_percent_of_its_own_time() {
    let story = one("start_s = 0\nutilisation = [[0, 10], [2, 90]]");
    for at in (S..5 * S).step_by(100_000_000) {
        for sample in story.samples(0, 0, EPOCH + at) {
            let sampled_ns = i64::try_from(sample.timestamp_us).unwrap() * 1_000 - EPOCH;
            assert!(sampled_ns <= at && at - sampled_ns < S);
            assert_eq!(sample.percent, if sampled_ns < 2 * S { 10 } else { 90 });
        }
    }
}

#[test]
fn nothing_newer_than_what_was_seen_is_nothing() {
    let story = one("start_s = 0\nutilisation = [[0, 10]]");
    let sample = story.samples(0, 0, EPOCH + 5 * S)[0];
    assert_eq!(story.samples(0, sample.timestamp_us, EPOCH + 5 * S), []);
    assert_eq!(story.samples(0, sample.timestamp_us - 1, EPOCH + 5 * S), [sample]);
}

#[test]
fn an_idle_process_has_no_sample_and_a_lagging_one_an_old_one() {
    let story = story(
        "[[process]]\npid = 10\ndevices = ['GPU-a']\nstart_s = 0\n\
         [[process]]\npid = 11\ndevices = ['GPU-a']\nstart_s = 0\nutilisation = [[0, 5]]\n\
         [[process]]\npid = 12\ndevices = ['GPU-a']\nstart_s = 0\nutilisation = [[0, 5]]\nlag_us = 9000000",
    );
    let samples = story.samples(0, 0, EPOCH + 20 * S);
    assert_eq!(samples.iter().map(|sample| sample.pid).collect::<Vec<_>>(), [11, 12]);
    assert!(samples[0].timestamp_us - samples[1].timestamp_us > 8_000_000);
}

#[test]
fn the_use_of_one_that_has_just_died_is_still_reported() {
    let story = one("start_s = 0\nend_s = 5\nutilisation = [[0, 10]]");
    let samples = story.samples(0, 0, EPOCH + 6 * S);
    assert_eq!(samples.len(), 1);
    assert_eq!(story.processes(0, List::Compute, EPOCH + 6 * S), []);
}

#[test]
fn garbage_comes_around_the_truth() {
    let mut scenario = one("start_s = 0\nutilisation = [[0, 10]]").scenario;
    scenario.faults.garbage_utilisation = true;
    let samples = Story::new(scenario, 0).samples(0, 0, EPOCH + 5 * S);
    assert!(samples.iter().any(|sample| sample.percent == 2_147_483_632));
    assert!(samples.iter().any(|sample| sample.percent == 101));
    assert!(samples.iter().any(|sample| sample.timestamp_us < 1_800_000_000_000_000), "none from the past");
    let true_ones: Vec<_> = samples.iter().filter(|sample| sample.percent == 10).collect();
    assert_eq!(true_ones[1], true_ones[2], "no duplicate");
    assert_eq!(true_ones[1].timestamp_us - true_ones[0].timestamp_us, 1_000_000, "no stale one");
}

#[test]
fn a_missing_device_is_not_enumerated() {
    let mut scenario = one("start_s = 0").scenario;
    scenario.device[0].missing_from_s = Some(2.0);
    scenario.device[0].missing_to_s = Some(3.0);
    let story = Story::new(scenario, 0);
    let count = |at| story.present(EPOCH + at).count();
    assert_eq!([count(S), count(2 * S), count(3 * S)], [1, 0, 1]);
}

#[test]
fn a_mig_device_draws_power_by_its_slices() {
    let mut scenario = one("start_s = 0\nutilisation = [[0, 100]]").scenario;
    scenario.process[0].instance = Some("MIG-1".to_owned());
    scenario.device[0].mig = Some(vec![scenario::MigDevice {
        uuid: "MIG-1".to_owned(),
        profile_slices: 1,
        gpu_instance: 9,
        ..Default::default()
    }]);
    let story = Story::new(scenario, 0);
    // 100 W idle, and a seventh of 600 W.
    assert_eq!(story.energy_mj(0, EPOCH + 7 * S), 700_000 + 600_000);
    assert_eq!(story.used_percent_ns(0, Some(9), EPOCH + S), 100 * i128::from(S));
    assert_eq!(story.used_percent_ns(0, Some(8), EPOCH + S), 0);
}

#[test]
fn faults_begin_and_end_when_they_should_and_concern_whom_they_should() {
    let story = story(
        "[faults]\ndriver_version = [[30, '590.1']]\n\
         [[faults.hang]]\ncalls = ['a']\nfrom_s = 5\nto_s = 7\n\
         [[faults.refuse]]\nfrom_s = 10\nto_s = 12\nwith = 'driver_not_loaded'\ncalls = ['a']\n\
         [[faults.refuse]]\nfrom_s = 10\nto_s = 12\nwith = 'unknown'\n\
         [[faults.refuse]]\nfrom_s = 20\nwith = 'reset_required'\ndevices = ['GPU-a']\n\
         [[faults.garbage]]\nfrom_s = 3\nto_s = 4\nwhat = ['energy', 'text']\n",
    );
    let at = |seconds: i64| EPOCH + seconds * S;
    let hangs = |call, now_ns| story.hangs(call, now_ns);
    assert_eq!(
        [hangs("a", at(5) - 1), hangs("a", at(5)), hangs("a", at(7)), hangs("b", at(5))],
        [false, true, false, false]
    );
    assert_eq!(story.refuses("a", None, at(10)), Some(crate::Refusal::DriverNotLoaded));
    assert_eq!(story.refuses("b", None, at(10)), Some(crate::Refusal::Unknown));
    assert_eq!(story.refuses("b", None, at(12)), None);
    assert_eq!(story.refuses("b", None, at(20)), None, "only about that device");
    assert_eq!(story.refuses("b", Some("GPU-a"), at(20_000)), Some(crate::Refusal::ResetRequired));
    assert!(story.talks(Nonsense::Text, at(3)) && !story.talks(Nonsense::Pids, at(3)));
    assert!(!story.talks(Nonsense::Text, at(4)));
    assert_eq!((story.driver_version(at(29)), story.driver_version(at(30))), ("580.95.05", "590.1"));
}
