//! The agent's Prometheus metrics: time, memory and energy per device and owner, gauges of the moment, and the
//! agent's own health.
//!
//! Totals are kept as integers, in one compact entry per (device, owner), and become Prometheus's floats when
//! scraped. Bounded: at most `SERIES_MAX` entries; further owners are counted together under
//! `owner_kind="other"`, so that sums stay whole, and `tonnage_agent_series_dropped_total` says how many. An owner
//! that has been gone for `EXPIRY_NS` is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::TextEncoder;
use tonnage_proto::{limits, method};

use crate::kubelet;
use crate::model::{
    AllocationCounts, DeviceInfo, DeviceReading, Gauges, Instance, Owner, OwnerKind, Usage, Whose, Window,
};
use crate::mps;
use crate::uplink;

mod families;
pub mod gate;
mod process;
mod signals;

pub use process::OwnUse;

/// (device, owner) entries of holders, and as many of intruders; each is a few series.
const SERIES_MAX: usize = 2_000;
/// An owner without a window for this long is finished.
const EXPIRY_NS: i64 = 600_000_000_000;

/// Counters of the agent itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Own {
    pub samples: u64,
    pub sample_failures: u64,
    pub samples_dropped: u64,
    /// Readings that were given up on, since a call into the driver did not return.
    pub samples_abandoned: u64,
    /// For how long that call has not returned; 0: none hangs.
    pub driver_hung_ns: i64,
    /// It is let go of, as an operator asked for.
    pub driver_released: bool,
    /// How long the last reading took.
    pub sample_ns: i64,
    pub windows: u64,
    pub windows_dropped: u64,
    pub spool_failures: u64,
    pub spool_bytes: usize,
    pub spool_drafts: usize,
    /// It can be used.
    pub spool_open: bool,
    /// Drafts in memory that the spool could not take yet.
    pub spool_waiting: usize,
    pub spool_merged: u64,
    pub spool_acked_dropped: u64,
    pub overlap_ns: u64,
    /// Ledger time of the last sample that was metered, or found to be unreadable.
    pub metered_until_ns: i64,
    pub series_dropped: u64,
}

/// Slice-nanoseconds of devices with different slices as one whole number of the same unit: a nanosecond of a whole GPU
/// is `PER_NS` of them, and one of a slice divides that.
#[derive(Debug, Clone, Copy)]
struct GpuTime(u128);

impl GpuTime {
    const PER_NS: u128 = limits::GPU_NS_PARTS.unsigned_abs();

    fn of(info: &DeviceInfo) -> Self {
        Self(Self::PER_NS / u128::from(info.slices.clamp(1, limits::SLICES_MAX)))
    }

    fn of_slices(self, slice_ns: u64) -> u128 {
        u128::from(slice_ns) * self.0
    }

    fn seconds(total: u128) -> f64 {
        (total / Self::PER_NS) as f64 * 1e-9
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Totals {
    held: u128,
    /// Of that, by allocation and not busy, where use can be seen.
    held_idle: u128,
    is_allocated: bool,
    busy: u128,
    memory_byte_seconds: u64,
    energy_uj: u64,
    last_ns: i64,
}

impl Totals {
    fn add(&mut self, usage: &Usage, gpu_time: GpuTime, end_ns: i64) {
        self.held += gpu_time.of_slices(usage.held_ns);
        let busy_known = usage.method & (method::BUSY_PROCESS | method::BUSY_INSTANCE) != 0;
        if usage.method & method::HELD_ALLOCATION != 0 && busy_known {
            self.is_allocated = true;
            self.held_idle += gpu_time.of_slices(usage.held_ns - usage.busy_ns.min(usage.held_ns));
        }
        self.busy += gpu_time.of_slices(usage.busy_ns);
        self.memory_byte_seconds += usage.memory_byte_seconds;
        self.energy_uj += usage.energy_uj;
        self.last_ns = end_ns;
    }
}

#[derive(Debug, Default)]
struct Device {
    info: Option<Arc<DeviceInfo>>,
    gauges: Gauges,
    noted: signals::Noted,
    holders: usize,
    mps_clients: usize,
    idle: u128,
    stranded: u128,
    unobserved_ns: u64,
    busy_unattributed: u128,
    energy_idle_uj: u64,
    energy_unobserved_uj: u64,
}

type Owners = HashMap<Key, Totals>;
/// A GPU's UUID, the instance of it, and whose.
type Key = (Arc<str>, Option<Arc<Instance>>, Arc<Owner>);

#[derive(Debug, Default)]
struct State {
    owners: Owners,
    devices: HashMap<Arc<str>, Device>,
    /// As above, of owners that used what others hold.
    intruders: Owners,
    allocations: AllocationCounts,
    own: Own,
}

/// See the module. Shared between the stage that meters and the admin port.
#[derive(Debug)]
pub struct Metrics {
    state: Mutex<State>,
    uplink: Arc<Mutex<uplink::State>>,
    kubelet: kubelet::View,
    mps: mps::View,
    version: &'static str,
    node: String,
}

impl Metrics {
    #[must_use]
    pub fn new(
        version: &'static str,
        node: String,
        uplink: Arc<Mutex<uplink::State>>,
        kubelet: kubelet::View,
    ) -> Self {
        Self { state: Mutex::default(), uplink, kubelet, mps: mps::View::default(), version, node }
    }

    /// Shows what is known of MPS, too.
    #[must_use]
    pub fn showing_mps(self, mps: mps::View) -> Self {
        Self { mps, ..self }
    }

    /// Adds closed windows.
    pub fn windows(&self, windows: &[Window]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        state.own.windows += windows.len() as u64;
        let mut now_ns = i64::MIN;
        for window in windows {
            let end_ns = window.start_ns.saturating_add_unsigned(window.duration_ns);
            now_ns = now_ns.max(end_ns);
            let device = state.devices.entry(Arc::clone(&window.info.uuid)).or_default();
            let gpu_time = GpuTime::of(&window.info);
            device.idle += gpu_time.of_slices(window.idle_ns);
            device.stranded += gpu_time.of_slices(window.stranded_ns);
            device.busy_unattributed += gpu_time.of_slices(window.busy_unattributed_ns);
            device.energy_idle_uj += window.energy_idle_uj;
            device.energy_unobserved_uj += window.energy_unobserved_uj;
            for (whose, usage) in &window.usages {
                let totals = entry(&mut state.owners, &mut state.own, &window.info.uuid, whose);
                totals.add(usage, gpu_time, end_ns);
            }
            for (whose, usage) in &window.intruders {
                let totals = entry(&mut state.intruders, &mut state.own, &window.info.uuid, whose);
                totals.add(usage, gpu_time, end_ns);
            }
        }
        let lives = |totals: &Totals| totals.last_ns > now_ns.saturating_sub(EXPIRY_NS);
        state.owners.retain(|_, totals| lives(totals));
        state.intruders.retain(|_, totals| lives(totals));
    }

    /// Notes how many allocations count.
    pub fn allocations(&self, allocations: AllocationCounts) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).allocations = allocations;
    }

    /// Notes the values of the moment.
    pub fn gauges(&self, info: &Arc<DeviceInfo>, gauges: Gauges, holders: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let device = state.devices.entry(Arc::clone(&info.uuid)).or_default();
        (device.gauges, device.holders) = (gauges, holders);
        device.info = Some(Arc::clone(info));
    }

    /// Notes what devices say of themselves, also those whose processes could not be listed.
    pub fn readings(&self, devices: &[DeviceReading]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for device in devices {
            state.devices.entry(Arc::clone(&device.info.uuid)).or_default().noted.note(device);
        }
    }

    /// Notes how many clients of MPS the driver lists on a device.
    pub fn mps_clients(&self, device: &Arc<str>, clients: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.devices.entry(Arc::clone(device)).or_default().mps_clients = clients;
    }

    /// Sets a device's time that this run of the agent did not cover.
    pub fn unobserved(&self, device: &Arc<str>, unobserved_ns: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.devices.entry(Arc::clone(device)).or_default().unobserved_ns = unobserved_ns;
    }

    /// Changes the agent's own counters.
    pub fn own(&self, change: impl FnOnce(&mut Own)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).own);
    }

    /// Prometheus text.
    #[must_use]
    pub fn render(&self, process: Option<OwnUse>) -> String {
        let uplink = self.uplink.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let families =
            families::all(&state, &uplink, &self.kubelet.seen(), process, self.version, &self.node);
        let mps = families::mps(&state, &self.mps.seen());
        drop(state);
        let families = [families, mps].concat();
        TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| format!("# {error}\n"))
    }
}

/// The entry of this owner, or the one that all share once there are too many.
fn entry<'a>(owners: &'a mut Owners, own: &mut Own, device: &Arc<str>, whose: &Whose) -> &'a mut Totals {
    let (instance, owner) = whose;
    // What is in no instance goes by the GPU's UUID, where its memory is told: to a reader it is the GPU.
    let instance = instance.as_deref().filter(|instance| instance.uuid != *device);
    let mut key = (Arc::clone(device), instance.map(shown_instance), shown(owner));
    if owners.len() >= SERIES_MAX && !owners.contains_key(&key) {
        own.series_dropped += 1;
        (key.1, key.2) = (None, Arc::new(other()));
    }
    owners.entry(key).or_default()
}

/// The owner as its labels show it. Pods that differ in nothing that is shown (a StatefulSet's name is used again) are
/// one series, which goes on.
fn shown(owner: &Arc<Owner>) -> Arc<Owner> {
    let hides_uid = !owner.pod.is_empty() && !owner.pod_uid.is_empty();
    let hides_id = !owner.container.is_empty() && !owner.container_id.is_empty();
    if !hides_uid && !hides_id {
        return Arc::clone(owner);
    }
    let mut shown = Owner::clone(owner);
    if hides_uid {
        shown.pod_uid.clear();
    }
    if hides_id {
        shown.container_id.clear();
    }
    Arc::new(shown)
}

/// The instance as its labels show it: lives of one UUID are one series, which goes on.
fn shown_instance(instance: &Instance) -> Arc<Instance> {
    let (uuid, profile) = (Arc::clone(&instance.uuid), instance.profile.clone());
    Arc::new(Instance {
        gpu_instance: None,
        compute_instance: None,
        generation: 0,
        uuid,
        slices: 0,
        slices_guessed: false,
        profile,
        memory_bytes: 0,
        memory: None,
    })
}

/// Stands for the owners beyond the limit. No real owner looks like it: an unowned one has no user.
fn other() -> Owner {
    Owner { kind: OwnerKind::Unowned, user: "__other__".to_owned(), ..Owner::default() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn window(start_ns: i64, pods: std::ops::Range<usize>) -> Window {
        let info = DeviceInfo {
            uuid: "GPU-1".into(),
            model: "NVIDIA H100".into(),
            memory_bytes: 1,
            slices: 1,
            minor: None,
            pci_bus_id: String::new(),
        };
        let usages: BTreeMap<_, _> = pods
            .map(|pod| {
                let owner = Owner { kind: OwnerKind::Pod, pod: format!("p{pod}"), ..Owner::default() };
                ((None, Arc::new(owner)), Usage { held_ns: 1_000_000_000, ..Usage::default() })
            })
            .collect();
        Window {
            info: Arc::new(info),
            start_ns,
            duration_ns: 10_000_000_000,
            idle_ns: 2_500_000_000,
            usages,
            intruders: BTreeMap::new(),
            instance_idle_ns: BTreeMap::new(),
            stranded_ns: 0,
            busy_unattributed_ns: 0,
            energy_idle_uj: 0,
            energy_unobserved_uj: 0,
            samples: 1,
        }
    }

    fn metrics() -> Metrics {
        Metrics::new("0", "n".into(), Arc::default(), kubelet::View::default())
    }

    #[test]
    fn counters_are_in_base_units_and_name_the_owner() {
        let metrics = metrics();
        metrics.windows(&[window(0, 1..2)]);
        let text = metrics.render(None);
        let held = text.lines().find(|line| line.starts_with("tonnage_gpu_held_seconds_total{")).unwrap();
        assert!(
            held.contains("gpu=\"GPU-1\"") && held.contains("pod=\"p1\"") && held.ends_with(" 1"),
            "{held}"
        );
        assert!(text.contains("tonnage_gpu_idle_seconds_total{gpu=\"GPU-1\"} 2.5"), "{text}");
    }

    #[test]
    fn owners_beyond_the_limit_are_counted_together_so_that_sums_stay_whole() {
        let metrics = metrics();
        metrics.windows(&[window(0, 0..SERIES_MAX + 50)]);
        let text = metrics.render(None);
        let held: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with("tonnage_gpu_held_seconds_total{"))
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(held.len(), SERIES_MAX + 1);
        let sum: f64 = held.iter().sum();
        assert!((sum - (SERIES_MAX as f64 + 50.0)).abs() < 1e-6, "{sum}");
        assert!(text.contains("tonnage_agent_series_dropped_total 50"));
    }

    #[test]
    fn pods_of_one_name_are_one_series_that_goes_on() {
        let metrics = metrics();
        for uid in ["", "uid-1", "uid-2"] {
            let mut window = window(0, 1..2);
            let mut owner = Owner::clone(&window.usages.first_key_value().unwrap().0.1);
            owner.pod_uid = uid.to_owned();
            let usage = Usage { held_ns: 1_000_000_000, ..Usage::default() };
            window.usages = BTreeMap::from([((None, Arc::new(owner)), usage)]);
            metrics.windows(&[window]);
        }
        let text = metrics.render(None);
        let held = |line: &&str| line.starts_with("tonnage_gpu_held_seconds_total{");
        let series: Vec<&str> = text.lines().filter(held).collect();
        assert!(series.len() == 1 && series[0].ends_with(" 3"), "{series:?}");
    }

    #[test]
    fn an_owner_that_is_gone_leaves_the_metrics() {
        let metrics = metrics();
        metrics.windows(&[window(0, 1..2)]);
        metrics.windows(&[window(EXPIRY_NS + 20_000_000_000, 2..3)]);
        let text = metrics.render(None);
        assert!(!text.contains("pod=\"p1\"") && text.contains("pod=\"p2\""));
    }
}
