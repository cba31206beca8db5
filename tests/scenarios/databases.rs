//! A ledger in PostgreSQL: the way to it, and what becomes of it there.
#![allow(clippy::print_stdout, reason = "what is skipped is skipped aloud")]

use harness::scenario;
use harness::world::World;
use postgres_server::Server;

/// Older copies in its place.
mod copies;

/// TLS to it, and whom it lets in.
mod encrypted;

/// Gone, or hung, and back.
mod gone;

/// Two aggregators, and who is on the GPUs.
mod live;

/// From a folder to a database and back.
mod moved;

/// A world with one node and one job, whose ledger is in a database of its own; `None` where PostgreSQL is not installed.
fn world() -> anyhow::Result<Option<(World, Server)>> {
    if postgres_server::programs().is_none() {
        println!("SKIPPED: PostgreSQL is not installed");
        return Ok(None);
    }
    let server = Server::start(&[])?;
    let mut world = World::new(1)?;
    world.aggregator.database = Some(server.database()?);
    let mut scenario = scenario::node(1);
    scenario.process.push(scenario::process(7, &scenario::unit("a.service"), &[0], 0.0));
    world.add_node("n", scenario)?;
    Ok(Some((world, server)))
}
