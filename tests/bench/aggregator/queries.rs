//! The largest answers of a large fleet's ledger: 90 days in groups, the dearest hundred first.

use std::time::Duration;

use harness::http::{get, http, post};
use harness::world::{DEADLINE, World};
use serde_json::json;
use tokio::runtime::Runtime;
use tonnage_aggregator::store::rollup;
use tonnage_runtime::clock::Clock;

use super::batches::GPUS;
use super::crowd::Running;
use super::engine::Engine;
use super::fleet::{DAYS, Fleet};
use super::{deliver, senders, show_memory};
use crate::cores;
use crate::report::{figure, median, note, percentile};

/// By what, the path of it, and how often it is asked.
const ASKED: [(&str, &str, usize); 6] = [
    ("namespace", "namespaces?aggregate=namespace", 100),
    ("user", "users?aggregate=user", 100),
    ("account", "users?aggregate=account", 100),
    ("one_namespace_by_user", "users?aggregate=user&namespace=team-00007", 100),
    ("pod", "pods?aggregate=namespace,pod", 2),
    // A filter that lets everything through, and that roll-ups do not know: the same answer from the rows of days, hours and slots.
    ("namespace_of_rows", "namespaces?aggregate=namespace&filter=pod!:%22none%22", 2),
];
const WHILE_INGESTING: usize = 100;
const BALANCES: usize = 3;
const FOREVER: &str = "2020-01-01T00:00:00Z";

/// # Errors
/// If a process does not do what it should.
pub(super) fn measure(engine: &Engine, runtime: &Runtime, gpus: i64) -> anyhow::Result<()> {
    let mut world = engine.world()?;
    let clock = Clock::system();
    let fleet = Fleet { gpus };
    let db = world.aggregator.store()?.writer()?;
    let from_ns = clock.monotonic_ns();
    let rows = fleet.write(&db, clock.wall_ns())?;
    let seconds = (clock.monotonic_ns() - from_ns) as f64 / 1e9;
    let from_ns = clock.monotonic_ns();
    let transaction = db.begin()?;
    rollup::rebuild(&transaction)?;
    transaction.commit()?;
    let rolled = (clock.monotonic_ns() - from_ns) as f64 / 1e9;
    drop(db);
    note(&format!(
        "{}fleet of {gpus} GPUs over {DAYS} days: {gpus} namespaces, {} pods, {rows} rows written in {seconds:.0} s",
        engine.prefix(),
        fleet.pods(),
    ));
    let name = format!("{}rollups_rebuilt", engine.prefix());
    figure(&name, format!("{:.0}", rows as f64 / rolled), "rows/s", "of a ledger of the version before");
    cores::on_first(|| world.aggregator.start(DEADLINE))?;
    show_memory(&mut world, &format!("{}fleet_started_anonymous_memory", engine.prefix()), "aim 50 of both")?;
    for (by, path, times) in ASKED {
        match ask(&world, path, times) {
            Ok(times) => show(engine, by, "idle", &times),
            Err(error) => note(&format!("{}cost_90d_by_{by} has no answer: {error:#}", engine.prefix())),
        }
    }
    balances(engine, &world)?;
    // The fleet's own agents, at real time.
    let agents = u32::try_from(gpus)? / GPUS;
    let crowd = Running::start(runtime, world.aggregator.uplink(), agents)?;
    for (by, path, times) in ASKED.into_iter().take(3) {
        show(engine, by, "ingesting", &ask(&world, path, times.min(WHILE_INGESTING))?);
    }
    crowd.end()?;
    let uplink = world.aggregator.uplink();
    let ingesting = runtime.spawn(async move {
        for round in 1.. {
            deliver::all(uplink.clone(), senders(round * 1_000)).await?;
        }
        anyhow::Ok(())
    });
    for (by, path, times) in ASKED.into_iter().take(3) {
        show(engine, by, "saturated", &ask(&world, path, times.min(WHILE_INGESTING))?);
    }
    show_memory(&mut world, &format!("{}fleet_anonymous_memory", engine.prefix()), "after that")?;
    anyhow::ensure!(!ingesting.is_finished(), "nothing was ingested: {:?}", runtime.block_on(ingesting));
    ingesting.abort();
    Ok(())
}

fn ask(world: &World, path: &str, times: usize) -> anyhow::Result<Vec<f64>> {
    let url = format!("{}/api/v1/cost/{path}&limit=100&window={DAYS}d", world.aggregator.url());
    let clock = Clock::system();
    let agent = ureq::Agent::from(
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(60))).build(),
    );
    (0..times)
        .map(|_| {
            let from_ns = clock.monotonic_ns();
            let text = agent.get(&url).call()?.body_mut().read_to_string()?;
            anyhow::ensure!(text.contains("\"rows\""), "no rows in the answer");
            Ok((clock.monotonic_ns() - from_ns) as f64 / 1e6)
        })
        .collect()
}

/// The list of accounts, with a limit for all time: as roll-ups have it, and as rows of pods do once a label binds.
fn balances(engine: &Engine, world: &World) -> anyhow::Result<()> {
    let clock = Clock::system();
    for (name, binding, how) in [
        ("everything", json!({ "namespace": "*", "from": FOREVER }), "roll_ups"),
        ("labelled", json!({ "labels": { "team": "a" }, "from": FOREVER }), "rows"),
    ] {
        let body = json!({ "slurm_account": name, "name": name, "budget_limit": "1000000000", "bindings": [binding] });
        let url = format!("{}/api/v1/accounts", world.aggregator.url());
        let (status, text) = post(&http(), &url, &body.to_string())?;
        anyhow::ensure!(status == 201, "{status} {text}");
        let mut times = Vec::new();
        for _ in 0..BALANCES {
            let from_ns = clock.monotonic_ns();
            let (status, text) = get(&http(), &url, None)?;
            anyhow::ensure!(status == 200, "{status} {text}");
            times.push((clock.monotonic_ns() - from_ns) as f64 / 1e6);
        }
        let figure_name = format!("{}balances_90d_by_{how}", engine.prefix());
        let note = format!("{BALANCES} requests, the slowest {:.0}", percentile(&times, 1.0));
        figure(&figure_name, format!("{:.0}", median(&times)), "ms", &note);
    }
    Ok(())
}

fn show(engine: &Engine, by: &str, when: &str, times: &[f64]) {
    let note = format!("{} requests, median {:.0}, aim 100", times.len(), median(times));
    let name = format!("{}cost_90d_by_{by}_{when}_p99", engine.prefix());
    figure(&name, format!("{:.0}", percentile(times, 0.99)), "ms", &note);
}
