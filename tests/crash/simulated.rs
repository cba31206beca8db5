//! Storms in one process and one thread: the agent's and the ledger's own code on a simulated disk, network and clock.
//!
//! One random number generator decides everything, so a seed brings back its history to the last message: the hash of
//! its log is the same. What processes and a machine add (threads, sockets, files) is for `storm`.
//!
//! Not here: what a torn write leaves, which the disk in memory and SQLite rule out.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use harness::aggregator::PRICES;
use harness::sim_clock::BEGIN_NS;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};
use tonnage_agent::spool::Limits;
use tonnage_agent::spool::memory::Fault;
use tonnage_aggregator::prices::Book;
use tonnage_aggregator::store::Store;
use tonnage_proto::limits::SLOT_NS;
use tonnage_proto::metering::FromLedger;
use tonnage_runtime::clock::{Clock, Reading, write_simulated};

use account::Account;
use agent::{Agent, PERIOD_NS, Said};
use ledger::{Death, Ledger};
use link::{Harm, Link};

mod account;
mod agent;
mod check;
mod ledger;
mod link;

/// Steps of bad weather in one history.
const STEPS_MAX: u32 = 80;
/// Messages of one link and direction that a step can carry.
const CARRIED_MAX: usize = 3;
/// Steps of good weather in which everything must be delivered.
const HEALING_MAX: u32 = 2_000;
/// A node's clock is off by at most this, so that its time is neither too far ahead nor begins anew;
const OFFSET_NS_MAX: i64 = 25_000_000_000;
/// or where time may be contested, it is set back so far that it does, and is measured again.
const FAR_BACK_NS_MAX: i64 = 250_000_000_000;

/// Sums over histories.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) histories: u64,
    /// Steps of time.
    pub(crate) steps: u64,
    /// Samples, messages, and whatever else happened within steps.
    pub(crate) events: u64,
    pub(crate) kills: u64,
    pub(crate) faults: u64,
    pub(crate) restores: u64,
    pub(crate) clones: u64,
    /// Windows.
    pub(crate) quarantined: usize,
    pub(crate) harm: Harm,
    pub(crate) kept_ns: i64,
    pub(crate) killed_ns: i64,
    pub(crate) dropped_ns: i64,
    /// Over the logs of all histories.
    pub(crate) hash: String,
}

/// Runs so many histories: the seed's, and those of the seeds after it.
pub(crate) fn run(seed: u64, histories: u64) -> anyhow::Result<Totals> {
    run_with(seed, histories, false)
}

/// Forgetful agents keep nothing that the ledger has, also where it may be set back: then something must get lost.
fn run_with(seed: u64, histories: u64, forgetful: bool) -> anyhow::Result<Totals> {
    // Memory is a disk that flushes at once; anywhere else it is only slower.
    let ram = Path::new("/dev/shm");
    let dir = if ram.is_dir() { tempfile::tempdir_in(ram)? } else { tempfile::tempdir()? };
    let template = dir.path().join("template");
    Store::open(&template)?;
    let mut totals = Totals::default();
    let mut hash = Sha256::new();
    for n in 0..histories {
        let seed = seed.wrapping_add(n);
        let folder = dir.path().join("ledger");
        std::fs::create_dir_all(&folder)?;
        std::fs::copy(template.join("ledger.sqlite"), folder.join("ledger.sqlite"))?;
        let mut history = History::new(seed, &folder, forgetful)?;
        let done = history.happen();
        hash.update(&history.log);
        if let Err(error) = done {
            if forgetful {
                return Err(error);
            }
            let log = std::env::temp_dir().join(format!("tonnage-simulated-{seed}"));
            std::fs::write(&log, &history.log)?;
            return Err(error.context(format!("seed {seed}; what happened is in {}", log.display())));
        }
        history.add_to(&mut totals);
        drop(history);
        std::fs::remove_dir_all(&folder)?;
    }
    totals.hash = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(totals)
}

struct History {
    rng: StdRng,
    now: Reading,
    clock: File,
    ledger: Ledger,
    agents: Vec<Agent>,
    links: Vec<Option<Link>>,
    next_link: u64,
    /// Bad weather: its own generator, and what it did.
    weather: (StdRng, Harm),
    may_restore: bool,
    /// Time may be measured twice, by clones or by clocks set far back.
    contested: bool,
    /// There is no clone yet.
    may_clone: bool,
    kills: u64,
    faults: u64,
    restores: u64,
    clones: u64,
    quarantined: usize,
    steps: u64,
    events: u64,
    log: String,
}

impl History {
    fn new(seed: u64, folder: &Path, forgetful: bool) -> anyhow::Result<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let begin_ns = BEGIN_NS + rng.random_range(0..SLOT_NS);
        let now = Reading { wall_ns: begin_ns, monotonic_ns: SLOT_NS, boot_ns: SLOT_NS };
        let path = folder.join("clock");
        let clock = File::create(&path)?;
        write_simulated(&clock, now)?;
        let book = Arc::new(Book::parse(PRICES)?);
        let ledger = Ledger::open(folder, Clock::simulated(&path)?, book)?;
        // A spool that is too small lets go of what a restored ledger would ask for again.
        let small = rng.random_bool(0.2);
        let contested = !small && rng.random_bool(0.4);
        let limits = Limits {
            bytes: if small { rng.random_range(1_000..6_000) } else { 1 << 24 },
            kept_bytes: match (small, forgetful) {
                (true, _) => rng.random_range(0..3_000),
                (false, true) => 0,
                (false, false) => 1 << 24,
            },
        };
        let agents: Vec<Agent> =
            (0..rng.random_range(1..=3)).map(|number| Agent::new(number, &mut rng, limits)).collect();
        let weather = (StdRng::seed_from_u64(rng.random()), Harm::default());
        let mut history = Self {
            rng,
            now,
            clock,
            ledger,
            links: agents.iter().map(|_| None).collect(),
            agents,
            next_link: 0,
            weather,
            may_restore: !small,
            contested,
            may_clone: contested,
            kills: 0,
            faults: 0,
            restores: 0,
            clones: 0,
            quarantined: 0,
            steps: 0,
            events: 0,
            log: format!("seed {seed}\n"),
        };
        for at in 0..history.agents.len() {
            history.agents[at].start(now)?;
        }
        Ok(history)
    }

    fn happen(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.rng.random_range(10..=STEPS_MAX) {
            self.time_passes()?;
            self.trouble()?;
            self.carry(true)?;
        }
        self.heal()?;
        self.ledger.stop();
        let accounts: Vec<(&str, &Account)> =
            self.agents.iter().map(|agent| (agent.name.as_str(), &agent.account)).collect();
        self.ledger.verify()?;
        self.quarantined = check::ledger_has_what_was_kept(self.ledger.folder(), &accounts, self.contested)?;
        Ok(())
    }

    fn time_passes(&mut self) -> anyhow::Result<()> {
        self.steps += 1;
        let step_ns = match self.rng.random_range(0..20) {
            0 => 2 * PERIOD_NS,
            1 => self.rng.random_range(2 * PERIOD_NS + 1..8 * PERIOD_NS),
            2..5 => self.rng.random_range(PERIOD_NS..2 * PERIOD_NS),
            _ => PERIOD_NS,
        };
        self.now.wall_ns += step_ns;
        self.now.monotonic_ns += step_ns;
        self.now.boot_ns += step_ns;
        write_simulated(&self.clock, self.now)?;
        for at in 0..self.agents.len() {
            self.agents[at].stir(&mut self.rng);
            if self.rng.random_bool(0.01) {
                let far = self.contested && self.rng.random_bool(0.3);
                let least_ns = if far { -FAR_BACK_NS_MAX } else { -OFFSET_NS_MAX };
                self.agents[at].offset_ns = self.rng.random_range(least_ns..OFFSET_NS_MAX);
            }
            self.agents[at].observe(self.now)?;
            self.events += 1;
            if !self.agents[at].has_session() {
                self.cut(at);
            }
            writeln!(self.log, "{} {at}: {}", self.now.wall_ns, self.agents[at].state())?;
        }
        Ok(())
    }

    /// Kills, starts, spoils, sets back.
    fn trouble(&mut self) -> anyhow::Result<()> {
        for at in 0..self.agents.len() {
            let chance = self.rng.random_range(0..100);
            if !self.agents[at].is_up() {
                if chance < 30 {
                    self.agents[at].start(self.now)?;
                    writeln!(self.log, "start {at}")?;
                }
                continue;
            }
            match chance {
                0..3 => {
                    self.kills += 1;
                    self.agents[at].kill();
                    self.cut(at);
                    writeln!(self.log, "kill {at}")?;
                    self.clone_node(at)?;
                }
                3..6 => {
                    let fault = [Fault::Refused, Fault::Lost, Fault::Kept][self.rng.random_range(0..3)];
                    self.faults += 1;
                    self.agents[at].spoil(fault);
                    writeln!(self.log, "spoil {at}: {fault:?}")?;
                }
                6..9 => {
                    self.weather.1.cut += 1;
                    self.cut(at);
                    writeln!(self.log, "cut {at}")?;
                }
                _ => {}
            }
        }
        match self.rng.random_range(0..100) {
            0..20 if !self.ledger.is_up() => {
                self.ledger.start()?;
                writeln!(self.log, "start the ledger")?;
            }
            20..22 if self.ledger.is_up() => {
                self.ledger.back_up()?;
                self.cut_all();
                writeln!(self.log, "back up")?;
            }
            22..24 if self.may_restore && self.ledger.restore()? => {
                self.restores += 1;
                self.cut_all();
                writeln!(self.log, "restore")?;
            }
            _ => {}
        }
        Ok(())
    }

    /// The node that was just killed goes on twice.
    fn clone_node(&mut self, at: usize) -> anyhow::Result<()> {
        if std::mem::take(&mut self.may_clone) {
            self.clones += 1;
            let mut clone = self.agents[at].copy(&mut self.rng);
            clone.start(self.now)?;
            self.agents.push(clone);
            self.links.push(None);
            writeln!(self.log, "clone {at}")?;
        }
        Ok(())
    }

    /// Carries some messages both ways, and lets the ledger commit what came together.
    fn carry(&mut self, bad_weather: bool) -> anyhow::Result<()> {
        if !self.ledger.is_up() {
            self.cut_all();
            return Ok(());
        }
        let mut messages = Vec::new();
        for link in self.links.iter_mut().flatten() {
            for _ in 0..CARRIED_MAX {
                let weather = bad_weather.then_some(&mut self.weather);
                messages.extend(link.next_up(weather).map(|message| (link.number, message)));
            }
        }
        let death = match self.rng.random_range(0..200) {
            0 if bad_weather => Death::BeforeCommit,
            1 if bad_weather => Death::BeforeAnswers,
            _ => Death::None,
        };
        writeln!(self.log, "{} messages, {death:?}", messages.len())?;
        self.kills += u64::from(death != Death::None);
        self.events += messages.len() as u64;
        // A commit of nothing but time costs as much as any other.
        if messages.is_empty() && death == Death::None && !self.steps.is_multiple_of(12) {
            return self.answers(Vec::new(), bad_weather);
        }
        let answers = self.ledger.take(messages, death)?;
        self.answers(answers, bad_weather)
    }

    fn answers(&mut self, answers: Vec<(u64, FromLedger)>, bad_weather: bool) -> anyhow::Result<()> {
        for (stream, answer) in answers {
            if let Some(link) = self.links.iter_mut().flatten().find(|link| link.number == stream) {
                link.send_down(answer);
            }
        }
        for at in 0..self.agents.len() {
            self.answer(at, bad_weather)?;
        }
        Ok(())
    }

    /// Hands an agent what came for it, and takes what it says to that.
    fn answer(&mut self, at: usize, bad_weather: bool) -> anyhow::Result<()> {
        for _ in 0..CARRIED_MAX {
            let Some(link) = &mut self.links[at] else { break };
            let weather = bad_weather.then_some(&mut self.weather);
            let message = link.next_down(weather);
            self.events += u64::from(message.is_some());
            match self.agents[at].step(message, self.now)? {
                Said::Send(more) => link.send_up(more),
                Said::Over => self.cut(at),
            }
        }
        if self.links[at].is_none()
            && (!bad_weather || self.rng.random_bool(0.5))
            && let Some(hello) = self.agents[at].connect(self.now)?
        {
            let mut link = Link::new(self.next_link);
            self.next_link += 1;
            link.send_up(vec![hello]);
            self.links[at] = Some(link);
        }
        Ok(())
    }

    fn cut(&mut self, at: usize) {
        if let Some(link) = self.links[at].take() {
            self.ledger.forget(link.number);
        }
        self.agents[at].disconnect();
    }

    fn cut_all(&mut self) {
        (0..self.agents.len()).for_each(|at| self.cut(at));
    }

    /// Good weather, everything runs, everything is closed: then everything must be delivered.
    fn heal(&mut self) -> anyhow::Result<()> {
        self.cut_all();
        if !self.ledger.is_up() {
            self.ledger.start()?;
        }
        for at in 0..self.agents.len() {
            // Faults that did not strike are over, too.
            if self.agents[at].is_up() {
                self.agents[at].kill();
            }
            self.agents[at].start(self.now)?;
        }
        for _ in 0..3 {
            self.time_passes()?;
        }
        for agent in &mut self.agents {
            agent.finish(self.now)?;
        }
        for _ in 0..HEALING_MAX {
            self.carry(false)?;
            if self.agents.iter().all(Agent::is_delivered) {
                return Ok(());
            }
        }
        let stuck: Vec<String> = self.agents.iter().map(Agent::state).collect();
        Err(anyhow::anyhow!("not all is delivered in good weather: {stuck:?}")).context("an agent is stuck")
    }

    fn add_to(&self, totals: &mut Totals) {
        totals.histories += 1;
        totals.steps += self.steps;
        totals.events += self.events + self.kills + self.faults + self.restores;
        totals.kills += self.kills;
        totals.faults += self.faults;
        totals.restores += self.restores;
        totals.clones += self.clones;
        totals.quarantined += self.quarantined;
        let harm = self.weather.1;
        totals.harm.dropped += harm.dropped;
        totals.harm.doubled += harm.doubled;
        totals.harm.reordered += harm.reordered;
        totals.harm.cut += harm.cut;
        for agent in &self.agents {
            let windows = agent.account.kept.values().flatten();
            totals.kept_ns += windows.map(|window| window.end_ns - window.start_ns).sum::<i64>();
            totals.killed_ns += agent.account.killed_ns;
            totals.dropped_ns += agent.account.dropped_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_really_lost_is_found() {
        let error = run_with(1, 100, true).expect_err("a ledger set back cannot have what nobody kept");
        let said = format!("{error:#}");
        assert!(said.contains("lost"), "{said}");
    }
}
