//! The aggregator under agents that send as fast as they get acks, and under questions.
//!
//! What is measured, with its database, has the first core, and the senders, which run in this process, the second.

use std::ops::Range;
use std::time::Duration;

use anyhow::Context;
use harness::aggregator::Aggregator;
use harness::world::{DEADLINE, World};
use tokio::runtime::Runtime;
use tonnage_proto::limits::{DAY_NS, SLOT_NS, WINDOW_NS, slot_start};
use tonnage_runtime::clock::Clock;

use crate::report::{figure, median, note, percentile};
use crate::{Which, cores, usage};

mod batches;
mod checks;
mod crowd;
mod deliver;
mod engine;
mod fleet;
mod queries;
mod yardstick;

use batches::{GPUS, Node};
use deliver::Sender;
use engine::Engine;

const CLUSTER: &str = "test";
/// Agents that deliver at once.
const AGENTS: u32 = 32;
const PODS: u32 = 8;
/// Batches of each of them: half an hour as it happens, a window of each GPU in a batch.
const BATCHES: i64 = 180;
/// The ledger that is asked: 1,000 pods, each on 8 GPUs.
const LEDGER_NODES: u32 = 125;
const LEDGER_DAYS: i64 = 2;
const WINDOWS: i64 = BATCHES * (AGENTS * GPUS) as i64;
const ASKED: usize = 100;
const ASKED_WHILE_INGESTING: usize = 50;
const FSYNCS: usize = 200;
/// Half a second apart.
const SETTLE_LOOKS_MAX: u32 = 2_400;

/// Queries of a large fleet's ledger alone.
///
/// # Errors
/// If a process does not do what it should.
pub(crate) fn measure_queries(only: Option<Which>, gpus: Option<i64>) -> anyhow::Result<()> {
    on_each(only, |engine, runtime| queries::measure(engine, runtime, gpus.unwrap_or(engine.fleet_gpus())))
}

/// A crowd of agents alone.
///
/// # Errors
/// If a process does not do what it should.
pub(crate) fn measure_crowd(only: Option<Which>, agents: u32) -> anyhow::Result<()> {
    on_each(only, |engine, runtime| crowd::measure(engine, runtime, agents))
}

/// Checks of a budget alone.
///
/// # Errors
/// If a process does not do what it should.
pub(crate) fn measure_checks(only: Option<Which>) -> anyhow::Result<()> {
    on_each(only, |engine, _| checks::measure(engine))
}

/// All but those three.
///
/// # Errors
/// If a process does not do what it should.
pub(crate) fn measure(only: Option<Which>) -> anyhow::Result<()> {
    let binaries = harness::binaries::Binaries::find()?;
    let size = std::fs::metadata(&binaries.aggregator)?.len() as f64 / 1e6;
    figure("aggregator_binary_size", format!("{size:.1}"), "MB", "stripped");
    on_each(only, |engine, runtime| {
        measure_on(engine, runtime)?;
        if matches!(engine, Engine::Postgres(_)) { replicas(engine, runtime) } else { Ok(()) }
    })
}

/// Measures on every engine, or `only` that one; what is measured on the first core and the senders on the second.
fn on_each(
    only: Option<Which>,
    each: impl Fn(&Engine, &Runtime) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let engines = cores::on_first(|| Engine::all(only))?;
    cores::keep_to_second()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    engines.iter().try_for_each(|engine| each(engine, &runtime))
}

fn measure_on(engine: &Engine, runtime: &Runtime) -> anyhow::Result<()> {
    let name = |name: &str| format!("{}{name}", engine.prefix());
    let mut world = engine.world()?;
    let ready = ready_ms(&mut world)?;
    figure(
        &name("aggregator_ready_empty"),
        format!("{ready:.0}"),
        "ms",
        "from exec to /healthz, new ledger, aim 100",
    );
    show_memory(&mut world, &name("aggregator_idle_anonymous_memory"), "new ledger, aim 50 of both")?;
    throughput(engine, &mut world, runtime)?;
    show_memory(&mut world, &name("aggregator_fresh_anonymous_memory"), "after that")?;
    build_ledger(engine, &world, runtime, 0..LEDGER_NODES / 10)?;
    settle(engine, &world)?;
    let tenth = ingest(&mut world, runtime, 3_000)?.per_second;
    build_ledger(engine, &world, runtime, LEDGER_NODES / 10..LEDGER_NODES)?;
    settle(engine, &world)?;
    let whole = ingest(&mut world, runtime, 4_000)?.per_second;
    figure(
        &name("aggregator_slowdown_at_ten_times"),
        format!("{:.0}", 100.0 * (1.0 - whole / tenth)),
        "%",
        &format!(
            "{tenth:.0} windows per second over a tenth of the ledger, {whole:.0} over all of it; aim 10"
        ),
    );
    ask(engine, &world)?;
    ask_while_ingesting(engine, &world, runtime)?;
    show_memory(&mut world, &name("aggregator_anonymous_memory"), "after all of the above")?;
    recover(engine, &mut world, runtime)?;
    world.aggregator.stop(DEADLINE)?;
    let ready = ready_ms(&mut world)?;
    figure(
        &name("aggregator_ready"),
        format!("{ready:.0}"),
        "ms",
        "from exec to /healthz, the ledger from above, aim 100",
    );
    show_memory(
        &mut world,
        &name("aggregator_started_anonymous_memory"),
        "right after that start, aim 50 of both",
    )
}

/// Waits until the usage of days that came within a minute is posted, and lets a server tidy up behind it: else both go on beside
/// what is measured next, for minutes and on the same core.
fn settle(engine: &Engine, world: &World) -> anyhow::Result<()> {
    let mut looks = 0..SETTLE_LOOKS_MAX;
    while counter(world, "tonnage_unposted_slots")? > 0 {
        anyhow::ensure!(
            looks.next().is_some(),
            "slots still wait to be posted after {SETTLE_LOOKS_MAX} looks"
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    if let (Engine::Postgres(server), Some(url)) = (engine, &world.aggregator.database) {
        for statement in ["VACUUM ANALYZE", "CHECKPOINT"] {
            cores::on_first(|| server.sql(url, statement))?;
        }
    }
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
    cores::on_first(|| world.aggregator.start(DEADLINE))?;
    Ok((clock.monotonic_ns() - from_ns) as f64 / 1e6)
}

/// What one delivery by all agents took.
struct Ingested {
    per_second: f64,
    batch_bytes: usize,
    commits: i64,
    cores: f64,
    own_cores: f64,
}

/// Half an hour of nodes that nobody has met, as fast as acks allow.
fn ingest(world: &mut World, runtime: &Runtime, first_node: u32) -> anyhow::Result<Ingested> {
    let senders = senders(first_node);
    let batch_bytes = senders[0].batches[0].payload.len();
    let commits_before = counter(world, "tonnage_commit_duration_seconds_count")?;
    let clock = Clock::system();
    let (pid, own) = (world.aggregator.process().context("it runs")?.id(), std::process::id());
    let (from_ns, before, own_before) =
        (clock.monotonic_ns(), usage::cpu_seconds(pid)?, usage::cpu_seconds(own)?);
    runtime.block_on(deliver::all(world.aggregator.uplink(), senders))?;
    let seconds = (clock.monotonic_ns() - from_ns) as f64 / 1e9;
    Ok(Ingested {
        per_second: WINDOWS as f64 / seconds,
        batch_bytes,
        commits: counter(world, "tonnage_commit_duration_seconds_count")? - commits_before,
        cores: (usage::cpu_seconds(pid)? - before) / seconds,
        own_cores: (usage::cpu_seconds(own)? - own_before) / seconds,
    })
}

/// As it is every day: small batches of now from many agents.
fn throughput(engine: &Engine, world: &mut World, runtime: &Runtime) -> anyhow::Result<()> {
    let Ingested { per_second, batch_bytes, commits, cores, own_cores } = ingest(world, runtime, 0)?;
    let load = yardstick::Load {
        windows: WINDOWS,
        rows_per_window: i64::from(PODS) + 3,
        batches: BATCHES * i64::from(AGENTS),
        batch_bytes,
        transactions: commits,
    };
    let (bare, bare_name) = match engine {
        Engine::Sqlite => {
            (cores::on_first(|| yardstick::sqlite(&world.dir().join("bare"), load))?, "bare_sqlite")
        }
        Engine::Postgres(server) => (yardstick::postgres(server, world.dir(), load)?, "bare_copy"),
    };
    let fsync = yardstick::fsync(world.dir(), FSYNCS)?;
    let bare_per_second = load.windows as f64 / bare;
    let name = |name: &str| format!("{}{name}", engine.prefix());
    note(&format!(
        "{AGENTS} agents, {} batches of {batch_bytes} bytes, {WINDOWS} windows of {PODS} pods, {commits} commits; \
         {cores:.2} cores, senders {own_cores:.2} of another",
        load.batches
    ));
    figure(
        &name("aggregator_durable_windows"),
        format!("{per_second:.0}"),
        "1/s",
        "acked after their commit",
    );
    figure(
        &format!("{bare_name}_windows"),
        format!("{bare_per_second:.0}"),
        "1/s",
        &format!("{} rows a window and each batch's bytes, in as many transactions", load.rows_per_window),
    );
    figure(
        &format!("aggregator_to_{bare_name}"),
        format!("{:.2}", per_second / bare_per_second),
        "ratio",
        "",
    );
    figure(
        &name("bare_fsync"),
        format!("{:.2}", median(&fsync)),
        "ms",
        &format!("4 KiB appended, median of {FSYNCS}"),
    );
    Ok(())
}

/// SIGKILL while agents deliver, and how long it then takes from the start until a batch is acked.
fn recover(engine: &Engine, world: &mut World, runtime: &Runtime) -> anyhow::Result<()> {
    let delivering = runtime.spawn(deliver::all(world.aggregator.uplink(), senders(5_000)));
    let before = counter(world, "tonnage_commit_duration_seconds_count")?;
    while counter(world, "tonnage_commit_duration_seconds_count")? < before + 5 && !delivering.is_finished() {
    }
    world.aggregator.kill9()?;
    delivering.abort();
    let clock = Clock::system();
    let from_ns = clock.monotonic_ns();
    let ready = ready_ms(world)?;
    let mut first: Vec<Sender> = senders(6_000);
    first.truncate(1);
    first.iter_mut().for_each(|sender| sender.batches.truncate(1));
    runtime.block_on(deliver::all(world.aggregator.uplink(), first))?;
    let acked = (clock.monotonic_ns() - from_ns) as f64 / 1e9;
    let name = format!("{}aggregator_recovery", engine.prefix());
    figure(
        &name,
        format!("{acked:.2}"),
        "s",
        &format!("from exec after SIGKILL to an ack, ready in {ready:.0} ms, aim 5"),
    );
    Ok(())
}

/// The same load through one, two and four aggregators over one database, all on one core with it.
fn replicas(engine: &Engine, runtime: &Runtime) -> anyhow::Result<()> {
    for count in [1, 2, 4] {
        let world = engine.world()?;
        let mut aggregators = Vec::new();
        for number in 0..count {
            let folder = world.dir().join(format!("replica-{number}"));
            let mut replica = Aggregator::new(&folder, world.binaries(), None)?;
            replica.database.clone_from(&world.aggregator.database);
            cores::on_first(|| replica.start(DEADLINE))?;
            aggregators.push(replica);
        }
        let mut shares: Vec<Vec<Sender>> = (0..count).map(|_| Vec::new()).collect();
        for (at, sender) in senders(0).into_iter().enumerate() {
            shares[at % count].push(sender);
        }
        let clock = Clock::system();
        let from_ns = clock.monotonic_ns();
        let delivering: Vec<_> = std::iter::zip(&aggregators, shares)
            .map(|(replica, share)| runtime.spawn(deliver::all(replica.uplink(), share)))
            .collect();
        for ended in delivering {
            runtime.block_on(ended)??;
        }
        let per_second = WINDOWS as f64 * 1e9 / (clock.monotonic_ns() - from_ns) as f64;
        let name = format!("{}replicas_{count}_windows", engine.prefix());
        figure(&name, format!("{per_second:.0}"), "1/s", "through so many aggregators over one database");
    }
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
fn build_ledger(engine: &Engine, world: &World, runtime: &Runtime, nodes: Range<u32>) -> anyhow::Result<()> {
    let slots = LEDGER_DAYS * DAY_NS / SLOT_NS;
    let first_ns = slot_start(Clock::system().wall_ns()) - slots * SLOT_NS;
    let count = i64::try_from(nodes.len())?;
    let senders = nodes.map(|number| {
        let node = Node { number: 1_000 + number, pods: PODS };
        let starts: Vec<i64> = (0..slots).map(|slot| first_ns + slot * SLOT_NS).collect();
        Sender { node, batches: node.batches(starts.chunks(12).map(<[i64]>::to_vec)) }
    });
    let senders: Vec<Sender> = senders.collect();
    let clock = Clock::system();
    let from_ns = clock.monotonic_ns();
    runtime.block_on(deliver::all(world.aggregator.uplink(), senders))?;
    let seconds = (clock.monotonic_ns() - from_ns) as f64 / 1e9;
    let gpus = count * i64::from(GPUS);
    note(&format!(
        "ledger of {} pods on {gpus} GPUs over {LEDGER_DAYS} days: {} windows, each in a slot of its own, in {seconds:.1} s",
        count * i64::from(PODS),
        gpus * slots,
    ));
    figure(
        &format!("{}aggregator_new_slots", engine.prefix()),
        format!("{:.0}", (gpus * slots) as f64 / seconds),
        "1/s",
        "(slot, GPU) pairs",
    );
    Ok(())
}

/// Questions, one after the other.
fn ask(engine: &Engine, world: &World) -> anyhow::Result<()> {
    for window in ["24h", "7d"] {
        show(engine, "idle", window, &answers(world, window, ASKED)?);
    }
    Ok(())
}

/// The same while agents deliver as fast as they can.
fn ask_while_ingesting(engine: &Engine, world: &World, runtime: &Runtime) -> anyhow::Result<()> {
    let uplink = world.aggregator.uplink();
    let ingesting = runtime.spawn(async move {
        for round in 10.. {
            deliver::all(uplink.clone(), senders(round * 1_000)).await?;
        }
        anyhow::Ok(())
    });
    let times = answers(world, "24h", ASKED_WHILE_INGESTING);
    anyhow::ensure!(!ingesting.is_finished(), "nothing was ingested: {:?}", runtime.block_on(ingesting));
    ingesting.abort();
    show(engine, "ingesting", "24h", &times?);
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

fn show(engine: &Engine, when: &str, window: &str, times: &[f64]) {
    let note = format!("{} requests, median {:.0}", times.len(), median(times));
    let p99 = format!("{:.0}", percentile(times, 0.99));
    figure(&format!("{}cost_pods_{window}_{when}_p99", engine.prefix()), p99, "ms", &note);
}

/// A counter without labels from its metrics.
fn counter(world: &World, name: &str) -> anyhow::Result<i64> {
    let text =
        ureq::get(format!("{}/metrics", world.aggregator.url())).call()?.body_mut().read_to_string()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).with_context(|| format!("no {name}"))
}
