//! The REST API under whatever its own document allows, and much that it does not: Schemathesis asks an aggregator with a
//! real ledger, on either engine, and checks each answer against the document (`tests/schemathesis`).
//!
//! A run is bounded by [`EXAMPLES`] for each endpoint, and its seed is printed. `make contract` runs longer ones.
#![allow(clippy::print_stdout, reason = "what is skipped is skipped aloud, and a failure needs its seed")]

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::forged::{Forged, seal, window};
use harness::http::{http, post};
use harness::kubelet::{self, Kubelet};
use harness::process::free_ports;
use harness::scenario;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use postgres_server::Server;
use serde_json::{Value, json};
use tonnage_proto::metering::ack::Outcome;

const S: i64 = 1_000_000_000;
/// For each endpoint, besides those that follow from the document alone.
const EXAMPLES: u64 = 20;
const JOB: u32 = 4_711;
const GRANT: &str = "NSF-1";

/// A number that whoever runs the tests may set, or what it is otherwise.
#[allow(
    clippy::disallowed_methods,
    reason = "tests have no command line to say for how long they run, and with which seed"
)]
fn setting(name: &str, otherwise: u64) -> u64 {
    let set = std::env::var_os(name).and_then(|value| value.into_string().ok());
    set.map_or(otherwise, |value| value.parse().unwrap_or_else(|e| panic!("{name} {value:?}: {e}")))
}

/// A pod and a job on two GPUs of a node, two nodes that both claim a third one, and three hours in which nothing is heard of them.
fn ledger(database: Option<String>) -> anyhow::Result<(World, Kubelet)> {
    let mut world = World::new(setting("TONNAGE_TEST_SEED", rand::random()))?;
    world.aggregator.database = database;
    let mut scenario = scenario::node(2);
    scenario.process.push(scenario::process(7, &scenario::slurm_v2(JOB, "0", 2_001), &[1], 0.0));
    world.add_node("n", scenario)?;
    let kubelet = Kubelet::start(&world.nodes[0].kubelet_socket())?;
    kubelet::begin_pod(world.nodes[0].dir(), "train-0", &scenario::pod_uid(1))?;
    kubelet.set_pods(vec![kubelet::pod("train-0", &[&scenario::uuid(0)])]);
    world.start()?;
    wait_until(DEADLINE, "the kubelet's first list", String::new, || {
        let up = world.nodes[0].metrics()?.sum("tonnage_agent_kubelet_up");
        Ok((up == Some(1.0)).then_some(()))
    })?;
    world.live(20)?;
    world.nodes[0].stop(DEADLINE)?;
    let (now, ten) = (world.now().wall_ns, (10 * S).unsigned_abs());
    for (node, ago, outcome) in [("own", 40, Outcome::Accepted), ("clone", 30, Outcome::Quarantined)] {
        let forged = Forged::new(&world.aggregator.uplink(), "test", node)?;
        let mut batch = forged.batch(1, [ago, ago - 10].map(|ago| window(now - ago * S, ten, 6)).to_vec());
        batch.devices[0].uuid = "GPU-own".to_owned();
        let (mut wire, _) = forged.open()?;
        let (is, detail) = wire.ack(seal(&batch))?;
        anyhow::ensure!(is == outcome, "{node}: {is:?} {detail}");
    }
    world.move_clock(3 * 3_600 * S)?;
    wait_until(DEADLINE, "entries of closed slots", String::new, || {
        let (_, rows) = world.aggregator.get("/api/v1/export/focus?window=today")?;
        Ok((rows.lines().count() > 4).then_some(()))
    })?;
    granted(&world)?;
    Ok((world, kubelet))
}

/// A grant, and an account that spends it.
fn granted(world: &World) -> anyhow::Result<()> {
    let account = json!({ "slurm_account": "physics", "start_date": "2026-12-01" });
    let grant = json!({
        "grant_number": GRANT, "account": "physics", "funding_agency": "NSF", "principal_investigator": "Ada",
        "institution": "University", "grant_start_date": "2026-12-01", "grant_end_date": "2028-12-01",
        "total_award_amount": 1000,
    });
    for (path, body) in [("accounts", account), ("grants", grant)] {
        let url = format!("{}/api/v1/{path}", world.aggregator.url());
        let (status, text) = post(&http(), &url, &body.to_string())?;
        anyhow::ensure!(status == 201, "{path}: {status} {text}");
    }
    Ok(())
}

/// The document as it is served, with examples that are in this ledger, so that not every answer is empty.
fn document(world: &World, tokens: bool) -> anyhow::Result<Value> {
    let mut document: Value = world.aggregator.answer("/api/v1/openapi.json")?;
    let paths = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    for operation in paths.filter_map(Value::as_object_mut).flat_map(|path| path.values_mut()) {
        if !tokens && let Some(operation) = operation.as_object_mut() {
            operation.remove("security");
        }
        for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
            let example = match parameter["name"].as_str().unwrap_or_default() {
                "window" => json!("today"),
                "cluster" => json!("test"),
                "node" => json!("n"),
                "namespace" => json!("ml"),
                "device" | "uuid" => json!(scenario::uuid(0)),
                "pod" => json!("ml/train-0"),
                "job" => json!(JOB.to_string()),
                "at" => json!("2027-01-15T08:00:00Z"),
                "aggregate" => json!("namespace,pod"),
                "filter" => json!("namespace:\"ml\""),
                "id" => json!(1),
                "number" => json!(GRANT),
                _ => continue,
            };
            parameter["example"] = example;
        }
    }
    if !tokens && let Some(document) = document.as_object_mut() {
        document.remove("security");
    }
    Ok(document)
}

/// Path of a Python that has Schemathesis; `None`, said aloud, where it cannot be had.
fn schemathesis(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target");
    let output = Command::new(folder.join("install")).arg(target).output()?;
    if output.status.success() {
        return Ok(Some(PathBuf::from(String::from_utf8(output.stdout)?.trim())));
    }
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.code() == Some(77), "{reason}");
    println!("SKIPPED: Schemathesis: {reason}");
    Ok(None)
}

/// Asks the REST API of a world, and fails with what was found.
fn ask(world: &World) -> anyhow::Result<()> {
    ask_by(world, &document(world, !world.aggregator.insecure)?, &world.aggregator.url(), &[])
}

/// Asks whoever is at `url` by this document.
fn ask_by(world: &World, document: &Value, url: &str, args: &[&str]) -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemathesis");
    let Some(python) = schemathesis(&folder)? else { return Ok(()) };
    let file = world.dir().join("openapi.json");
    std::fs::write(&file, document.to_string())?;
    let mut command = Command::new(python);
    command.args(["-m", "schemathesis.cli", "--config-file"]).arg(folder.join("config.toml"));
    command.arg("run").arg(file).args(["--url", url, "--no-color"]).args(args);
    command.args(["--seed", &world.seed.to_string(), "--generation-database", "none"]);
    command.args(["--max-examples", &setting("TONNAGE_TEST_EXAMPLES", EXAMPLES).to_string()]);
    command.args(["--continue-on-failure", "--report-har-path"]).arg(world.dir().join("asked.har"));
    if let Some(token) = &world.aggregator.token {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    let output =
        command.env("SCHEMATHESIS_HOOKS", folder.join("hooks.py")).current_dir(world.dir()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    // A long address is not worth reading to its end.
    let cut: Vec<String> = said.lines().map(|line| line.chars().take(400).collect()).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "seed {}: {}\n{errors}", world.seed, cut.join("\n"));
    println!("{}", cut.join("\n"));
    Ok(())
}

/// What clients of OpenCost may ask, and how it is answered, whatever the parameters are: those are not said, so that more of what is
/// asked is wrong.
fn opencost() -> Value {
    let parameter = |name: &str, example: &str| json!({ "name": name, "in": "query", "schema": { "type": "string" }, "example": example });
    let [window, rest @ ..] = [
        ("window", "today"),
        ("aggregate", "namespace,pod"),
        ("filter", "namespace:\"ml\""),
        ("step", "15m"),
        ("accumulateBy", "hour"),
        ("includeIdle", "true"),
        ("idleByNode", "true"),
        ("shareIdle", "true"),
        ("resolution", "1m"),
    ]
    .map(|(name, example)| parameter(name, example));
    let answer = |of: &[&str]| {
        let properties = json!({ "code": { "type": "integer" } });
        let schema = json!({ "type": "object", "properties": properties, "required": of });
        json!({ "description": "", "content": { "application/json": { "schema": schema } } })
    };
    let responses = json!({
        "200": answer(&["code", "status", "data"]), "400": answer(&["code", "message"]), "414": { "description": "" },
    });
    let operation =
        |parameters: &[Value]| json!({ "get": { "parameters": parameters, "responses": responses } });
    let allocations = operation(&[std::slice::from_ref(&window), rest.as_slice()].concat());
    let paths = json!({
        "/allocation": allocations,
        "/allocation/compute": allocations,
        "/model/allocation/summary": allocations,
        "/assets": operation(&[window]),
    });
    json!({ "openapi": "3.1.0", "info": { "title": "OpenCost", "version": "1" }, "paths": paths })
}

#[test]
fn whatever_clients_of_opencost_ask_is_answered_or_refused_in_its_shape() -> anyhow::Result<()> {
    let (mut world, _kubelet) = ledger(None)?;
    world.aggregator.stop(DEADLINE)?;
    let [port] = free_ports()?;
    let address = format!("127.0.0.1:{port}");
    world.aggregator.extra_args = vec!["--opencost-listen".to_owned(), address.clone()];
    world.aggregator.start(DEADLINE)?;
    let checks =
        "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    ask_by(&world, &opencost(), &format!("http://{address}"), &["--checks", checks])
}

#[test]
fn whatever_is_asked_is_answered_as_the_document_says() -> anyhow::Result<()> {
    let (world, _kubelet) = ledger(None)?;
    ask(&world)
}

#[test]
fn whatever_is_asked_over_a_database_is_answered_as_the_document_says_to_those_with_a_token()
-> anyhow::Result<()> {
    if postgres_server::programs().is_none() {
        println!("SKIPPED: PostgreSQL is not installed");
        return Ok(());
    }
    let server = Server::start(&[])?;
    let (mut world, _kubelet) = ledger(Some(server.database()?))?;
    world.aggregator.stop(DEADLINE)?;
    world.aggregator.insecure = false;
    let token = world.aggregator.admin(&["token", "add", "--name", "ann", "--role", "operator"])?;
    world.aggregator.token = Some(token.trim().to_owned());
    world.aggregator.start(DEADLINE)?;
    ask(&world)
}
