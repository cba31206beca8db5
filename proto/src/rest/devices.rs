//! `GET /api/v1/devices`: GPUs as they are now, with their MIG instances. Only shapes: what writes them is the aggregator.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /api/v1/devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DevicesAnswer {
    pub devices: Vec<DeviceRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceRow {
    pub uuid: String,
    pub model: String,
    pub cluster: String,
    pub node: String,
    pub memory_bytes: u64,
    pub slices: u32,
    /// The tenure that holds the device now: since when, and how far it is observed.
    pub since: String,
    pub observed_until: String,
    /// `observed`, `silent` for over 15 minutes (its existence since is provisional), or `retired`.
    #[schemars(extend("enum" = ["observed", "silent", "retired"]))]
    pub state: String,
    /// Price per GPU-hour in the current slot; null = unpriced.
    pub price_per_hour: Option<String>,
    /// MIG instances in the newest slot that was observed, whether or not anybody held them.
    #[serde(default)]
    pub instances: Vec<DeviceInstance>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceInstance {
    pub uuid: String,
    /// As NVIDIA names it, e.g. `3g.40gb`; empty if unknown.
    pub profile: String,
    pub slices: u32,
    pub memory_bytes: u64,
    #[serde(default)]
    /// Of its GPU's memory by memory slices, e.g. `4/8`, and where it shares its GPU instance's, `1/3 of 4/8`; empty if unknown.
    pub memory_share: String,
    /// Did anybody hold it in that slot?
    pub held: bool,
}
