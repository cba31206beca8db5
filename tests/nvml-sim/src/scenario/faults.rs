//! What a driver does badly, and when. Functions are named as in C; `nvmlInit_v2` and `nvmlShutdown` may be named, too.

use serde::{Deserialize, Serialize};

use super::ScenarioError;
use super::check::{check_span, check_time, invalid};
use crate::Refusal;

/// What this driver does badly.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// These answer NOT_SUPPORTED.
    pub not_supported: Vec<String>,
    /// These answer FUNCTION_NOT_FOUND: as near to a missing symbol as a loaded library gets.
    pub function_not_found: Vec<String>,
    /// These answer NO_PERMISSION, as to a container that may not watch what they are about.
    pub no_permission: Vec<String>,
    /// Utilisation comes with stale samples, samples of the dead, impossible values and duplicates.
    pub garbage_utilisation: bool,
    /// From then on every call hangs, with the driver's lock, for ever.
    pub hang_from_s: Option<f64>,
    pub hang: Vec<Hang>,
    /// The first that fits a call answers it.
    pub refuse: Vec<Refuse>,
    pub garbage: Vec<Garbage>,
    /// `[from, version]` steps: the driver was replaced by another.
    pub driver_version: Vec<(f64, String)>,
}

/// Calls that do not return for a while, and keep the driver's lock meanwhile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hang {
    /// Empty = every call.
    #[serde(default)]
    pub calls: Vec<String>,
    pub from_s: f64,
    /// Absent = for good.
    pub to_s: Option<f64>,
}

/// Calls that are refused for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refuse {
    /// Empty = every call, `nvmlInit_v2` with them.
    #[serde(default)]
    pub calls: Vec<String>,
    /// UUIDs: only calls about these; empty = all.
    #[serde(default)]
    pub devices: Vec<String>,
    pub from_s: f64,
    /// Absent = for good.
    pub to_s: Option<f64>,
    pub with: Refusal,
}

/// Answers that cannot be true for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Garbage {
    pub what: Vec<Nonsense>,
    pub from_s: f64,
    /// Absent = for good.
    pub to_s: Option<f64>,
}

/// Kinds of answers that cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nonsense {
    /// The energy counter is all ones, then nothing, then all ones.
    Energy,
    /// More memory in use than there is, by the device and by each process.
    Memory,
    /// The device is in use by some thousand percent.
    Utilisation,
    /// Lists of processes have further ones that are none: 0 and the largest number.
    Pids,
    /// Lists claim more entries than the caller had room for, and success.
    Counts,
    /// Names are no text.
    Text,
}

impl Faults {
    pub(super) fn check(&self, is_device: impl Fn(&str) -> bool) -> Result<(), ScenarioError> {
        check_time(self.hang_from_s.unwrap_or(0.0), "faults.hang_from_s")?;
        for (at, hang) in self.hang.iter().enumerate() {
            check_span(Some(hang.from_s), hang.to_s, &format!("faults.hang[{at}]"), "")?;
        }
        for (at, refuse) in self.refuse.iter().enumerate() {
            let name = format!("faults.refuse[{at}]");
            check_span(Some(refuse.from_s), refuse.to_s, &name, "")?;
            if let Some(uuid) = refuse.devices.iter().find(|uuid| !is_device(uuid)) {
                return Err(invalid(format!("{name}.devices"), uuid, "is no device of this scenario"));
            }
        }
        for (at, garbage) in self.garbage.iter().enumerate() {
            check_span(Some(garbage.from_s), garbage.to_s, &format!("faults.garbage[{at}]"), "")?;
        }
        let mut last_s = 0.0;
        for (from_s, version) in &self.driver_version {
            let field = "faults.driver_version";
            check_time(*from_s, field)?;
            if *from_s < last_s {
                return Err(invalid(field, from_s, "comes after a later step"));
            }
            if version.is_empty() || version.len() > 79 {
                return Err(invalid(field, version, "must have 1 to 79 bytes"));
            }
            last_s = *from_s;
        }
        Ok(())
    }
}
