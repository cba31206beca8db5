//! Why time is unobserved: what the ledger says of each device, against what the reference knows of kills, starts, late
//! readings and clocks. Every nanosecond between a device's first and last window is in a window or has a reason, never
//! both, and the reason is true.

use std::collections::BTreeMap;

use harness::books::Folded;
use harness::comparison::{self, Stretch};
use harness::reference::{Piece, Uncovered, Why};
use tonnage_proto::limits::WINDOW_NS;

use crate::plan::STEP_NS_MAX;

/// What one kill takes back at most: everything since the last edge of the window grid that was read before, told gaps
/// included, and the reading that was not worked off.
const TAKEN_BACK_NS_MAX: i64 = WINDOW_NS + STEP_NS_MAX;

/// An agent, as the reference knows it.
pub(crate) struct Party {
    /// What its driver served, all devices.
    pub(crate) pieces: Vec<Piece>,
    pub(crate) uncovered: Uncovered,
    /// Sorted.
    pub(crate) kills: Vec<i64>,
    /// When its disk was full.
    pub(crate) full: Vec<Stretch>,
}

/// A window that was turned away began before the disk was full; the next one may be turned away before the agent has
/// noticed that there is room again.
const FULL_SLACK_NS: i64 = 2 * WINDOW_NS;

/// What is known of a device.
pub(crate) struct Facts<'a> {
    pub(crate) device: &'a str,
    /// By start, without overlap.
    pub(crate) windows: &'a [Folded],
    /// Spans of quarantined windows, by start.
    pub(crate) quarantined: &'a [Stretch],
    pub(crate) parties: &'a [&'a Party],
    /// Served, and lost by a kill.
    pub(crate) killed: &'a [Stretch],
}

/// Time by reason, and what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Reasons {
    pub(crate) time_ns: BTreeMap<&'static str, i64>,
    pub(crate) wrong: Vec<String>,
}

/// A stretch of unobserved time and its reason.
pub(crate) type Gap = (i64, i64, &'static str);

/// Looks at what the ledger says of one device, sorted by time.
pub(crate) fn check(facts: &Facts<'_>, gaps: &[Gap], reasons: &mut Reasons) {
    let gaps = joined(gaps);
    let mut wrong = |what: String| reasons.wrong.push(format!("{}: {what}", facts.device));
    let mut parts: Vec<Stretch> =
        facts.windows.iter().map(|window| (window.start_ns, window.end_ns)).collect();
    parts.extend(gaps.iter().map(|(start_ns, end_ns, _)| (*start_ns, *end_ns)));
    parts.sort_unstable();
    for pair in parts.windows(2) {
        let ((_, until_ns), (next_ns, _)) = (pair[0], pair[1]);
        if until_ns < next_ns {
            wrong(format!("nobody says why {until_ns}..{next_ns} is in no window"));
        } else if until_ns > next_ns {
            wrong(format!("{:?} and {:?} overlap, and one is a gap", pair[0], pair[1]));
        }
    }
    for gap in &gaps {
        // Where one was down, the other may have seen the end of it.
        let alone = facts.parties.len() == 1;
        if !facts.parties.iter().any(|party| party.says(*gap, alone)) && !facts.is_quarantined(*gap) {
            wrong(format!("{gap:?} is not the reason"));
        }
    }
    for stretch in facts.killed {
        let down = |(start_ns, end_ns, reason): &Gap| {
            *reason == "agent_down" && *start_ns <= stretch.0 && *end_ns >= stretch.1
        };
        if !gaps.iter().any(down) {
            wrong(format!("{stretch:?} was lost by a kill and is not booked as that"));
        }
    }
    for (start_ns, end_ns, reason) in gaps {
        *reasons.time_ns.entry(reason).or_default() += end_ns - start_ns;
    }
}

/// Agents tell of gaps in parts, from one edge of the grid to the next.
fn joined(gaps: &[Gap]) -> Vec<Gap> {
    let mut joined: Vec<Gap> = Vec::new();
    for gap in gaps {
        match joined.last_mut() {
            Some(last) if last.1 == gap.0 && last.2 == gap.2 => last.1 = gap.1,
            _ => joined.push(*gap),
        }
    }
    joined
}

impl Facts<'_> {
    fn is_quarantined(&self, (start_ns, end_ns, reason): Gap) -> bool {
        reason == "quarantined" && comparison::part(&[(start_ns, end_ns)], self.quarantined).0.is_empty()
    }
}

impl Party {
    /// Killed again before it told anything, an agent was down all the time.
    fn is_down(&self, start_ns: i64, end_ns: i64, alone: bool) -> bool {
        let mut until_ns = start_ns;
        for kill_ns in &self.kills {
            let begins_ns = self.uncovered.begins_ns.iter().find(|begins_ns| *begins_ns >= kill_ns);
            if kill_ns - TAKEN_BACK_NS_MAX <= until_ns {
                until_ns = begins_ns.map_or(until_ns, |begins_ns| until_ns.max(*begins_ns));
            }
        }
        end_ns <= until_ns && (!alone || self.uncovered.begins_ns.contains(&end_ns))
    }

    fn says(&self, (start_ns, end_ns, reason): Gap, alone: bool) -> bool {
        let within = |why: Why| {
            let all = self.uncovered.stretches.iter().filter(|(.., is)| *is == why);
            let stretches: Vec<Stretch> = all.map(|(from_ns, to_ns, _)| (*from_ns, *to_ns)).collect();
            comparison::part(&[(start_ns, end_ns)], &stretches).0.is_empty()
        };
        match reason {
            "agent_down" => self.is_down(start_ns, end_ns, alone),
            "not_read" => within(Why::NotRead),
            "spool" => self.full.iter().any(|(from_ns, to_ns)| {
                *from_ns - FULL_SLACK_NS <= start_ns && end_ns <= *to_ns + FULL_SLACK_NS
            }),
            "clock" => within(Why::Clock),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn window(start_s: i64, end_s: i64) -> Folded {
        Folded { start_ns: start_s * S, end_ns: end_s * S, ..Folded::default() }
    }

    fn gap(start_s: i64, end_s: i64, reason: &'static str) -> Gap {
        (start_s * S, end_s * S, reason)
    }

    /// An agent that was killed at second 15, and started at second 34.
    fn wrong(gaps: &[Gap], killed: Stretch) -> usize {
        let windows = [window(0, 10), window(34, 40), window(40, 50)];
        let uncovered = Uncovered { begins_ns: vec![0, 34 * S], stretches: Vec::new() };
        let party = Party { pieces: Vec::new(), uncovered, kills: vec![15 * S], full: Vec::new() };
        let facts = Facts {
            device: "d",
            windows: &windows,
            quarantined: &[],
            parties: &[&party],
            killed: &[(killed.0 * S, killed.1 * S)],
        };
        let mut reasons = Reasons::default();
        check(&facts, gaps, &mut reasons);
        reasons.wrong.len()
    }

    #[test]
    fn what_a_kill_cost_is_booked_as_that_and_no_more_and_no_less() {
        let down = "agent_down";
        assert_eq!(wrong(&[gap(10, 30, down), gap(30, 34, down)], (10, 15)), 0);
        assert_eq!(wrong(&[gap(10, 30, down)], (10, 15)), 2, "a hole, and an end that is no start");
        assert_eq!(wrong(&[gap(8, 34, down)], (10, 15)), 1, "overlaps a window");
        assert_eq!(
            wrong(&[gap(10, 34, "not_read")], (10, 15)),
            2,
            "not the reason, and the kill's is missing"
        );
        assert_eq!(wrong(&[], (10, 15)), 2);
    }
}
