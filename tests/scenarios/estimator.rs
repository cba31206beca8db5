//! An estimator outside, over whole processes and a real HTTP server: what it says counts, and it holds nobody up.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, ensure};
use harness::http::{Scrape, http, post};
use harness::world::{DEADLINE, World};
use serde_json::{Value, json};

const BOOK: &str = "currency = \"USD\"\n[[price]]\nprice = \"3.60\"\nunit = \"gpu_hour\"\n";
const OK: u16 = 200;

/// What a server does with a question.
#[derive(Debug, Clone)]
enum Does {
    Answers(u16, &'static str),
    /// Until the other side hangs up.
    Hangs,
}

#[derive(Debug, Default)]
struct Seen {
    /// What is done next, the last of them for ever.
    does: Vec<Does>,
    /// Authorization and body of each question.
    asked: Vec<(String, Value)>,
}

/// Goes with the test.
struct Server {
    url: String,
    seen: Arc<Mutex<Seen>>,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/cost", listener.local_addr()?);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let server = Self { url, seen: Arc::clone(&seen) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || answer(stream, &seen));
            }
        });
        Ok(server)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn does(&self, does: &[Does]) {
        self.seen().does = does.to_vec();
    }

    fn count(&self) -> usize {
        self.seen().asked.len()
    }
}

fn answer(stream: TcpStream, seen: &Mutex<Seen>) -> anyhow::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut authorization, mut length, mut line) = (String::new(), 0, String::new());
    while reader.read_line(&mut line)? > 2 {
        let (name, value) = line.trim_end().split_once(": ").unwrap_or_default();
        match name.to_lowercase().as_str() {
            "authorization" => value.clone_into(&mut authorization),
            "content-length" => length = value.parse()?,
            _ => {}
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let does = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.asked.push((authorization, serde_json::from_slice(&body)?));
        if seen.does.len() > 1 { seen.does.remove(0) } else { seen.does.first().context("told")?.clone() }
    };
    match does {
        Does::Hangs => drop(reader.read(&mut [0])),
        Does::Answers(status, body) => {
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close", body.len());
            write!(reader.into_inner(), "{head}\r\n\r\n{body}")?;
        }
    }
    Ok(())
}

struct Site {
    world: World,
    server: Server,
}

/// What a check of one GPU for an hour, 3.60 by its price, is answered: where its cost is from, the cost, and the hold.
type Answered = (String, String, String);

impl Site {
    fn start() -> anyhow::Result<Self> {
        let (mut world, server) = (World::new(1)?, Server::start()?);
        let token = world.dir().join("token");
        std::fs::write(&token, "t0k\n")?;
        std::fs::write(world.aggregator.prices(), BOOK)?;
        // Long enough for a loaded machine.
        world.aggregator.extra_args = [
            "--estimator-url",
            server.url.as_str(),
            "--estimator-token-file",
            &token.display().to_string(),
            "--estimator-timeout-ms",
            "2000",
        ]
        .map(str::to_owned)
        .to_vec();
        world.aggregator.start(DEADLINE)?;
        let site = Self { world, server };
        let account = json!({ "slurm_account": "physics", "name": "Physics", "budget_limit": "432" });
        site.posted("/api/v1/accounts", &account, 201)?;
        Ok(site)
    }

    fn posted(&self, path: &str, body: &Value, expected: u16) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.world.aggregator.url());
        let (status, text) = post(&http(), &url, &body.to_string())?;
        ensure!(status == expected, "{path}: {status} {text}");
        Ok(serde_json::from_str(&text)?)
    }

    fn check(&self, more: &Value) -> anyhow::Result<Answered> {
        let mut check = json!({
            "account": "physics", "partition": "gpu", "nodes": 1, "cpus": 1, "gpus": 1, "wall_time": "1:00:00",
            "cluster": "c", "user_id": "ada", "job_details": { "job_name": "qcd" },
        });
        check
            .as_object_mut()
            .zip(more.as_object())
            .context("objects")?
            .0
            .extend(more.as_object().cloned().unwrap_or_default());
        let answer = self.posted("/api/v1/budget/check", &check, 200)?;
        let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| answer.to_string());
        let (cost, hold) = (&answer["exact"]["estimated_cost"], &answer["exact"]["hold_amount"]);
        Ok((text(&answer["details"]["estimate"])?, text(cost)?, text(hold)?))
    }

    fn counted(&self, result: &str) -> anyhow::Result<f64> {
        let scrape = Scrape::parse(&self.world.aggregator.get("/metrics")?.1)?;
        let series = scrape.series("tonnage_estimator_requests_total");
        Ok(series.iter().filter(|(labels, _)| labels["result"] == result).map(|(_, value)| value).sum())
    }
}

fn is(answered: &Answered, estimate: &str, cost: &str, hold: &str) -> anyhow::Result<()> {
    let (from, own_cost, own_hold) = answered;
    let same = from == estimate && own_cost.starts_with(cost) && own_hold.starts_with(hold);
    ensure!(same, "{answered:?} is not {estimate}, {cost}, {hold}");
    Ok(())
}

#[test]
fn what_an_estimator_says_is_held_and_the_price_where_it_says_nothing_good() -> anyhow::Result<()> {
    let mut site = Site::start()?;
    let half = Does::Answers(OK, r#"{"estimated_cost": 1.5, "why": "it ends early"}"#);
    site.server.does(std::slice::from_ref(&half));
    let key = json!({ "idempotency_key": "k" });
    is(&site.check(&key)?, "estimator", "1.500000000", "1.800000000")?;
    let (authorization, asked) = site.server.seen().asked[0].clone();
    ensure!(authorization == "Bearer t0k", "{authorization}");
    ensure!(asked["account"] == "physics" && asked["gpus"] == 1 && asked["user"] == "ada", "{asked}");
    ensure!(asked["time_limit_seconds"] == 3600 && asked["job_details"]["job_name"] == "qcd", "{asked}");

    // The same request is the same hold, whatever is said now, and after a kill.
    site.server.does(&[Does::Answers(OK, r#"{"estimated_cost": "2"}"#)]);
    is(&site.check(&key)?, "estimator", "1.500000000", "1.800000000")?;
    site.world.aggregator.kill9()?;
    site.world.aggregator.start(DEADLINE)?;
    is(&site.check(&key)?, "estimator", "1.500000000", "1.800000000")?;
    is(&site.check(&json!({}))?, "estimator", "2.000000000", "2.400000000")?;

    // More than the work can cost is not believed; garbage and refusals are no answers; a fault is asked again at once.
    let price = ("fallback", "3.600000000", "4.320000000");
    for does in [
        Does::Answers(OK, r#"{"estimated_cost": 3.600000001}"#),
        Does::Answers(OK, "<html>"),
        Does::Answers(OK, r#"{"estimated_cost": -1}"#),
        Does::Answers(404, ""),
    ] {
        site.server.does(std::slice::from_ref(&does));
        is(&site.check(&json!({}))?, price.0, price.1, price.2).with_context(|| format!("{does:?}"))?;
    }
    let before = site.server.count();
    site.server.does(&[Does::Answers(500, ""), half]);
    is(&site.check(&json!({}))?, "estimator", "1.500000000", "1.800000000")?;
    ensure!(site.server.count() == before + 2, "two tries");
    // Work without GPUs, and work that runs already, has no estimate.
    is(&site.check(&json!({ "gpus": 0 }))?, "price", "0.000000000", "0.000000000")?;
    is(
        &site.check(&json!({ "overdraft": "it runs" }))?,
        price.0.replace("fallback", "price").as_str(),
        price.1,
        price.2,
    )?;
    ensure!(site.server.count() == before + 2, "nobody was asked");
    site.world.aggregator.kill9()?;
    site.world.aggregator.admin(&["verify"])?;
    Ok(())
}

#[test]
fn an_estimator_that_hangs_or_fails_is_left_alone_for_a_while() -> anyhow::Result<()> {
    let mut site = Site::start()?;
    site.server.does(&[Does::Hangs]);
    is(&site.check(&json!({}))?, "fallback", "3.600000000", "4.320000000")?;
    site.server.does(&[Does::Answers(503, "")]);
    for _ in 0..4 {
        is(&site.check(&json!({}))?, "fallback", "3.600000000", "4.320000000")?;
    }
    // Five in a row: nobody asks.
    let asked = site.server.count();
    site.server.does(&[Does::Answers(OK, r#"{"estimated_cost": 1}"#)]);
    is(&site.check(&json!({}))?, "fallback", "3.600000000", "4.320000000")?;
    ensure!(site.server.count() == asked && site.counted("not_asked")? > 0.5);
    ensure!(site.counted("failed")? > 4.5 && site.counted("answered")? < 0.5);
    site.world.advance(31_000_000_000)?;
    is(&site.check(&json!({}))?, "estimator", "1.000000000", "1.200000000")?;
    is(&site.check(&json!({}))?, "estimator", "1.000000000", "1.200000000")?;
    ensure!(site.server.count() == asked + 2);
    Ok(())
}
