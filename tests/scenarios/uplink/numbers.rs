//! The five rules at the head of `metering.proto`: each number enters once, whatever comes in whatever order.

use harness::forged::{Forged, seal, window};
use harness::sim_clock::BEGIN_NS;
use harness::world::{DEADLINE, World};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonnage_aggregator::ledger::coverage::Interval;
use tonnage_aggregator::model::RowKind;
use tonnage_aggregator::store::{Store, audit};
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::metering::resync::Reason;
use tonnage_proto::metering::{Holdings, SealedBatch, from_ledger};

use crate::books::Books;

const CELL: u64 = 10_000_000_000;

fn batch(agent: &Forged, seq: u64, held_ns: u64) -> SealedBatch {
    let at_ns = BEGIN_NS - 3_600_000_000_000 + i64::try_from(seq * CELL).unwrap_or(0);
    seal(&agent.batch(seq, vec![window(at_ns, CELL, held_ns)]))
}

fn world() -> anyhow::Result<(World, Forged)> {
    let mut world = World::new(1)?;
    world.start()?;
    let agent = Forged::new(&world.aggregator.uplink(), "test", "n")?;
    Ok((world, agent))
}

fn held_ns(world: &World) -> anyhow::Result<i128> {
    let books = Books::read(&world.aggregator.data_dir())?;
    Ok(books.time(RowKind::Held, None).values().sum())
}

#[test]
fn a_gap_a_duplicate_and_a_conflict_are_told_apart_and_add_nothing() -> anyhow::Result<()> {
    let (world, agent) = world()?;
    let (mut wire, welcome) = agent.open()?;
    assert_eq!(welcome.cursor_seq, 0);
    wire.batch(batch(&agent, 2, CELL));
    let gap = wire.resync()?;
    assert_eq!((gap.reason(), gap.next_seq), (Reason::Gap, 1));
    assert_eq!(wire.ack(batch(&agent, 1, 7))?.0, Outcome::Accepted);
    assert_eq!(wire.ack(batch(&agent, 1, 7))?.0, Outcome::Duplicate);
    wire.batch(batch(&agent, 1, 8));
    let conflict = wire.resync()?;
    assert_eq!((conflict.reason(), conflict.next_seq), (Reason::Conflict, 2));
    // The stream goes on after each of them.
    assert_eq!(wire.ack(batch(&agent, 2, 7))?.0, Outcome::Accepted);
    assert_eq!(agent.open()?.1.cursor_seq, 2);
    assert_eq!(held_ns(&world)?, 14);
    // Another epoch of the node has a cursor of its own.
    let mut renewed = agent;
    renewed.epoch = [9; 16];
    assert_eq!(renewed.open()?.1.cursor_seq, 0);
    Ok(())
}

#[test]
fn what_a_spool_no_longer_holds_is_a_hole_that_the_ledger_passes_over() -> anyhow::Result<()> {
    let (world, agent) = world()?;
    let (mut wire, _) = agent.open()?;
    assert_eq!(wire.ack(batch(&agent, 1, 7))?.0, Outcome::Accepted);
    let mut wire = agent.connect()?;
    let mut hello = agent.hello();
    hello.holdings = Some(Holdings { oldest_seq: 5, sealed_seq: 6 });
    wire.hello(hello);
    assert_eq!(wire.welcome()?.cursor_seq, 4);
    assert_eq!(wire.ack(batch(&agent, 5, 7))?.0, Outcome::Accepted);
    // What was given up for lost and comes all the same is over.
    assert_eq!(wire.ack(batch(&agent, 3, 7))?.0, Outcome::Duplicate);
    // Between the two that it has; what follows is silence.
    let first_ns = BEGIN_NS - 3_600_000_000_000;
    let span = Interval { start_ns: first_ns, end_ns: first_ns + 6 * i64::try_from(CELL)? };
    let mut unobserved_ns = 0;
    Store::open(&world.aggregator.data_dir())?.readers().with(|db| {
        audit::unobserved(db, span, None, |piece| unobserved_ns += piece.end_ns - piece.start_ns)
    })?;
    assert_eq!((held_ns(&world)?, unobserved_ns), (14, 3 * i64::try_from(CELL)?));
    let verified = world.aggregator.admin(&["verify"])?;
    assert!(verified.contains("\nconserved:"), "{verified}");
    Ok(())
}

#[test]
fn through_kills_of_the_ledger_and_repeats_in_any_order_each_number_enters_once() -> anyhow::Result<()> {
    const BATCHES: u64 = 60;
    let seed = rand::random();
    let mut world = World::new(seed)?;
    let mut rng = StdRng::seed_from_u64(seed);
    world.start()?;
    let agent = Forged::new(&world.aggregator.uplink(), "test", "n")?;
    let (mut wire, mut cursor_seq) = (agent.open()?.0, 0);
    while cursor_seq < BATCHES {
        // Up to four on the way; of a stream that was killed nobody knows how many of them are in.
        let first = rng.random_range(cursor_seq.saturating_sub(3).max(1)..=cursor_seq + 1);
        let last = (first + rng.random_range(0..4)).min(BATCHES);
        (first..=last).for_each(|seq| wire.batch(batch(&agent, seq, seq)));
        if rng.random_bool(0.2) {
            world.aggregator.kill9()?;
            world.aggregator.start(DEADLINE)?;
            let (again, welcome) = agent.open()?;
            let known = cursor_seq..=cursor_seq.max(last);
            assert!(known.contains(&welcome.cursor_seq), "an acked batch was lost: {welcome:?}");
            (wire, cursor_seq) = (again, welcome.cursor_seq);
            continue;
        }
        for seq in first..=last {
            let Some(from_ledger::Message::Ack(ack)) = wire.receive()? else {
                anyhow::bail!("no ack of {seq}")
            };
            let known = if seq <= cursor_seq { Outcome::Duplicate } else { Outcome::Accepted };
            assert_eq!((ack.seq, ack.outcome()), (seq, known));
        }
        cursor_seq = cursor_seq.max(last);
    }
    assert_eq!(held_ns(&world)?, i128::from(BATCHES * (BATCHES + 1) / 2));
    let verified = world.aggregator.admin(&["verify"])?;
    assert!(verified.contains("\nconserved:"), "{verified}");
    Ok(())
}
