//! Utilisation samples as a driver keeps them: a buffer per process, on a grid of its own, seen late.
//!
//! A sample's value is the process's percent at the sample's time. It is seen `lag_us` after that time. Of each
//! process only the newest sample with any use is served, as NVML documents it.

use super::{Actor, Story};

/// What one process did at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub pid: u32,
    pub timestamp_us: u64,
    pub percent: u32,
}

/// Samples that the driver keeps per process.
const BUFFER: u64 = 120;

/// What drivers were seen to report where they had nothing to say.
const IMPOSSIBLE_PERCENT: u32 = 2_147_483_632;

impl Story {
    /// Samples newer than `last_seen_us`, one per process. Empty = nothing newer.
    #[must_use]
    pub fn samples(&self, device: usize, last_seen_us: u64, wall_ns: i64) -> Vec<Sample> {
        let mut samples: Vec<Sample> = Vec::new();
        for actor in self.actors.iter().filter(|actor| self.uses(actor, device)) {
            let Some(sample) = self.newest(actor, last_seen_us, wall_ns) else { continue };
            match samples.iter_mut().find(|other| other.pid == sample.pid) {
                // The pid was used again: its one sample is the later life's.
                Some(other) if other.timestamp_us < sample.timestamp_us => *other = sample,
                Some(_) => {}
                None => samples.push(sample),
            }
        }
        if self.scenario.faults.garbage_utilisation {
            samples = self.with_garbage(samples);
        }
        samples
    }

    fn newest(&self, actor: &Actor, last_seen_us: u64, wall_ns: i64) -> Option<Sample> {
        let period_us = u64::from(self.scenario.sample_period_ms) * 1_000;
        let pid = actor.process.pid;
        // Every process has its own phase on the grid.
        let phase_us = u64::from(pid) * 7_919 % period_us;
        let visible_us = u64::try_from(wall_ns / 1_000).ok()?.checked_sub(u64::from(actor.process.lag_us))?;
        let newest_us = visible_us.checked_sub(phase_us)? / period_us * period_us + phase_us;
        (0..BUFFER)
            .map_while(|back| newest_us.checked_sub(back * period_us))
            .take_while(|&timestamp_us| timestamp_us > last_seen_us)
            .map(|timestamp_us| Sample {
                pid,
                timestamp_us,
                percent: actor.percent(wall_time_ns(timestamp_us)),
            })
            .find(|sample| sample.percent > 0)
    }

    /// The dead, the impossible, the old and the same again, around what is true.
    fn with_garbage(&self, samples: Vec<Sample>) -> Vec<Sample> {
        let period_us = u64::from(self.scenario.sample_period_ms) * 1_000;
        let epoch_us = u64::try_from(self.epoch_ns / 1_000).unwrap_or(0);
        let mut all: Vec<Sample> = (0..3)
            .map(|at| Sample {
                pid: 4_100_000 + at,
                timestamp_us: epoch_us.saturating_sub(3_600_000_000) + u64::from(at),
                percent: if at == 0 { 37 } else { IMPOSSIBLE_PERCENT },
            })
            .collect();
        for sample in samples {
            let old_us = sample.timestamp_us.saturating_sub(period_us);
            let old = self.actors.iter().filter(|actor| actor.process.pid == sample.pid);
            let old_percent = old.map(|actor| actor.percent(wall_time_ns(old_us))).max().unwrap_or(0);
            if old_percent > 0 {
                all.push(Sample { timestamp_us: old_us, percent: old_percent, ..sample });
            }
            all.push(sample);
            all.push(Sample { timestamp_us: sample.timestamp_us + 1, percent: IMPOSSIBLE_PERCENT, ..sample });
            all.push(Sample { timestamp_us: sample.timestamp_us + 2, percent: 101, ..sample });
            all.push(sample);
        }
        all
    }
}

fn wall_time_ns(timestamp_us: u64) -> i64 {
    i64::try_from(timestamp_us).map_or(i64::MAX, |us| us.saturating_mul(1_000))
}
