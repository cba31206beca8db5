//! Alerts over whole processes: found, told over HTTP through outages and kills, acknowledged, resolved.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use harness::http::{Scrape, http, post};
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use serde_json::{Value, json};

use super::ledgers::orders::said;

/// By a real mail server.
mod email;
/// How fast limits are spent.
mod pace;

const BOOK: &str = "currency = \"USD\"\n[[price]]\nprice = \"3.60\"\nunit = \"gpu_hour\"\n";

/// What was asked of a server.
#[derive(Debug, Clone)]
struct Asked {
    path: String,
    headers: BTreeMap<String, String>,
    body: Value,
}

/// A server that takes what it is told, or answers with an error; it goes with the test.
struct Server {
    url: String,
    status: Arc<AtomicU16>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let (status, asked) = (Arc::new(AtomicU16::new(503)), Arc::new(Mutex::new(Vec::new())));
        let server = Self { url, status: Arc::clone(&status), asked: Arc::clone(&asked) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let status = status.load(Ordering::Relaxed);
                let Ok(taken) = answer(stream, status) else { continue };
                if status == 200 {
                    asked.lock().unwrap_or_else(PoisonError::into_inner).push(taken);
                }
            }
        });
        Ok(server)
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn taken(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(stream: TcpStream, status: u16) -> anyhow::Result<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).context("a path")?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length: usize = headers.get("content-length").context("a length")?.parse()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut stream = reader.into_inner();
    write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    Ok(Asked { path, headers, body: serde_json::from_slice(&body)? })
}

/// A ledger, and who is told.
struct Site<S> {
    world: World,
    server: S,
}

/// Writes a file of this world, and gives its path.
fn file(world: &World, name: &str, text: &str) -> anyhow::Result<String> {
    let path = world.dir().join(name);
    std::fs::write(&path, text)?;
    Ok(path.display().to_string())
}

/// An account with room for a hundred holds, a rule at one percent of it, and four channels at one server that is away.
fn site() -> anyhow::Result<Site<Server>> {
    let world = World::new(1)?;
    let server = Server::start()?;
    let secret = |name: &str, text: &str| file(&world, name, text);
    let url = &server.url;
    let (slack, key, hook) =
        (secret("slack", &format!("{url}/slack\n"))?, secret("key", "k-1\n")?, secret("hook", "s3cret")?);
    let rules = format!(
        r#"
            [[channel]]
            name = "slack"
            kind = "slack"
            url_file = "{slack}"
            [[channel]]
            name = "teams"
            kind = "teams"
            url = "{url}/teams"
            [[channel]]
            name = "pager"
            kind = "pagerduty"
            url = "{url}/pager"
            routing_key_file = "{key}"
            [[channel]]
            name = "hook"
            kind = "webhook"
            url = "{url}/hook?of=tonnage"
            secret_file = "{hook}"
            [[rule]]
            name = "one percent"
            kind = "spent"
            percent = 1
            channels = ["slack", "teams", "pager", "hook"]
            "#
    );
    Site::start(world, server, &rules)
}

impl<S> Site<S> {
    /// An account, and these rules.
    fn start(mut world: World, server: S, rules: &str) -> anyhow::Result<Self> {
        let path = file(&world, "alerts.toml", rules)?;
        std::fs::write(world.aggregator.prices(), BOOK)?;
        world.aggregator.extra_args = vec!["--alerts-file".to_owned(), path];
        world.aggregator.start(DEADLINE)?;
        let account = json!({ "slurm_account": "physics", "name": "Physics", "budget_limit": "432" });
        let site = Self { world, server };
        site.posted("/api/v1/accounts", &account, 201)?;
        Ok(site)
    }

    fn posted(&self, path: &str, body: &Value, expected: u16) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.world.aggregator.url());
        let (status, text) = post(&http(), &url, &body.to_string())?;
        ensure!(status == expected, "{path}: {status} {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Holds one percent of the account.
    fn hold(&self) -> anyhow::Result<String> {
        let check = json!({
            "account": "physics", "partition": "gpu", "nodes": 1, "cpus": 1, "gpus": 1, "wall_time": "1:00:00",
            "cluster": "c",
        });
        let answer = self.posted("/api/v1/budget/check", &check, 200)?;
        Ok(answer["transaction_id"].as_str().context("a hold")?.to_owned())
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<f64> {
        let scrape = Scrape::parse(&self.world.aggregator.get("/metrics")?.1)?;
        let has = |series: &&(BTreeMap<String, String>, f64)| {
            labels.iter().all(|(name, value)| series.0.get(*name).is_some_and(|own| own == value))
        };
        Ok(scrape.series(name).iter().filter(has).map(|(_, value)| value).sum())
    }

    /// Lets ledger time pass until deliveries came to so many such results.
    fn until_result(&mut self, result: &str, count: f64) -> anyhow::Result<()> {
        wait_until(DEADLINE, result, String::new, || {
            self.world.advance(5_000_000_000)?;
            let so_far = self.metric("tonnage_alert_deliveries_total", &[("result", result)])?;
            Ok((so_far >= count).then_some(()))
        })
    }
}

impl Site<Server> {
    /// Lets ledger time pass until the server has taken so much.
    fn until_taken(&mut self, count: usize) -> anyhow::Result<Vec<Asked>> {
        let server = &self.server;
        let world = &mut self.world;
        let shown = || format!("{:?}", server.taken());
        wait_until(DEADLINE, "what is told", shown, || {
            world.advance(5_000_000_000)?;
            Ok((server.taken().len() >= count).then_some(()))
        })?;
        let taken = self.server.taken();
        ensure!(taken.len() == count, "{taken:?}");
        Ok(taken)
    }
}

fn paths(asked: &[Asked]) -> BTreeMap<&str, usize> {
    let mut paths = BTreeMap::new();
    for asked in asked {
        *paths.entry(asked.path.as_str()).or_default() += 1;
    }
    paths
}

#[test]
fn an_alert_is_told_to_each_channel_once_through_an_outage_and_a_kill() -> anyhow::Result<()> {
    let mut site = site()?;
    let hold = site.hold()?;
    let world = &mut site.world;
    wait_until(DEADLINE, "tries that fail", String::new, || {
        world.advance(5_000_000_000)?;
        let scrape = Scrape::parse(&world.aggregator.get("/metrics")?.1)?;
        Ok((scrape.sum("tonnage_alert_deliveries_total") >= Some(4.0)).then_some(()))
    })?;
    site.world.aggregator.kill9()?;
    site.server.answers(200);
    site.world.aggregator.start(DEADLINE)?;
    let taken = site.until_taken(4)?;
    let all = ["/hook?of=tonnage", "/pager", "/slack", "/teams"];
    ensure!(paths(&taken) == all.map(|path| (path, 1)).into(), "{taken:?}");
    let of = |path: &str| taken.iter().find(|asked| asked.path == path).context("asked");
    let hook = of("/hook?of=tonnage")?;
    ensure!(hook.body["budget_name"] == "physics" && hook.body["event"] == "trigger", "{hook:?}");
    ensure!(hook.headers["x-tonnage-signature"].len() == "sha256=".len() + 64, "{hook:?}");
    ensure!(hook.headers.contains_key("idempotency-key"), "{hook:?}");
    ensure!(of("/pager")?.body["routing_key"] == "k-1", "{taken:?}");
    let text = of("/slack")?.body["text"].as_str().context("a text")?.to_owned();
    ensure!(text.contains("physics: 1.0 % of its limit (lifetime) is spent"), "{text}");

    // A person knows, which only some kinds of channels take.
    let listed = said(&site.world, &["alert", "list", "--status", "active", "-o", "json"])?;
    let id = serde_json::from_str::<Value>(&listed)?[0]["id"].as_i64().context("an alert")?;
    let done =
        said(&site.world, &["alert", "acknowledge", &id.to_string(), "--notes", "on it", "-o", "json"])?;
    ensure!(done.contains("\"acknowledged\"") && done.contains("on it"), "{done}");
    let taken = site.until_taken(6)?;
    ensure!(
        taken[4..].iter().all(|asked| asked.path == "/pager" || asked.path.starts_with("/hook")),
        "{taken:?}"
    );
    ensure!(site.metric("tonnage_alerts_open", &[("state", "acknowledged")])? <= 1.0);

    // What is no longer so is over, five minutes later, and told to all.
    site.posted(&format!("/api/v1/holds/{hold}/void"), &json!({}), 200)?;
    let taken = site.until_taken(10)?;
    let resolved = taken[6..].iter().filter(|asked| asked.body.to_string().contains("resolve")).count();
    ensure!(resolved == 4, "{taken:?}");
    let again = json!({ "alert_id": id, "acknowledged_by": "ada" });
    site.posted("/api/v1/alerts/acknowledge", &again, 409)?;
    site.posted("/api/v1/alerts/acknowledge", &json!({ "alert_id": id + 1000 }), 404)?;
    ensure!(site.metric("tonnage_alert_deliveries_total", &[("result", "refused")])? < 0.5);
    Ok(())
}

#[test]
fn a_channel_that_refuses_is_given_up_and_others_are_told_all_the_same() -> anyhow::Result<()> {
    let mut site = site()?;
    site.server.answers(400);
    site.hold()?;
    let world = &mut site.world;
    wait_until(DEADLINE, "refusals", String::new, || {
        world.advance(5_000_000_000)?;
        let scrape = Scrape::parse(&world.aggregator.get("/metrics")?.1)?;
        let series = scrape.series("tonnage_alert_deliveries_total");
        let refused = series.iter().filter(|(labels, _)| labels["result"] == "refused").count();
        Ok((refused == 4).then_some(()))
    })?;
    site.server.answers(200);
    for _ in 0..5 {
        site.world.advance(20_000_000_000)?;
    }
    // A wrong file is told, and the last good one stays.
    let file = site.world.dir().join("alerts.toml");
    let good = std::fs::read_to_string(&file)?;
    std::fs::write(&file, "[[rule]]\nname = 1\n")?;
    let world = &mut site.world;
    wait_until(DEADLINE, "the wrong file", String::new, || {
        world.advance(5_000_000_000)?;
        let scrape = Scrape::parse(&world.aggregator.get("/metrics")?.1)?;
        Ok((scrape.sum("tonnage_alerts_file_good") == Some(0.0)).then_some(()))
    })?;
    // A rule that is new finds what there is already.
    let more = "[[rule]]\nname = \"any\"\nkind = \"spent\"\npercent = 1\nchannels = [\"teams\"]\n";
    std::fs::write(&file, format!("{good}\n{more}"))?;
    let taken = site.until_taken(1)?;
    ensure!(taken[0].path == "/teams" && taken[0].body.to_string().contains("any: physics"), "{taken:?}");
    Ok(())
}
