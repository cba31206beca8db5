//! The aggregator under agents that send as fast as they get acks, and under questions.
//!
//! The senders run in this process, on the same cores: on a small machine the figures are of both together.

use std::time::Duration;

use anyhow::Context;
use harness::world::{DEADLINE, World};
use tokio::runtime::Runtime;
use tonnage_proto::limits::{DAY_NS, SLOT_NS, WINDOW_NS, slot_start};
use tonnage_runtime::clock::Clock;

use crate::report::{figure, median, note, percentile};
use crate::usage;

mod batches;
mod deliver;
mod yardstick;

use batches::{GPUS, Node};
use deliver::Sender;

const CLUSTER: &str = "test";
/// Agents that deliver at once.
const AGENTS: u32 = 32;
const PODS: u32 = 8;
/// Batches of each of them: half an hour as it happens, a window of each GPU in a batch.
const BATCHES: i64 = 180;
/// The ledger that is asked: 1,000 pods, each on 8 GPUs.
const LEDGER_NODES: u32 = 125;
const LEDGER_DAYS: i64 = 2;
const ASKED: usize = 100;
const ASKED_WHILE_INGESTING: usize = 50;
const FSYNCS: usize = 200;

/// # Errors
/// If a process does not do what it should.
pub(crate) fn measure() -> anyhow::Result<()> {
    let mut world = World::in_real_time(0)?;
    let size = std::fs::metadata(&world.binaries().aggregator)?.len() as f64 / 1e6;
    figure("aggregator_binary_size", format!("{size:.1}"), "MB", "stripped");
    let ready = ready_ms(&mut world)?;
    figure("aggregator_ready_empty", format!("{ready:.0}"), "ms", "from exec to /healthz, new ledger");

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    throughput(&mut world, &runtime)?;
    show_memory(&mut world, "aggregator_fresh_anonymous_memory", "after that")?;
    build_ledger(&world, &runtime)?;
    ask(&world)?;
    ask_while_ingesting(&world, &runtime)?;
    show_memory(&mut world, "aggregator_anonymous_memory", "after all of the above")?;
    world.aggregator.stop(DEADLINE)?;
    let ready = ready_ms(&mut world)?;
    figure("aggregator_ready", format!("{ready:.0}"), "ms", "from exec to /healthz, the ledger from above");
    Ok(())
}

fn show_memory(world: &mut World, name: &str, note: &str) -> anyhow::Result<()> {
    let memory = usage::memory(world.aggregator.process().context("it runs")?.id())?;
    let files = format!("{note}; {:.1} MiB of files besides", memory.file_kib as f64 / 1024.0);
    figure(name, format!("{:.1}", memory.anonymous_kib as f64 / 1024.0), "MiB", &files);
    Ok(())
}

fn ready_ms(world: &mut World) -> anyhow::Result<f64> {
    let clock = Clock::system();
    let from_ns = clock.monotonic_ns();
    world.aggregator.start(DEADLINE)?;
    Ok((clock.monotonic_ns() - from_ns) as f64 / 1e6)
}

/// As it is every day: small batches of now from many agents.
fn throughput(world: &mut World, runtime: &Runtime) -> anyhow::Result<()> {
    let senders = senders(0);
    let batch_bytes = senders[0].batches[0].payload.len();
    let commits_before = counter(world, "tonnage_commit_duration_seconds_count")?;
    let clock = Clock::system();
    let pid = world.aggregator.process().context("it runs")?.id();
    let (from_ns, cpu_before) = (clock.monotonic_ns(), usage::cpu_seconds(pid)?);
    runtime.block_on(deliver::all(world.aggregator.uplink(), senders))?;
    let seconds = (clock.monotonic_ns() - from_ns) as f64 / 1e9;
    let cpu = (usage::cpu_seconds(pid)? - cpu_before) / seconds;
    let load = yardstick::Load {
        windows: BATCHES * i64::from(AGENTS * GPUS),
        rows_per_window: i64::from(PODS) + 3,
        batches: BATCHES * i64::from(AGENTS),
        batch_bytes,
        transactions: counter(world, "tonnage_commit_duration_seconds_count")? - commits_before,
    };
    let bare = yardstick::sqlite(&world.dir().join("bare"), load)?;
    let fsync = yardstick::fsync(world.dir(), FSYNCS)?;
    let per_second = load.windows as f64 / seconds;
    let bare_per_second = load.windows as f64 / bare;
    note(&format!(
        "{AGENTS} agents, {} batches of {batch_bytes} bytes, {} windows of {PODS} pods, {} commits, {cpu:.2} cores",
        load.batches, load.windows, load.transactions
    ));
    figure("aggregator_durable_windows", format!("{per_second:.0}"), "1/s", "acked after their commit");
    figure(
        "bare_sqlite_windows",
        format!("{bare_per_second:.0}"),
        "1/s",
        &format!("{} rows a window and each batch's bytes, in as many transactions", load.rows_per_window),
    );
    figure("aggregator_to_bare_sqlite", format!("{:.2}", per_second / bare_per_second), "ratio", "");
    figure(
        "bare_fsync",
        format!("{:.2}", median(&fsync)),
        "ms",
        &format!("4 KiB appended, median of {FSYNCS}"),
    );
    Ok(())
}

/// Senders of the last half hour, of nodes that nobody has met.
fn senders(first_node: u32) -> Vec<Sender> {
    let now_ns = Clock::system().wall_ns();
    let first_ns = now_ns - now_ns % WINDOW_NS - BATCHES * WINDOW_NS;
    (first_node..first_node + AGENTS)
        .map(|number| {
            let node = Node { number, pods: PODS };
            Sender { node, batches: node.batches((0..BATCHES).map(|at| vec![first_ns + at * WINDOW_NS])) }
        })
        .collect()
}

/// One window of each GPU in every slot: as many rows as whole slots would have, in a fraction of the time.
fn build_ledger(world: &World, runtime: &Runtime) -> anyhow::Result<()> {
    let slots = LEDGER_DAYS * DAY_NS / SLOT_NS;
    let first_ns = slot_start(Clock::system().wall_ns()) - slots * SLOT_NS;
    let senders = (0..LEDGER_NODES).map(|number| {
        let node = Node { number: 1_000 + number, pods: PODS };
        let starts: Vec<i64> = (0..slots).map(|slot| first_ns + slot * SLOT_NS).collect();
        Sender { node, batches: node.batches(starts.chunks(12).map(<[i64]>::to_vec)) }
    });
    let senders: Vec<Sender> = senders.collect();
    let clock = Clock::system();
    let from_ns = clock.monotonic_ns();
    runtime.block_on(deliver::all(world.aggregator.uplink(), senders))?;
    let seconds = (clock.monotonic_ns() - from_ns) as f64 / 1e9;
    let gpus = i64::from(LEDGER_NODES * GPUS);
    let ledger = std::fs::metadata(world.aggregator.data_dir().join("ledger.sqlite"))?.len() as f64 / 1e6;
    note(&format!(
        "ledger of {} pods on {gpus} GPUs over {LEDGER_DAYS} days: {} windows, each in a slot of its own, in \
         {seconds:.1} s; {ledger:.0} MB",
        LEDGER_NODES * PODS,
        gpus * slots,
    ));
    figure(
        "aggregator_new_slots",
        format!("{:.0}", (gpus * slots) as f64 / seconds),
        "1/s",
        "(slot, GPU) pairs",
    );
    Ok(())
}

/// Questions, one after the other.
fn ask(world: &World) -> anyhow::Result<()> {
    for window in ["24h", "7d"] {
        show("idle", window, &answers(world, window, ASKED)?);
    }
    Ok(())
}

/// The same while agents deliver as fast as they can.
fn ask_while_ingesting(world: &World, runtime: &Runtime) -> anyhow::Result<()> {
    let uplink = world.aggregator.uplink();
    let ingesting = runtime.spawn(async move {
        for round in 2.. {
            deliver::all(uplink.clone(), senders(round * 1_000)).await?;
        }
        anyhow::Ok(())
    });
    let times = answers(world, "24h", ASKED_WHILE_INGESTING);
    anyhow::ensure!(!ingesting.is_finished(), "nothing was ingested: {:?}", runtime.block_on(ingesting));
    ingesting.abort();
    show("ingesting", "24h", &times?);
    Ok(())
}

fn answers(world: &World, window: &str, asked: usize) -> anyhow::Result<Vec<f64>> {
    let url = format!("{}/api/v1/cost/pods?window={window}", world.aggregator.url());
    let clock = Clock::system();
    let agent = ureq::Agent::from(
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(60))).build(),
    );
    let mut times = Vec::with_capacity(asked);
    for _ in 0..asked {
        let from_ns = clock.monotonic_ns();
        let text = agent.get(&url).call()?.body_mut().read_to_string()?;
        times.push((clock.monotonic_ns() - from_ns) as f64 / 1e6);
        anyhow::ensure!(text.contains("training-"), "no pods in the answer");
    }
    Ok(times)
}

fn show(when: &str, window: &str, times: &[f64]) {
    let note = format!("{} requests, median {:.0}", times.len(), median(times));
    let p99 = format!("{:.0}", percentile(times, 0.99));
    figure(&format!("cost_pods_{window}_{when}_p99"), p99, "ms", &note);
}

/// A counter without labels from its metrics.
fn counter(world: &World, name: &str) -> anyhow::Result<i64> {
    let text =
        ureq::get(format!("{}/metrics", world.aggregator.url())).call()?.body_mut().read_to_string()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).with_context(|| format!("no {name}"))
}
