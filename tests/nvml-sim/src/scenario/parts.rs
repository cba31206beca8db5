//! What a scenario says of a GPU beyond its processes: the parts it is cut into, and what else it reports. Shape only.

use serde::{Deserialize, Serialize};

/// A part of a device, there for a while: a compute instance, which may be the whole of its GPU instance.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigDevice {
    /// May be used again by another, once this one is gone.
    pub uuid: String,
    /// Compute slices of its compute instance; 0 = as `profile` says.
    #[serde(default)]
    pub profile_slices: u32,
    /// E.g. "3g.40gb", or "1c.3g.40gb" for a compute instance that is a part of its GPU instance. Absent = the
    /// model's plain one of `profile_slices`.
    pub profile: Option<String>,
    pub gpu_instance: u32,
    pub compute_instance: u32,
    /// Memory slice at which its GPU instance begins; absent = where the driver would put it.
    pub placement: Option<u32>,
    /// Absent = from the beginning.
    pub from_s: Option<f64>,
    /// Absent = for good.
    pub to_s: Option<f64>,
}

/// What a device reports beside its use. Steps are `[from, value]` in scenario seconds, the first from the beginning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Signals {
    pub sm_clock_mhz: u32,
    pub memory_clock_mhz: u32,
    /// NVML's bits of reasons for which clocks are low. None = idle where nothing runs, else no reason.
    pub clocks_event_reasons: Vec<(f64, u64)>,
    /// Volatile ECC errors, corrected and not. None of both = a device without ECC.
    pub ecc_corrected: Vec<(f64, u64)>,
    pub ecc_uncorrected: Vec<(f64, u64)>,
    /// What aggregate counters had before.
    pub ecc_before: u64,
    /// Absent = the device remaps no rows.
    pub remapped_rows: Option<RemappedRows>,
    pub accounting: bool,
    /// Each is up.
    pub nvlinks: u32,
    /// Utilisation by GPM; absent = as the model has it.
    pub gpm: Option<bool>,
    /// Events can be waited for.
    pub events: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemappedRows {
    pub correctable: u32,
    pub uncorrectable: u32,
    pub pending: bool,
    pub failed: bool,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            sm_clock_mhz: 1_980,
            memory_clock_mhz: 2_619,
            clocks_event_reasons: Vec::new(),
            ecc_corrected: Vec::new(),
            ecc_uncorrected: Vec::new(),
            ecc_before: 0,
            remapped_rows: None,
            accounting: false,
            nvlinks: 0,
            gpm: None,
            events: true,
        }
    }
}

/// An error that the driver reports of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Xid {
    pub at_s: f64,
    pub code: u64,
    /// UUID of the MIG device that it is of; absent = of the whole device, or not to be told.
    pub instance: Option<String>,
}

/// A virtual GPU that the host has given to a virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vgpu {
    pub uuid: String,
    /// UUID of the virtual machine.
    pub vm: String,
    /// E.g. "NVIDIA A100-10C".
    pub kind: String,
    pub memory_bytes: u64,
    /// How many of its kind the GPU has room for; absent = the driver does not say.
    pub max_instances: Option<u32>,
    /// (seconds since the epoch, percent): steps of the GPU's use by it.
    #[serde(default)]
    pub utilisation: Vec<(f64, u32)>,
    pub from_s: Option<f64>,
    pub to_s: Option<f64>,
}
