//! Nodes whose clock is wrong, and is set right under a running agent. The ledger's own clock is right all the time.

use std::collections::BTreeSet;

use harness::process::tail;
use harness::scenario;
use harness::sim_clock::{BEGIN_NS, SimClock};
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use tonnage_proto::metering::gap::Reason;
use tonnage_proto::metering::{Batch, Window};
use tonnage_runtime::clock::Reading;

use crate::books::Books;

const S: i64 = 1_000_000_000;
const YEAR_NS: i64 = 365 * 86_400 * S;

/// A world whose one node has a clock of its own.
struct Skewed {
    world: World,
    clock: SimClock,
}

impl Skewed {
    /// The node's clock is ahead of the ledger's by so much.
    fn new(ahead_ns: i64) -> anyhow::Result<Self> {
        let mut world = World::new(1)?;
        let mut clock = SimClock::new(&world.dir().join("clock-of-the-node"))?;
        let now = clock.now();
        clock.set(Reading { wall_ns: now.wall_ns + ahead_ns, ..now })?;
        let mut scenario = scenario::node(1);
        // Its story begins before any time that the node's clock shows.
        scenario.epoch_ns = Some(BEGIN_NS - 2 * YEAR_NS);
        world.add_node("n", scenario)?;
        world.nodes[0].spec.clock = Some(clock.path().to_owned());
        world.aggregator.start(DEADLINE)?;
        world.nodes[0].start(DEADLINE)?;
        Ok(Self { world, clock })
    }

    fn live(&mut self, seconds: u32) -> anyhow::Result<()> {
        for _ in 0..seconds {
            self.world.clock.as_mut().expect("a simulated clock").advance(S)?;
            let now = self.clock.advance(S)?;
            self.world.nodes[0].wait_reading(now, DEADLINE)?;
            self.metered(now)?;
        }
        Ok(())
    }

    /// Waits until the agent has worked off what it read now. Metered time may have been far ahead before.
    fn metered(&self, now: Reading) -> anyhow::Result<()> {
        let node = &self.world.nodes[0];
        let now_s = (now.wall_ns / S) as f64;
        let done = || {
            let until_s = node.metrics()?.sum("tonnage_agent_metered_until_timestamp_seconds");
            Ok(until_s.filter(|until_s| (until_s - now_s).abs() < 0.5).map(|_| ()))
        };
        wait_until(DEADLINE, "metering", || tail(&node.log()), done)
    }

    fn set_right(&mut self) -> anyhow::Result<()> {
        let right_ns = self.world.now().wall_ns;
        let now = self.clock.now();
        self.clock.set(Reading { wall_ns: right_ns, ..now })?;
        Ok(())
    }

    /// Waits until all that was sealed is acked: the agent is not stuck.
    fn delivered(&mut self) -> anyhow::Result<Vec<Batch>> {
        self.world.nodes[0].stop(DEADLINE)?;
        let log = std::fs::read_to_string(self.world.nodes[0].log())?;
        anyhow::ensure!(log.contains("everything measured is in the ledger"), "{log}");
        let books = Books::read(&self.world.aggregator.data_dir())?;
        Ok(books.entries.into_iter().filter_map(|entry| entry.batch).collect())
    }
}

/// Seconds that windows from one side of the moment cover at which the clock was set right. What came under both
/// epochs, since its ack was on the way at that moment, counts once: the ledger sees to it.
fn seconds(windows: &[&Window], of_side: impl Fn(i64) -> bool) -> u64 {
    let spans = windows.iter().map(|window| (window.start_ns, window.duration_ns));
    let spans: BTreeSet<(i64, u64)> = spans.filter(|(start_ns, _)| of_side(*start_ns)).collect();
    spans.iter().map(|(_, duration_ns)| duration_ns).sum::<u64>() / S.unsigned_abs()
}

fn skew_of(skewed: &Skewed) -> anyhow::Result<f64> {
    let node = &skewed.world.nodes[0];
    let skew = || Ok(node.metrics()?.sum("tonnage_agent_clock_skew_seconds"));
    wait_until(DEADLINE, "the skew", || tail(&node.log()), skew)
}

#[test]
fn a_clock_that_is_a_year_ahead_and_then_set_right_leaves_no_agent_stuck() -> anyhow::Result<()> {
    let mut skewed = Skewed::new(YEAR_NS)?;
    skewed.live(30)?;
    let skew = skew_of(&skewed)?;
    // Simulated time runs on while a Hello is on its way.
    assert!((skew - 31_536_000.0).abs() < 60.0, "{skew}");
    let log = std::fs::read_to_string(skewed.world.nodes[0].log())?;
    assert!(log.contains("clock and the ledger's are far apart"), "{log}");
    skewed.set_right()?;
    skewed.live(41)?;
    let batches = skewed.delivered()?;
    let windows: Vec<&Window> = batches.iter().flat_map(|batch| &batch.windows).collect();
    let ahead = |at_ns: i64| at_ns > BEGIN_NS + YEAR_NS / 2;
    // The second in which it was set is of neither.
    assert_eq!((seconds(&windows, ahead), seconds(&windows, |at_ns| !ahead(at_ns))), (30, 40));
    let epochs: BTreeSet<&[u8]> = batches.iter().map(|batch| &batch.epoch[..]).collect();
    assert_eq!(epochs.len(), 2);
    Ok(())
}

#[test]
fn a_spool_with_windows_from_a_year_ahead_does_not_hold_up_the_next_run() -> anyhow::Result<()> {
    let mut skewed = Skewed::new(YEAR_NS)?;
    skewed.live(30)?;
    skewed.world.nodes[0].kill9()?;
    skewed.set_right()?;
    skewed.world.nodes[0].start(DEADLINE)?;
    skewed.live(40)?;
    let batches = skewed.delivered()?;
    let windows: Vec<&Window> = batches.iter().flat_map(|batch| &batch.windows).collect();
    assert_eq!(seconds(&windows, |at_ns| at_ns < BEGIN_NS + YEAR_NS / 2), 40);
    assert!(batches.iter().all(|batch| batch.gaps.is_empty()), "a gap of a year back is none");
    Ok(())
}

#[test]
fn a_clock_that_is_a_year_behind_and_then_set_right_says_so_in_a_gap() -> anyhow::Result<()> {
    let mut skewed = Skewed::new(-YEAR_NS)?;
    skewed.live(30)?;
    skewed.set_right()?;
    skewed.live(41)?;
    let batches = skewed.delivered()?;
    let windows: Vec<&Window> = batches.iter().flat_map(|batch| &batch.windows).collect();
    let behind = |at_ns: i64| at_ns < BEGIN_NS - YEAR_NS / 2;
    assert_eq!((seconds(&windows, behind), seconds(&windows, |at_ns| !behind(at_ns))), (30, 40));
    let gaps: Vec<_> = batches.iter().flat_map(|batch| &batch.gaps).collect();
    let told_ns: u64 = gaps.iter().map(|gap| gap.duration_ns).sum();
    assert!(gaps.iter().all(|gap| gap.reason() == Reason::Clock));
    assert_eq!(told_ns, (YEAR_NS + S).unsigned_abs());
    Ok(())
}
