//! What a device tells of itself, and how it is cut, in a line each. Pure.

use crate::model::{DeviceReading, MigReading};

/// The signals that were there at the first reading. Use by GPM takes two.
pub(super) fn told(device: &DeviceReading) -> String {
    let (gauges, signals, ecc) = (&device.gauges, &device.signals, &device.signals.ecc);
    let known = [
        ("utilisation per process", device.utilisation.is_some()),
        ("utilisation", gauges.gpu_utilisation_percent.is_some()),
        ("memory", gauges.memory_used_bytes.is_some()),
        ("power", gauges.power_mw.is_some()),
        ("energy", device.energy_mj.is_some()),
        ("temperature", gauges.temperature_celsius.is_some()),
        ("clocks", signals.sm_clock_mhz.is_some()),
        ("reasons for low clocks", signals.clocks_event_reasons.is_some()),
        ("ECC errors", ecc.volatile_corrected.is_some() || ecc.aggregate_corrected.is_some()),
        ("remapped rows", signals.remapped_rows.is_some()),
        ("accounting mode", signals.accounting.is_some()),
        ("PCIe", signals.links.pcie_sent_kib_s.is_some()),
        ("NVLink", signals.links.nvlink_sent_kib.is_some()),
        ("virtual GPUs", !device.vgpus.is_empty()),
    ];
    let told: Vec<&str> = known.into_iter().filter(|(_, is_known)| *is_known).map(|(name, _)| name).collect();
    if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
}

/// How a GPU of so many slices is cut.
pub(super) fn layout(mig: &MigReading, slices: u32) -> String {
    let mut profiles: Vec<&str> = mig.instances.iter().map(|of| of.instance.profile.as_str()).collect();
    profiles.sort_unstable();
    let cut = if profiles.is_empty() { "not cut yet".to_owned() } else { profiles.join(" + ") };
    let left = match mig.stranded_slices {
        Some(0) => "none stranded".to_owned(),
        Some(count) => format!("{count} stranded, of which no instance can be made"),
        None => "how many are stranded the driver does not say".to_owned(),
    };
    format!("MIG: {cut}, of {slices} slices; {left}")
}
