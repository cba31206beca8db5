//! Values of the moment, for metrics: what is cheap with every read, what hardly changes every tenth, and what is slow
//! every tenth and only if it is asked for. Impossible values never leave this file.

use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PcieUtilCounter, TemperatureSensor,
};
use nvml_wrapper::error::NvmlError;

use super::errors::{Missing, ask};
use super::raw;
use crate::model::{EccErrors, Gauges, Links, Signals};

/// More than any GPU has, or does.
const CLOCK_MHZ_MAX: u32 = 20_000;
const POWER_MW_MAX: u32 = 20_000_000;
const CELSIUS_MAX: u32 = 200;
const ROWS_MAX: u32 = 1 << 20;
const NVLINKS_MAX: u32 = 18;
const KIB_S_MAX: u32 = 1 << 30;
/// Errors and bytes beyond this are all ones, or the like.
const COUNT_MAX: u64 = 1 << 60;

pub(super) fn gauges(device: &Device<'_>, missing: &mut Missing) -> Gauges {
    let rates = ask(missing, "device utilisation", || device.utilization_rates());
    let memory = ask(missing, "memory in use", || device.memory_info());
    Gauges {
        gpu_utilisation_percent: rates.map(|rates| rates.gpu).filter(|percent| *percent <= 100),
        memory_used_bytes: memory.filter(|memory| memory.used <= memory.total).map(|memory| memory.used),
        power_mw: ask(missing, "power", || device.power_usage()).filter(|mw| *mw <= POWER_MW_MAX),
        temperature_celsius: ask(missing, "temperature", || device.temperature(TemperatureSensor::Gpu))
            .filter(|celsius| *celsius <= CELSIUS_MAX),
    }
}

/// With every read.
pub(super) fn quick(device: &Device<'_>, missing: &mut Missing, signals: &mut Signals) {
    let clock = |kind| device.clock_info(kind);
    let plausible = |mhz: &u32| *mhz <= CLOCK_MHZ_MAX;
    signals.sm_clock_mhz = ask(missing, "SM clock", || clock(Clock::SM)).filter(plausible);
    signals.memory_clock_mhz = ask(missing, "memory clock", || clock(Clock::Memory)).filter(plausible);
    let reasons = ask(missing, "reasons for low clocks", || device.current_throttle_reasons());
    signals.clocks_event_reasons = reasons.map(|reasons| reasons.bits());
}

/// What hardly changes.
pub(super) fn rare(device: &Device<'_>, missing: &mut Missing, signals: &mut Signals) {
    let mut ecc = |error: MemoryError, counter: EccCounter| {
        let count = ask(missing, "ECC errors", || device.total_ecc_errors(error, counter));
        count.filter(|count| *count < COUNT_MAX)
    };
    signals.ecc = EccErrors {
        volatile_corrected: ecc(MemoryError::Corrected, EccCounter::Volatile),
        volatile_uncorrected: ecc(MemoryError::Uncorrected, EccCounter::Volatile),
        aggregate_corrected: ecc(MemoryError::Corrected, EccCounter::Aggregate),
        aggregate_uncorrected: ecc(MemoryError::Uncorrected, EccCounter::Aggregate),
    };
    signals.remapped_rows = ask(missing, "remapped rows", || raw::remapped_rows(device))
        .filter(|rows| rows.correctable <= ROWS_MAX && rows.uncorrectable <= ROWS_MAX);
    signals.accounting = ask(missing, "accounting mode", || device.is_accounting_enabled());
}

/// Some 20 milliseconds for PCIe in each direction.
pub(super) fn slow(device: &Device<'_>, missing: &mut Missing) -> Links {
    let mut pcie = |counter: PcieUtilCounter| {
        let kib_s = ask(missing, "PCIe throughput", || device.pcie_throughput(counter));
        kib_s.filter(|kib_s| *kib_s < KIB_S_MAX)
    };
    let (sent, received) = (pcie(PcieUtilCounter::Send), pcie(PcieUtilCounter::Receive));
    let nvlink = ask(missing, "NVLink throughput", || raw::nvlink_kib(device));
    let nvlink = nvlink.filter(|(sent, received)| *sent < COUNT_MAX && *received < COUNT_MAX);
    Links {
        pcie_sent_kib_s: sent,
        pcie_received_kib_s: received,
        nvlinks_up: ask(missing, "NVLink states", || links_up(device)),
        nvlink_sent_kib: nvlink.map(|(sent, _)| sent),
        nvlink_received_kib: nvlink.map(|(_, received)| received),
    }
}

fn links_up(device: &Device<'_>) -> Result<u32, NvmlError> {
    let mut up = 0;
    for link in 0..NVLINKS_MAX {
        match device.link_wrapper_for(link).is_active() {
            Ok(active) => up += u32::from(active),
            // Beyond the last.
            Err(NvmlError::InvalidArg) => break,
            // A link that the GPU does not have, after some that it has.
            Err(NvmlError::NotSupported) if link > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(up)
}
