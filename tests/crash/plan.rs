//! What happens to whom, decided by a seed before anything runs: so the same seed is the same storm, as far as processes
//! allow. Pure.

use std::fmt::{self, Display, Formatter};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonnage_proto::limits::window_start;

const S: i64 = 1_000_000_000;
/// The longest step: no reading covers it.
pub(crate) const STEP_NS_MAX: i64 = 9 * S;
/// Steps after a clock was set back in which its node is left alone: an agent that is started then depends on its spool
/// for the time, which the reference does not look into.
const BEHIND: u32 = 90;
/// A node's clock is off by at most this: windows further ahead than a minute are not believed.
const OFF_NS_MAX: i64 = 40 * S;
/// Set back by more than a minute, an agent begins anew and measures the same time again.
const BACK_NS_MAX: i64 = 55 * S;
/// Steps before the first kill: a GPU of which no window was ever kept does not exist for the ledger yet.
const CALM: u32 = 25;

/// Whom a storm hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Aggregator,
    Node(usize),
}

/// Where in a step a kill falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// So many microseconds of the machine's time after the clock was moved: within a reading, a flush, a commit.
    Flight { after_us: u64 },
    /// What was read is not worked off.
    Read,
    /// What was read is worked off.
    Settled,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Kill(Who, Moment),
    Start(Who),
    /// The disk under a node's spool is full from here,
    FillDisk {
        node: usize,
    },
    /// to here.
    FreeDisk {
        node: usize,
    },
    /// A node that was just killed is copied with its spool, and the copy runs: the same GPUs, name and numbers.
    Clone {
        of: usize,
    },
    /// The ledger is copied, whether it runs or not.
    BackUp,
    /// The ledger, which does not run, is set back to the last copy.
    Restore,
    /// Someone sets a node's wall clock.
    SetClock {
        node: usize,
        by_ns: i64,
    },
}

/// Time passes, and then something happens or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) length_ns: i64,
    pub(crate) events: Vec<Event>,
}

/// The whole storm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate().filter(|(_, step)| !step.events.is_empty()) {
            writeln!(f, "step {at} of {} ns: {:?}", step.length_ns, step.events)?;
        }
        Ok(())
    }
}

/// A process in the plan.
struct Life {
    who: Who,
    up: bool,
    next: u32,
}

/// Copies of the ledger.
struct Backups {
    next: u32,
    /// There is one that it can be set back to without a loss.
    any: bool,
}

/// The small disk of one node. While it is full, what would be in the spool waits in memory: a kill would cost that.
struct Disk {
    node: Option<usize>,
    next: u32,
    full: bool,
}

/// The clock of the one node that has its own.
struct Drift {
    node: usize,
    off_ns: i64,
    next: u32,
}

impl Plan {
    /// A storm of so many kills over the aggregator and so many nodes, beginning at `begin_ns`.
    #[must_use]
    pub(crate) fn new(seed: u64, nodes: usize, kills: u32, begin_ns: i64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut lives: Vec<Life> = (0..nodes)
            .map(Who::Node)
            .chain([Who::Aggregator])
            .map(|who| Life { who, up: true, next: CALM + rng.random_range(0..80) })
            .collect();
        // Of a node whose clock nobody sets. It runs once, for a while, and once more in the end.
        let mut to_be_cloned = (nodes > 1).then(|| rng.random_range(0..nodes - 1));
        let mut disk = Disk::of_one(nodes, to_be_cloned, &mut rng);
        let clone_after = CALM + rng.random_range(0..600);
        let mut drift = Drift { node: nodes - 1, off_ns: 0, next: CALM + rng.random_range(0..80) };
        let mut backups = Backups { next: CALM + rng.random_range(0..100), any: false };
        let (mut now_ns, mut left) = (begin_ns, kills);
        let mut steps = Vec::new();
        for at in 0.. {
            let all_up = lives.iter().all(|life| life.up || life.who == Who::Node(nodes));
            if left == 0 && all_up && !disk.full {
                break;
            }
            let length_ns = length_ns(&mut rng);
            let closes = window_start(now_ns) != window_start(now_ns + length_ns);
            now_ns += length_ns;
            let mut events = Vec::new();
            for life in lives.iter_mut().filter(|life| life.next <= at) {
                if life.up && left == 0 {
                    continue;
                }
                // Agents deliver as windows close: that is when there is a commit to hit.
                if life.up && life.who == Who::Aggregator && !closes {
                    continue;
                }
                let event = life.turn(at, nodes, &mut rng);
                if event == Event::Start(Who::Aggregator) && backups.any && rng.random_bool(0.7) {
                    events.push(Event::Restore);
                }
                events.push(event);
                left -= u32::from(!life.up);
            }
            if let Some(of) = to_be_cloned.filter(|of| clone_after <= at && !lives[*of].up) {
                to_be_cloned = None;
                events.push(Event::Clone { of });
                lives.push(Life { who: Who::Node(nodes), up: true, next: at + rng.random_range(20..150) });
            }
            let turn = disk.turn(at, &mut lives, &mut rng);
            // To make room a spool lets go of what the ledger has, in a backup or not; and so does one that meets its
            // clone, as it begins a new epoch.
            backups.any &= turn.is_none() && to_be_cloned.is_some();
            events.extend(turn);
            if backups.next <= at {
                let any = to_be_cloned.is_some() && !disk.full;
                backups = Backups { next: at + rng.random_range(20..90), any };
                events.push(Event::BackUp);
            }
            if drift.next <= at && lives[drift.node].up && left > 0 {
                let by_ns = drift.by_ns(&mut rng);
                drift.off_ns += by_ns;
                drift.next = at + BEHIND + rng.random_range(0..60);
                if by_ns < 0 {
                    lives[drift.node].next = lives[drift.node].next.max(at + BEHIND);
                }
                events.push(Event::SetClock { node: drift.node, by_ns });
            }
            steps.push(Step { length_ns, events });
        }
        Self { steps }
    }

    /// Whether this node's disk is a small one.
    #[must_use]
    pub(crate) fn fills_disk_of(&self, node: usize) -> bool {
        self.steps.iter().any(|step| step.events.contains(&Event::FillDisk { node }))
    }

    /// Whether this node's clock is its own.
    #[must_use]
    pub(crate) fn sets_clock_of(&self, node: usize) -> bool {
        let sets = |event: &Event| matches!(event, Event::SetClock { node: of, .. } if *of == node);
        self.steps.iter().any(|step| step.events.iter().any(sets))
    }
}

impl Life {
    fn turn(&mut self, at: u32, nodes: usize, rng: &mut StdRng) -> Event {
        self.up = !self.up;
        let wait = match (self.up, self.who) {
            (true, _) => rng.random_range(5..100),
            (false, Who::Node(node)) if node == nodes => u32::MAX - at,
            // The ledger may be away for longer than agents have numbers for.
            (false, Who::Aggregator) => rng.random_range(1..90),
            (false, Who::Node(_)) => rng.random_range(1..40),
        };
        self.next = at + wait;
        if self.up { Event::Start(self.who) } else { Event::Kill(self.who, moment(self.who, rng)) }
    }
}

impl Disk {
    /// Of a node that has no other trouble of its own; none among few.
    fn of_one(nodes: usize, to_be_cloned: Option<usize>, rng: &mut StdRng) -> Self {
        let free: Vec<usize> = (0..nodes.saturating_sub(1)).filter(|at| Some(*at) != to_be_cloned).collect();
        let node = (!free.is_empty()).then(|| free[rng.random_range(0..free.len())]);
        Self { node, next: CALM + rng.random_range(0..60), full: false }
    }

    fn turn(&mut self, at: u32, lives: &mut [Life], rng: &mut StdRng) -> Option<Event> {
        let node = self.node.filter(|node| self.next <= at && lives[*node].up)?;
        self.full = !self.full;
        self.next = at + rng.random_range(if self.full { 15..90 } else { 150..400 });
        if !self.full {
            return Some(Event::FreeDisk { node });
        }
        // A while longer, so that the spool is opened again and has taken what waited.
        lives[node].next = lives[node].next.max(self.next + 30);
        Some(Event::FillDisk { node })
    }
}

impl Drift {
    /// Forward so far that it is noticed, or back; never further off than is believed.
    fn by_ns(&self, rng: &mut StdRng) -> i64 {
        let room_ns = OFF_NS_MAX - self.off_ns;
        if room_ns > 3 * S && rng.random_bool(0.5) {
            return rng.random_range(3 * S..=room_ns);
        }
        -rng.random_range(S..=BACK_NS_MAX.min(OFF_NS_MAX + self.off_ns).max(S))
    }
}

fn moment(who: Who, rng: &mut StdRng) -> Moment {
    match (who, rng.random_range(0..4)) {
        (Who::Aggregator, 0..3) => Moment::Flight { after_us: rng.random_range(0..20_000) },
        (Who::Node(_), 0..2) => Moment::Flight { after_us: rng.random_range(0..4_000) },
        (Who::Node(_), 2) => Moment::Read,
        _ => Moment::Settled,
    }
}

fn length_ns(rng: &mut StdRng) -> i64 {
    match rng.random_range(0..40) {
        // Twice the period is covered, more is not.
        0 => 2 * S,
        1 => rng.random_range(2 * S + 1..STEP_NS_MAX),
        2..6 => rng.random_range(S..2 * S),
        _ => S,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN_NS: i64 = 1_800_000_000_000_000_000;

    #[test]
    fn a_seed_is_one_storm_and_another_seed_is_another() {
        for seed in 0..50 {
            let plan = Plan::new(seed, 4, 20, BEGIN_NS);
            assert_eq!(plan, Plan::new(seed, 4, 20, BEGIN_NS), "seed {seed}");
            assert_ne!(plan, Plan::new(seed + 1, 4, 20, BEGIN_NS), "seed {seed}");
        }
    }

    #[test]
    fn a_clock_is_never_so_far_off_that_it_is_not_believed() {
        for seed in 0..50 {
            let (mut off_ns, mut times) = (0, 0);
            for event in Plan::new(seed, 4, 40, BEGIN_NS).steps.iter().flat_map(|step| &step.events) {
                if let Event::SetClock { by_ns, .. } = event {
                    off_ns += by_ns;
                    times += 1;
                    assert!((-2 * OFF_NS_MAX..=OFF_NS_MAX).contains(&off_ns), "seed {seed}: {off_ns}");
                }
            }
            assert!(times > 0, "seed {seed}");
        }
    }

    #[test]
    fn a_storm_kills_as_often_as_it_was_told_only_what_runs_and_leaves_everything_running() {
        for seed in 0..50 {
            let plan = Plan::new(seed, 4, 20, BEGIN_NS);
            let (mut up, mut kills) = ([true, true, true, true, false, true], 0);
            for event in plan.steps.iter().flat_map(|step| &step.events) {
                let (who, now_up) = match event {
                    Event::Kill(who, _) => (who, false),
                    Event::Start(who) => (who, true),
                    Event::Clone { .. } => (&Who::Node(4), true),
                    _ => continue,
                };
                let at = match who {
                    Who::Aggregator => 5,
                    Who::Node(at) => *at,
                };
                assert_ne!(up[at], now_up, "seed {seed}: {event:?}");
                up[at] = now_up;
                kills += u32::from(!now_up);
            }
            // The clone comes back last of all.
            up[4] = true;
            assert_eq!((kills, up), (20, [true; 6]), "seed {seed}");
        }
    }
}
