//! Budgets over HTTP, as gates use them: many checks at once, kills between a check and its answer, and two aggregators over one
//! database. No nano-dollar is held twice, and a check that is sent again is the same check.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, ensure};
use harness::aggregator::Aggregator;
use harness::http::{http, post};
use harness::world::{DEADLINE, World};
use postgres_server::Server;
use serde_json::{Value, json};

use crate::ledgers::orders::said;

/// Checks that are on their way at once.
const CLIENTS: usize = 32;
const CHECKS: usize = 1000;
/// An hour of a GPU at the book's price of 3.60, and a fifth more.
const HOLD: i64 = 4_320_000_000;

/// A book that prices everything, and an account with room for 100 holds less a nano-dollar.
fn begin(aggregator: &mut Aggregator) -> anyhow::Result<()> {
    std::fs::write(
        aggregator.prices(),
        "currency = \"USD\"\n[[price]]\nprice = \"3.60\"\nunit = \"gpu_hour\"\n",
    )?;
    aggregator.start(DEADLINE)
}

fn account(aggregator: &Aggregator) -> anyhow::Result<()> {
    let body = json!({ "slurm_account": "physics", "name": "Physics", "budget_limit": "431.999999999" });
    let (status, text) = post(&http(), &format!("{}/api/v1/accounts", aggregator.url()), &body.to_string())?;
    ensure!(status == 201, "{status} {text}");
    Ok(())
}

fn check(client: &ureq::Agent, url: &str, key: usize) -> anyhow::Result<Value> {
    let body = json!({
        "account": "physics", "partition": "gpu", "nodes": 1, "cpus": 1, "gpus": 1, "wall_time": "1:00:00",
        "cluster": "c", "idempotency_key": format!("submit-{key}"),
    });
    let (status, text) = post(client, &format!("{url}/api/v1/budget/check"), &body.to_string())?;
    ensure!(status == 200, "{status} {text}");
    Ok(serde_json::from_str(&text)?)
}

/// Sends all checks, each to one of the aggregators, and gives the answers by key. What fails is `Err`.
fn send_all(urls: &[String], checks: usize) -> BTreeMap<usize, anyhow::Result<Value>> {
    let (next, answers) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let client = http();
                loop {
                    let key = next.fetch_add(1, Ordering::Relaxed);
                    if key >= checks {
                        return;
                    }
                    let answer = check(&client, &urls[key % urls.len()], key);
                    answers.lock().unwrap_or_else(PoisonError::into_inner).insert(key, answer);
                }
            });
        }
    });
    answers.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What the answers hold altogether, in nano-dollars, and how many of them.
fn held(answers: &BTreeMap<usize, anyhow::Result<Value>>) -> anyhow::Result<(usize, i64)> {
    let mut held = (0, 0);
    for answer in answers.values() {
        let answer = answer.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        if answer["available"] == true {
            let amount = answer["exact"]["hold_amount"].as_str().context("an amount")?;
            let nanos = tonnage_proto::decimal::to_nanos(amount).context("a decimal")?;
            held = (held.0 + 1, held.1 + i64::try_from(nanos)?);
        }
    }
    Ok(held)
}

fn conserved(aggregator: &Aggregator) -> anyhow::Result<()> {
    let (status, text) = post(&http(), &format!("{}/api/v1/audit/verify", aggregator.url()), "")?;
    let answer: Value = serde_json::from_str(&text)?;
    ensure!(status == 200 && answer["conserved"] == true, "{status} {text}");
    Ok(())
}

fn left(aggregator: &Aggregator) -> anyhow::Result<String> {
    let account: Value = aggregator.answer("/api/v1/accounts/physics")?;
    Ok(account["exact"]["budget_available"].as_str().context("a balance")?.to_owned())
}

#[test]
fn a_thousand_checks_at_once_hold_what_there_is_and_no_more() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    begin(&mut world.aggregator)?;
    account(&world.aggregator)?;
    let answers = send_all(&[world.aggregator.url()], CHECKS);
    ensure!(held(&answers)? == (99, 99 * HOLD), "{:?}", held(&answers)?);
    ensure!(left(&world.aggregator)? == "4.319999999", "{}", left(&world.aggregator)?);
    // All of them again are the same answers.
    let again = send_all(&[world.aggregator.url()], CHECKS);
    for (key, answer) in &answers {
        ensure!(again[key].as_ref().ok() == answer.as_ref().ok(), "{key}: {answer:?} {:?}", again[key]);
    }
    conserved(&world.aggregator)
}

#[test]
fn a_check_whose_answer_a_kill_cut_off_is_the_same_hold_when_it_is_sent_again() -> anyhow::Result<()> {
    let mut world = World::new(2)?;
    begin(&mut world.aggregator)?;
    account(&world.aggregator)?;
    let (mut first, mut cut) = (BTreeMap::new(), 0);
    for round in 0..25 {
        // A fast machine may answer all of a round before it is killed.
        if round >= 5 && cut > 0 {
            break;
        }
        let urls = [world.aggregator.url()];
        let sent = std::thread::spawn(move || send_all(&urls, 40 * (round + 1)));
        // Some are answered, some are on their way: whichever, it is the disk that says what is held.
        while world.aggregator.answer::<Vec<Value>>("/api/v1/transactions?limit=1000")?.len()
            < 40 * round + 20
        {}
        world.aggregator.kill9()?;
        for (key, answer) in sent.join().expect("a client that does not panic") {
            match answer {
                Ok(answer) => {
                    let known = first.entry(key).or_insert_with(|| answer.clone());
                    ensure!(*known == answer, "{key}: {known} {answer}");
                }
                Err(_) => cut += 1,
            }
        }
        world.aggregator.start(DEADLINE)?;
    }
    ensure!(cut > 0, "no check was cut off");
    let all = send_all(&[world.aggregator.url()], 200);
    for (key, answer) in &first {
        ensure!(all[key].as_ref().ok() == Some(answer), "{key}: {answer} {:?}", all[key]);
    }
    ensure!(held(&all)? == (99, 99 * HOLD), "{:?}", held(&all)?);
    let listed: Vec<Value> = world.aggregator.answer("/api/v1/transactions?limit=1000")?;
    ensure!(listed.len() == 200, "{} for 200 keys", listed.len());
    println!("{cut} checks were cut off");
    conserved(&world.aggregator)
}

#[test]
fn two_aggregators_over_one_database_hold_what_there_is_and_no_more() -> anyhow::Result<()> {
    if postgres_server::programs().is_none() {
        println!("SKIPPED: PostgreSQL is not installed");
        return Ok(());
    }
    let database = Server::start(&["fsync=off"])?;
    let mut world = World::new(3)?;
    let clock = world.clock.as_ref().map(harness::sim_clock::SimClock::path);
    let mut other = Aggregator::new(&world.dir().join("other"), world.binaries(), clock)?;
    let url = database.database()?;
    (world.aggregator.database, other.database) = (Some(url.clone()), Some(url));
    begin(&mut world.aggregator)?;
    begin(&mut other)?;
    account(&world.aggregator)?;
    let answers = send_all(&[world.aggregator.url(), other.url()], CHECKS);
    ensure!(held(&answers)? == (99, 99 * HOLD), "{:?}", held(&answers)?);
    // A check that went to one is the same at the other.
    let again = send_all(&[other.url(), world.aggregator.url()], 100);
    for (key, answer) in &again {
        ensure!(answers[key].as_ref().ok() == answer.as_ref().ok(), "{key}");
    }
    ensure!(left(&world.aggregator)? == "4.319999999" && left(&other)? == "4.319999999");
    conserved(&other)
}

/// Nobody runs anything in between: a part of a budget is there when its date is.
#[test]
fn a_budget_is_kept_from_its_first_part_to_its_forecast_by_the_command_line() -> anyhow::Result<()> {
    const DAY_NS: i64 = 86_400_000_000_000;
    let mut world = World::new(4)?;
    begin(&mut world.aggregator)?;
    let json_of = |world: &World, args: &[&str]| -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&said(world, &[args, &["-o", "json"]].concat())?)?)
    };
    let account = json_of(&world, &["account", "create", "physics", "--limit", "10"])?;
    let start = account["created_at"].as_str().context("when it was made")?;
    let create =
        ["allocation", "create", "physics", "--total", "25", "--amount", "10", "--every", "daily", "--start"];
    let made = json_of(&world, &[&create[..], &[start]].concat())?;
    let id = made["id"].to_string();
    ensure!(made["exact"]["allocated_to_date"] == "10.000000000", "the first date is over: {made}");

    let check =
        ["budget", "check", "--account", "physics", "--cluster", "c", "--gpus", "1", "--time", "1:00:00"];
    let hold = json_of(&world, &check)?;
    let transaction = hold["transaction_id"].as_str().context("a hold")?.to_owned();
    let shown = said(&world, &["hold", "show", &transaction])?;
    ensure!(shown.contains("state: open") && shown.contains("amount: 4.320000000"), "{shown}");
    ensure!(left(&world.aggregator)? == "15.680000000", "{}", left(&world.aggregator)?);

    // Down for three dates.
    world.aggregator.kill9()?;
    world.move_clock(3 * DAY_NS)?;
    world.aggregator.start(DEADLINE)?;
    let later = json_of(&world, &["allocation", "show", &id])?;
    ensure!(later["history"].as_array().is_some_and(|parts| parts.len() == 3), "{later}");
    ensure!(later["status"] == "completed", "{later}");
    // Its lease is over by now, whether somebody recovers it or not.
    let recovered = said(&world, &["hold", "recover", "--dry-run"])?;
    ensure!(recovered.contains("would end"), "{recovered}");
    said(&world, &["hold", "recover", "--yes"])?;
    ensure!(said(&world, &["hold", "show", &transaction])?.contains("state: expired"), "it is still held");
    ensure!(left(&world.aggregator)? == "35.000000000", "{}", left(&world.aggregator)?);

    let rate = json_of(&world, &["burn-rate", "physics"])?;
    ensure!(rate["historical_data"].as_array().is_some_and(|days| days.len() == 2), "{rate}");
    let forecast = said(&world, &["forecast", "physics"])?;
    ensure!(forecast.contains("risk_level: LOW"), "{forecast}");
    for args in [&["account", "list"][..], &["account", "tree"]] {
        let text = said(&world, args)?;
        ensure!(text.contains("charged to nobody's budget this month (UTC): 0.000000000"), "{text}");
    }
    said(&world, &["usage", "summary"])?;
    said(&world, &["usage", "show", "physics"])?;
    said(&world, &["usage", "show", "__unassigned__"])?;
    ensure!(
        said(&world, &["usage", "show", "nobody"]).is_err(),
        "a name that is none is no budget without usage"
    );
    conserved(&world.aggregator)
}
