//! The metrics' names, help texts and labels, in the order in which they are shown.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::{Device, GpuTime, Key, OwnUse, Owners, State, other, signals};
use crate::kubelet::{Health, Seen};
use crate::model::{AllocationCounts, OwnerKind};
use crate::mps;
use crate::uplink;

const NANO: f64 = 1e-9;

pub(super) fn all(
    state: &State,
    uplink: &uplink::State,
    kubelet: &Seen,
    process: Option<OwnUse>,
    version: &str,
    node: &str,
) -> Vec<MetricFamily> {
    let mut families = Vec::from(owners(state));
    families.extend(devices(state));
    families.extend(signals::all(state));
    families.extend(own(state, uplink));
    families.extend(spool(&state.own));
    families.extend(allocations(&state.allocations, kubelet));
    if let Some(process) = process {
        let resident = process.resident_bytes as f64;
        families.push(one(
            "process_resident_memory_bytes",
            "Resident memory of the agent.",
            Kind::Gauge,
            resident,
        ));
        let cpu = process.cpu_seconds;
        families.push(one("process_cpu_seconds_total", "CPU time of the agent.", Kind::Counter, cpu));
    }
    let labels = vec![label("version", version), label("node", node)];
    families.push(family(
        "tonnage_agent_info",
        "The agent's version and node.",
        Kind::Gauge,
        [(labels, 1.0)],
    ));
    families.retain(|family| !family.get_metric().is_empty());
    families
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

pub(super) type Sample = (Vec<LabelPair>, f64);

fn owners(state: &State) -> [MetricFamily; 6] {
    let of = |owners: &Owners, name: &str, help: &str, value: fn(&super::Totals) -> f64| {
        let samples = owners.iter().map(|(key, totals)| (owner_labels(key), value(totals)));
        family(name, help, Kind::Counter, samples)
    };
    let counter =
        |name: &str, help: &str, value: fn(&super::Totals) -> f64| of(&state.owners, name, help, value);
    let allocated = state.owners.iter().filter(|(_, totals)| totals.is_allocated);
    let held_idle = allocated.map(|(key, totals)| (owner_labels(key), GpuTime::seconds(totals.held_idle)));
    [
        counter(
            "tonnage_gpu_held_seconds_total",
            "GPU-time that an owner held: time, weighed on a MIG instance by its share of the GPU's slices, and split among those that held it together. Source: kubelet's allocations and Slurm's hooks, else driver's process list and cgroups.",
            |totals| GpuTime::seconds(totals.held),
        ),
        counter(
            "tonnage_gpu_busy_seconds_total",
            "Time that an owner's processes used the GPU. Source: driver's utilisation samples per process.",
            |totals| GpuTime::seconds(totals.busy),
        ),
        counter(
            "tonnage_gpu_memory_byte_seconds_total",
            "GPU memory of an owner, times time. Source: driver's process list.",
            |totals| totals.memory_byte_seconds as f64,
        ),
        counter(
            "tonnage_gpu_energy_joules_total",
            "An owner's part of the GPU's energy, by busy time, else by held time. Source: driver's energy counter.",
            |totals| totals.energy_uj as f64 * 1e-6,
        ),
        family(
            "tonnage_gpu_held_idle_seconds_total",
            "Time for which a GPU was allocated to an owner that did not use it. Source: allocations, and driver's utilisation samples per process.",
            Kind::Counter,
            held_idle,
        ),
        of(
            &state.intruders,
            "tonnage_gpu_intruder_busy_seconds_total",
            "Use of the GPU by processes of an owner while it was allocated to others. Source: allocations, driver's process list and utilisation samples.",
            |totals| GpuTime::seconds(totals.busy),
        ),
    ]
}

/// The kubelet, and what its allocations are worth.
fn allocations(counts: &AllocationCounts, kubelet: &Seen) -> Vec<MetricFamily> {
    let mut families = vec![family(
        "tonnage_agent_allocations",
        "Allocations by the kubelet's list: pods that are held, gone (ended, and still listed) or unconfirmed (held, without proof on the node that the pod lives or which uid it has), and device ids that are unresolved or HAMi's.",
        Kind::Gauge,
        [
            ("held", counts.held),
            ("gone", counts.gone),
            ("unconfirmed", counts.unconfirmed),
            ("unresolved", counts.unresolved),
            ("hami", counts.hami),
        ]
        .map(|(state, count)| (vec![label("state", state)], count as f64)),
    )];
    if kubelet.health != Health::Absent || kubelet.answers > 0 {
        let up = f64::from(u8::from(kubelet.health == Health::Up));
        families.extend([
            one("tonnage_agent_kubelet_up", "1 if the kubelet answered the last call.", Kind::Gauge, up),
            one(
                "tonnage_agent_kubelet_answers_total",
                "Lists and single pods that the kubelet gave.",
                Kind::Counter,
                kubelet.answers as f64,
            ),
            one(
                "tonnage_agent_kubelet_failures_total",
                "Calls that the kubelet did not answer, or refused.",
                Kind::Counter,
                kubelet.failures as f64,
            ),
        ]);
    }
    families
}

/// `instance` is Prometheus's own name for what it scrapes.
fn owner_labels((gpu, instance, owner): &Key) -> Vec<LabelPair> {
    let (mig, mig_profile) =
        instance.as_ref().map_or(("", ""), |instance| (&*instance.uuid, instance.profile.as_str()));
    let kind = match owner.kind {
        OwnerKind::Unowned if **owner == other() => "other",
        OwnerKind::Unowned => "unowned",
        OwnerKind::Pod => "pod",
        OwnerKind::SlurmJob => "slurm_job",
        OwnerKind::SystemdUnit => "systemd_unit",
        OwnerKind::User => "user",
        OwnerKind::Container => "container",
        OwnerKind::VirtualMachine => "virtual_machine",
    };
    // A pod whose name is not known yet is still itself.
    let pod = if owner.pod.is_empty() { &owner.pod_uid } else { &owner.pod };
    let container = if owner.container.is_empty() { &owner.container_id } else { &owner.container };
    [
        ("account", owner.account.as_str()),
        ("container", container),
        ("gpu", gpu),
        ("mig", mig),
        ("mig_profile", mig_profile),
        ("namespace", &owner.namespace),
        ("owner_kind", kind),
        ("partition", &owner.partition),
        ("pod", pod),
        // Not `job`: that is Prometheus's own word for what it scrapes.
        ("slurm_job", &owner.job_id),
        ("step", &owner.step),
        ("unit", &owner.unit),
        ("user", &owner.user),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .map(|(name, value)| label(name, value))
    .collect()
}

fn devices(state: &State) -> Vec<MetricFamily> {
    let each = |name: &str, help: &str, kind: Kind, value: &dyn Fn(&Device) -> Option<f64>| {
        let samples =
            state.devices.iter().filter_map(|(gpu, device)| Some((vec![label("gpu", gpu)], value(device)?)));
        family(name, help, kind, samples)
    };
    let count = |name: &str, help: &str, value: fn(&Device) -> f64| {
        each(name, help, Kind::Counter, &|device| Some(value(device)))
    };
    let gauge =
        |name: &str, help: &str, value: &dyn Fn(&Device) -> Option<f64>| each(name, help, Kind::Gauge, value);
    let info = state.devices.iter().filter_map(|(gpu, device)| {
        let info = device.info.as_ref()?;
        let minor = info.minor.map_or(String::new(), |minor| minor.to_string());
        let labels = [("gpu", &**gpu), ("minor", &minor), ("model", &info.model), ("pci", &info.pci_bus_id)];
        Some((labels.map(|(name, value)| label(name, value)).to_vec(), 1.0))
    });
    vec![
        count("tonnage_gpu_idle_seconds_total", "Time that the GPU was observed and nobody held it.", |d| {
            GpuTime::seconds(d.idle)
        }),
        count(
            "tonnage_gpu_stranded_seconds_total",
            "Part of the idle time: that of slices which are in no MIG instance, and of which none can be made as the others lie. Source: driver's remaining capacity.",
            |d| GpuTime::seconds(d.stranded),
        ),
        count(
            "tonnage_gpu_unobserved_seconds_total",
            "Time since the agent started that no sample covers.",
            |d| d.unobserved_ns as f64 * NANO,
        ),
        count(
            "tonnage_gpu_busy_unattributed_seconds_total",
            "Use that the driver reported for processes that hold nothing on the GPU.",
            |d| GpuTime::seconds(d.busy_unattributed),
        ),
        count(
            "tonnage_gpu_idle_energy_joules_total",
            "Energy of the GPU that no owner had a part in.",
            |d| d.energy_idle_uj as f64 * 1e-6,
        ),
        count(
            "tonnage_gpu_unobserved_energy_joules_total",
            "Energy of the GPU in time that no sample covers.",
            |d| d.energy_unobserved_uj as f64 * 1e-6,
        ),
        gauge("tonnage_gpu_holding_processes", "Processes on the GPU now.", &|d| Some(d.holders as f64)),
        gauge(
            "tonnage_gpu_utilization_ratio",
            "Part of the last sample period in which the GPU worked; none while it is partitioned. Source: NVML nvmlDeviceGetUtilizationRates.",
            &|d| d.gauges.gpu_utilisation_percent.map(|percent| f64::from(percent) / 100.0),
        ),
        gauge(
            "tonnage_gpu_memory_used_bytes",
            "GPU memory in use. Source: NVML nvmlDeviceGetMemoryInfo.",
            &|d| d.gauges.memory_used_bytes.map(|bytes| bytes as f64),
        ),
        gauge("tonnage_gpu_memory_bytes", "GPU memory.", &|d| {
            d.info.as_ref().map(|info| info.memory_bytes as f64)
        }),
        gauge(
            "tonnage_gpu_power_watts",
            "Power that the GPU draws. Source: NVML nvmlDeviceGetPowerUsage.",
            &|d| d.gauges.power_mw.map(|mw| f64::from(mw) / 1000.0),
        ),
        gauge(
            "tonnage_gpu_temperature_celsius",
            "Temperature of the GPU. Source: NVML nvmlDeviceGetTemperature.",
            &|d| d.gauges.temperature_celsius.map(f64::from),
        ),
        family("tonnage_gpu_info", "Every GPU of the node.", Kind::Gauge, info),
    ]
}

/// Nothing where there never was any.
pub(super) fn mps(state: &State, seen: &mps::Seen) -> Vec<MetricFamily> {
    let clients =
        state.devices.iter().map(|(gpu, device)| (vec![label("gpu", gpu)], device.mps_clients as f64));
    let is_used = seen.was_there || state.devices.values().any(|device| device.mps_clients > 0);
    let is_shown = |family: &MetricFamily| is_used && !family.get_metric().is_empty();
    let up =
        |name: &str, help: &str, count: usize| one(name, help, Kind::Gauge, f64::from(u8::from(count > 0)));
    let pipe = |daemon: &mps::Daemon| label("pipe_directory", &daemon.pipe_directory);
    let percentages =
        seen.daemons.iter().filter_map(|daemon| Some((vec![pipe(daemon)], daemon.thread_percentage?)));
    let limits = seen.daemons.iter().flat_map(|daemon| {
        let of_devices = daemon.pinned_memory_bytes.iter().enumerate();
        of_devices
            .map(move |(at, bytes)| (vec![label("device", &at.to_string()), pipe(daemon)], *bytes as f64))
    });
    let families = [
        up(
            "tonnage_mps_control_up",
            "1 while a control daemon of MPS runs. Source: /proc.",
            seen.present.controls,
        ),
        up("tonnage_mps_server_up", "1 while a server of MPS runs. Source: /proc.", seen.present.servers),
        family(
            "tonnage_mps_clients",
            "Clients of MPS on the GPU now. Source: driver's list of them.",
            Kind::Gauge,
            clients,
        ),
        family(
            "tonnage_mps_default_active_thread_percentage",
            "Part of the GPU's threads that a client gets unless told otherwise. Source: nvidia-cuda-mps-control.",
            Kind::Gauge,
            percentages,
        ),
        family(
            "tonnage_mps_default_pinned_memory_limit_bytes",
            "GPU memory that a client gets unless told otherwise, by the daemon's number of the device. Source: nvidia-cuda-mps-control.",
            Kind::Gauge,
            limits,
        ),
    ];
    families.into_iter().filter(is_shown).collect()
}

fn own(state: &State, uplink: &uplink::State) -> Vec<MetricFamily> {
    let own = &state.own;
    let count = |name, help, value: u64| one(name, help, Kind::Counter, value as f64);
    let gauge = |name, help, value: f64| one(name, help, Kind::Gauge, value);
    let mut families = vec![
        count("tonnage_agent_samples_total", "Readings of the driver that succeeded.", own.samples),
        count("tonnage_agent_sample_failures_total", "Readings that failed as a whole.", own.sample_failures),
        count(
            "tonnage_agent_samples_dropped_total",
            "Readings that found the next stage busy; their time is unobserved.",
            own.samples_dropped,
        ),
        count(
            "tonnage_agent_samples_abandoned_total",
            "Readings that were given up on, since a call into the driver did not return.",
            own.samples_abandoned,
        ),
        gauge(
            "tonnage_agent_driver_hung_seconds",
            "For how long a call into the driver has not returned, once its reading was given up on; else 0.",
            own.driver_hung_ns as f64 * NANO,
        ),
        gauge(
            "tonnage_agent_driver_released",
            "1 while the driver is let go of, as an operator asked for; the time is unobserved.",
            f64::from(u8::from(own.driver_released)),
        ),
        gauge(
            "tonnage_agent_sample_duration_seconds",
            "How long the last reading took.",
            own.sample_ns as f64 * NANO,
        ),
        count("tonnage_agent_windows_total", "Windows that closed.", own.windows),
        count(
            "tonnage_agent_windows_dropped_total",
            "Windows that the spool could not keep; their time is unobserved.",
            own.windows_dropped,
        ),
        gauge(
            "tonnage_agent_metered_until_timestamp_seconds",
            "Ledger time up to which samples were worked off: how far it is behind now is how late the agent is.",
            own.metered_until_ns as f64 * NANO,
        ),
        one(
            "tonnage_agent_clock_overlap_seconds_total",
            "Real time that ledger time stood still for, after the node's clock was set back.",
            Kind::Counter,
            own.overlap_ns as f64 * NANO,
        ),
        count(
            "tonnage_agent_series_dropped_total",
            "Windows of owners that were counted as owner_kind=\"other\" for want of room.",
            own.series_dropped,
        ),
        gauge(
            "tonnage_agent_uplink_connected",
            "1 with a stream to the ledger.",
            f64::from(u8::from(uplink.connected)),
        ),
        count("tonnage_agent_uplink_acked_total", "Batches that the ledger has.", uplink.acked),
        count("tonnage_agent_uplink_refused_total", "Batches that the ledger refused.", uplink.refused),
        count(
            "tonnage_agent_uplink_quarantined_total",
            "Batches of which the ledger quarantined windows.",
            uplink.quarantined,
        ),
        count("tonnage_agent_uplink_failures_total", "Streams that ended.", uplink.failures),
    ];
    if let Some(skew_ns) = uplink.skew_ns {
        families.push(gauge(
            "tonnage_agent_clock_skew_seconds",
            "The node's clock minus the ledger's, when last connected.",
            skew_ns as f64 * NANO,
        ));
    }
    families
}

fn spool(own: &super::Own) -> Vec<MetricFamily> {
    let count = |name, help, value: u64| one(name, help, Kind::Counter, value as f64);
    let gauge = |name, help, value: f64| one(name, help, Kind::Gauge, value);
    vec![
        count("tonnage_agent_spool_failures_total", "Spool operations that failed.", own.spool_failures),
        gauge(
            "tonnage_agent_spool_open",
            "1 if the spool takes what is metered; else it waits in memory, for as long as there is room.",
            f64::from(u8::from(own.spool_open)),
        ),
        gauge(
            "tonnage_agent_spool_waiting",
            "Groups of windows in memory that the spool could not take yet.",
            own.spool_waiting as f64,
        ),
        count(
            "tonnage_agent_spool_merged_total",
            "Groups of windows that were merged into others, within their slots.",
            own.spool_merged,
        ),
        count(
            "tonnage_agent_spool_acked_dropped_total",
            "Acked batches that were let go for want of room, before they were backed up.",
            own.spool_acked_dropped,
        ),
        gauge(
            "tonnage_agent_spool_bytes",
            "Bytes of windows and batches in the spool.",
            own.spool_bytes as f64,
        ),
        gauge(
            "tonnage_agent_spool_drafts",
            "Groups of windows that wait to be sealed.",
            own.spool_drafts as f64,
        ),
    ]
}

fn one(name: &str, help: &str, kind: Kind, value: f64) -> MetricFamily {
    family(name, help, kind, [(Vec::new(), value)])
}

pub(super) fn family(
    name: &str,
    help: &str,
    kind: Kind,
    samples: impl IntoIterator<Item = Sample>,
) -> MetricFamily {
    let metrics = samples
        .into_iter()
        .map(|(labels, value)| {
            let mut metric = Metric::from_label(labels);
            match kind {
                Kind::Counter => {
                    let mut counter = Counter::default();
                    counter.set_value(value);
                    metric.set_counter(counter);
                }
                Kind::Gauge => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(value);
                    metric.set_gauge(gauge);
                }
            }
            metric
        })
        .collect();
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(match kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
    });
    family.set_metric(metrics);
    family
}

pub(super) fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}
