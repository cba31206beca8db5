//! What an ASBB says of accounts, transactions and schedules, row by row. A row that is wrong is named, and harms no other.

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use tonnage_proto::decimal::nearest_nanos;

/// Money of a system that keeps it in doubles, in nano-dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Nanos(pub(super) i128);

impl<'de> Deserialize<'de> for Nanos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get().trim_matches('"');
        nearest_nanos(text).map(Self).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            serde::de::Error::custom(format!("{shown:?} is not an amount such as 12.50"))
        })
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Account {
    #[serde(default)]
    pub(super) id: Value,
    pub(super) slurm_account: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) description: String,
    pub(super) budget_limit: Nanos,
    pub(super) budget_used: Nanos,
    #[serde(default)]
    pub(super) budget_held: Nanos,
    #[serde(default)]
    pub(super) has_incremental_budget: bool,
    #[serde(default)]
    pub(super) start_date: Option<String>,
    #[serde(default)]
    pub(super) end_date: Option<String>,
    #[serde(default)]
    pub(super) status: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Transaction {
    #[serde(default)]
    pub(super) account_id: Value,
    #[serde(default)]
    pub(super) job_id: Option<Value>,
    pub(super) transaction_id: String,
    #[serde(default)]
    pub(super) parent_transaction_id: Value,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) amount: Nanos,
    #[serde(default)]
    pub(super) description: Value,
    #[serde(default)]
    pub(super) metadata: Value,
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) created_at: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Schedule {
    #[serde(default)]
    pub(super) account_id: Value,
    pub(super) allocation_amount: Nanos,
    pub(super) allocation_frequency: String,
    pub(super) remaining_budget: Nanos,
    #[serde(default)]
    pub(super) next_allocation_date: Option<String>,
    #[serde(default)]
    pub(super) end_date: Option<String>,
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) auto_allocate: bool,
}

/// A file that a bursting plugin left for each of its jobs.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct JobFile {
    pub(super) job_id: Value,
    #[serde(default)]
    pub(super) account: String,
    pub(super) actual_cost: Nanos,
    #[serde(default)]
    pub(super) export_time: Option<Value>,
    #[serde(default)]
    pub(super) plugin_version: Option<String>,
}

/// A number or a text, as text; empty of nothing.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Rows of one list, each read by itself; `Err` says which one is wrong, and how.
pub(super) fn read<T: serde::de::DeserializeOwned>(
    list: &str,
    rows: &[Box<RawValue>],
) -> Vec<Result<T, (String, String)>> {
    let row = |(at, row): (usize, &RawValue)| {
        serde_json::from_str(row.get()).map_err(|error| (format!("{list}[{at}]"), error.to_string()))
    };
    rows.iter().map(Box::as_ref).enumerate().map(row).collect()
}
