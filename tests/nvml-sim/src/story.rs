//! A scenario put on the wall clock, and what it says about one moment. Pure: no I/O, no clock, no state.
//!
//! Seconds become whole nanoseconds once, in [`Story::new`]; from there on everything is integers. Lives and steps
//! are half open: a process is there at its start and no longer at its end.

use crate::Refusal;
use crate::scenario::cut::{self, Cut};
use crate::scenario::{self, List, Nonsense, Scenario};

mod energy;
mod events;
mod faults;
mod mig;
mod signals;
mod utilisation;

pub use events::{Event, MIG_CONFIG_CHANGE, XID};
pub use signals::Vgpu;
pub use utilisation::Sample;

/// A scenario in time.
#[derive(Debug)]
pub struct Story {
    pub scenario: Scenario,
    epoch_ns: i64,
    faults: faults::FaultsInTime,
    /// Per device, the wall times between which it is gone.
    missing: Vec<(i64, i64)>,
    /// Per device, the wall times between which MIG is on.
    mode: Vec<(i64, i64)>,
    /// Per device and MIG device, the wall times between which it is there, and what it is.
    mig: Vec<Vec<((i64, i64), Cut)>>,
    /// Per device, by time.
    events: Vec<Vec<Event>>,
    actors: Vec<Actor>,
}

/// A process of the scenario in time: a row of lives of one pid.
#[derive(Debug)]
pub struct Actor {
    pub process: scenario::Process,
    /// Device and MIG device that it is on, where it is on one.
    part: Option<(usize, usize)>,
    first_ns: i64,
    length_ns: Option<i64>,
    repeat_ns: Option<i64>,
    /// Percent from so many nanoseconds after its start.
    steps: Vec<(i64, u32)>,
}

impl Story {
    /// `loaded_ns`: the wall time that stands in for an epoch where the scenario has none.
    #[must_use]
    pub fn new(scenario: Scenario, loaded_ns: i64) -> Self {
        let epoch_ns = scenario.epoch_ns.unwrap_or(loaded_ns);
        let at = |seconds: f64| epoch_ns.saturating_add(nanoseconds(seconds, scenario.speed));
        let missing = scenario
            .device
            .iter()
            .map(|device| {
                (device.missing_from_s.map_or(i64::MAX, at), device.missing_to_s.map_or(i64::MAX, at))
            })
            .collect();
        let span = |from: Option<f64>, to: Option<f64>| (from.map_or(i64::MIN, at), to.map_or(i64::MAX, at));
        let mode: Vec<(i64, i64)> =
            scenario.device.iter().map(|device| span(device.mig_from_s, device.mig_to_s)).collect();
        let parts = |(device, mode): (&scenario::Device, &(i64, i64))| {
            // What cannot be is not there; a scenario from a file is checked.
            let cuts = cut::cut(device).unwrap_or_default();
            let times = device.mig.iter().flatten().map(|part| span(part.from_s, part.to_s));
            let while_on = |(from, to): (i64, i64)| (from.max(mode.0), to.min(mode.1));
            times.map(while_on).zip(cuts).collect::<Vec<_>>()
        };
        let mig: Vec<Vec<((i64, i64), Cut)>> = scenario.device.iter().zip(&mode).map(parts).collect();
        let actors = scenario
            .process
            .iter()
            .map(|process| Actor::new(process, mig::part_of(&scenario, process), epoch_ns, scenario.speed))
            .collect();
        let faults = faults::FaultsInTime::new(&scenario.faults, at);
        let mut story = Self { epoch_ns, faults, missing, mode, mig, events: Vec::new(), actors, scenario };
        story.events = (0..story.scenario.device.len()).map(|device| story.all_events(device)).collect();
        story
    }

    /// Wall time of a scenario second.
    fn at(&self, seconds: f64) -> i64 {
        self.epoch_ns.saturating_add(nanoseconds(seconds, self.scenario.speed))
    }

    /// True if this call does not return at this time.
    #[must_use]
    pub fn hangs(&self, call: &str, now_ns: i64) -> bool {
        self.faults.hangs(call, now_ns)
    }

    /// With what this call is refused, about this device or, with `None`, whatever it is about.
    #[must_use]
    pub fn refuses(&self, call: &str, device: Option<&str>, now_ns: i64) -> Option<Refusal> {
        self.faults.refuses(call, device, now_ns)
    }

    /// Whether answers of this kind cannot be true.
    #[must_use]
    pub fn talks(&self, nonsense: Nonsense, now_ns: i64) -> bool {
        self.faults.talks(nonsense, now_ns)
    }

    #[must_use]
    pub fn driver_version(&self, now_ns: i64) -> &str {
        self.faults.version(now_ns).unwrap_or(&self.scenario.driver_version)
    }

    /// Whether the device is out of the node's reach.
    #[must_use]
    pub fn missing(&self, device: usize, wall_ns: i64) -> bool {
        let (from_ns, to_ns) = self.missing[device];
        (from_ns..to_ns).contains(&wall_ns)
    }

    /// The devices that enumeration shows, in its order.
    pub fn present(&self, wall_ns: i64) -> impl Iterator<Item = usize> {
        (0..self.missing.len()).filter(move |&device| !self.missing(device, wall_ns))
    }

    /// The processes that live at a time, each with its start.
    pub fn live(&self, wall_ns: i64) -> impl Iterator<Item = (&Actor, i64)> {
        self.actors.iter().filter_map(move |actor| Some((actor, actor.started_ns(wall_ns)?)))
    }

    /// When a life next begins or ends: the processes are the same until then.
    #[must_use]
    pub fn next_change_ns(&self, wall_ns: i64) -> i64 {
        self.actors.iter().map(|actor| actor.next_change_ns(wall_ns)).min().unwrap_or(i64::MAX)
    }

    /// Pid and memory of those that one of the process lists of a device shows.
    #[must_use]
    pub fn processes(&self, device: usize, list: List, wall_ns: i64) -> Vec<(u32, u64)> {
        self.listed(device, list, wall_ns)
            .map(|actor| (actor.process.pid, actor.process.memory_bytes))
            .collect()
    }

    /// Those on a device, or on its MIG devices, that one of its process lists may show.
    pub fn listed(&self, device: usize, list: List, wall_ns: i64) -> impl Iterator<Item = &Actor> {
        self.live(wall_ns)
            .map(|(actor, _)| actor)
            .filter(move |actor| self.uses(actor, device) && actor.process.lists.contains(&list))
    }

    /// Of a device, or of the processes on one of its MIG devices.
    #[must_use]
    pub fn memory_used_bytes(&self, device: usize, part: Option<usize>, wall_ns: i64) -> u64 {
        let on = |actor: &Actor| self.uses(actor, device) && (part.is_none() || actor.part() == part);
        let live = self.live(wall_ns).filter(|(actor, _)| on(actor));
        let used = live.fold(0_u64, |sum, (actor, _)| sum.saturating_add(actor.process.memory_bytes));
        used.min(self.scenario.device[device].memory_bytes)
    }

    fn uses(&self, actor: &Actor, device: usize) -> bool {
        actor.process.devices.contains(&self.scenario.device[device].uuid)
    }
}

impl Actor {
    fn new(process: &scenario::Process, part: Option<(usize, usize)>, epoch_ns: i64, speed: f64) -> Self {
        let ns = |seconds: f64| nanoseconds(seconds, speed);
        let start_ns = ns(process.start_s);
        Self {
            part,
            first_ns: epoch_ns.saturating_add(start_ns),
            length_ns: process.end_s.map(|end_s| ns(end_s) - start_ns),
            // However fast the story: time must pass between two rounds.
            repeat_ns: process.repeat_s.map(|repeat_s| ns(repeat_s).max(1)),
            steps: process.utilisation.iter().map(|&(from_s, percent)| (ns(from_s), percent)).collect(),
            process: process.clone(),
        }
    }

    /// The MIG device that it is on.
    #[must_use]
    pub fn part(&self) -> Option<usize> {
        self.part.map(|(_, part)| part)
    }

    /// Wall time at which the life began that it leads at `wall_ns`, if any.
    #[must_use]
    pub fn started_ns(&self, wall_ns: i64) -> Option<i64> {
        let (_, into_ns) = self.round(wall_ns)?;
        self.length_ns.is_none_or(|length_ns| into_ns < length_ns).then_some(wall_ns - into_ns)
    }

    fn next_change_ns(&self, wall_ns: i64) -> i64 {
        let Some((_, into_ns)) = self.round(wall_ns) else { return self.first_ns };
        let began_ns = wall_ns - into_ns;
        match (self.length_ns, self.repeat_ns) {
            (Some(length_ns), _) if into_ns < length_ns => began_ns.saturating_add(length_ns),
            (_, Some(repeat_ns)) => began_ns.saturating_add(repeat_ns),
            _ => i64::MAX,
        }
    }

    /// How many whole rounds are over, and how far it is into this one.
    fn round(&self, wall_ns: i64) -> Option<(i64, i64)> {
        let since_ns = wall_ns - self.first_ns;
        let repeat_ns = self.repeat_ns.unwrap_or(i64::MAX);
        (since_ns >= 0).then_some((since_ns / repeat_ns, since_ns % repeat_ns))
    }

    /// Its use of each of its devices at a time.
    #[must_use]
    pub fn percent(&self, wall_ns: i64) -> u32 {
        let Some(started_ns) = self.started_ns(wall_ns) else { return 0 };
        let into_ns = wall_ns - started_ns;
        self.steps.iter().rev().find(|(from_ns, _)| *from_ns <= into_ns).map_or(0, |(_, percent)| *percent)
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "saturates; a scenario's seconds are checked to be far from it"
)]
fn nanoseconds(seconds: f64, speed: f64) -> i64 {
    (seconds * 1.0e9 / speed).round() as i64
}

#[cfg(test)]
mod tests;
