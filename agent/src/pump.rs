//! The single-writer loop that joins the stages: readings -> owners -> windows -> drafts in the spool.
//!
//! Runs on its own thread; ends when the sampler's queue does, after it has closed what was open. What it cannot
//! keep it counts and says; nothing stops it.

use std::collections::HashMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tonnage_runtime::clock::Reading;
use tonnage_runtime::telemetry::chain;

use crate::attribution::Attribution;
use crate::ledger_clock::LedgerClock;
use crate::metering::Meter;
use crate::metrics::Metrics;
use crate::model::{DeviceReading, Observation, Tick, Window};
use crate::sampler::Sampled;
use crate::seal::{self, NodeState};
use crate::spool::{Keeper, SpoolError};

/// See the module.
pub struct Pump {
    pub attribution: Attribution,
    pub meter: Meter,
    pub node: NodeState,
    pub spool: Keeper,
    /// Rung when there is something new to send.
    pub more: Arc<Notify>,
    pub metrics: Arc<Metrics>,
    pub status: Arc<Status>,
    pub last_window_end_ns: Option<i64>,
}

/// What the health endpoints and the log want to know of the driver.
#[derive(Debug, Default)]
pub struct Status(Mutex<Option<Result<usize, String>>>);

impl Status {
    /// Devices in the last reading, why it failed, or `None` before the first.
    #[must_use]
    pub fn get(&self) -> Option<Result<usize, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets it; true if it is news.
    fn set(&self, new: Result<usize, String>) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = state.as_ref() != Some(&new);
        *state = Some(new);
        news
    }
}

impl Pump {
    /// Works until the sampler is gone.
    pub fn run(mut self, samples: &Receiver<Sampled>) {
        let mut clock: Option<LedgerClock> = None;
        let mut unreadable: HashMap<Arc<str>, String> = HashMap::new();
        for sampled in samples {
            let (at, devices) = match sampled {
                Sampled::Reading { at, devices, driver } => {
                    if let Some(driver) = driver {
                        tracing::info!(
                            version = driver.driver_version,
                            devices = devices.len(),
                            missing = driver.missing.join("; "),
                            "The driver is read."
                        );
                        self.node.driver_version = driver.driver_version;
                    }
                    self.status.set(Ok(devices.len()));
                    note_unreadable(&devices, &mut unreadable);
                    (at, devices)
                }
                Sampled::Failed { at, reason } => {
                    if self.status.set(Err(reason.clone())) {
                        tracing::error!(reason, "The driver cannot be read; its GPUs' time is unobserved.");
                    }
                    // A tick all the same: metering must know that this interval is not covered.
                    (at, Vec::new())
                }
            };
            let last = self.last_window_end_ns;
            let tick = clock.get_or_insert_with(|| LedgerClock::start(at, last)).observe(at);
            self.tick(tick, at, devices);
        }
        let rest = self.meter.finish();
        if !rest.is_empty() {
            self.keep(&rest, 0, 0);
        }
    }

    fn tick(&mut self, tick: Tick, at: Reading, devices: Vec<DeviceReading>) {
        if tick.new_epoch {
            tracing::warn!("The node's clock was set back by over a minute; a new epoch begins.");
            let renewed = self.spool.run(|spool| spool.new_epoch());
            self.failed(renewed.err());
        }
        let mut observations = Vec::with_capacity(devices.len());
        for device in devices {
            let holders = match &device.processes {
                Ok(processes) => self.attribution.resolve(processes, tick.now_ns, at),
                Err(_) => continue,
            };
            self.metrics.gauges(&device.info, device.gauges, holders.len());
            observations.push(Observation {
                info: device.info,
                holders,
                utilisation: device.utilisation,
                energy_mj: device.energy_mj,
            });
        }
        let windows = self.meter.observe(tick, observations);
        if !windows.is_empty() || tick.overlap_ns > 0 {
            self.keep(&windows, tick.overlap_ns, tick.now_ns);
        }
        self.metrics.own(|own| own.metered_until_ns = tick.now_ns);
    }

    /// Puts windows into the spool. What it cannot take is unobserved: counted, and said once per failure.
    fn keep(&mut self, windows: &[Window], overlap_ns: u64, now_ns: i64) {
        let end = |window: &Window| window.start_ns.saturating_add_unsigned(window.duration_ns);
        let last_ns = windows.iter().map(end).max().or(self.last_window_end_ns).unwrap_or(now_ns);
        let draft = seal::draft(windows, &self.node, overlap_ns);
        let kept = self.spool.run(move |spool| {
            let kept = spool.append(&draft, last_ns).and_then(|()| spool.seal(last_ns));
            Ok((kept, spool.bytes(), spool.drafts()))
        });
        let (kept, holds) = match kept {
            Ok((kept, bytes, drafts)) => (kept, Some((bytes, drafts))),
            Err(error) => (Err(error), None),
        };
        let count = windows.len() as u64;
        self.metrics.own(|own| {
            (own.spool_bytes, own.spool_drafts) = holds.unwrap_or((own.spool_bytes, own.spool_drafts));
            own.overlap_ns += overlap_ns;
            own.windows_dropped += if kept.is_err() { count } else { 0 };
        });
        self.metrics.windows(windows);
        for (device, unobserved_ns) in self.meter.unobserved_ns() {
            self.metrics.unobserved(&device, unobserved_ns);
        }
        self.last_window_end_ns = Some(last_ns);
        self.failed(kept.err());
        self.more.notify_one();
    }

    fn failed(&self, error: Option<SpoolError>) {
        if let Some(error) = error {
            self.metrics.own(|own| own.spool_failures += 1);
            tracing::error!(error = chain(&error), "The spool failed.");
        }
    }
}

/// Says once when a device's processes cannot be listed, and once when they can again.
fn note_unreadable(devices: &[DeviceReading], unreadable: &mut HashMap<Arc<str>, String>) {
    for device in devices {
        let uuid = &device.info.uuid;
        match &device.processes {
            Err(reason) if unreadable.get(uuid) != Some(reason) => {
                tracing::error!(%uuid, reason, "A GPU's processes cannot be listed; its time is unobserved.");
                unreadable.insert(Arc::clone(uuid), reason.clone());
            }
            Ok(_) if unreadable.remove(uuid).is_some() => {
                tracing::info!(%uuid, "A GPU's processes can be listed again.");
            }
            _ => {}
        }
    }
}
