//! The agent as a process, against a simulated driver.

use std::collections::BTreeMap;

use harness::http::Scrape;
use harness::scenario;
use harness::sim_clock::BEGIN_NS;
use harness::world::{DEADLINE, World};
use tonnage_aggregator::model::RowKind;
use tonnage_proto::metering::ack::Outcome;

use crate::books::Books;

/// Nodes whose clock is wrong.
mod clocks;

/// Disks that are full, read-only, taken away or wrecked.
mod disks;

/// Drivers that lack something, come late, or lose a GPU.
mod driver;

/// What is said of time that is in no window.
pub(crate) mod gaps;

/// Ledgers of another version.
mod versions;

const S: i64 = 1_000_000_000;
/// Series of an agent with two GPUs and some twenty owners.
const SERIES_MAX: usize = 250;

/// One node with one GPU that a unit holds from the beginning.
fn world() -> anyhow::Result<World> {
    let mut world = World::new(1)?;
    let mut scenario = scenario::node(1);
    scenario.process.push(scenario::process(7, &scenario::unit("a.service"), &[0], 0.0));
    world.add_node("n", scenario)?;
    Ok(world)
}

#[test]
fn a_stop_delivers_the_open_window_up_to_the_last_reading() -> anyhow::Result<()> {
    let mut world = world()?;
    world.start()?;
    world.live(17)?;
    world.nodes[0].stop(DEADLINE)?;
    let books = Books::read(&world.aggregator.data_dir())?;
    let windows = &books.folded()?[&scenario::uuid(0)];
    assert_eq!(windows.last().map(|window| window.end_ns), Some(BEGIN_NS + 17 * S));
    assert_eq!(
        books.time(RowKind::Held, None),
        BTreeMap::from([("unit:a.service".to_owned(), 17 * i128::from(S))])
    );
    Ok(())
}

#[test]
fn the_counters_of_a_run_are_the_ledgers_sums() -> anyhow::Result<()> {
    let seed = rand::random();
    let mut world = World::new(seed)?;
    let mut scenario = scenario::random(seed, 2, 200);
    scenario.faults.garbage_utilisation = true;
    world.add_node("n", scenario)?;
    world.start()?;
    // To an edge of the grid, where all windows are closed.
    world.live(200)?;
    let scrape = world.nodes[0].metrics()?;
    world.nodes[0].stop(DEADLINE)?;
    let books = Books::read(&world.aggregator.data_dir())?;
    assert_eq!(books.count(Outcome::Accepted), books.entries.len());
    for device in [scenario::uuid(0), scenario::uuid(1)] {
        let idle = one(&scrape, "tonnage_gpu_idle_seconds_total", &device);
        let idle_ns: i128 = books.time(RowKind::Idle, Some(&device)).values().sum();
        assert_eq!(nanos(idle), idle_ns, "{device}");
        let mut held: BTreeMap<String, i128> = BTreeMap::new();
        for (labels, seconds) in scrape.series("tonnage_gpu_held_seconds_total") {
            if labels["gpu"] == device {
                *held.entry(owner(labels)).or_default() += nanos(*seconds);
            }
        }
        assert_eq!(held, books.time(RowKind::Held, Some(&device)), "{device}");
        let sums = books.slots.iter().filter(|(key, _)| key.1 == device);
        let (held_rows, others): (Vec<_>, Vec<_>) = sums.partition(|(key, _)| key.3 == RowKind::Held);
        let busy_ns: i128 = held_rows.iter().map(|(_, bucket)| bucket.busy_ns).sum();
        assert_eq!(nanos(one(&scrape, "tonnage_gpu_busy_seconds_total", &device)), busy_ns, "{device}");
        let energy_uj: i128 = held_rows.iter().chain(&others).map(|(_, bucket)| bucket.energy_uj).sum();
        let families =
            ["", "_idle", "_unobserved"].map(|part| format!("tonnage_gpu{part}_energy_joules_total"));
        let joules: f64 = families.iter().map(|family| one(&scrape, family, &device)).sum();
        assert_eq!(nanos(joules) / 1_000, energy_uj, "{device}");
    }
    Ok(())
}

#[test]
fn the_metrics_are_well_formed_and_few() -> anyhow::Result<()> {
    let seed = rand::random();
    let mut world = World::new(seed)?;
    world.add_node("n", scenario::random(seed, 2, 300))?;
    world.start()?;
    world.live(300)?;
    let (status, text) = world.nodes[0].get("/metrics")?;
    let scrape = Scrape::parse(&text)?;
    let series: usize = scrape.families.values().map(Vec::len).sum();
    assert!(status == 200 && series <= SERIES_MAX, "{series} series\n{text}");
    let dropped = ["samples", "windows", "series"].map(|what| format!("tonnage_agent_{what}_dropped_total"));
    assert!(dropped.iter().all(|name| scrape.sum(name) == Some(0.0)), "{text}");
    assert_eq!(scrape.sum("tonnage_agent_sample_failures_total"), Some(0.0));
    let (status, text) = world.nodes[0].get("/nothing")?;
    assert!(status == 404 && text.contains("/metrics"), "{status} {text}");
    // The aggregator's are held to the same.
    world.nodes[0].stop(DEADLINE)?;
    let (_, text) = world.aggregator.get("/metrics")?;
    let scrape = Scrape::parse(&text)?;
    assert!(scrape.sum("tonnage_ingest_batches_total") > Some(0.0), "{text}");
    Ok(())
}

/// The sum of a device's series of this name.
fn one(scrape: &Scrape, name: &str, device: &str) -> f64 {
    let series = scrape.series(name).iter().filter(|(labels, _)| labels["gpu"] == device);
    series.map(|(_, value)| value).sum()
}

/// A counter of at most some thousand seconds is exact to the nanosecond, but for the float's last digits.
#[allow(clippy::cast_possible_truncation, reason = "rounded, and far below 2^63")]
fn nanos(seconds: f64) -> i128 {
    (seconds * 1e9).round() as i128
}

fn owner(labels: &BTreeMap<String, String>) -> String {
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    match label("owner_kind") {
        "pod" => format!("pod:{}/{}", label("pod"), label("container")),
        "slurm_job" => format!("slurm:{}/{}", label("slurm_job"), label("step")),
        "systemd_unit" => format!("unit:{}", label("unit")),
        "user" => format!("user:{}", label("user")),
        "container" => format!("container:{}", label("container")),
        other => other.to_owned(),
    }
}

#[test]
fn what_kubernetes_puts_into_the_environment_is_harmless() -> anyhow::Result<()> {
    let mut world = world()?;
    // As for Services called `tonnage-aggregator`, `tonnage-agent` and `tonnage`.
    for service in ["TONNAGE_AGGREGATOR", "TONNAGE_AGENT", "TONNAGE"] {
        for (end, value) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "7787"),
            ("SERVICE_PORT_GRPC", "7787"),
            ("PORT", "tcp://10.0.0.1:7787"),
            ("PORT_7787_TCP", "tcp://10.0.0.1:7787"),
            ("PORT_7787_TCP_PROTO", "tcp"),
            ("PORT_7787_TCP_PORT", "7787"),
            ("PORT_7787_TCP_ADDR", "10.0.0.1"),
        ] {
            world.nodes[0].extra_env.push((format!("{service}_{end}"), value.to_owned()));
        }
    }
    world.start()?;
    world.live(12)?;
    world.nodes[0].stop(DEADLINE)?;
    let held = Books::read(&world.aggregator.data_dir())?.time(RowKind::Held, None);
    assert_eq!(held.values().sum::<i128>(), 12 * i128::from(S));
    Ok(())
}

#[test]
fn a_setting_that_is_not_known_is_an_error_that_names_it() -> anyhow::Result<()> {
    let mut world = world()?;
    let file = world.dir().join("agent.toml");
    std::fs::write(&file, "spool_size = 7\n")?;
    let file = file.to_string_lossy().into_owned();
    let node = &mut world.nodes[0];
    for (args, code, says) in [
        (["--perod-ms", "5"], 2, "--perod-ms"),
        (["--config", file.as_str()], 64, "spool_size"),
        (["--config", "/nowhere/agent.toml"], 64, "/nowhere/agent.toml"),
        (["--period-ms", "50"], 64, "use 100 to 5000"),
        (["--log-level", "loud"], 64, "loud"),
    ] {
        let output = node.command("run").args(args).output()?;
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(says), "{args:?}: {text}");
    }
    // The environment is settings too, where it has the name of one.
    let output = node.command("run").env("TONNAGE_PERIOD_MS", "soon").output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && text.contains("--period-ms"), "{text}");
    Ok(())
}

#[test]
fn check_says_in_plain_words_what_is_there_and_what_is_not() -> anyhow::Result<()> {
    let mut world = world()?;
    let node = &mut world.nodes[0];
    let check = |node: &harness::node::Node, args: &[&str]| -> anyhow::Result<(Option<i32>, String)> {
        let output = node.command("check").args(args).output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (code, text) = check(node, &[])?;
    assert_eq!(code, Some(0), "{text}");
    for says in [
        "Node n of cluster test",
        "driver 580.95.05",
        &format!("{} NVIDIA H100 80GB HBM3: 1 processes", scenario::uuid(0)),
        "pid 7: unit a.service",
        "Metering goes on without it",
        "Nothing keeps the agent from metering this node.",
    ] {
        assert!(text.contains(says), "no {says:?} in\n{text}");
    }
    let (code, text) = check(node, &["--driver", "none"])?;
    assert!(code == Some(0) && text.contains("no GPU is looked for"), "{text}");
    // Checking leaves nothing behind.
    assert_eq!(std::fs::read_dir(node.spool())?.count(), 0);

    node.nvml = "/nowhere/libnvidia-ml.so.1".into();
    let (code, text) = check(node, &[])?;
    assert!(code == Some(1) && text.contains("1 problem"), "{text}");
    for says in ["PROBLEM", "/nowhere/libnvidia-ml.so.1", "--nvml-library", "--driver none"] {
        assert!(text.contains(says), "no {says:?} in\n{text}");
    }
    Ok(())
}
