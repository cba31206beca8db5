//! Values of the moment that nothing is billed by: clocks, why they are low, ECC, links, virtual GPUs.

use super::Story;
use super::utilisation::Sample;
use crate::scenario;

/// NVML's bit for clocks that are low because nothing runs.
const IDLE: u64 = 1;
const IDLE_CLOCK_MHZ: u32 = 345;
/// What a device moves over PCIe and over each NVLink at 100 percent of use.
const PCIE_KIB_S: u64 = 20_000_000;
const NVLINK_KIB_S: u64 = 25_000_000;
/// Drivers number virtual GPUs from far beyond any pid.
const VGPU_NUMBERS: u32 = 3_251_634_177;

/// A virtual GPU that is there now, with the number by which NVML names it.
#[derive(Debug, Clone, PartialEq)]
pub struct Vgpu {
    pub number: u32,
    pub device: usize,
    pub info: scenario::Vgpu,
}

impl Story {
    #[must_use]
    pub fn sm_clock_mhz(&self, device: usize, wall_ns: i64) -> u32 {
        let clock_mhz = self.scenario.device[device].signals.sm_clock_mhz;
        if self.percent(device, wall_ns) == 0 { clock_mhz.min(IDLE_CLOCK_MHZ) } else { clock_mhz }
    }

    #[must_use]
    pub fn clocks_event_reasons(&self, device: usize, wall_ns: i64) -> u64 {
        let steps = &self.scenario.device[device].signals.clocks_event_reasons;
        let idle = if self.percent(device, wall_ns) == 0 { IDLE } else { 0 };
        self.step(steps, wall_ns).unwrap_or(idle)
    }

    /// Errors so far, corrected or not, since the start or ever; `None` where there is no ECC.
    #[must_use]
    pub fn ecc(&self, device: usize, corrected: bool, ever: bool, wall_ns: i64) -> Option<u64> {
        let signals = &self.scenario.device[device].signals;
        let steps = if corrected { &signals.ecc_corrected } else { &signals.ecc_uncorrected };
        if signals.ecc_corrected.is_empty() && signals.ecc_uncorrected.is_empty() {
            return None;
        }
        let before = if ever { signals.ecc_before } else { 0 };
        Some(self.step(steps, wall_ns).unwrap_or(0) + before)
    }

    /// KiB per second now.
    #[must_use]
    pub fn pcie_kib_s(&self, device: usize, wall_ns: i64) -> u64 {
        PCIE_KIB_S * u64::from(self.percent(device, wall_ns)) / 100
    }

    /// KiB over all NVLinks so far, in each direction.
    #[must_use]
    pub fn nvlink_kib(&self, device: usize, wall_ns: i64) -> u64 {
        let links = u64::from(self.scenario.device[device].signals.nvlinks);
        let used = self.used_percent_ns(device, None, wall_ns) / 100;
        let kib = used * i128::from(links * NVLINK_KIB_S) / 1_000_000_000;
        u64::try_from(kib).unwrap_or(u64::MAX)
    }

    #[must_use]
    pub fn gpm(&self, device: usize) -> bool {
        self.scenario.device[device].signals.gpm.unwrap_or_else(|| self.model(device).gpm)
    }

    /// Mean percent of a process since its start, and for how long it has run (or ran), in nanoseconds.
    #[must_use]
    pub fn accounted(&self, device: usize, pid: u32, wall_ns: i64) -> Option<(u32, i64, u64)> {
        let (actor, started_ns) =
            self.live(wall_ns).find(|(actor, _)| actor.process.pid == pid && self.uses(actor, device))?;
        let length_ns = (wall_ns - started_ns).max(1);
        let mean = actor.within_ns(length_ns) / i128::from(length_ns);
        Some((u32::try_from(mean).unwrap_or(0), length_ns, actor.process.memory_bytes))
    }

    /// The virtual GPUs on any device, or `None` of a device that is no host of them.
    #[must_use]
    pub fn vgpus(&self, device: usize, wall_ns: i64) -> Option<Vec<Vgpu>> {
        let all = self.scenario.device[device].vgpu.as_ref()?;
        let there = |vgpu: &&scenario::Vgpu| {
            vgpu.from_s.is_none_or(|from_s| self.at(from_s) <= wall_ns)
                && vgpu.to_s.is_none_or(|to_s| wall_ns < self.at(to_s))
        };
        let base = VGPU_NUMBERS + u32::try_from(device).unwrap_or(0) * 1_000;
        let numbered = (base..).zip(all).filter(|(_, vgpu)| there(vgpu));
        Some(numbered.map(|(number, info)| Vgpu { number, device, info: info.clone() }).collect())
    }

    /// A sample of each virtual GPU that is newer than `last_seen_us`, on one grid.
    #[must_use]
    pub fn vgpu_samples(&self, device: usize, last_seen_us: u64, wall_ns: i64) -> Option<Vec<Sample>> {
        let period_us = u64::from(self.scenario.sample_period_ms) * 1_000;
        let timestamp_us = u64::try_from(wall_ns / 1_000).unwrap_or(0) / period_us * period_us;
        let at_ns = i64::try_from(timestamp_us * 1_000).unwrap_or(i64::MAX);
        let sample = |vgpu: Vgpu| {
            let steps = vgpu.info.utilisation.iter().rev();
            let percent = steps
                .clone()
                .find(|(from_s, _)| self.at(*from_s) <= at_ns)
                .map_or(0, |(_, percent)| *percent);
            Sample { pid: vgpu.number, timestamp_us, percent }
        };
        let there = self.vgpus(device, wall_ns)?;
        Some(there.into_iter().map(sample).filter(|sample| sample.timestamp_us > last_seen_us).collect())
    }

    fn step(&self, steps: &[(f64, u64)], wall_ns: i64) -> Option<u64> {
        steps.iter().rev().find(|(from_s, _)| self.at(*from_s) <= wall_ns).map(|(_, value)| *value)
    }
}
