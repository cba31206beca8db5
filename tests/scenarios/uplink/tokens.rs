//! With credentials: a node's token bills its node and nothing else, a person's reads and bills nobody.

use harness::forged::{Forged, seal, window};
use harness::scenario;
use harness::sim_clock::BEGIN_NS;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use tonic::Code as Status;
use tonnage_aggregator::model::RowKind;
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::metering::refusal::Code;

use crate::books::Books;

const CELL: u64 = 10_000_000_000;
const S: i64 = 1_000_000_000;

struct Tokens {
    reader: String,
    node: String,
    other_node: String,
}

fn world() -> anyhow::Result<(World, Tokens)> {
    let mut world = World::new(1)?;
    world.aggregator.insecure = false;
    let add = |args: &[&str]| -> anyhow::Result<String> {
        let command = [&["token", "add"], args].concat();
        Ok(world.aggregator.admin(&command)?.trim().to_owned())
    };
    let tokens = Tokens {
        reader: add(&["--name", "ann", "--role", "reader"])?,
        node: add(&["--name", "n1", "--cluster", "test", "--node", "n1"])?,
        other_node: add(&["--name", "n2", "--cluster", "test", "--node", "n2"])?,
    };
    world.start()?;
    Ok((world, tokens))
}

fn agent(world: &World, token: Option<&str>) -> anyhow::Result<Forged> {
    let mut agent = Forged::new(&world.aggregator.uplink(), "test", "n1")?;
    agent.token = token.map(str::to_owned);
    Ok(agent)
}

#[test]
fn usage_comes_in_by_the_nodes_own_token_alone() -> anyhow::Result<()> {
    let (world, tokens) = world()?;
    let unknown = format!("tng_{}", "a".repeat(64));
    for (token, says) in [
        (None, "no token"),
        (Some("secret"), "64 hex digits"),
        (Some(unknown.as_str()), "not known"),
        (Some(tokens.reader.as_str()), "person's token"),
    ] {
        let status = agent(&world, token)?.connect().expect_err("no stream");
        assert_eq!(status.code(), Status::Unauthenticated, "{status}");
        assert!(status.message().contains(says), "{status}");
        assert!(
            token.is_none_or(|token| !status.message().contains(token)),
            "the token is repeated: {status}"
        );
    }
    let wrong = agent(&world, Some(&tokens.other_node))?;
    let mut wire = wrong.connect()?;
    wire.hello(wrong.hello());
    let refusal = wire.refusal()?;
    assert_eq!(refusal.code(), Code::WrongNode, "{refusal:?}");
    assert!(refusal.message.contains("n1") && refusal.message.contains("n2"), "{refusal:?}");

    let right = agent(&world, Some(&tokens.node))?;
    let (mut wire, _) = right.open()?;
    // The name inside a payload is not believed either.
    let mut other = right.batch(1, vec![window(BEGIN_NS, CELL, CELL)]);
    other.node = "n2".to_owned();
    assert_eq!(wire.ack(seal(&other))?.0, Outcome::Refused);
    let batch = right.batch(2, vec![window(BEGIN_NS, CELL, CELL)]);
    assert_eq!(wire.ack(seal(&batch))?.0, Outcome::Accepted);
    Ok(())
}

#[test]
fn the_api_reads_to_people_with_a_token_and_to_nobody_else() -> anyhow::Result<()> {
    let (mut world, tokens) = world()?;
    let paths = ["/api/v1/cost/pods", "/api/v1/nodes", "/api/v1/live", "/api/v1/prices", "/api/v1/devices"];
    for (token, expected) in
        [(None, 401), (Some("rubbish".to_owned()), 401), (Some(tokens.node), 403), (Some(tokens.reader), 200)]
    {
        world.aggregator.token = token;
        for path in paths {
            let (status, text) = world.aggregator.get(path)?;
            assert_eq!(status, expected, "{path}: {text}");
        }
        for path in ["/healthz", "/readyz", "/version", "/metrics"] {
            assert_eq!(world.aggregator.get(path)?.0, 200, "{path}");
        }
    }
    Ok(())
}

#[test]
fn a_removed_token_stops_within_a_minute_on_open_streams_too() -> anyhow::Result<()> {
    let (mut world, tokens) = world()?;
    let right = agent(&world, Some(&tokens.node))?;
    let (mut wire, _) = right.open()?;
    let batch = |seq: u64| {
        let at_ns = BEGIN_NS + i64::try_from(seq).unwrap_or(0) * 10 * S;
        seal(&right.batch(seq, vec![window(at_ns, CELL, CELL)]))
    };
    assert_eq!(wire.ack(batch(1))?.0, Outcome::Accepted);
    world.aggregator.admin(&["token", "remove", "--name", "n1"])?;
    world.aggregator.admin(&["token", "remove", "--name", "ann"])?;
    world.advance(61 * S)?;
    wire.batch(batch(2));
    let refusal = wire.refusal()?;
    assert_eq!(refusal.code(), Code::Unauthenticated, "{refusal:?}");
    let status = right.connect().expect_err("no stream");
    assert_eq!(status.code(), Status::Unauthenticated);
    world.aggregator.token = Some(tokens.reader);
    assert_eq!(world.aggregator.get("/api/v1/nodes")?.0, 401);
    let books = Books::read(&world.aggregator.data_dir())?;
    assert_eq!(books.entries.len(), 1);
    Ok(())
}

#[test]
fn an_agent_with_a_bad_token_keeps_its_time_and_delivers_it_once_the_token_is_right() -> anyhow::Result<()> {
    let (mut world, tokens) = world()?;
    let at = world.add_node("n1", scenario::node(1))?;
    let token_file = world.dir().join("token");
    std::fs::write(&token_file, &tokens.other_node)?;
    world.nodes[at].token_file = Some(token_file.clone());
    world.start()?;
    world.live(30)?;
    let node = &world.nodes[at];
    let log = || harness::process::tail(&node.log());
    wait_until(DEADLINE, "the agent's complaint", log, || {
        Ok(log().contains("its token is of node").then_some(()))
    })?;
    assert_eq!(Books::read(&world.aggregator.data_dir())?.entries.len(), 0);
    // The file is read again for each stream; a stop tries once more at once.
    std::fs::write(&token_file, format!("{}\n", tokens.node))?;
    world.nodes[at].stop(DEADLINE)?;
    let idle = Books::read(&world.aggregator.data_dir())?.time(RowKind::Idle, None);
    assert_eq!(idle.values().sum::<i128>(), 30 * i128::from(S));
    Ok(())
}
