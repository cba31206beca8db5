//! Who is on the GPUs, asked of an aggregator that their agents do not talk to.

use harness::aggregator::Aggregator;
use harness::http::Scrape;
use harness::process::tail;
use harness::sim_clock::SimClock;
use harness::wait::wait_until;
use harness::world::DEADLINE;
use tonnage_proto::rest::{LiveAnswer, NodesAnswer};

#[test]
fn each_of_two_aggregators_tells_of_all_agents_and_counts_its_own() -> anyhow::Result<()> {
    let Some((mut world, _server)) = super::world()? else { return Ok(()) };
    let clock = world.clock.as_ref().map(SimClock::path);
    let mut other = Aggregator::new(&world.dir().join("other"), world.binaries(), clock)?;
    other.database.clone_from(&world.aggregator.database);
    world.start()?;
    other.start(DEADLINE)?;
    let log = other.log();
    // What the other one has is in the journal since it began.
    wait_until(
        DEADLINE,
        "the other's view",
        || tail(&log),
        || {
            world.live(10)?;
            let live: LiveAnswer = other.answer("/api/v1/live")?;
            let held = live.rows.iter().any(|row| row.node == "n" && row.owner.unit == "a.service");
            Ok(held.then_some(()))
        },
    )?;
    let nodes: NodesAnswer = other.answer("/api/v1/nodes")?;
    assert!(nodes.nodes.iter().all(|node| node.connected), "{nodes:?}");
    let rates = |aggregator: &Aggregator| -> anyhow::Result<usize> {
        let scrape = Scrape::parse(&aggregator.get("/metrics")?.1)?;
        Ok(scrape.families.get("tonnage_gpu_cost_rate_dollars_per_hour").map_or(0, Vec::len))
    };
    let live: LiveAnswer = world.aggregator.answer("/api/v1/live")?;
    assert!(live.rows.iter().any(|row| row.owner.unit == "a.service"));
    assert!(rates(&world.aggregator)? > 0, "its own agents are in its metrics");
    assert_eq!(rates(&other)?, 0, "and in nobody else's, so that sums are right");
    Ok(())
}
