//! GPUs that are cut into MIG instances, and what devices say of themselves: the real agent over the simulated driver,
//! by what its metrics show and what it asked the driver.

#![allow(clippy::float_cmp, reason = "counts, flags and ratios of small numbers, which floats hold exactly")]

use std::collections::{BTreeMap, BTreeSet};

use harness::http::{Scrape, Series};
use harness::scenario::{self, Whose};
use harness::world::{DEADLINE, World};
use nvidia_ml::scenario::{Device, MigDevice, Process, RemappedRows, Scenario, Signals, Vgpu, Xid};
use nvidia_ml::served::SHUTDOWN;

use crate::books::Books;

const SLICES: &str = "tonnage_gpu_mig_slices";
const USED: &str = "tonnage_gpu_mig_utilization_ratio";
const GIB: u64 = 1 << 30;

fn part(uuid: &str, profile: &str, gpu_instance: u32, compute_instance: u32) -> MigDevice {
    MigDevice {
        uuid: uuid.to_owned(),
        profile: Some(profile.to_owned()),
        gpu_instance,
        compute_instance,
        ..MigDevice::default()
    }
}

fn cut(gpu: u32, model: &str, gib: u64, parts: Vec<MigDevice>) -> Device {
    Device { model: model.to_owned(), memory_bytes: gib * GIB, mig: Some(parts), ..scenario::device(gpu) }
}

/// A process on a MIG device of a GPU.
fn on(gpu: u32, instance: &str, pid: u32, percent: u32) -> Process {
    let whose: Whose = scenario::unit(&format!("job-{pid}.service"));
    Process {
        instance: Some(instance.to_owned()),
        utilisation: vec![(0.0, percent)],
        ..scenario::process(pid, &whose, &[gpu], 0.0)
    }
}

fn node(scenario: Scenario, args: &[&str]) -> anyhow::Result<World> {
    let mut world = World::new(1)?;
    let at = world.add_node("n", scenario)?;
    world.nodes[at].extra_args = args.iter().map(|arg| (*arg).to_owned()).collect();
    world.start()?;
    Ok(world)
}

fn scrape(world: &World) -> anyhow::Result<Scrape> {
    world.nodes[0].metrics()
}

/// The values of a family, by one of its labels.
fn by(scrape: &Scrape, name: &str, key: &str) -> BTreeMap<String, f64> {
    let of = |(labels, value): &Series| (labels.get(key).cloned().unwrap_or_default(), *value);
    scrape.series(name).iter().map(of).collect()
}

#[test]
fn instances_of_every_model_have_the_profiles_slices_and_use_that_its_driver_tells() -> anyhow::Result<()> {
    let ones = (0..7).map(|n| part(&format!("MIG-b{n}"), "1g.23gb", 7 + n, 0)).collect();
    let scenario = Scenario {
        device: vec![
            cut(0, "NVIDIA A30", 24, vec![part("MIG-x", "2g.12gb", 1, 0), part("MIG-y", "1g.6gb", 3, 0)]),
            cut(
                1,
                "NVIDIA A100-SXM4-40GB",
                40,
                vec![part("MIG-a1", "3g.20gb", 1, 0), part("MIG-a2", "3g.20gb", 2, 0)],
            ),
            cut(
                2,
                "NVIDIA H100 80GB HBM3",
                80,
                vec![
                    part("MIG-h1", "1c.3g.40gb", 1, 0),
                    part("MIG-h2", "2c.3g.40gb", 1, 1),
                    part("MIG-h3", "4g.40gb", 2, 0),
                ],
            ),
            cut(3, "NVIDIA H200", 141, vec![part("MIG-w", "7g.141gb", 0, 0)]),
            cut(4, "NVIDIA B200", 180, ones),
        ],
        process: vec![
            on(0, "MIG-x", 1, 60),
            on(1, "MIG-a1", 2, 60),
            on(2, "MIG-h1", 3, 60),
            on(3, "MIG-w", 4, 60),
            on(4, "MIG-b0", 5, 60),
        ],
        ..Scenario::empty()
    };
    let mut world = node(scenario, &[])?;
    world.live(31)?;
    let scrape = scrape(&world)?;
    let mut expected = BTreeMap::from(
        [("2g.12gb", 2.0), ("1g.6gb", 1.0), ("3g.20gb", 3.0), ("1c.3g.40gb", 1.0), ("2c.3g.40gb", 2.0)]
            .map(|(profile, slices)| (profile.to_owned(), slices)),
    );
    expected.extend(
        [("4g.40gb", 4.0), ("7g.141gb", 7.0), ("1g.23gb", 1.0)].map(|(of, slices)| (of.to_owned(), slices)),
    );
    assert_eq!(by(&scrape, SLICES, "mig_profile"), expected);
    assert_eq!(scrape.series(SLICES).len(), 2 + 2 + 3 + 1 + 7);
    // Before Hopper nobody says. One slice of three that works is a fifth of its GPU instance.
    let mut used = by(&scrape, USED, "mig");
    used.retain(|mig, _| !mig.starts_with("MIG-b") || mig == "MIG-b0" || mig == "MIG-b1");
    let expected =
        [("MIG-b0", 0.6), ("MIG-b1", 0.0), ("MIG-h1", 0.2), ("MIG-h2", 0.2), ("MIG-h3", 0.0), ("MIG-w", 0.6)];
    assert_eq!(used, expected.map(|(mig, used)| (mig.to_owned(), used)).into());
    // Of two 3g on a GPU of seven the last slice has no memory left; all others are full, or have room for one more.
    let stranded = by(&scrape, "tonnage_gpu_stranded_seconds_total", "gpu");
    let sevenths = |gpu| (stranded[&scenario::uuid(gpu)] * 7.0).round();
    assert!([20.0, 30.0].contains(&sevenths(1)), "{stranded:?}");
    assert_eq!([0, 2, 3, 4].map(sevenths), [0.0; 4], "{stranded:?}");
    let log = std::fs::read_to_string(world.nodes[0].log())?;
    assert!(log.contains("no utilisation of instances (GPM): the GPU has none"), "{log}");
    assert!(!log.contains("compute slices by the driver"), "{log}");
    world.nodes[0].stop(DEADLINE)?;
    let served = world.nodes[0].served()?;
    let end = served.iter().rev().find(|record| record.call == SHUTDOWN).expect("it was shut down");
    assert_eq!(end.unfreed, Some((0, 0)), "GPM samples and event sets that were not freed");
    Ok(())
}

#[test]
fn a_gpu_that_is_cut_anew_shows_its_new_instances_with_the_next_sample_though_they_have_the_old_ids()
-> anyhow::Result<()> {
    let old = MigDevice { to_s: Some(12.5), ..part("MIG-1", "3g.40gb", 1, 0) };
    let new = MigDevice { from_s: Some(12.5), ..part("MIG-1", "2g.20gb", 1, 0) };
    let mut scenario = scenario::node(1);
    scenario.device[0].mig = Some(vec![old, new]);
    let xid = |at_s, code, instance: Option<&str>| Xid { at_s, code, instance: instance.map(str::to_owned) };
    scenario.device[0].xid = vec![
        xid(5.0, 94, None),
        xid(5.1, 94, None),
        xid(6.0, 31, Some("MIG-1")),
        xid(14.0, 13, Some("MIG-1")),
    ];
    let mut world = node(scenario, &[])?;
    world.live(12)?;
    assert_eq!(by(&scrape(&world)?, SLICES, "mig_profile"), [("3g.40gb".to_owned(), 3.0)].into());
    world.live(1)?;
    assert_eq!(by(&scrape(&world)?, SLICES, "mig_profile"), [("2g.20gb".to_owned(), 2.0)].into());
    world.live(3)?;
    let scrape = scrape(&world)?;
    let of =
        |(labels, count): &Series| (labels["xid"].clone(), labels.get("mig").cloned(), count.to_string());
    let xids: BTreeSet<_> = scrape.series("tonnage_gpu_xid_errors_total").iter().map(of).collect();
    let mig = Some("MIG-1".to_owned());
    let expected = [("94", None, "2"), ("31", mig.clone(), "1"), ("13", mig, "1")];
    let expected = expected.map(|(xid, mig, count)| (xid.to_owned(), mig, count.to_owned()));
    assert_eq!(xids, expected.into());
    Ok(())
}

#[test]
fn ids_that_were_free_while_the_agent_was_restarted_go_to_a_life_of_their_own() -> anyhow::Result<()> {
    let until = |to_s, uuid| MigDevice { to_s: Some(to_s), ..part(uuid, "3g.40gb", 1, 0) };
    let mut scenario = scenario::node(1);
    let last = MigDevice { from_s: Some(40.5), ..part("MIG-3", "3g.40gb", 1, 0) };
    let second = MigDevice { from_s: Some(8.5), ..until(14.5, "MIG-2") };
    let beside = part("MIG-9", "1g.10gb", 7, 0);
    scenario.device[0].mig = Some(vec![until(8.5, "MIG-1"), second, last, beside]);
    let mut world = node(scenario, &[])?;
    world.live(20)?;
    for _ in 0..2 {
        world.nodes[0].stop(DEADLINE)?;
        world.start()?;
        world.live(10)?;
    }
    world.live(10)?;
    world.nodes[0].stop(DEADLINE)?;
    let batches =
        Books::read(&world.aggregator.data_dir())?.entries.into_iter().filter_map(|entry| entry.batch);
    let lives: BTreeSet<_> = batches
        .flat_map(|batch| batch.instances)
        .map(|of| (of.gpu_instance, of.generation, of.uuid))
        .collect();
    let expected = [(1, 0, "MIG-1"), (1, 1, "MIG-2"), (1, 2, "MIG-3"), (7, 0, "MIG-9")];
    assert_eq!(lives, expected.map(|(ids, life, uuid)| (ids, life, uuid.to_owned())).into());
    Ok(())
}

#[test]
fn without_events_a_gpu_that_is_cut_anew_is_seen_within_five_samples() -> anyhow::Result<()> {
    let old = MigDevice { to_s: Some(12.5), ..part("MIG-1", "3g.40gb", 1, 0) };
    let new = MigDevice { from_s: Some(12.5), ..part("MIG-2", "2g.20gb", 1, 0) };
    let mut scenario = scenario::node(1);
    scenario.device[0].mig = Some(vec![old, new]);
    scenario.device[0].signals.events = false;
    let mut world = node(scenario, &[])?;
    world.live(18)?;
    assert_eq!(by(&scrape(&world)?, SLICES, "mig"), [("MIG-2".to_owned(), 2.0)].into());
    Ok(())
}

#[test]
fn mig_that_is_switched_on_and_off_is_seen_with_the_next_sample() -> anyhow::Result<()> {
    let mut scenario = scenario::node(1);
    scenario.device[0].mig = Some(vec![part("MIG-1", "3g.40gb", 1, 0)]);
    (scenario.device[0].mig_from_s, scenario.device[0].mig_to_s) = (Some(4.5), Some(8.5));
    let xid = |at_s| Xid { at_s, code: 79, instance: None };
    scenario.device[0].xid = vec![xid(2.5), xid(4.4), xid(8.4)];
    let mut world = node(scenario, &[])?;
    let instances = |world: &World| Ok::<_, anyhow::Error>(scrape(world)?.series(SLICES).len());
    world.live(4)?;
    assert_eq!(instances(&world)?, 0);
    world.live(1)?;
    assert_eq!(instances(&world)?, 1);
    world.live(4)?;
    assert_eq!(instances(&world)?, 0);
    assert_eq!(scrape(&world)?.sum("tonnage_gpu_xid_errors_total"), Some(3.0), "none is lost in a switch");
    Ok(())
}

/// Seven idle 1g instances on each of eight GPUs, and what the driver was asked in so many seconds.
fn calls_when_idle(seconds: u32, privileged: bool) -> anyhow::Result<BTreeMap<String, u64>> {
    let ones = |gpu| (0..7).map(move |n| part(&format!("MIG-{gpu}-{n}"), "1g.10gb", 7 + n, 0)).collect();
    let mut scenario = scenario::node(8);
    for (device, gpu) in scenario.device.iter_mut().zip(0..) {
        device.mig = Some(ones(gpu));
    }
    scenario.privileged = privileged;
    let mut world = node(scenario, &[])?;
    world.live(seconds)?;
    world.nodes[0].stop(DEADLINE)?;
    let served = world.nodes[0].served()?;
    let end = served.iter().rev().find(|record| record.call == SHUTDOWN).expect("it was shut down");
    Ok(end.calls.clone().unwrap_or_default())
}

#[test]
fn a_tick_on_eight_gpus_of_seven_idle_instances_asks_little() -> anyhow::Result<()> {
    // The first reading comes before the first second, one more at the end.
    let (seconds, reads) = (38, 40);
    for privileged in [true, false] {
        let calls = calls_when_idle(seconds, privileged)?;
        let lists: u64 =
            calls.iter().filter(|(name, _)| name.contains("RunningProcesses")).map(|(_, n)| n).sum();
        let all: u64 = calls.values().sum();
        // Each instance and each GPU, three lists, and a handle.
        let naive = reads * (8 + 56) * 3;
        println!(
            "privileged {privileged}: {lists} lists of processes, {} % of {naive}; {} calls a tick in all",
            lists * 100 / naive,
            all / reads
        );
        assert!(lists * 2 < naive, "{lists} of {naive}: {calls:?}");
    }
    Ok(())
}

#[test]
fn processes_of_instances_are_found_with_and_without_privileges() -> anyhow::Result<()> {
    for privileged in [true, false] {
        let mut scenario = scenario::node(1);
        scenario.device[0].mig = Some(vec![part("MIG-1", "3g.40gb", 1, 0), part("MIG-2", "2g.20gb", 2, 0)]);
        scenario.process = vec![on(0, "MIG-1", 1, 50), on(0, "MIG-2", 2, 0)];
        scenario.privileged = privileged;
        let mut world = node(scenario, &[])?;
        world.live(6)?;
        assert_eq!(scrape(&world)?.sum("tonnage_gpu_holding_processes"), Some(2.0), "{privileged}");
        world.nodes[0].stop(DEADLINE)?;
        let by_handle = world.nodes[0].served()?.iter().any(|record| {
            record.mig.is_some() && record.processes.as_ref().is_some_and(|listed| !listed.is_empty())
        });
        assert_eq!(by_handle, !privileged, "one list is enough if it names the instances");
    }
    Ok(())
}

#[test]
fn signals_are_shown_with_their_source_and_slow_ones_only_if_they_are_asked_for() -> anyhow::Result<()> {
    for slow in [false, true] {
        let mut scenario = scenario::node(1);
        scenario.device[0].signals = Signals {
            clocks_event_reasons: vec![(0.0, 4 | 64)],
            ecc_corrected: vec![(0.0, 3)],
            ecc_uncorrected: vec![(0.0, 1)],
            ecc_before: 10,
            remapped_rows: Some(RemappedRows { uncorrectable: 2, pending: true, ..Default::default() }),
            accounting: true,
            nvlinks: 18,
            ..Signals::default()
        };
        scenario.device[0].vgpu = Some(vec![Vgpu {
            uuid: "vgpu-1".to_owned(),
            vm: "vm-1".to_owned(),
            kind: "NVIDIA H100-10C".to_owned(),
            memory_bytes: GIB,
            max_instances: Some(8),
            utilisation: Vec::new(),
            from_s: None,
            to_s: None,
        }]);
        scenario.process = vec![Process {
            utilisation: vec![(0.0, 50)],
            ..scenario::process(1, &scenario::unit("one.service"), &[0], 0.0)
        }];
        let args: &[&str] = if slow { &["--driver.slow-signals"] } else { &[] };
        let mut world = node(scenario, args)?;
        world.live(12)?;
        let scrape = scrape(&world)?;
        let sum = |name: &str| scrape.sum(&format!("tonnage_gpu_{name}"));
        assert_eq!(sum("sm_clock_hertz"), Some(1.98e9));
        assert_eq!(sum("memory_clock_hertz"), Some(2.619e9));
        let reasons = by(&scrape, "tonnage_gpu_clocks_event_active", "reason");
        let active: Vec<&str> =
            reasons.iter().filter(|(_, on)| **on == 1.0).map(|(reason, _)| reason.as_str()).collect();
        assert_eq!(active, ["hw_thermal_slowdown", "sw_power_cap"]);
        let ecc = by(&scrape, "tonnage_gpu_ecc_errors_total", "counter");
        assert_eq!(ecc.keys().collect::<Vec<_>>(), ["aggregate", "volatile"]);
        assert_eq!(sum("ecc_errors_total"), Some(3.0 + 1.0 + 13.0 + 11.0));
        let rows = by(&scrape, "tonnage_gpu_remapped_rows", "cause");
        assert_eq!(rows, [("correctable".to_owned(), 0.0), ("uncorrectable".to_owned(), 2.0)].into());
        assert_eq!((sum("remapped_rows_pending"), sum("remapped_rows_failed")), (Some(1.0), Some(0.0)));
        assert_eq!((sum("accounting_enabled"), sum("gpm_graphics_ratio")), (Some(1.0), Some(0.5)));
        assert_eq!(
            by(&scrape, "tonnage_gpu_vgpu_info", "type"),
            [("NVIDIA H100-10C".to_owned(), 1.0)].into()
        );
        assert_eq!(sum("vgpu_memory_used_bytes"), Some(GIB as f64));
        assert_eq!(sum("nvlinks_up"), slow.then_some(18.0));
        let pcie = slow.then_some(2.0 * 10_000_000.0 * 1024.0);
        assert_eq!(sum("pcie_bytes_per_second"), pcie);
        assert_eq!(sum("nvlink_bytes_total").is_some(), slow);
    }
    Ok(())
}

#[test]
fn check_shows_how_gpus_are_cut_and_what_they_tell() -> anyhow::Result<()> {
    let mut scenario = scenario::node(1);
    scenario.device[0].mig = Some(vec![part("MIG-1", "3g.40gb", 1, 0), part("MIG-2", "3g.40gb", 2, 0)]);
    scenario.process = vec![on(0, "MIG-1", 1, 50)];
    let world = node(scenario, &[])?;
    let output = world.nodes[0].command("check").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    for says in [
        "MIG: 3g.40gb + 3g.40gb, of 7 slices; 1 stranded",
        "privileged: one list",
        "MIG-1 3g.40gb, 3 of 7 slices: 1 processes",
        "the driver tells: memory, power, energy",
        "no ECC errors",
    ] {
        assert!(text.contains(says), "{says} is not in {text}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_is_not_shown() -> anyhow::Result<()> {
    let mut scenario = scenario::node(1);
    scenario.device[0].signals = Signals {
        sm_clock_mhz: 2_147_483_632,
        memory_clock_mhz: u32::MAX,
        ecc_corrected: vec![(0.0, u64::MAX)],
        remapped_rows: Some(RemappedRows { correctable: u32::MAX, ..RemappedRows::default() }),
        ..Signals::default()
    };
    scenario.faults.garbage_utilisation = true;
    scenario.process = vec![Process {
        utilisation: vec![(0.0, 50)],
        ..scenario::process(1, &scenario::unit("one.service"), &[0], 0.0)
    }];
    let mut world = node(scenario, &[])?;
    world.live(12)?;
    let scrape = scrape(&world)?;
    for name in ["sm_clock_hertz", "memory_clock_hertz", "remapped_rows", "remapped_rows_pending"] {
        assert_eq!(scrape.sum(&format!("tonnage_gpu_{name}")), None, "{name}");
    }
    let ecc = by(&scrape, "tonnage_gpu_ecc_errors_total", "error");
    assert_eq!(ecc, [("uncorrected".to_owned(), 0.0)].into());
    let busy = scrape.sum("tonnage_gpu_busy_seconds_total");
    assert!(busy.is_some_and(|busy| busy <= 12.0), "{busy:?}");
    Ok(())
}
