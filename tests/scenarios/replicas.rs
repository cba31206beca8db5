//! Several aggregators over one PostgreSQL: agents move between them in the middle of a stream, they are killed, and so is
//! the database. No agent is: whatever a driver served must be in the ledger, once.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use harness::aggregator::Aggregator;
use harness::books::Books;
use harness::comparison;
use harness::node::Node;
use harness::scenario;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use postgres_server::Server;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonnage_proto::metering::ack::Outcome;

const NODES: usize = 3;
const GPUS: u32 = 2;
const REPLICAS: usize = 3;
const STEPS: u32 = 100;
const S: i64 = 1_000_000_000;

/// Passes connections on to whatever it is set to; those that it has are cut when it is set to another.
struct Switch {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    target: String,
    open: Vec<TcpStream>,
}

impl Switch {
    fn new(target: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State { target: target.to_owned(), open: Vec::new() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A replica that is down refuses, and so does this.
                drop(pass_on(client, &shared));
            }
        });
        Ok(Self { port, state })
    }

    fn set(&self, target: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        target.clone_into(&mut state.target);
        for stream in state.open.drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn pass_on(client: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    let server = TcpStream::connect(state.target.trim_start_matches("http://"))?;
    for (mut from, mut to) in
        [(client.try_clone()?, server.try_clone()?), (server.try_clone()?, client.try_clone()?)]
    {
        std::thread::spawn(move || {
            drop(io::copy(&mut from, &mut to));
            drop(to.shutdown(Shutdown::Both));
        });
    }
    state.open.extend([client, server]);
    Ok(())
}

/// The replicas: that of the world, and others.
struct Replicas {
    others: Vec<Aggregator>,
}

impl Replicas {
    fn at<'a>(&'a mut self, world: &'a mut World, at: usize) -> &'a mut Aggregator {
        if at == 0 { &mut world.aggregator } else { &mut self.others[at - 1] }
    }

    fn start(&mut self, world: &mut World) -> anyhow::Result<()> {
        (0..REPLICAS).try_for_each(|at| {
            let replica = self.at(world, at);
            if replica.process().is_none() { replica.start(DEADLINE) } else { Ok(()) }
        })
    }
}

#[test]
fn through_kills_of_replicas_and_of_the_database_each_second_enters_once() -> anyhow::Result<()> {
    if postgres_server::programs().is_none() {
        println!("SKIPPED: PostgreSQL is not installed");
        return Ok(());
    }
    let seed = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    let database = Server::start(&[])?;
    let url = database.database()?;
    let mut world = World::new(seed)?;
    world.aggregator.database = Some(url.clone());
    let mut replicas = Replicas { others: Vec::new() };
    for at in 1..REPLICAS {
        let clock = world.clock.as_ref().map(harness::sim_clock::SimClock::path);
        let mut other = Aggregator::new(&world.dir().join(format!("replica-{at}")), world.binaries(), clock)?;
        other.database = Some(url.clone());
        replicas.others.push(other);
    }
    let mut switches = Vec::new();
    for node in 0..NODES {
        let story = scenario::random_of(&mut rng, node, GPUS, STEPS);
        let at = world.add_node(&format!("node-{node}"), story)?;
        let switch = Switch::new(&replicas.at(&mut world, node % REPLICAS).uplink())?;
        world.nodes[at].spec.uplink = format!("http://127.0.0.1:{}", switch.port);
        switches.push(switch);
    }
    replicas.start(&mut world)?;
    world.start()?;
    let (mut moves, mut kills, mut restarts) = (0, 0, 0);
    for _ in 0..STEPS {
        world.advance(S)?;
        world.settle()?;
        // Before anything else happens each has sent what it has where it is, so that none waits for the end.
        world.nodes.iter().try_for_each(connected)?;
        match rng.random_range(0..24) {
            0..4 => {
                let (node, to) = (rng.random_range(0..NODES), rng.random_range(0..REPLICAS));
                switches[node].set(&replicas.at(&mut world, to).uplink());
                moves += 1;
            }
            4..6 => {
                let replica = replicas.at(&mut world, rng.random_range(0..REPLICAS));
                replica.kill9()?;
                replica.start(DEADLINE)?;
                kills += 1;
            }
            6 if restarts < 4 => {
                database.kill9()?;
                database.run()?;
                restarts += 1;
            }
            _ => {}
        }
    }
    println!("{moves} moves, {kills} kills of replicas, {restarts} of the database");
    replicas.start(&mut world)?;
    world.live(3)?;
    for node in &mut world.nodes {
        node.stop(DEADLINE)?;
        let log = std::fs::read_to_string(node.log())?;
        anyhow::ensure!(log.trim_end().ends_with("everything measured is in the ledger."), "{log}");
    }
    (0..REPLICAS).try_for_each(|at| replicas.at(&mut world, at).stop(DEADLINE))?;
    judge(&mut world)
}

/// Waits until an agent talks to a ledger and nothing waits for a number.
fn connected(node: &Node) -> anyhow::Result<()> {
    wait_until(2 * DEADLINE, "a stream", String::new, || {
        let metrics = node.metrics()?;
        let (up, waiting) =
            (metrics.sum("tonnage_agent_uplink_connected"), metrics.sum("tonnage_agent_spool_drafts"));
        Ok((up == Some(1.0) && waiting == Some(0.0)).then_some(()))
    })
}

/// Is all there that the drivers served, once, and does the rest follow?
fn judge(world: &mut World) -> anyhow::Result<()> {
    let books = Books::of(&world.aggregator.store()?)?;
    anyhow::ensure!(books.count(Outcome::Accepted) == books.entries.len(), "not all was accepted");
    let folded = books.folded()?;
    for node in &mut world.nodes {
        let pieces = node.judge()?;
        for device in &node.spec.scenario.device {
            let windows = &folded[&device.uuid];
            comparison::same_as_served(&device.uuid, windows, &pieces)?;
            anyhow::ensure!(comparison::doubled_ns(windows) == 0, "{}: windows overlap", device.uuid);
            let missing = comparison::missing(&device.uuid, windows, &pieces);
            anyhow::ensure!(missing.is_empty(), "{}: {missing:?}", device.uuid);
        }
    }
    let rows = comparison::rows(&books, &folded);
    anyhow::ensure!(rows.wrong.is_empty(), "{}", rows.wrong.join("\n"));
    let verified = world.aggregator.admin(&["verify"])?;
    anyhow::ensure!(verified.lines().any(|line| line.starts_with("conserved:")), "{verified}");
    Ok(())
}
