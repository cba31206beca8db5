//! Turns the node's clocks into ledger time: the one time in which usage is counted.
//!
//! Ledger time follows monotonic time, anchored on the wall clock and slewed towards it by at most 500 ppm. What
//! the wall clock does beyond that decides what is billed:
//!
//! | the wall clock is off by | ledger time | billed |
//! |---|---|---|
//! | under 500 ms | is slewed | all of it |
//! | more, ahead | jumps to the wall | not the jump (`continuous = false`) |
//! | more, back, up to 60 s | stands still until the wall catches up | not what passes meanwhile (`overlap_ns`) |
//! | more than 60 s back | begins again at the wall, under a new epoch | not the step |
//! | (the node was suspended) | goes on by boot time | not the suspend (`continuous = false`) |
//!
//! Pure: readings come in, ticks go out. Within an epoch ledger time never goes back.
//! Not for: how long an interval may be (metering), or reading clocks (`tonnage_runtime::clock`).

use tonnage_runtime::clock::Reading;

use crate::model::{GapReason, Tick};

/// Offsets of this size and more are steps; smaller ones are slewed.
const STEP_NS: i64 = 500_000_000;
/// Slewing changes ledger time by at most one part in this many: 500 ppm, as a kernel does it.
const SLEW_ONE_IN: i64 = 2_000;
/// Ledger time waits for a wall clock that is at most this far behind it.
const WAIT_NS_MAX: i64 = 60_000_000_000;
/// Boot time counts suspend, monotonic time does not: further apart than this, the node slept.
const SUSPEND_NS: i64 = 100_000_000;

/// The state between two readings.
#[derive(Debug, Clone)]
pub struct LedgerClock {
    /// Ledger time at the last reading.
    now_ns: i64,
    /// Where the wall clock is believed to be. Ledger time is the same, or ahead and standing still.
    wall_ns: i64,
    last: Reading,
    /// What the first tick says that no other does.
    first: bool,
    anchored_behind_spool: bool,
}

impl LedgerClock {
    /// Anchors at `reading`, but not before the end of the last stored window: its time was billed already.
    ///
    /// A stored end more than 60 s ahead came from a clock that was wrong; then the anchor is the wall clock, and
    /// the first tick asks for a new epoch, as for any step back of that size.
    #[must_use]
    pub fn start(reading: Reading, last_window_end_ns: Option<i64>) -> Self {
        let wall_ns = reading.wall_ns;
        let stored_ns = last_window_end_ns.unwrap_or(wall_ns);
        let behind = stored_ns.saturating_sub(wall_ns) > WAIT_NS_MAX;
        let now_ns = if behind { wall_ns } else { wall_ns.max(stored_ns) };
        Self { now_ns, wall_ns, last: reading, first: true, anchored_behind_spool: behind }
    }

    /// Ledger time at `reading`, which was taken after the one before.
    pub fn observe(&mut self, reading: Reading) -> Tick {
        let awake_ns = reading.monotonic_ns.saturating_sub(self.last.monotonic_ns).max(0);
        let boot_ns = reading.boot_ns.saturating_sub(self.last.boot_ns).max(0);
        let suspended = boot_ns.saturating_sub(awake_ns) > SUSPEND_NS;
        let elapsed_ns = if suspended { boot_ns } else { awake_ns };
        self.last = reading;
        let first = std::mem::replace(&mut self.first, false);

        let due_ns = self.wall_ns.saturating_add(elapsed_ns);
        let offset_ns = reading.wall_ns.saturating_sub(due_ns);
        let lag_ns = self.now_ns.max(due_ns).saturating_sub(reading.wall_ns);
        if lag_ns > WAIT_NS_MAX {
            return self.anchor_anew(reading);
        }
        let stepped = offset_ns >= STEP_NS || offset_ns <= -STEP_NS;
        let slew_ns = elapsed_ns / SLEW_ONE_IN;
        self.wall_ns =
            if stepped { reading.wall_ns } else { due_ns.saturating_add(offset_ns.clamp(-slew_ns, slew_ns)) };

        let before_ns = self.now_ns;
        self.now_ns = before_ns.max(self.wall_ns);
        let moved_ns = self.now_ns.saturating_sub(before_ns);
        let jumped = offset_ns >= STEP_NS && moved_ns > 0;
        // Slewing makes ledger time slower than real time too; what is beyond that stood still.
        let missing_ns = elapsed_ns.saturating_sub(moved_ns).max(0);
        let overlap_ns = if missing_ns > slew_ns { missing_ns } else { 0 };
        let gap = match (first, suspended) {
            (true, _) => GapReason::AgentDown,
            (false, true) => GapReason::Suspended,
            (false, false) => GapReason::Clock,
        };
        Tick {
            now_ns: self.now_ns,
            continuous: !(first || suspended || jumped),
            gap,
            overlap_ns: overlap_ns.unsigned_abs(),
            new_epoch: first && self.anchored_behind_spool,
        }
    }

    fn anchor_anew(&mut self, reading: Reading) -> Tick {
        (self.now_ns, self.wall_ns) = (reading.wall_ns, reading.wall_ns);
        Tick { now_ns: self.now_ns, continuous: false, gap: GapReason::Clock, overlap_ns: 0, new_epoch: true }
    }
}

#[cfg(test)]
mod tests;
