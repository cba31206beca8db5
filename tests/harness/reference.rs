//! The judge: who held what and for how long, by the ledger's contract ("Samples and windows"), as plainly as can be.
//!
//! It knows the answers that the driver really served, and the scenario's truth about owners and starts. It cuts
//! every covered interval into pieces and splits each; it keeps nothing from one interval to the next. It shares
//! no code with the agent. A run of the agent ends where another process loads the driver.
//!
//! Where the node's clock is set while an agent runs, ledger time follows it by the design's rules: see `in_ledger_time`.
//!
//! Non-goals: busy time, energy, slewing (an offset under half a second is taken as it comes), suspend, an agent that is
//! started while its clock is behind what its spool holds, and processes that come or go on a node whose clock is set.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use nvidia_ml::fake_proc::TICK_NS;
use nvidia_ml::scenario::Scenario;
use nvidia_ml::served::{INIT, Record};
use nvidia_ml::story::Story;
use tonnage_proto::limits::{WINDOW_NS, window_start};

use crate::truth;

const LISTS: [&str; 3] =
    [COMPUTE, "nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v3"];
const COMPUTE: &str = "nvmlDeviceGetComputeRunningProcesses_v3";

/// The clock was set, not slewed.
const STEP_NS_MIN: i64 = 500_000_000;
/// Ledger time waits for a clock that is this far behind it, at most.
const WAIT_NS_MAX: i64 = 60_000_000_000;

/// A stretch of time of one device in one hand. Never crosses an edge of the window grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub device: String,
    pub start_ns: i64,
    pub end_ns: i64,
    /// In the words of [`truth`]; `None` = idle.
    pub owner: Option<String>,
    /// Its share of the piece in slice-nanoseconds: several owners split one stretch.
    pub held_ns: i64,
}

/// Sums over some time of one device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sums {
    pub held_ns: BTreeMap<String, i64>,
    pub idle_ns: i64,
}

impl Sums {
    /// What somebody observed.
    #[must_use]
    pub fn covered_ns(&self) -> i64 {
        self.held_ns.values().sum::<i64>() + self.idle_ns
    }
}

/// What one process of the agent was served.
struct Run<'a> {
    pid: Option<u32>,
    wall_minus_boot_ns: i64,
    records: Vec<&'a Record>,
}

/// One moment at which an agent looked.
struct Tick {
    wall_ns: i64,
    monotonic_ns: i64,
    /// Ledger time,
    at_ns: i64,
    /// which jumped to here, so that nothing before it is covered.
    jumped: bool,
    /// Per device its processes; `None` where a list could not be read.
    devices: BTreeMap<String, Option<BTreeSet<u32>>>,
}

/// Judges a whole log.
///
/// # Errors
/// If the scenario has no epoch, or the log names a process that the scenario does not have then.
pub fn pieces(log: &[Record], scenario: &Scenario, period_ns: i64) -> anyhow::Result<Vec<Piece>> {
    let epoch_ns = scenario.epoch_ns.context("a scenario without epoch_ns cannot be judged")?;
    let story = Story::new(scenario.clone(), epoch_ns);
    let mut pieces = Vec::new();
    for run in runs(log)? {
        let ticks = ticks(&run.records, period_ns);
        for (before, now) in ticks.iter().zip(ticks.iter().skip(1)) {
            if now.jumped || now.at_ns - before.at_ns > 2 * period_ns {
                continue;
            }
            for (device, pids) in &now.devices {
                let Some(pids) = pids else { continue };
                let known = before.devices.get(device).cloned().flatten().unwrap_or_default();
                let holders =
                    holders(&story, pids, &known, (before.wall_ns, now.wall_ns), run.wall_minus_boot_ns);
                let holders = holders.with_context(|| format!("{device} at {}", now.at_ns))?;
                pieces.extend(interval(device, before.at_ns, now.at_ns, &holders));
            }
        }
    }
    Ok(pieces)
}

/// Why a stretch of a node's time is in nobody's hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Two readings lie too far apart.
    NotRead,
    /// The clock was set forward, or so far back that time began again.
    Clock,
}

/// What the readings of a log leave uncovered on the whole node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uncovered {
    /// First reading of each run of the agent.
    pub begins_ns: Vec<i64>,
    pub stretches: Vec<(i64, i64, Why)>,
}

/// What is left uncovered within the runs of a log, and when those began.
///
/// # Errors
/// If the log does not begin with the driver's start.
pub fn uncovered(log: &[Record], period_ns: i64) -> anyhow::Result<Uncovered> {
    let mut found = Uncovered::default();
    for run in runs(log)? {
        let ticks = ticks(&run.records, period_ns);
        found.begins_ns.extend(ticks.first().map(|tick| tick.at_ns));
        for (before, now) in ticks.iter().zip(ticks.iter().skip(1)) {
            if now.jumped {
                found.stretches.push((before.at_ns, now.at_ns, Why::Clock));
            } else if now.at_ns - before.at_ns > 2 * period_ns {
                found.stretches.push((before.at_ns, now.at_ns, Why::NotRead));
            }
        }
    }
    Ok(found)
}

/// Splits a log into what each process that loaded the driver was served. One that loads it again goes on.
fn runs(log: &[Record]) -> anyhow::Result<Vec<Run<'_>>> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    for record in log {
        if record.call == INIT && runs.last().is_none_or(|run| run.pid != record.pid) {
            let boot_ns = record.boot_ns.context("an init record without boot_ns")?;
            let wall_minus_boot_ns = record.wall_ns - boot_ns;
            runs.push(Run { pid: record.pid, wall_minus_boot_ns, records: Vec::new() });
        }
        runs.last_mut().context("an answer before the first init")?.records.push(record);
    }
    Ok(runs)
}

/// Sums the pieces of a device that lie in `[from_ns, to_ns)`, which begins and ends on the window grid.
#[must_use]
pub fn sums(pieces: &[Piece], device: &str, from_ns: i64, to_ns: i64) -> Sums {
    let mut sums = Sums::default();
    for piece in pieces.iter().filter(|piece| piece.device == device) {
        if piece.start_ns < from_ns || piece.start_ns >= to_ns {
            continue;
        }
        match &piece.owner {
            Some(owner) => *sums.held_ns.entry(owner.clone()).or_default() += piece.held_ns,
            None => sums.idle_ns += piece.held_ns,
        }
    }
    sums
}

/// Groups the answers of one run into ticks: what is served within half a period belongs together.
fn ticks(records: &[&Record], period_ns: i64) -> Vec<Tick> {
    let mut ticks: Vec<Tick> = Vec::new();
    for record in records.iter().filter(|record| LISTS.contains(&record.call.as_str())) {
        let Some(device) = &record.device else { continue };
        let Record { wall_ns, monotonic_ns, .. } = **record;
        if ticks.last().is_none_or(|tick| monotonic_ns - tick.monotonic_ns >= period_ns / 2) {
            let devices = BTreeMap::new();
            ticks.push(Tick { wall_ns, monotonic_ns, at_ns: wall_ns, jumped: false, devices });
        }
        let Some(tick) = ticks.last_mut() else { continue };
        let entry = tick.devices.entry(device.clone()).or_insert_with(|| Some(BTreeSet::new()));
        match &record.processes {
            Some(processes) if record.ret == 0 => {
                entry.iter_mut().for_each(|pids| pids.extend(processes.iter().map(|(pid, _)| *pid)));
            }
            // Graphics and MPS are extras that a driver may not have; without the compute list nobody knows.
            _ if record.call == COMPUTE => *entry = None,
            _ => {}
        }
    }
    in_ledger_time(&mut ticks);
    ticks
}

/// The wall clock may be set. Ledger time jumps forward with it, stands still while it is up to a minute behind, and
/// begins again at the wall if it is further behind.
fn in_ledger_time(ticks: &mut [Tick]) {
    for at in 1..ticks.len() {
        let (before, now) = ticks.split_at_mut(at);
        let (Some(before), Some(now)) = (before.last(), now.first_mut()) else { return };
        let due_ns = before.wall_ns + now.monotonic_ns - before.monotonic_ns;
        let step_ns = now.wall_ns - due_ns;
        let behind_ns = before.at_ns.max(due_ns) - now.wall_ns;
        if step_ns.abs() < STEP_NS_MIN && before.at_ns <= before.wall_ns {
            continue;
        }
        if behind_ns > WAIT_NS_MAX {
            now.jumped = true;
            continue;
        }
        now.at_ns = now.wall_ns.max(before.at_ns);
        now.jumped = step_ns >= STEP_NS_MIN && now.at_ns > before.at_ns;
    }
}

/// Owner and start of each process in a reading.
fn holders(
    story: &Story,
    pids: &BTreeSet<u32>,
    known: &BTreeSet<u32>,
    (from_ns, to_ns): (i64, i64),
    wall_minus_boot_ns: i64,
) -> anyhow::Result<Vec<(String, i64)>> {
    let mut holders = Vec::new();
    for pid in pids {
        let Some((actor, started_ns)) = story.live(to_ns).find(|(actor, _)| actor.process.pid == *pid) else {
            bail!("the scenario has no process {pid}");
        };
        // `/proc` tells starts in clock ticks since boot.
        let ticks = (started_ns - wall_minus_boot_ns).div_euclid(TICK_NS);
        let told_ns = wall_minus_boot_ns + ticks * TICK_NS;
        // On the device before: it started before, unless the pid is another process now.
        let was_there = known.contains(pid) && started_ns <= from_ns;
        holders.push((actor.process.owner.clone(), if was_there { i64::MIN } else { told_ns }));
    }
    Ok(holders)
}

/// Cuts one covered interval of one device and splits each piece.
fn interval(device: &str, from_ns: i64, to_ns: i64, holders: &[(String, i64)]) -> Vec<Piece> {
    let mut edges = BTreeSet::from([from_ns, to_ns]);
    edges.extend(holders.iter().map(|(_, started_ns)| *started_ns));
    let mut cell_ns = window_start(from_ns);
    while cell_ns < to_ns {
        edges.insert(cell_ns);
        cell_ns += WINDOW_NS;
    }
    let edges: Vec<i64> = edges.into_iter().filter(|edge| (from_ns..=to_ns).contains(edge)).collect();
    let mut pieces = Vec::new();
    for (&start_ns, &end_ns) in edges.iter().zip(&edges[1..]) {
        let mut owners: Vec<&str> = holders
            .iter()
            .filter(|(_, started_ns)| *started_ns <= start_ns)
            .map(|(owner, _)| owner.as_str())
            .collect();
        owners.sort_by_key(|owner| truth::order(owner));
        owners.dedup();
        let piece = |owner: Option<&str>, held_ns| Piece {
            device: device.to_owned(),
            start_ns,
            end_ns,
            owner: owner.map(str::to_owned),
            held_ns,
        };
        let length_ns = end_ns - start_ns;
        let Ok(count @ 1..) = i64::try_from(owners.len()) else {
            pieces.push(piece(None, length_ns));
            continue;
        };
        let mut left = length_ns % count;
        for owner in owners {
            pieces.push(piece(Some(owner), length_ns / count + i64::from(left > 0)));
            left -= 1;
        }
    }
    pieces
}

#[cfg(test)]
mod tests;
