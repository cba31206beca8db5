//! The same costs as plain numbers, under the names that Kubecent's clients read, beside our exact texts.
//!
//! A number here is written with all its nine places; whoever reads it into a double rounds it. CPU and memory are those of jobs
//! without GPUs alone; of all else they are not measured, nor is storage: that is 0, and `not_measured` says so.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use tonnage_proto::decimal::{from_nanos, to_nanos};
use tonnage_proto::rest::{CostAnswer, CostRow, Figures};

use super::pods::Pods;

const SECONDS_PER_HOUR: i128 = 3_600;
const NOT_MEASURED: [&str; 4] = ["cpu_cost", "memory_cost", "storage_cost", "network_cost"];

/// Billionths as a JSON number with nine places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::api) struct Number(pub(in crate::api) i128);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(from_nanos(self.0)).map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl JsonSchema for Number {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Number".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "description": "Exact, with nine places" })
    }
}

/// What some GPU time cost.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct PlainCosts {
    total_cost: Number,
    gpu_cost: Number,
    /// Held, idle and unobserved.
    gpu_hours: Number,
    /// Of jobs without GPUs.
    cpu_cost: Number,
    memory_cost: Number,
    storage_cost: u8,
    network_cost: u8,
}

impl PlainCosts {
    pub(super) fn of(figures: &Figures) -> Self {
        let [cost, cpu_cost, memory_cost] =
            [&figures.cost, &figures.job_cpu_cost, &figures.job_ram_cost].map(|text| exact(text));
        let seconds = [&figures.held_seconds, &figures.idle_seconds, &figures.unobserved_seconds];
        let seconds: i128 = seconds.into_iter().map(|text| exact(text).0).sum();
        Self {
            total_cost: cost,
            gpu_cost: Number(cost.0 - cpu_cost.0 - memory_cost.0),
            gpu_hours: Number(seconds.div_euclid(SECONDS_PER_HOUR)),
            cpu_cost,
            memory_cost,
            storage_cost: 0,
            network_cost: 0,
        }
    }
}

/// One namespace or pod.
#[derive(Debug, Serialize, JsonSchema)]
struct PlainRow {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(flatten)]
    costs: PlainCosts,
    /// Time that nobody held.
    idle_cost: Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_count: Option<u64>,
}

/// A [`CostAnswer`] with its rows as plain numbers, in the list that is named after them.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct PlainAnswer {
    #[serde(flatten)]
    exact: CostAnswer,
    #[serde(flatten)]
    lists: BTreeMap<&'static str, Vec<PlainRow>>,
    #[serde(flatten)]
    sum: PlainSum,
}

/// What lists of plain numbers end with.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct PlainSum {
    pub(super) total: Number,
    pub(super) item_count: usize,
    not_measured: [&'static str; 4],
}

impl PlainSum {
    pub(super) fn new(total: Number, item_count: usize) -> Self {
        Self { total, item_count, not_measured: NOT_MEASURED }
    }
}

/// An answer that is grouped by namespaces.
pub(super) fn namespaces(exact: CostAnswer, pods: &Pods) -> PlainAnswer {
    let row = |row: &CostRow| {
        let name = row.key.get("namespace").cloned().unwrap_or_default();
        let pod_count = pods.as_ref().map(|pods| pods.get(&name).copied().unwrap_or(0));
        plain(row, name, None, pod_count)
    };
    let rows = exact.rows.iter().map(row).collect();
    answer(exact, "namespaces", rows)
}

/// An answer that is grouped by namespaces and pods.
pub(super) fn pods(exact: CostAnswer) -> PlainAnswer {
    let value = |row: &CostRow, name: &str| row.key.get(name).cloned().unwrap_or_default();
    let row = |row: &CostRow| plain(row, value(row, "pod"), Some(value(row, "namespace")), None);
    let rows = exact.rows.iter().map(row).collect();
    answer(exact, "pods", rows)
}

fn answer(exact: CostAnswer, list: &'static str, rows: Vec<PlainRow>) -> PlainAnswer {
    let sum = PlainSum::new(self::exact(&exact.totals.cost), rows.len());
    PlainAnswer { exact, lists: [(list, rows)].into(), sum }
}

fn plain(row: &CostRow, name: String, namespace: Option<String>, pod_count: Option<u64>) -> PlainRow {
    let idle_cost = exact(&row.figures.idle_cost);
    PlainRow { name, namespace, costs: PlainCosts::of(&row.figures), idle_cost, pod_count }
}

/// What `figures` wrote.
pub(super) fn exact(text: &str) -> Number {
    Number(to_nanos(text).unwrap_or_default())
}
