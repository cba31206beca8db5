//! Lets a plan happen to real processes: moves the clock, kills, starts, and in the end has everything delivered.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context;
use harness::comparison::Stretch;
use harness::network::Network;
use harness::scenario;
use harness::tmpfs::Tmpfs;
use harness::world::{DEADLINE, World};
use postgres_server::Server;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tonnage_runtime::clock::Clock;

use crate::plan::{Event, Moment, Plan, Who};

const GPUS: u32 = 2;
/// Of the small disk: more than a spool needs in a storm.
const DISK: &str = "size=8m";
/// What an agent may take to deliver what it has, once nothing is in its way.
const DRAIN: Duration = Duration::from_secs(90);
/// The database's files as of the last backup.
const COPY: &str = "copy";
/// Seconds of peace in the end.
const PEACE: u32 = 15;

/// What is blown upon.
pub(crate) struct Storm {
    pub(crate) world: World,
    pub(crate) network: Network,
    pub(crate) plan: Plan,
    /// When each node's agent was killed, in ledger time.
    pub(crate) kills: Vec<Vec<i64>>,
    pub(crate) kills_of_aggregator: u32,
    pub(crate) backups: u32,
    pub(crate) restores: u32,
    /// Restores that were copies of the database's files, of which nobody is told.
    pub(crate) copies: u32,
    /// Nodes, and when their disks were full.
    pub(crate) full: Vec<(usize, Stretch)>,
    pub(crate) kills_of_database: u32,
    /// The database that was in the copy of all files.
    copied: Option<String>,
    /// Where the ledger is, if not in a folder.
    database: Option<Server>,
    /// Small disks by node, and whether they are full.
    disks: BTreeMap<usize, (Tmpfs, bool)>,
    /// What happened, in words.
    pub(crate) story: String,
}

impl Storm {
    /// Sets up the nodes of a storm; starts nothing.
    pub(crate) fn new(seed: u64, nodes: usize, kills: u32, database: Option<Server>) -> anyhow::Result<Self> {
        let mut world = World::new(seed)?;
        world.aggregator.database = database.as_ref().map(Server::database).transpose()?;
        let network = Network::new(seed)?;
        let plan = Plan::new(seed, nodes, kills, world.now().wall_ns);
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5ce0);
        let mut disks = BTreeMap::new();
        let seconds: i64 = plan.steps.iter().map(|step| step.length_ns / 1_000_000_000 + 1).sum();
        for node in 0..nodes {
            let now = world.now();
            let scenario = if plan.sets_clock_of(node) {
                scenario::steady(&mut rng, node, GPUS, now.wall_ns)
            } else {
                scenario::random_of(&mut rng, node, GPUS, u32::try_from(seconds)?)
            };
            world.add_node(&format!("node-{node}"), scenario)?;
            if plan.sets_clock_of(node) {
                world.nodes[node].own_clock(now)?;
            }
            if plan.fills_disk_of(node) {
                disks
                    .extend(Tmpfs::mount(&world.nodes[node].spool(), DISK).map(|disk| (node, (disk, false))));
            }
            let uplink = network.way(node as u64, &world.nodes[node].spec.uplink)?;
            world.nodes[node].spec.uplink = uplink;
            let drain_ms = (DRAIN.as_millis() - 10_000).to_string();
            world.nodes[node].extra_args = vec!["--drain-ms".to_owned(), drain_ms];
        }
        let kills = vec![Vec::new(); nodes];
        Ok(Self {
            world,
            network,
            plan,
            kills,
            kills_of_aggregator: 0,
            kills_of_database: 0,
            database,
            backups: 0,
            restores: 0,
            copies: 0,
            copied: None,
            full: Vec::new(),
            disks,
            story: String::new(),
        })
    }

    /// From the first start to the last stop.
    pub(crate) fn blow(&mut self) -> anyhow::Result<()> {
        let clock = Clock::system();
        let begin_ns = clock.monotonic_ns();
        self.world.start()?;
        for at in 0..self.plan.steps.len() {
            let step = self.plan.steps[at].clone();
            // What was freed in the meantime is taken as well.
            for (_, disk) in self.disks.iter().filter(|(_, disk)| disk.1) {
                disk.0.fill()?;
            }
            self.world.move_clock(step.length_ns)?;
            self.happens(at, &step.events, |moment| matches!(moment, Moment::Flight { .. }))?;
            self.world.wait_readings(step.length_ns)?;
            self.happens(at, &step.events, |moment| moment == Moment::Read)?;
            self.world.settle()?;
            self.happens(at, &step.events, |moment| moment == Moment::Settled)?;
            for event in &step.events {
                match event {
                    Event::Start(who) => self.start(at, *who)?,
                    Event::FillDisk { node } => self.disk(at, *node, true)?,
                    Event::FreeDisk { node } => self.disk(at, *node, false)?,
                    Event::Clone { of } => self.clone_node(at, *of)?,
                    Event::BackUp => self.back_up(at)?,
                    Event::Restore => self.restore(at)?,
                    Event::Kill(..) | Event::SetClock { .. } => {}
                }
            }
            self.world.settle()?;
            // Last: nobody reads at the new time before it goes on.
            for event in &step.events {
                if let Event::SetClock { node, by_ns } = event {
                    self.set_clock(at, *node, *by_ns)?;
                }
            }
        }
        let seconds = (clock.monotonic_ns() - begin_ns) / 1_000_000_000;
        writeln!(self.story, "{} steps took {seconds} s", self.plan.steps.len())?;
        self.calm()
    }

    /// Heals everything, and stops everything once all is delivered.
    fn calm(&mut self) -> anyhow::Result<()> {
        self.network.heal();
        self.world.start()?;
        self.world.live(PEACE)?;
        for node in &mut self.world.nodes {
            node.stop(DRAIN)?;
            let log = std::fs::read_to_string(node.log())?;
            let delivered = log.trim_end().ends_with("everything measured is in the ledger.");
            anyhow::ensure!(
                delivered,
                "{}: not all is delivered, see {}",
                node.spec.name,
                node.log().display()
            );
        }
        self.world.aggregator.stop(DEADLINE)
    }

    fn happens(&mut self, at: usize, events: &[Event], now: impl Fn(Moment) -> bool) -> anyhow::Result<()> {
        for event in events {
            match event {
                Event::Kill(who, moment) if now(*moment) => self.kill(at, *who, *moment)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn kill(&mut self, at: usize, who: Who, moment: Moment) -> anyhow::Result<()> {
        if let Moment::Flight { after_us } = moment {
            std::thread::sleep(Duration::from_micros(after_us));
        }
        let mut now_ns = self.world.now().wall_ns;
        if let Who::Node(node) = who {
            now_ns = self.world.nodes[node].now(self.world.now()).wall_ns;
        }
        writeln!(self.story, "step {at} at {now_ns}: kill -9 {who:?}, {moment:?}")?;
        if let Some(database) = &self.database {
            // Whoever is killed, the database goes with them, and with it what the ledger was about to commit.
            database.kill9()?;
            database.run()?;
            self.kills_of_database += 1;
        }
        match who {
            Who::Aggregator => {
                self.kills_of_aggregator += 1;
                self.world.aggregator.kill9()
            }
            Who::Node(node) => {
                self.kills[node].push(now_ns);
                self.world.nodes[node].kill9()
            }
        }
    }

    /// Where no small disk could be mounted, none is filled.
    fn disk(&mut self, at: usize, node: usize, full: bool) -> anyhow::Result<()> {
        let now_ns = self.world.now().wall_ns;
        let Some((disk, is_full)) = self.disks.get_mut(&node) else { return Ok(()) };
        *is_full = full;
        match (full, self.full.last_mut()) {
            (false, Some((_, stretch))) => stretch.1 = now_ns,
            _ => self.full.push((node, (now_ns, i64::MAX))),
        }
        writeln!(
            self.story,
            "step {at}: the disk of node {node} is {}",
            if full { "full" } else { "freed" }
        )?;
        if full { disk.fill() } else { disk.free() }
    }

    fn clone_node(&mut self, at: usize, of: usize) -> anyhow::Result<()> {
        writeln!(self.story, "step {at}: node {of} is cloned")?;
        let spec = self.world.nodes[of].spec.clone();
        let clone = self.world.add_node("clone", spec.scenario)?;
        let uplink = self.network.way(clone as u64, &self.world.aggregator.uplink())?;
        let (originals, clones) = self.world.nodes.split_at_mut(clone);
        originals[of].copy_spool(&clones[0])?;
        clones[0].spec.name = spec.name;
        clones[0].spec.uplink = uplink;
        clones[0].extra_args.clone_from(&originals[of].extra_args);
        self.kills.push(Vec::new());
        clones[0].start(DEADLINE)
    }

    fn back_up(&mut self, at: usize) -> anyhow::Result<()> {
        self.backups += 1;
        writeln!(self.story, "step {at}: backup {}", self.backups)?;
        let file = self.backup();
        self.world.aggregator.admin(&["backup", &file])?;
        if let Some(database) = &self.database {
            // Another kind of copy, that the ledger does not hear of.
            database.stop()?;
            database.keep(COPY)?;
            database.run()?;
            self.copied.clone_from(&self.world.aggregator.database);
        }
        Ok(())
    }

    fn restore(&mut self, at: usize) -> anyhow::Result<()> {
        self.restores += 1;
        // Unless the copy is from before the ledger went to another database.
        let copied = self.copied == self.world.aggregator.database && self.restores.is_multiple_of(2);
        if let Some(database) = self.database.as_ref().filter(|_| copied) {
            writeln!(
                self.story,
                "step {at}: the database is replaced by its copy of backup {}",
                self.backups
            )?;
            database.stop()?;
            database.go_back(COPY)?;
            self.copies += 1;
            return database.run();
        }
        writeln!(self.story, "step {at}: restore of backup {}", self.backups)?;
        let clock = self.world.clock.as_ref().context("a storm is in simulated time")?;
        let clock = clock.path().to_string_lossy().into_owned();
        let file = self.backup();
        let mut command = vec!["restore", &file, "--simulated-clock", &clock];
        match &self.database {
            // A database is not moved aside: the backup goes to a new one.
            Some(server) => self.world.aggregator.database = Some(server.database()?),
            None => command.push("--replace"),
        }
        self.world.aggregator.admin(&command)?;
        Ok(())
    }

    /// The last one.
    fn backup(&self) -> String {
        self.world.dir().join(format!("backup-{}", self.backups)).to_string_lossy().into_owned()
    }

    fn set_clock(&mut self, at: usize, node: usize, by_ns: i64) -> anyhow::Result<()> {
        let clock = self.world.nodes[node].clock().context("its clock is the world's")?;
        let now = clock.step(by_ns)?;
        writeln!(self.story, "step {at}: the clock of node {node} is set by {by_ns} to {}", now.wall_ns)?;
        Ok(())
    }

    fn start(&mut self, at: usize, who: Who) -> anyhow::Result<()> {
        writeln!(self.story, "step {at} at {}: start {who:?}", self.world.now().wall_ns)?;
        match who {
            Who::Aggregator => self.world.aggregator.start(DEADLINE),
            Who::Node(node) => self.world.nodes[node].start(DEADLINE),
        }
    }
}
