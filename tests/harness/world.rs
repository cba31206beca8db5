//! One aggregator, some nodes, and the time that they live in.
//!
//! In simulated time nothing happens until [`World::advance`]: it moves the clock and returns when every running
//! agent has read its devices at the new time, so that a test of a day takes seconds and is the same every time.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use nvidia_ml::scenario::Scenario;
use tempfile::TempDir;
use tonnage_runtime::clock::{Clock, Reading};

use crate::aggregator::Aggregator;
use crate::binaries::Binaries;
use crate::node::{Node, NodeSpec};
use crate::sim_clock::SimClock;

/// Long enough for a loaded machine, short enough for someone who waits.
pub const DEADLINE: Duration = Duration::from_secs(30);

const CLUSTER: &str = "test";

/// Everything of one test. Dropping it kills what it started and removes its folder.
#[derive(Debug)]
pub struct World {
    pub seed: u64,
    pub clock: Option<SimClock>,
    pub aggregator: Aggregator,
    pub nodes: Vec<Node>,
    binaries: Binaries,
    // Last: processes end before their folders go.
    dir: TempDir,
}

impl World {
    /// A world in simulated time. The seed is printed, and is the test's to use.
    ///
    /// # Errors
    /// If the binaries are not built or no folder can be made.
    pub fn new(seed: u64) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let clock = SimClock::new(&dir.path().join("clock"))?;
        Self::build(seed, dir, Some(clock))
    }

    /// A world in the machine's own time.
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn in_real_time(seed: u64) -> anyhow::Result<Self> {
        Self::build(seed, tempfile::tempdir()?, None)
    }

    #[allow(clippy::print_stderr, reason = "whoever reads a failed test needs the seed")]
    fn build(seed: u64, dir: TempDir, clock: Option<SimClock>) -> anyhow::Result<Self> {
        eprintln!("seed {seed}");
        let binaries = Binaries::find()?;
        let clock_path = clock.as_ref().map(SimClock::path);
        let aggregator = Aggregator::new(&dir.path().join("aggregator"), &binaries, clock_path)?;
        Ok(Self { seed, clock, aggregator, nodes: Vec::new(), binaries, dir })
    }

    /// Adds a node, its agent not started, and gives its place in `nodes`. Its story begins now, unless the
    /// scenario says when.
    ///
    /// # Errors
    /// If the scenario is wrong or no folder can be made.
    pub fn add_node(&mut self, name: &str, scenario: Scenario) -> anyhow::Result<usize> {
        let epoch_ns = scenario.epoch_ns.unwrap_or(self.now().wall_ns);
        let spec = NodeSpec {
            cluster: CLUSTER.to_owned(),
            name: name.to_owned(),
            uplink: self.aggregator.uplink(),
            clock: self.clock.as_ref().map(|clock| clock.path().to_owned()),
            scenario: Scenario { epoch_ns: Some(epoch_ns), ..scenario },
        };
        self.nodes.push(Node::new(&self.dir.path().join(name), &self.binaries, spec)?);
        Ok(self.nodes.len() - 1)
    }

    /// Starts the aggregator and every agent that does not run.
    ///
    /// # Errors
    /// If one does not come up.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.aggregator.process().is_none() {
            self.aggregator.start(DEADLINE)?;
        }
        for node in &mut self.nodes {
            if node.process().is_none() {
                node.start(DEADLINE)?;
            }
        }
        Ok(())
    }

    /// Lets simulated time pass in one step, which should be the agents' sample period or longer.
    ///
    /// # Errors
    /// In real time; or if an agent that runs has not read its devices at the new time by the deadline.
    pub fn advance(&mut self, step_ns: i64) -> anyhow::Result<()> {
        self.move_clock(step_ns)?;
        self.wait_readings(step_ns)
    }

    /// Lets simulated time pass, and waits for nothing.
    ///
    /// # Errors
    /// In real time.
    pub fn move_clock(&mut self, step_ns: i64) -> anyhow::Result<()> {
        self.clock.as_mut().context("real time cannot be moved")?.advance(step_ns)?;
        for clock in self.nodes.iter_mut().filter_map(Node::clock) {
            clock.advance(step_ns)?;
        }
        Ok(())
    }

    /// Waits until every running agent that samples at least so often has read its devices at this time.
    ///
    /// # Errors
    /// If one has not by the deadline.
    pub fn wait_readings(&mut self, step_ns: i64) -> anyhow::Result<()> {
        let now = self.now();
        for node in self.nodes.iter_mut().filter(|node| node.period_ns <= step_ns) {
            if node.process().is_some() {
                node.wait_reading(node.now(now), DEADLINE)?;
            }
        }
        Ok(())
    }

    /// Waits until every running agent has worked off what it read last. Without it agents may be some readings
    /// behind, as under load: then a process can be gone before its owner was looked up.
    ///
    /// # Errors
    /// If one has not by the deadline.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let now = self.now();
        for node in &mut self.nodes {
            if node.process().is_some() {
                node.wait_metered(node.now(now), DEADLINE)?;
            }
        }
        Ok(())
    }

    /// Lets so many seconds pass in steps of one, each worked off by all agents before the next.
    ///
    /// # Errors
    /// As [`World::advance`] and [`World::settle`].
    pub fn live(&mut self, seconds: u32) -> anyhow::Result<()> {
        (0..seconds).try_for_each(|_| {
            self.advance(1_000_000_000)?;
            self.settle()
        })
    }

    /// What the world's clock shows.
    #[must_use]
    pub fn now(&self) -> Reading {
        self.clock.as_ref().map_or_else(|| Clock::system().read(), SimClock::now)
    }

    #[must_use]
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves the folder behind, for someone to look into.
    pub fn keep_folder(&mut self) -> &Path {
        self.dir.disable_cleanup(true);
        self.dir.path()
    }
}
