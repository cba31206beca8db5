//! The single-writer loop that joins the stages: readings -> owners -> windows -> drafts in the spool.
//!
//! Windows and gaps leave for the spool together, at the edges of the window grid ([`pending`]).
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
use crate::model::{DeviceInfo, DeviceReading, Gap, GapReason, Observation, Tick, Window};
use crate::sampler::Sampled;
use crate::seal::{self, NodeState};
use crate::spool::{Keeper, SpoolError};

mod pending;

use pending::{Parcel, Pending};

/// Windows in one draft: far below a batch's limits.
const WINDOWS_PER_DRAFT_MAX: usize = 512;

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
    pub before: Before,
}

/// What the spool says of the run before.
#[derive(Debug, Default)]
pub struct Before {
    /// Ledger time up to which everything is accounted for.
    pub until_ns: Option<i64>,
    /// The node's devices, and the boot in which they were seen.
    pub boot_id: String,
    pub devices: Vec<Arc<DeviceInfo>>,
}

/// What a run keeps between two ticks.
struct Run {
    clock: Option<LedgerClock>,
    pending: Pending,
    /// Devices that the spool remembers.
    remembered: Vec<Arc<DeviceInfo>>,
    unreadable: HashMap<Arc<str>, String>,
    /// Time of windows that the spool did not take, not yet told.
    untold: Vec<Gap>,
    now_ns: i64,
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
        let mut run = self.begin();
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
                    note_unreadable(&devices, &mut run.unreadable);
                    self.meter.expect(false);
                    devices.iter().for_each(|device| self.meter.know(&device.info));
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
            let until_ns = self.before.until_ns;
            let tick = run.clock.get_or_insert_with(|| LedgerClock::start(at, until_ns)).observe(at);
            self.tick(&mut run, tick, at, devices);
        }
        let windows = self.meter.finish();
        run.pending.add(windows, self.meter.take_gaps(), 0);
        if let Some(parcel) = run.pending.rest(run.now_ns) {
            self.keep(&mut run, parcel);
        }
    }

    /// Takes up what the run before left.
    fn begin(&mut self) -> Run {
        let before = &self.before;
        if let Some(until_ns) = before.until_ns {
            self.meter.resume(until_ns);
        }
        self.meter.expect(!before.devices.is_empty());
        let same_boot = before.boot_id == self.node.boot_id;
        if same_boot {
            before.devices.iter().for_each(|info| self.meter.know(info));
        }
        Run {
            clock: None,
            pending: Pending::resume(before.until_ns),
            remembered: if same_boot { before.devices.clone() } else { Vec::new() },
            unreadable: HashMap::new(),
            untold: Vec::new(),
            now_ns: before.until_ns.unwrap_or(0),
        }
    }

    fn tick(&mut self, run: &mut Run, tick: Tick, at: Reading, devices: Vec<DeviceReading>) {
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
        run.pending.add(windows, self.meter.take_gaps(), tick.overlap_ns);
        if tick.new_epoch {
            tracing::warn!("The node's clock was set back by over a minute; a new epoch begins.");
            if let Some(parcel) = run.pending.rest(run.now_ns) {
                self.keep(run, parcel);
            }
            let renewed = self.spool.run(|spool| spool.new_epoch());
            self.failed(renewed.err());
        }
        run.now_ns = tick.now_ns;
        self.remember(run);
        if let Some(parcel) = run.pending.due(tick.now_ns) {
            self.keep(run, parcel);
        }
        self.metrics.own(|own| own.metered_until_ns = tick.now_ns);
    }

    /// Has the spool remember the node's devices, where they are others than it knows.
    fn remember(&mut self, run: &mut Run) {
        if self.meter.known().eq(&run.remembered) {
            return;
        }
        let known: Vec<Arc<DeviceInfo>> = self.meter.known().cloned().collect();
        let encoded = seal::devices(&known, &self.node);
        let kept = self.spool.run(move |spool| spool.set_devices(&encoded));
        if kept.is_ok() {
            run.remembered = known;
        }
        self.failed(kept.err());
    }

    /// Puts a parcel into the spool. What it cannot take is unobserved: counted, said, and told the ledger with what
    /// is kept next.
    fn keep(&mut self, run: &mut Run, parcel: Parcel) {
        let (until_ns, overlap_ns) = (parcel.until_ns, parcel.overlap_ns);
        let from_ns =
            parcel.from_ns.or(parcel.windows.first().map(|window| window.start_ns)).unwrap_or(until_ns);
        let gaps: Vec<Gap> = run.untold.iter().cloned().chain(parcel.gaps).collect();
        let drafts = self.drafts(&parcel.windows, &gaps, overlap_ns);
        let kept = self.spool.run(move |spool| {
            let last = drafts.len() - 1;
            let mut kept = Ok(());
            for (at, draft) in drafts.iter().enumerate() {
                // Accounted for once all of it is there.
                let until_ns = if at == last { until_ns } else { from_ns };
                kept = kept.and_then(|()| spool.append(draft, until_ns));
            }
            let sealed = spool.seal(until_ns);
            Ok((kept, sealed.err(), spool.bytes(), spool.drafts()))
        });
        let (kept, unsealed, holds) = match kept {
            Ok((kept, unsealed, bytes, drafts)) => (kept, unsealed, Some((bytes, drafts))),
            Err(error) => (Err(error), None, None),
        };
        self.failed(unsealed);
        let count = parcel.windows.len() as u64;
        self.metrics.own(|own| {
            (own.spool_bytes, own.spool_drafts) = holds.unwrap_or((own.spool_bytes, own.spool_drafts));
            own.overlap_ns += overlap_ns;
            own.windows_dropped += if kept.is_err() { count } else { 0 };
        });
        self.metrics.windows(&parcel.windows);
        for (device, unobserved_ns) in self.meter.unobserved_ns() {
            self.metrics.unobserved(&device, unobserved_ns);
        }
        match kept {
            Ok(()) => run.untold.clear(),
            Err(error) => {
                let lost =
                    Gap { device: None, start_ns: from_ns, end_ns: until_ns, reason: GapReason::Spool };
                pending::add_gap(&mut run.untold, lost);
                self.failed(Some(error));
            }
        }
        self.more.notify_one();
    }

    /// As drafts, at least one.
    fn drafts(&self, windows: &[Window], gaps: &[Gap], overlap_ns: u64) -> Vec<Vec<u8>> {
        let first = windows.len().min(WINDOWS_PER_DRAFT_MAX);
        let mut drafts = vec![seal::draft_with_gaps(&windows[..first], gaps, &self.node, overlap_ns)];
        let rest = windows[first..].chunks(WINDOWS_PER_DRAFT_MAX);
        drafts.extend(rest.map(|windows| seal::draft(windows, &self.node, 0)));
        drafts
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
