//! The agent at 1 Hz on a crowded node, delivering to a real aggregator, its spool full of kept batches.
//!
//! A spool that has just been opened uses less memory than one that has lived: so the node is first aged in
//! simulated time, where hours pass in seconds, and its memory is shown both then and after a restart in real time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use harness::aggregator::Aggregator;
use harness::binaries::Binaries;
use harness::world::{DEADLINE, World};
use tonnage_agent::spool::{Identity, Limits, Spool};
use tonnage_runtime::clock::Clock;

use crate::report::{figure, median, note, percentile};
use crate::usage;

mod aged;
mod crowd;
mod process;

use process::Agent;

/// The agent's own defaults.
const SPOOL_BYTES: usize = 268_435_456;
const KEPT_BYTES: usize = 2_000_000;
const STARTS: usize = 9;
/// Windows before the minute that counts: lists have their lengths, the stream is up.
const WARM_UP: Duration = Duration::from_secs(25);
/// As often as Prometheus asks.
const SCRAPE_EVERY_S: u64 = 15;

const CLUSTER: &str = "test";
const NODE: &str = "crowded";

/// # Errors
/// If a process does not do what it should.
pub(crate) fn measure(seconds: u64) -> anyhow::Result<()> {
    let binaries = Binaries::find()?;
    let size = std::fs::metadata(&binaries.agent)?.len() as f64 / 1e6;
    figure("agent_binary_size", format!("{size:.1}"), "MB", "aim 12, stripped");

    let mut aged = aged::age()?;
    let kept = aged.spool_kept()?;
    figure("agent_batch_size", kept.batch_bytes, "bytes", "mean of those kept; one window of each of 8 GPUs");
    figure("agent_kept_batches", kept.batches, "batches", &format!("{} bytes", kept.bytes));
    let about = format!(
        "median while it ages by {} windows in simulated time; highest {}; simulator included",
        aged.windows,
        mib(percentile(&aged.anonymous_kib, 1.0))
    );
    figure("agent_aged_anonymous_memory", mib(median(&aged.anonymous_kib)), "MiB", &about);

    // The same ledger, in real time from here on.
    aged.world.aggregator.stop(DEADLINE)?;
    let mut aggregator = Aggregator::new(&aged.world.dir().join("aggregator"), &binaries, None)?;
    aggregator.start(DEADLINE)?;
    let agent = Agent::new(&binaries, aged.node_dir(), &aggregator.uplink(), crowd::scenario)?;

    let starts = (0..STARTS).map(|_| agent.first_sample_ms()).collect::<anyhow::Result<Vec<_>>>()?;
    figure(
        "agent_first_sample",
        format!("{:.0}", median(&starts)),
        "ms",
        &format!(
            "aim 150; from exec to the last answer for it in the driver's log, median of {STARTS} starts"
        ),
    );
    watch(&agent, seconds, "agent")?;

    let dir = aged.world.dir().join("partitioned");
    crowd::make_pod_logs(&dir.join("pod-logs"))?;
    let agent = Agent::new(&binaries, dir, &aggregator.uplink(), crowd::partitioned)?;
    watch(&agent, seconds, "agent_mig")
}

fn mib(kib: f64) -> String {
    format!("{:.1}", kib / 1024.0)
}

/// The minute that counts; names of figures begin with `name`.
fn watch(agent: &Agent, seconds: u64, name: &str) -> anyhow::Result<()> {
    let running = agent.start(None)?;
    let driver = agent.driver_alone()?;
    std::thread::sleep(WARM_UP);
    let clock = Clock::system();
    let (before, driver_before) = (usage::cpu_seconds(running.id())?, usage::cpu_seconds(driver.id())?);
    let from_ns = clock.monotonic_ns();
    let mut peak = usage::Memory::default();
    for second in 0..seconds {
        if second % SCRAPE_EVERY_S == 0 {
            agent.scrape()?;
        }
        std::thread::sleep(Duration::from_secs(1));
        let memory = usage::memory(running.id())?;
        peak.anonymous_kib = peak.anonymous_kib.max(memory.anonymous_kib);
        peak.file_kib = peak.file_kib.max(memory.file_kib);
    }
    let passed = (clock.monotonic_ns() - from_ns) as f64 / 1e9;
    let thousandths = |before: f64, after: f64| format!("{:.1}", (after - before) / passed * 1000.0);
    let cpu = thousandths(before, usage::cpu_seconds(running.id())?);
    let driver_cpu = thousandths(driver_before, usage::cpu_seconds(driver.id())?);
    let driver_memory = usage::memory(driver.id())?;
    let metrics = agent.scrape()?;
    let said = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.map_or_else(|| "?".to_owned(), |value| value.trim().to_owned())
    };
    note(&format!(
        "over {passed:.0} s: samples {}, batches acked {}, dropped {}",
        said("tonnage_agent_samples_total "),
        said("tonnage_agent_uplink_acked_total "),
        said("tonnage_agent_samples_dropped_total "),
    ));
    figure(
        &format!("{name}_anonymous_memory"),
        mib(peak.anonymous_kib as f64),
        "MiB",
        "aim 8; highest in the interval, simulator included",
    );
    figure(&format!("{name}_file_memory"), mib(peak.file_kib as f64), "MiB", "highest in the interval");
    figure(
        &format!("{name}_cpu"),
        cpu,
        "thousandths of a core",
        "aim 6; simulator included, a scrape every 15 s",
    );
    figure(
        &format!("{name}_driver_alone_cpu"),
        driver_cpu,
        "thousandths of a core",
        "the same calls of the simulator by themselves",
    );
    figure(
        &format!("{name}_driver_alone_anonymous_memory"),
        mib(driver_memory.anonymous_kib as f64),
        "MiB",
        "a process with the simulator and nothing else",
    );
    Ok(())
}

/// What a spool holds, read by the agent's own code while no agent runs.
struct Kept {
    batches: u64,
    bytes: usize,
    batch_bytes: u64,
}

impl Kept {
    fn read(spool: &Path) -> anyhow::Result<Self> {
        let identity = Identity { cluster: CLUSTER.to_owned(), node: NODE.to_owned() };
        let limits = Limits { bytes: SPOOL_BYTES, kept_bytes: KEPT_BYTES };
        let (spool, aside) = Spool::open(spool, identity, limits, Clock::system().wall_ns())?;
        anyhow::ensure!(aside.is_none() && spool.drafts() == 0, "the spool is not as an agent leaves it");
        let holdings = spool.holdings();
        let batches = holdings.acked_seq + 1 - holdings.oldest_seq;
        let bytes = spool.bytes();
        let batch_bytes = u64::try_from(bytes)?.checked_div(batches).context("an empty spool")?;
        Ok(Self { batches, bytes, batch_bytes })
    }
}

/// A node that has lived, its agent stopped.
struct Aged {
    /// Its folder goes with it.
    world: World,
    windows: u32,
    /// Over the later half of it.
    anonymous_kib: Vec<f64>,
}

impl Aged {
    fn node_dir(&self) -> PathBuf {
        self.world.nodes[0].dir().to_owned()
    }

    fn spool_kept(&self) -> anyhow::Result<Kept> {
        Kept::read(&self.world.nodes[0].spool())
    }
}
