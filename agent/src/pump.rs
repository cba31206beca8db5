//! The single-writer loop that joins the stages: readings -> owners -> windows -> drafts in the spool.
//!
//! Windows and gaps leave for the spool together, at the edges of the window grid (`pending`).
//!
//! Runs on its own thread; ends when the sampler's queue does, after it has closed what was open. What it cannot
//! keep it counts and says; nothing stops it.

use std::collections::HashMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tonnage_runtime::clock::Reading;
use tonnage_runtime::telemetry::chain;

use crate::attribution::{Attribution, Now};
use crate::facts::Known;
use crate::kubelet;
use crate::ledger_clock::LedgerClock;
use crate::metering::Meter;
use crate::metrics::Metrics;
use crate::model::{
    DeviceInfo, DeviceReading, Gap, GapReason, Instance, InstanceObservation, InstanceReading, KnownInstance,
    Observation, Partition, Tick, Window,
};
use crate::sampler::Sampled;
use crate::seal::{self, NodeState};
use crate::spool::{Keeper, Spool, SpoolError};

mod pending;
mod roll;
mod waiting;

use pending::{Parcel, Pending};
use roll::Roll;
use waiting::{Draft, Waiting};

/// Windows in one draft: far below a batch's limits.
const WINDOWS_PER_DRAFT_MAX: usize = 512;

/// What `/readyz` says meanwhile.
const RELEASED: &str = "the driver is let go of, as was asked for; `tonnage-agent resume` takes it up again";

/// See the module.
pub struct Pump {
    pub attribution: Attribution,
    pub kubelet: kubelet::View,
    pub meter: Meter,
    pub node: NodeState,
    /// What is known of the machine by now; goes into `node` with each parcel.
    pub machine: Known,
    pub spool: Keeper,
    /// Rung when there is something new to send.
    pub more: Arc<Notify>,
    pub metrics: Arc<Metrics>,
    pub status: Arc<Status>,
    /// `None`: the spool could not be opened yet.
    pub before: Option<Before>,
}

/// What the spool says of the run before.
#[derive(Debug, Clone, Default)]
pub struct Before {
    /// Ledger time up to which everything is accounted for.
    pub until_ns: Option<i64>,
    /// The node's devices, and the boot in which they were seen.
    pub boot_id: String,
    /// By which that boot went; empty: by its boot id.
    pub instance_id: String,
    pub devices: Vec<Arc<DeviceInfo>>,
    pub instances: Vec<KnownInstance>,
    /// Appends that the spool has seen.
    pub appended: u64,
}

impl Before {
    /// # Errors
    /// If the disk fails.
    pub fn read(spool: &Spool) -> Result<Self, SpoolError> {
        let remembered = spool.devices()?;
        let (boot_id, devices) = seal::read_devices(&remembered);
        let instance_id = seal::read_instance_id(&remembered);
        let instances = seal::read_instances(&remembered);
        let until_ns = spool.last_window_end_ns()?;
        Ok(Self { until_ns, boot_id, instance_id, devices, instances, appended: spool.appended() })
    }
}

/// What a run keeps between two ticks.
struct Run {
    clock: Option<LedgerClock>,
    pending: Pending,
    /// Devices that the spool remembers, and instances of them.
    remembered: (Vec<Arc<DeviceInfo>>, Vec<KnownInstance>),
    roll: Roll,
    unreadable: HashMap<Arc<str>, String>,
    waiting: Waiting,
    /// Ledger time of the first tick, until it is known what the spool has from before.
    late_since_ns: Option<i64>,
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

fn mps_clients(device: &DeviceReading) -> usize {
    let of_instances = device.mig.iter().flat_map(|mig| &mig.instances).map(|instance| &instance.processes);
    let all = of_instances.chain([&device.processes]).flatten().flatten();
    all.filter(|process| process.mps_client).count()
}

fn instances(device: &DeviceReading) -> impl Iterator<Item = Arc<Instance>> {
    device.mig.iter().flat_map(|mig| &mig.instances).map(|reading| Arc::clone(&reading.instance))
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
                    for device in &devices {
                        self.meter.know(&device.info);
                        run.roll.seen(&device.info.uuid, instances(device));
                    }
                    (at, devices)
                }
                Sampled::Failed { at, reason } => {
                    if self.status.set(Err(reason.clone())) {
                        tracing::error!(reason, "The driver cannot be read; its GPUs' time is unobserved.");
                    }
                    // A tick all the same: metering must know that this interval is not covered.
                    (at, Vec::new())
                }
                Sampled::Released { at } => {
                    // Who asked for it was told, and so was the log.
                    self.status.set(Err(RELEASED.to_owned()));
                    (at, Vec::new())
                }
            };
            let until_ns = self.before.as_ref().and_then(|before| before.until_ns);
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
        let mut run = Run {
            clock: None,
            pending: Pending::default(),
            remembered: Default::default(),
            roll: Roll::default(),
            unreadable: HashMap::new(),
            waiting: Waiting::default(),
            late_since_ns: None,
            now_ns: 0,
        };
        self.metrics.own(|own| own.spool_open = self.before.is_some());
        if let Some(before) = &self.before {
            if let Some(until_ns) = before.until_ns {
                self.meter.resume(until_ns);
                run.now_ns = until_ns;
            }
            run.pending = Pending::resume(before.until_ns);
            run.waiting.start(before.appended);
            self.meter.expect(!before.devices.is_empty());
            if before.boot_id == self.node.boot_id {
                before.devices.iter().for_each(|info| self.meter.know(info));
                run.remembered = (before.devices.clone(), before.instances.clone());
                // Until a reading shows others.
                run.roll.resume(&before.instances);
            }
        }
        run
    }

    /// The spool opened long after the start: what it says of the run before is told as if it had been known.
    fn late(&mut self, run: &mut Run, since_ns: i64) -> Result<(), SpoolError> {
        let before = self.spool.run(|spool| Before::read(spool))?;
        match before.until_ns {
            Some(until_ns) if until_ns > since_ns => {
                tracing::warn!("The spool has windows from after this agent's start; a new epoch begins.");
                self.spool.run(Spool::new_epoch)?;
            }
            Some(start_ns) if start_ns < since_ns => {
                let reason = GapReason::AgentDown;
                run.waiting.tell(Gap { device: None, start_ns, end_ns: since_ns, reason });
            }
            _ => {}
        }
        run.waiting.start(before.appended);
        if before.boot_id == self.node.boot_id {
            run.roll.recall(&before.instances);
        }
        self.before = Some(before);
        run.late_since_ns = None;
        Ok(())
    }

    fn tick(&mut self, run: &mut Run, tick: Tick, at: Reading, devices: Vec<DeviceReading>) {
        let observations = self.attribute(devices, Now { reading: at, ledger_ns: tick.now_ns });
        let windows = self.meter.observe(tick, observations);
        run.pending.add(windows, self.meter.take_gaps(), tick.overlap_ns);
        if tick.new_epoch {
            tracing::warn!("The node's clock was set back by over a minute; a new epoch begins.");
            if let Some(parcel) = run.pending.rest(run.now_ns) {
                self.keep(run, parcel);
            }
            let renewed = self.spool.run(Spool::new_epoch);
            self.failed(renewed.err());
        }
        run.now_ns = tick.now_ns;
        if self.before.is_none() {
            run.late_since_ns = run.late_since_ns.or(Some(tick.now_ns));
        }
        // The first parcel waits, for a few seconds at most, until it is known which life of the node it is of.
        let due = self.machine.is_decided().then(|| run.pending.due(tick.now_ns));
        if let Some(parcel) = due.flatten() {
            self.keep(run, parcel);
        }
        self.metrics.own(|own| own.metered_until_ns = tick.now_ns);
    }

    /// Whose the devices are. What the kubelet's list lacks it is asked for; the answer is for a later tick.
    fn attribute(&mut self, devices: Vec<DeviceReading>, now: Now) -> Vec<Observation> {
        let kubelet = self.kubelet.seen();
        let list = kubelet.list.as_ref().map(|list| (list, kubelet.listed_at_ns));
        self.attribution.allocate(&devices, list, now);
        self.metrics.readings(&devices);
        let mut observations = Vec::with_capacity(devices.len());
        for device in devices {
            let Ok(processes) = &device.processes else { continue };
            let Some(partition) = self.partition(&device, now) else { continue };
            let (holders, allocation) = self.attribution.resolve(&device.info, None, processes, now);
            let in_instances = partition.iter().flat_map(|partition| &partition.instances);
            let processes =
                in_instances.map(|instance| instance.holders.len()).sum::<usize>() + holders.len();
            self.metrics.gauges(&device.info, device.gauges, processes);
            self.metrics.mps_clients(&device.info.uuid, mps_clients(&device));
            observations.push(Observation {
                info: device.info,
                partition,
                holders,
                allocation,
                utilisation: device.utilisation,
                energy_mj: device.energy_mj,
            });
        }
        if kubelet.list.is_some() {
            self.attribution.unlisted().iter().for_each(|pod| self.kubelet.ask(pod.clone()));
            if self.attribution.pods_changed(now) {
                self.kubelet.refresh();
            }
        }
        self.metrics.allocations(self.attribution.counts());
        observations
    }

    /// Whose the instances of a device are, if it has any. `None`: the processes of one could not be listed, so nobody
    /// knows who held it.
    fn partition(&mut self, device: &DeviceReading, now: Now) -> Option<Option<Partition>> {
        let Some(mig) = &device.mig else { return Some(None) };
        let mut instances = Vec::with_capacity(mig.instances.len());
        for InstanceReading { instance, processes, utilisation } in &mig.instances {
            let processes = processes.as_ref().ok()?;
            let (holders, allocation) =
                self.attribution.resolve(&device.info, Some(instance), processes, now);
            let (instance, utilisation) = (Arc::clone(instance), *utilisation);
            instances.push(InstanceObservation { instance, holders, allocation, utilisation });
        }
        Some(Some(Partition { instances, stranded_slices: mig.stranded_slices.unwrap_or(0) }))
    }

    /// Puts a parcel into the spool, and what waited before it. What the spool cannot take is unobserved: counted,
    /// said, and told the ledger with what is kept next.
    fn keep(&mut self, run: &mut Run, parcel: Parcel) {
        (self.node.instance_id, self.node.facts) = self.machine.now();
        if let Some(since_ns) = run.late_since_ns {
            let late = self.late(run, since_ns);
            self.failed(late.err());
        }
        self.metrics.windows(&parcel.windows);
        for (device, unobserved_ns) in self.meter.unobserved_ns() {
            self.metrics.unobserved(&device, unobserved_ns);
        }
        self.metrics.own(|own| own.overlap_ns += parcel.overlap_ns);
        for draft in self.drafts(run.waiting.take_untold(), parcel) {
            run.waiting.push(draft);
        }
        self.flush(run);
        self.more.notify_one();
    }

    /// Gives the spool what waits for it, and the node's devices where they are others than it knows.
    fn flush(&mut self, run: &mut Run) {
        let infos: Vec<Arc<DeviceInfo>> = self.meter.known().cloned().collect();
        let known = (infos, run.roll.known());
        let devices = (known != run.remembered).then(|| seal::devices(&known.0, &known.1, &self.node));
        let now_ns = run.now_ns;
        let Some(work) = run.waiting.work() else {
            self.metrics.own(|own| own.spool_waiting = run.waiting.len());
            return;
        };
        let done = self.spool.run(move |spool| {
            // Before the windows: no generation is in the ledger that a next run would not know of. Should that fail,
            // they are kept all the same.
            let remembered = devices.map_or(Ok(()), |devices| spool.set_devices(&devices));
            let put = waiting::put(spool, work);
            let sealed = spool.seal(now_ns).map(|_| ());
            let holds = (spool.bytes(), spool.drafts(), spool.counts());
            Ok::<_, SpoolError>((put, sealed, remembered, holds))
        });
        let (waits, dropped) = match done {
            Ok((put, sealed, remembered, (bytes, drafts, counts))) => {
                run.waiting.settle(&put);
                if remembered.is_ok() {
                    run.remembered = known;
                }
                self.metrics.own(|own| {
                    (own.spool_bytes, own.spool_drafts, own.spool_open) = (bytes, drafts, true);
                    own.spool_merged = own.spool_merged.max(counts.merged);
                    own.spool_acked_dropped = own.spool_acked_dropped.max(counts.dropped);
                });
                [put.error, sealed.err(), remembered.err()].into_iter().for_each(|error| self.failed(error));
                (run.waiting.len(), run.waiting.dropped)
            }
            Err(error) => {
                self.failed(Some(error));
                self.metrics.own(|own| own.spool_open = false);
                (run.waiting.len(), run.waiting.dropped)
            }
        };
        self.metrics.own(|own| (own.spool_waiting, own.windows_dropped) = (waits, dropped));
    }

    /// A parcel as drafts, at least one.
    fn drafts(&self, untold: Vec<Gap>, parcel: Parcel) -> Vec<Draft> {
        let Parcel { from_ns, until_ns, windows, gaps, overlap_ns } = parcel;
        let gaps: Vec<Gap> = untold.into_iter().chain(gaps).collect();
        let first = windows.len().min(WINDOWS_PER_DRAFT_MAX);
        let mut drafts = vec![Draft {
            bytes: seal::draft_with_gaps(&windows[..first], &gaps, &self.node, overlap_ns),
            gaps,
            ..draft_of(&windows[..first])
        }];
        for windows in windows[first..].chunks(WINDOWS_PER_DRAFT_MAX) {
            drafts.push(Draft { bytes: seal::draft(windows, &self.node, 0), ..draft_of(windows) });
        }
        let last = drafts.len() - 1;
        for (at, draft) in drafts.iter_mut().enumerate() {
            // Accounted for once all of it is there.
            draft.until_ns = if at == last { until_ns } else { from_ns.unwrap_or(until_ns) };
        }
        drafts
    }

    fn failed(&self, error: Option<SpoolError>) {
        if let Some(error) = error {
            self.metrics.own(|own| own.spool_failures += 1);
            // That it cannot be opened was said when that began.
            if matches!(error, SpoolError::Closed { .. }) {
                return;
            }
            tracing::error!(error = chain(&error), "The spool failed.");
        }
    }
}

/// What a draft of these windows says beside its bytes.
fn draft_of(windows: &[Window]) -> Draft {
    let end = |window: &Window| window.start_ns.saturating_add_unsigned(window.duration_ns);
    let start_ns = windows.iter().map(|window| window.start_ns).min();
    let covers = start_ns.zip(windows.iter().map(end).max());
    Draft { covers, windows: windows.len(), ..Draft::default() }
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
