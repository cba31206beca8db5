//! Checks of one budget by many clients at once, beside a bare durable transaction of the same engine by as many: a row of a
//! hold's size, brought to the disk, with nothing looked up or decided.

use std::sync::Mutex;
use std::sync::PoisonError;

use anyhow::ensure;
use harness::http::{http, post};
use harness::world::{DEADLINE, World};
use serde_json::{Value, json};
use tonnage_aggregator::store::server::TlsFiles;
use tonnage_aggregator::store::{Connection, Location, Store};
use tonnage_runtime::clock::Clock;

use super::engine::Engine;
use crate::cores;
use crate::report::{figure, median, percentile};

const CLIENTS: usize = 64;
/// Of each client; as many before, so that nothing is done for the first time.
const CHECKS: usize = 100;
/// Of an entry in the journal and a row of a hold.
const BARE_BYTES: usize = 600;

/// # Errors
/// If a process does not do what it should.
pub(super) fn measure(engine: &Engine) -> anyhow::Result<()> {
    let mut world = engine.world()?;
    std::fs::write(
        world.aggregator.prices(),
        "currency = \"USD\"\n[[price]]\nprice = \"3.60\"\nunit = \"gpu_hour\"\n",
    )?;
    cores::on_first(|| world.aggregator.start(DEADLINE))?;
    let url = world.aggregator.url();
    let account = json!({ "slurm_account": "physics", "name": "Physics", "budget_limit": "1000000" });
    let (status, text) = post(&http(), &format!("{url}/api/v1/accounts"), &account.to_string())?;
    ensure!(status == 201, "{status} {text}");
    // The bare ones, the checks, and the bare ones again: what the disk does meanwhile is in both.
    let before = bare(engine, &world)?;
    ask(&url, "warm")?;
    let asked = ask(&url, "asked")?;
    let after = bare(engine, &world)?;
    let name = |name: &str| format!("{}{name}", engine.prefix());
    let rate = |times: &Times| format!("{:.0}", times.ms.len() as f64 / times.seconds);
    figure(
        &name("checks"),
        rate(&asked),
        "1/s",
        &format!("{CLIENTS} clients, each with a hold, one account"),
    );
    figure(
        &name("bare_transactions"),
        rate(&before),
        "1/s",
        &format!("as many clients; {} after", rate(&after)),
    );
    let p99 = |times: &Times| percentile(&times.ms, 0.99);
    figure(
        &name("check_p99"),
        format!("{:.1}", p99(&asked)),
        "ms",
        &format!("median {:.1}; aim twice the bare one", median(&asked.ms)),
    );
    let bare = format!("median {:.1}; after the checks p99 {:.1}", median(&before.ms), p99(&after));
    figure(&name("bare_transaction_p99"), format!("{:.1}", p99(&before)), "ms", &bare);
    let ratio = p99(&asked) / f64::midpoint(p99(&before), p99(&after));
    figure(&name("check_to_bare_p99"), format!("{ratio:.2}"), "ratio", "aim 2");
    world.aggregator.stop(DEADLINE)
}

struct Times {
    /// Of each of all clients.
    ms: Vec<f64>,
    /// Of all together.
    seconds: f64,
}

/// Runs every client's turns side by side.
fn at_once(turns: impl Fn(usize, &Clock) -> anyhow::Result<Vec<f64>> + Sync) -> anyhow::Result<Times> {
    let (clock, all) = (Clock::system(), Mutex::new(Vec::new()));
    let from_ns = clock.monotonic_ns();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (all, clock, turns) = (&all, &clock, &turns);
                scope.spawn(move || {
                    let ms = turns(client, clock)?;
                    all.lock().unwrap_or_else(PoisonError::into_inner).extend(ms);
                    anyhow::Ok(())
                })
            })
            .collect();
        running.into_iter().try_for_each(|client| {
            client.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked")))
        })
    })?;
    let seconds = (clock.monotonic_ns() - from_ns) as f64 / 1e9;
    Ok(Times { ms: all.into_inner().unwrap_or_else(PoisonError::into_inner), seconds })
}

fn ask(url: &str, round: &str) -> anyhow::Result<Times> {
    let url = format!("{url}/api/v1/budget/check");
    at_once(|client, clock| {
        let http = http();
        (0..CHECKS)
            .map(|check| {
                let body = json!({
                    "account": "physics", "partition": "gpu", "nodes": 1, "cpus": 1, "gpus": 1,
                    "wall_time": "1:00:00", "cluster": "c", "idempotency_key": format!("{round}-{client}-{check}"),
                });
                let from_ns = clock.monotonic_ns();
                let (status, text) = post(&http, &url, &body.to_string())?;
                let ms = (clock.monotonic_ns() - from_ns) as f64 / 1e6;
                let answer: Value = serde_json::from_str(&text)?;
                ensure!(status == 200 && answer["available"] == true, "{status} {text}");
                Ok(ms)
            })
            .collect()
    })
}

/// SQLite has one connection for all, since it has one writer; a server one for each client.
fn bare(engine: &Engine, world: &World) -> anyhow::Result<Times> {
    let folder = tempfile::tempdir_in(world.dir())?;
    let store = match engine {
        Engine::Sqlite => Store::open(folder.path())?,
        Engine::Postgres(server) => {
            Location::database(&server.database()?, true, &TlsFiles::default())?.open()?
        }
    };
    let first = Mutex::new(store.writer()?);
    let lock = || first.lock().unwrap_or_else(PoisonError::into_inner);
    let is_server = lock().is_server();
    let table = if is_server {
        TABLE.replace("INTEGER", "BIGINT").replace("BLOB", "BYTEA")
    } else {
        TABLE.to_owned()
    };
    lock().execute_batch(&table)?;
    at_once(|client, clock| {
        if is_server {
            let db = store.writer()?;
            timed(clock, |turn| durable(&db, ("BEGIN", client, turn)))
        } else {
            timed(clock, |turn| durable(&lock(), ("BEGIN IMMEDIATE", client, turn)))
        }
    })
}

const TABLE: &str = "CREATE TABLE bare_hold (
    client INTEGER NOT NULL, turn INTEGER NOT NULL, amount INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (client, turn)
)";

fn timed(clock: &Clock, turn: impl Fn(i64) -> anyhow::Result<()>) -> anyhow::Result<Vec<f64>> {
    let one = |number: usize| {
        let from_ns = clock.monotonic_ns();
        turn(i64::try_from(number)?)?;
        Ok((clock.monotonic_ns() - from_ns) as f64 / 1e6)
    };
    (0..CHECKS).map(one).collect()
}

fn durable(db: &Connection, (begin, client, turn): (&str, usize, i64)) -> anyhow::Result<()> {
    db.execute_batch(begin)?;
    let row = ([i64::try_from(client)?, turn, 4_320_000_000], vec![0x5a; BARE_BYTES]);
    db.insert_bytes("bare_hold", "", &[row])?;
    Ok(db.execute_batch("COMMIT")?)
}
