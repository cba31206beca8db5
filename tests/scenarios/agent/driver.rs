//! A driver may lack functions, be absent, come late, or lose a GPU: time stays true, and what is not known says so.

use harness::reference;
use harness::scenario;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use nvidia_ml::scenario::{List, Process, Scenario};
use tonnage_aggregator::model::RowKind;
use tonnage_proto::limits::WINDOW_NS;
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::method;

use super::S;
use crate::books::Books;

const COMPUTE: &str = "nvmlDeviceGetComputeRunningProcesses_v3";
const GRAPHICS: &str = "nvmlDeviceGetGraphicsRunningProcesses_v3";
const MPS: &str = "nvmlDeviceGetMPSComputeRunningProcesses_v3";
const UTILISATION: &str = "nvmlDeviceGetProcessUtilization";
const ENERGY: &str = "nvmlDeviceGetTotalEnergyConsumption";
const ENERGY_BITS: u32 = method::ENERGY_BY_BUSY | method::ENERGY_BY_HELD;

/// Two GPUs: one busy with a unit, the other with what only the lists for graphics and for MPS show.
fn busy_node() -> Scenario {
    let mut scenario = scenario::node(2);
    let process = |pid, name: &str, gpu, list| Process {
        lists: vec![list],
        utilisation: vec![(0.0, 60)],
        ..scenario::process(pid, &scenario::unit(name), &[gpu], 2.0)
    };
    scenario.process = vec![
        process(1, "compute.service", 0, List::Compute),
        process(2, "graphics.service", 1, List::Graphics),
        process(3, "mps.service", 1, List::Mps),
    ];
    scenario
}

/// Every window of the ledger is what the reference says; all was accepted.
fn as_served(world: &mut World) -> anyhow::Result<Books> {
    let books = Books::read(&world.aggregator.data_dir())?;
    anyhow::ensure!(books.count(Outcome::Accepted) == books.entries.len(), "not all was accepted");
    let pieces = world.nodes[0].judge()?;
    for (device, windows) in books.folded()? {
        for window in windows {
            let expected = reference::sums(&pieces, &device, window.start_ns, window.end_ns);
            anyhow::ensure!(
                (&window.held_ns, window.idle_ns) == (&expected.held_ns, expected.idle_ns),
                "{device}: {window:?}, not {expected:?}"
            );
        }
    }
    Ok(books)
}

fn seconds(books: &Books, kind: RowKind, device: u32) -> i128 {
    books.time(kind, Some(&scenario::uuid(device))).values().sum::<i128>() / i128::from(S)
}

/// Runs a node for a minute with these functions out of order; gives the ledger and the bits of all methods.
fn minute_without(missing: &[&str], as_symbol: bool) -> anyhow::Result<(Books, u32)> {
    let mut world = World::new(1)?;
    let mut scenario = busy_node();
    let names = missing.iter().map(|name| (*name).to_owned()).collect();
    if as_symbol {
        scenario.faults.function_not_found = names;
    } else {
        scenario.faults.not_supported = names;
    }
    world.add_node("n", scenario)?;
    world.start()?;
    world.live(60)?;
    anyhow::ensure!(world.nodes[0].get("/readyz")?.0 == 200, "{missing:?} ended the metering");
    world.nodes[0].stop(DEADLINE)?;
    let books = as_served(&mut world)?;
    let bits = books.folded()?.values().flatten().fold(0, |bits, window| bits | window.method);
    Ok((books, bits))
}

#[test]
fn functions_that_the_driver_lacks_lower_the_method_and_end_nothing() -> anyhow::Result<()> {
    for as_symbol in [false, true] {
        let (books, bits) = minute_without(&[], as_symbol)?;
        assert!(bits & ENERGY_BITS != 0 && bits & method::BUSY_PROCESS != 0, "{bits:b}");
        assert_eq!((seconds(&books, RowKind::Held, 0), seconds(&books, RowKind::Held, 1)), (58, 58));

        let (books, bits) = minute_without(&[ENERGY], as_symbol)?;
        assert!(bits & ENERGY_BITS == 0 && bits & method::BUSY_PROCESS != 0, "{bits:b}");
        assert_eq!((seconds(&books, RowKind::Held, 0), seconds(&books, RowKind::Held, 1)), (58, 58));
        assert!(books.slots.values().all(|bucket| bucket.energy_uj == 0));

        let (books, bits) = minute_without(&[UTILISATION], as_symbol)?;
        assert!(bits & method::BUSY_PROCESS == 0 && bits & method::ENERGY_BY_HELD != 0, "{bits:b}");
        assert!(books.slots.values().all(|bucket| bucket.busy_ns == 0));

        let (books, bits) = minute_without(&[GRAPHICS, MPS], as_symbol)?;
        assert!(bits & method::HELD_CGROUP != 0, "{bits:b}");
        // Nobody sees them, and nobody is billed: the GPU shows as idle, and as used by nobody known.
        assert_eq!((seconds(&books, RowKind::Held, 0), seconds(&books, RowKind::Held, 1)), (58, 0));

        let (books, bits) = minute_without(&[GRAPHICS, MPS, UTILISATION, ENERGY], as_symbol)?;
        assert_eq!(bits, method::HELD_CGROUP | method::MEMORY_PROCESS);
        assert_eq!(seconds(&books, RowKind::Held, 0), 58);
    }
    Ok(())
}

#[test]
fn without_its_process_list_a_gpu_is_unobserved_and_never_idle() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    let mut scenario = busy_node();
    scenario.faults.not_supported = vec![COMPUTE.to_owned()];
    world.add_node("n", scenario)?;
    world.start()?;
    world.live(30)?;
    world.nodes[0].stop(DEADLINE)?;
    let books = Books::read(&world.aggregator.data_dir())?;
    assert!(books.slots.is_empty(), "{:?}", books.slots);
    Ok(())
}

#[test]
fn a_driver_that_is_not_there_is_named_and_metered_from_when_it_appears() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    world.add_node("n", busy_node())?;
    let late = world.dir().join("libnvidia-ml.so.1");
    let nvml = std::mem::replace(&mut world.nodes[0].nvml, late.clone());
    world.aggregator.start(DEADLINE)?;
    world.nodes[0].spawn()?;
    let tick = |world: &mut World, status: u16| {
        let node = &world.nodes[0];
        let log = || harness::process::tail(&node.log());
        let asked = || Ok(node.get("/readyz").ok().filter(|(found, _)| *found == status));
        let (_, text) = wait_until(DEADLINE, &format!("/readyz to say {status}"), log, asked)?;
        anyhow::ensure!(
            node.get("/healthz")?.0 == 200,
            "a driver that is not there is no fault of the agent"
        );
        let clock = world.clock.as_mut().expect("a simulated clock");
        clock.advance(S)?;
        anyhow::Ok(text)
    };
    for _ in 0..5 {
        let text = tick(&mut world, 503)?;
        if text.contains("no reading yet") {
            continue;
        }
        assert!(text.contains("cannot load NVML") && text.contains("--nvml-library"), "{text}");
        assert!(text.contains(&*late.to_string_lossy()), "{text}");
    }
    // Whole at once, as a package manager does it.
    let half = world.dir().join("half");
    std::fs::copy(&nvml, &half)?;
    std::fs::rename(&half, &late)?;
    world.clock.as_mut().expect("a simulated clock").advance(S)?;
    tick(&mut world, 200)?;
    let now = world.now();
    let ready_ns = now.wall_ns;
    world.nodes[0].wait_reading(now, DEADLINE)?;
    world.live(20)?;
    world.nodes[0].stop(DEADLINE)?;
    let books = as_served(&mut world)?;
    let windows = &books.folded()?[&scenario::uuid(0)];
    let covered_ns: i64 = windows.iter().map(|window| window.end_ns - window.start_ns).sum();
    assert!(covered_ns >= 20 * S && windows[0].start_ns <= ready_ns, "{windows:?}");
    Ok(())
}

#[test]
fn a_host_without_gpus_is_well_and_sends_nothing() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    world.add_node("n", scenario::node(0))?;
    world.nodes[0].extra_args = vec!["--driver".to_owned(), "none".to_owned()];
    world.nodes[0].nvml = "/nowhere".into();
    world.aggregator.start(DEADLINE)?;
    world.nodes[0].spawn()?;
    world.settle()?;
    world.live(30)?;
    assert_eq!(world.nodes[0].get("/readyz")?.0, 200);
    let metrics = world.nodes[0].metrics()?;
    assert!(metrics.families.keys().all(|name| !name.starts_with("tonnage_gpu")), "{metrics:?}");
    world.nodes[0].stop(DEADLINE)?;
    assert!(Books::read(&world.aggregator.data_dir())?.entries.is_empty());
    Ok(())
}

#[test]
fn a_gpu_that_goes_and_comes_back_was_unobserved_and_the_other_is_untouched() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    let mut scenario = busy_node();
    (scenario.device[1].missing_from_s, scenario.device[1].missing_to_s) = (Some(20.0), Some(35.0));
    world.add_node("n", scenario)?;
    world.start()?;
    world.live(60)?;
    world.nodes[0].stop(DEADLINE)?;
    let books = as_served(&mut world)?;
    // Last seen at 19 s; its interval at 35 s reaches back to 34 s.
    assert_eq!((seconds(&books, RowKind::Unobserved, 0), seconds(&books, RowKind::Unobserved, 1)), (0, 15));
    assert_eq!((seconds(&books, RowKind::Held, 0), seconds(&books, RowKind::Held, 1)), (58, 43));
    Ok(())
}

#[test]
fn when_every_gpu_vanishes_the_reading_failed_and_nothing_was_idle() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    let mut scenario = busy_node();
    for device in &mut scenario.device {
        (device.missing_from_s, device.missing_to_s) = (Some(20.0), Some(35.0));
    }
    world.add_node("n", scenario)?;
    world.start()?;
    world.live(25)?;
    let (status, text) = world.nodes[0].get("/readyz")?;
    assert!(status == 503 && text.contains("no GPU is visible, but there were 2"), "{status} {text}");
    world.live(35)?;
    assert_eq!(world.nodes[0].get("/readyz")?.0, 200);
    world.nodes[0].stop(DEADLINE)?;
    // Failed readings are moments too, though the driver's log knows nothing of them: as with one GPU gone, the
    // reading at 35 s reaches back to that at 34 s.
    let books = Books::read(&world.aggregator.data_dir())?;
    for gpu in 0..2 {
        assert_eq!(seconds(&books, RowKind::Unobserved, gpu), 15, "GPU {gpu}");
        assert_eq!(seconds(&books, RowKind::Held, gpu), 43, "GPU {gpu}");
    }
    assert!(books.folded()?.values().flatten().all(|window| window.end_ns - window.start_ns <= WINDOW_NS));
    Ok(())
}
