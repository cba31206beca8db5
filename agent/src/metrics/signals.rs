//! What devices say of themselves, as it was read last. Bounded: a device has few instances and virtual GPUs, and the
//! driver counts errors of few kinds, all others together (`xid="other"`).

use std::sync::Arc;

use prometheus::proto::{LabelPair, MetricFamily};

use super::State;
use super::families::{Kind, Sample, family, label};
use crate::model::{DeviceReading, GpmUse, Instance, Signals, Vgpu, Xid};

/// Of one device.
const VGPUS_MAX: usize = 64;
/// NVML's bits, by the names that `nvidia-smi` has for them.
const REASONS: [(u64, &str); 9] = [
    (1, "gpu_idle"),
    (2, "applications_clocks_setting"),
    (4, "sw_power_cap"),
    (8, "hw_slowdown"),
    (16, "sync_boost"),
    (32, "sw_thermal_slowdown"),
    (64, "hw_thermal_slowdown"),
    (128, "hw_power_brake_slowdown"),
    (256, "display_clock_setting"),
];

/// Of one device.
#[derive(Debug, Default)]
pub(super) struct Noted {
    signals: Signals,
    energy_mj: Option<u64>,
    /// With the use of each.
    instances: Vec<(Arc<Instance>, Option<u32>)>,
    vgpus: Vec<Vgpu>,
}

impl Noted {
    pub(super) fn note(&mut self, reading: &DeviceReading) {
        self.signals.clone_from(&reading.signals);
        self.vgpus.clear();
        self.vgpus.extend(reading.vgpus.iter().take(VGPUS_MAX).cloned());
        self.energy_mj = reading.energy_mj;
        let instances = reading.mig.iter().flat_map(|mig| &mig.instances);
        self.instances = instances
            .map(|of| (Arc::clone(&of.instance), of.utilisation.map(|used| used.permille)))
            .collect();
    }
}

/// A family's samples of one device.
type Of<'a> = &'a dyn Fn(&str, &Noted) -> Vec<Sample>;

pub(super) fn all(state: &State) -> Vec<MetricFamily> {
    let each = |name: &str, help: &str, kind: Kind, of: Of<'_>| {
        family(name, help, kind, state.devices.iter().flat_map(|(gpu, device)| of(gpu, &device.noted)))
    };
    let mut families = health(&each);
    families.extend(work(&each));
    families.extend(links(&each));
    families.extend(parts(&each));
    families
}

type Each<'a> = dyn Fn(&str, &str, Kind, Of<'_>) -> MetricFamily + 'a;

fn one(gpu: &str, value: Option<f64>) -> Vec<Sample> {
    value.map(|value| (vec![label("gpu", gpu)], value)).into_iter().collect()
}

fn labelled<const N: usize>(gpu: &str, name: &str, values: [(&str, Option<f64>); N]) -> Vec<Sample> {
    let sample = |(of, value): (&str, Option<f64>)| Some((vec![label("gpu", gpu), label(name, of)], value?));
    values.into_iter().filter_map(sample).collect()
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn health(each: &Each<'_>) -> Vec<MetricFamily> {
    let ecc = |gpu: &str, noted: &Noted| {
        let ecc = noted.signals.ecc;
        [
            ("corrected", "volatile", ecc.volatile_corrected),
            ("uncorrected", "volatile", ecc.volatile_uncorrected),
            ("corrected", "aggregate", ecc.aggregate_corrected),
            ("uncorrected", "aggregate", ecc.aggregate_uncorrected),
        ]
        .into_iter()
        .filter_map(|(error, counter, count)| {
            let labels = vec![label("counter", counter), label("error", error), label("gpu", gpu)];
            Some((labels, count? as f64))
        })
        .collect::<Vec<_>>()
    };
    let rows = |gpu: &str, noted: &Noted| {
        let rows = noted.signals.remapped_rows;
        let count = |of: fn(crate::model::RemappedRows) -> u32| rows.map(|rows| f64::from(of(rows)));
        labelled(
            gpu,
            "cause",
            [
                ("correctable", count(|rows| rows.correctable)),
                ("uncorrectable", count(|rows| rows.uncorrectable)),
            ],
        )
    };
    vec![
        each(
            "tonnage_gpu_xid_errors_total",
            "Errors of NVIDIA's numbered kinds since the agent started, each time that one came. Source: NVML nvmlEventSetWait_v2.",
            Kind::Counter,
            &xids,
        ),
        each(
            "tonnage_gpu_ecc_errors_total",
            "Memory errors: volatile since the driver was loaded, aggregate ever. Read with every tenth sample. Source: NVML nvmlDeviceGetTotalEccErrors.",
            Kind::Counter,
            &ecc,
        ),
        each(
            "tonnage_gpu_remapped_rows",
            "Rows of memory that were replaced, by what was wrong with them. Source: NVML nvmlDeviceGetRemappedRows.",
            Kind::Gauge,
            &rows,
        ),
        each(
            "tonnage_gpu_remapped_rows_pending",
            "1 if a row will be replaced at the next reset. Source: NVML nvmlDeviceGetRemappedRows.",
            Kind::Gauge,
            &|gpu, noted| one(gpu, noted.signals.remapped_rows.map(|rows| flag(rows.pending))),
        ),
        each(
            "tonnage_gpu_remapped_rows_failed",
            "1 if a row could not be replaced. Source: NVML nvmlDeviceGetRemappedRows.",
            Kind::Gauge,
            &|gpu, noted| one(gpu, noted.signals.remapped_rows.map(|rows| flag(rows.failed))),
        ),
        each(
            "tonnage_gpu_accounting_enabled",
            "1 if the driver keeps account of processes. Source: NVML nvmlDeviceGetAccountingMode.",
            Kind::Gauge,
            &|gpu, noted| one(gpu, noted.signals.accounting.map(flag)),
        ),
    ]
}

fn xids(gpu: &str, noted: &Noted) -> Vec<Sample> {
    let sample = |(Xid { code, instance }, count): (&Xid, &u64)| {
        let code = code.map_or_else(|| "other".to_owned(), |code| code.to_string());
        let mut labels = vec![label("gpu", gpu)];
        labels.extend(instance.as_ref().map(|mig| label("mig", mig)));
        labels.push(label("xid", &code));
        (labels, *count as f64)
    };
    noted.signals.xids.iter().map(sample).collect()
}

fn work(each: &Each<'_>) -> Vec<MetricFamily> {
    let hertz = |mhz: Option<u32>| mhz.map(|mhz| f64::from(mhz) * 1e6);
    let reasons = |gpu: &str, noted: &Noted| {
        let bits = noted.signals.clocks_event_reasons;
        labelled(gpu, "reason", REASONS.map(|(bit, name)| (name, bits.map(|bits| flag(bits & bit != 0)))))
    };
    let ratio = |noted: &Noted, of: fn(GpmUse) -> Option<u32>| {
        noted.signals.gpm.and_then(of).map(|permille| f64::from(permille) / 1000.0)
    };
    vec![
        each(
            "tonnage_gpu_sm_clock_hertz",
            "Clock of the multiprocessors. Source: NVML nvmlDeviceGetClockInfo.",
            Kind::Gauge,
            &|gpu, noted| one(gpu, hertz(noted.signals.sm_clock_mhz)),
        ),
        each(
            "tonnage_gpu_memory_clock_hertz",
            "Clock of the memory. Source: NVML nvmlDeviceGetClockInfo.",
            Kind::Gauge,
            &|gpu, noted| one(gpu, hertz(noted.signals.memory_clock_mhz)),
        ),
        each(
            "tonnage_gpu_clocks_event_active",
            "1 for each reason that keeps clocks low (throttling) at the last sample. Source: NVML nvmlDeviceGetCurrentClocksThrottleReasons.",
            Kind::Gauge,
            &reasons,
        ),
        each(
            "tonnage_gpu_driver_energy_joules_total",
            "Energy of the whole GPU since the driver was loaded. Source: NVML nvmlDeviceGetTotalEnergyConsumption.",
            Kind::Counter,
            &|gpu, noted| one(gpu, noted.energy_mj.map(|mj| mj as f64 * 1e-3)),
        ),
        each(
            "tonnage_gpu_gpm_graphics_ratio",
            "Part of the last sample period in which the GPU worked; Hopper and later, not partitioned. Source: NVML nvmlGpmMetricsGet.",
            Kind::Gauge,
            &|gpu, noted| one(gpu, ratio(noted, |used| used.graphics_permille)),
        ),
        each(
            "tonnage_gpu_gpm_sm_ratio",
            "Part of the GPU's multiprocessors that worked in the last sample period. Source: NVML nvmlGpmMetricsGet.",
            Kind::Gauge,
            &|gpu, noted| one(gpu, ratio(noted, |used| used.sm_permille)),
        ),
        each(
            "tonnage_gpu_gpm_memory_bandwidth_ratio",
            "Part of the memory's bandwidth that was used in the last sample period. Source: NVML nvmlGpmMetricsGet.",
            Kind::Gauge,
            &|gpu, noted| one(gpu, ratio(noted, |used| used.memory_bandwidth_permille)),
        ),
    ]
}

fn links(each: &Each<'_>) -> Vec<MetricFamily> {
    let pcie = |gpu: &str, noted: &Noted| {
        let links = noted.signals.links;
        let bytes = |kib: Option<u32>| kib.map(|kib| f64::from(kib) * 1024.0);
        let both = [("sent", bytes(links.pcie_sent_kib_s)), ("received", bytes(links.pcie_received_kib_s))];
        labelled(gpu, "direction", both)
    };
    let nvlink = |gpu: &str, noted: &Noted| {
        let links = noted.signals.links;
        let bytes = |kib: Option<u64>| kib.map(|kib| kib as f64 * 1024.0);
        labelled(
            gpu,
            "direction",
            [("sent", bytes(links.nvlink_sent_kib)), ("received", bytes(links.nvlink_received_kib))],
        )
    };
    vec![
        each(
            "tonnage_gpu_pcie_bytes_per_second",
            "Bytes over PCIe, over 20 ms before every tenth sample; with --driver.slow-signals. Source: NVML nvmlDeviceGetPcieThroughput.",
            Kind::Gauge,
            &pcie,
        ),
        each(
            "tonnage_gpu_nvlink_bytes_total",
            "Bytes over all NVLinks since the driver was loaded; with --driver.slow-signals. Source: NVML nvmlDeviceGetFieldValues.",
            Kind::Counter,
            &nvlink,
        ),
        each(
            "tonnage_gpu_nvlinks_up",
            "NVLinks that are up; with --driver.slow-signals. Source: NVML nvmlDeviceGetNvLinkState.",
            Kind::Gauge,
            &|gpu, noted| one(gpu, noted.signals.links.nvlinks_up.map(f64::from)),
        ),
    ]
}

fn mig(gpu: &str, instance: &Instance) -> Vec<LabelPair> {
    vec![label("gpu", gpu), label("mig", &instance.uuid), label("mig_profile", &instance.profile)]
}

fn parts(each: &Each<'_>) -> Vec<MetricFamily> {
    let info = |gpu: &str, noted: &Noted| {
        let sample = |(instance, _): &(Arc<Instance>, _)| {
            let number = |id: Option<u32>| id.map_or(String::new(), |id| id.to_string());
            let mut labels = mig(gpu, instance);
            labels.insert(0, label("compute_instance", &number(instance.compute_instance)));
            labels.insert(2, label("gpu_instance", &number(instance.gpu_instance)));
            (labels, f64::from(instance.slices))
        };
        noted.instances.iter().map(sample).collect::<Vec<_>>()
    };
    let used = |gpu: &str, noted: &Noted| {
        let sample = |(instance, used): &(Arc<Instance>, Option<u32>)| {
            Some((mig(gpu, instance), f64::from((*used)?) / 1000.0))
        };
        noted.instances.iter().filter_map(sample).collect::<Vec<_>>()
    };
    let vgpu = |gpu: &str, noted: &Noted| {
        let sample = |of: &Vgpu| {
            let labels = [("gpu", gpu), ("type", &of.kind), ("vgpu", &of.uuid), ("vm", &of.vm)];
            (labels.map(|(name, value)| label(name, value)).to_vec(), 1.0)
        };
        noted.vgpus.iter().map(sample).collect::<Vec<_>>()
    };
    let memory = |gpu: &str, noted: &Noted| {
        let sample =
            |of: &Vgpu| Some((vec![label("gpu", gpu), label("vgpu", &of.uuid)], of.memory_bytes? as f64));
        noted.vgpus.iter().filter_map(sample).collect::<Vec<_>>()
    };
    vec![
        each(
            "tonnage_gpu_mig_slices",
            "Every MIG instance of the node, by its compute slices. Source: NVML nvmlDeviceGetAttributes_v2.",
            Kind::Gauge,
            &info,
        ),
        each(
            "tonnage_gpu_mig_utilization_ratio",
            "Part of the last sample period in which the instance's GPU instance worked; Hopper and later. Source: NVML nvmlGpmMetricsGet.",
            Kind::Gauge,
            &used,
        ),
        each(
            "tonnage_gpu_vgpu_info",
            "Every virtual GPU that this host has given to a virtual machine. Source: NVML nvmlDeviceGetActiveVgpus.",
            Kind::Gauge,
            &vgpu,
        ),
        each(
            "tonnage_gpu_vgpu_memory_used_bytes",
            "Memory in use by a virtual GPU. Source: NVML nvmlVgpuInstanceGetFbUsage.",
            Kind::Gauge,
            &memory,
        ),
    ]
}
