//! Costs of a window, in groups, in parts and by months.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Figures, Window};

/// One group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CostRow {
    /// The grouping's names and this group's values, e.g. `{"namespace": "ml", "pod": "train-0"}`.
    pub key: BTreeMap<String, String>,
    #[serde(flatten)]
    pub figures: Figures,
    /// How the figures were obtained (`tonnage_proto::method`).
    pub methods: Vec<String>,
}

/// What shall become of the cost of what nobody held, as the price book says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdlePolicy {
    /// It is shown as what it is.
    #[default]
    Report,
    /// Those who held anything share it, in proportion to what that cost.
    Share,
    /// Whoever runs the GPUs bears it.
    Platform,
}

/// `GET /api/v1/cost/{namespaces,pods,jobs,users,devices,nodes}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CostAnswer {
    pub window: Window,
    pub currency: String,
    pub aggregate: Vec<String>,
    pub rows: Vec<CostRow>,
    /// With `step`: the window's hours, days, weeks or months, each with the same rows as the whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub series: Vec<CostStep>,
    /// Give it as `page` for the rows that are `__other__` here; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page: Option<String>,
    /// Everything in the window that the filters let through, idle and unobserved too, whether or not rows show it.
    pub totals: Figures,
    /// For whoever bills by these rows, which are the same whatever it is.
    #[serde(default)]
    pub idle_policy: IdlePolicy,
    /// Observed part of existence: `"0.998"`; empty if nothing existed.
    pub coverage: String,
    /// Seconds since the newest usage in the ledger ended; null if there is none.
    pub data_age_seconds: Option<i64>,
}

/// A part of a window. Its rows sum to its totals, unless idle time was left out; all parts' totals sum to the whole's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CostStep {
    pub window: Window,
    pub rows: Vec<CostRow>,
    pub totals: Figures,
    /// As of the whole.
    pub coverage: String,
}

/// `GET /api/v1/cost/monthly`: months of UTC, the earliest first; the last is this one, as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MonthsAnswer {
    pub currency: String,
    pub months: Vec<MonthRow>,
    /// Seconds since the newest usage in the ledger ended; null if there is none.
    pub data_age_seconds: Option<i64>,
}

/// One month.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MonthRow {
    /// `2026-01`.
    pub month: String,
    pub window: Window,
    #[serde(flatten)]
    pub figures: Figures,
    /// As of a [`CostAnswer`].
    pub coverage: String,
    /// That held or used GPUs; null if there are too many to be told apart.
    pub namespaces: Option<u64>,
    pub pods: Option<u64>,
}
