//! What clients send, and what it means. Fields that are not known are let be: clients send more than is needed here.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tonnage_proto::decimal::json_nanos;

use super::{refused, transaction_of};
use crate::api::error::ApiError;
use crate::budgets::amount::{self, NODES_MAX};
use crate::budgets::hold::{Ask, Escrow, Estimate, LEASE_NS, Subject};
use crate::store::jobs;

const S: i64 = 1_000_000_000;

/// `POST /api/v1/budget/check`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct CheckBody {
    /// Slurm's account.
    #[serde(default)]
    account: String,
    #[serde(default)]
    partition: String,
    #[serde(default)]
    nodes: Option<u32>,
    /// All GPUs of the job as a number, or what each node has as a GRES, gpu:a100:4.
    #[serde(default)]
    gpus: Option<Gpus>,
    /// Of work without GPUs, all of it; GPUs' prices have those of their nodes in them.
    #[serde(default)]
    cpus: u64,
    #[serde(default)]
    memory_bytes: u64,
    /// The same as Slurm's --mem has it, what each node has, 64GB. Read of work without GPUs.
    #[serde(default)]
    memory: Option<String>,
    /// The job's time limit as Slurm writes it, 1-12:00:00.
    wall_time: String,
    #[serde(default)]
    user_id: String,
    #[serde(default)]
    job_details: BTreeMap<String, String>,
    /// Where usage comes from one cluster, that one unless told.
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    namespace: String,
    /// Of the pod that it is for.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// A type of Slurm's GRES, or a model's name; instead of the type in gpus.
    #[serde(default)]
    gpu_model: String,
    #[serde(default)]
    job_id: Option<String>,
    #[serde(default)]
    pod_uid: Option<String>,
    /// The same as the header idempotency-key.
    #[serde(default)]
    idempotency_key: Option<String>,
    /// For how long it is held with nothing heard of it: a day unless told.
    #[serde(default)]
    lease_seconds: Option<u32>,
    /// Why it is to be held whether there is enough or not: for work that was let in while nobody could be asked.
    #[serde(default)]
    overdraft: String,
    /// It is for work that a gate will let in by itself until the lease ends.
    #[serde(default)]
    escrow: bool,
    /// The escrow that it is taken out of, and how much.
    #[serde(default)]
    escrow_id: Option<String>,
    #[serde(default)]
    escrow_amount: Option<Money>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "gpus is neither a whole number nor a GRES such as gpu:a100:4")]
enum Gpus {
    Number(u32),
    Text(String),
}

/// `POST /api/v1/budget/reconcile`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct ReconcileBody {
    pub(super) transaction_id: String,
    #[serde(default)]
    pub(super) job_id: Option<String>,
    /// Compared with what the ledger charged, and never charged itself.
    #[serde(default)]
    pub(super) actual_cost: Option<Money>,
}

/// `POST /api/v1/holds/{transaction_id}/bind`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct BindBody {
    #[serde(default)]
    pub(super) job_id: Option<String>,
    #[serde(default)]
    pub(super) pod_uid: Option<String>,
}

/// An amount: a JSON number, to the nearest nano-dollar, or a text with at most nine places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) struct Money(pub(super) i64);

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let nanos = json_nanos(raw.get()).and_then(|nanos| i64::try_from(nanos).ok());
        nanos.map(Self).ok_or_else(|| {
            let shown: String = raw.get().trim_matches('"').chars().take(40).collect();
            serde::de::Error::custom(format!(
                "{shown:?} is not an amount such as 12.50, with at most nine places as text"
            ))
        })
    }
}

impl JsonSchema for Money {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Money".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["number", "string"], "description": "A number is taken to the nearest billionth; a text has at most nine places" })
    }
}

impl CheckBody {
    /// What is asked for; `key` is the header's.
    pub(super) fn ask(self, key: Option<String>) -> Result<Ask, ApiError> {
        let key = match (key, self.idempotency_key) {
            (Some(header), Some(field)) if header != field => {
                let message = "idempotency_key: the header and the field are not the same; give one";
                return Err(ApiError::invalid("idempotency_key", message));
            }
            (header, field) => header.or(field).unwrap_or_default(),
        };
        let nodes = self.nodes.unwrap_or(1);
        if !(1..=NODES_MAX).contains(&nodes) {
            return Err(ApiError::invalid("nodes", format!("nodes {nodes} is not 1 to {NODES_MAX}")));
        }
        let gpus = match self.gpus {
            None => String::new(),
            Some(Gpus::Number(number)) => number.to_string(),
            Some(Gpus::Text(text)) => text,
        };
        let (gpus, of_type) = amount::gpus(&gpus, nodes).map_err(refused)?;
        let memory_bytes = match self.memory.filter(|text| gpus == 0 && !text.is_empty()) {
            None => self.memory_bytes,
            Some(_) if self.memory_bytes > 0 => {
                let message = "memory: memory_bytes is there, too; give one";
                return Err(ApiError::invalid("memory", message));
            }
            Some(text) => amount::memory_bytes(&text, nodes).map_err(refused)?,
        };
        let without_gpus = gpus == 0 && (self.cpus > 0 || memory_bytes > 0);
        let model = match self.gpu_model {
            // As what it will be charged is of, so that limits of GPUs' models do not hold it.
            model if model.is_empty() && without_gpus => jobs::MODEL.to_owned(),
            model if model.is_empty() => of_type,
            model => model,
        };
        let escrow = escrow(self.escrow, self.escrow_id, self.escrow_amount)?;
        let lease_ns = self.lease_seconds.map_or(LEASE_NS, |seconds| i64::from(seconds) * S);
        Ok(Ask {
            key,
            cluster: self.cluster,
            account: self.account,
            partition: self.partition,
            namespace: self.namespace,
            user: self.user_id,
            labels: self.labels,
            model,
            gpus,
            cpus: self.cpus,
            memory_bytes,
            time_ns: amount::time_limit(&self.wall_time).map_err(refused)?,
            lease_ns,
            subject: subject(self.job_id, self.pod_uid)?,
            details: self.job_details,
            overdraft: self.overdraft,
            escrow,
            estimate: Estimate::Price,
            given_nanos: None,
        })
    }
}

fn escrow(is_lease: bool, id: Option<String>, amount: Option<Money>) -> Result<Escrow, ApiError> {
    match (is_lease, id, amount) {
        (false, None, None) => Ok(Escrow::None),
        (true, None, None) => Ok(Escrow::Lease),
        (false, Some(id), Some(Money(amount_nanos))) => {
            Ok(Escrow::From { transaction: transaction_of(&id)?, amount_nanos })
        }
        _ => {
            let message = "escrow_id: give it with escrow_amount and without escrow";
            Err(ApiError::invalid("escrow_id", message))
        }
    }
}

/// What a hold is for, of which at most one is given.
pub(super) fn subject(job_id: Option<String>, pod_uid: Option<String>) -> Result<Option<Subject>, ApiError> {
    match (job_id.filter(|id| !id.is_empty()), pod_uid.filter(|uid| !uid.is_empty())) {
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "pod_uid",
            "pod_uid: a hold is for a job or for a pod; give one of job_id and pod_uid",
        )),
        (Some(id), None) => Ok(Some(Subject::Job(id))),
        (None, Some(uid)) => Ok(Some(Subject::Pod(uid))),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_work_without_gpus_is_what_each_node_has_and_of_other_work_it_is_let_be() {
        let ask = |body: &str| {
            let body: CheckBody =
                serde_json::from_str(&format!("{{\"account\":\"a\",\"wall_time\":\"1\",{body}}}")).unwrap();
            body.ask(None).map(|ask| (ask.memory_bytes, ask.model)).map_err(|error| error.message())
        };
        let compute = |bytes: u64| Ok((bytes, jobs::MODEL.to_owned()));
        assert_eq!(ask(r#""nodes":2,"cpus":8,"memory":"64GB""#), compute(128 << 30));
        assert_eq!(ask(r#""nodes":2,"memory":"1G","gpus":0"#), compute(2 << 30));
        assert_eq!(ask(r#""cpus":8,"memory":"","memory_bytes":5"#), compute(5));
        assert_eq!(ask(r#""gpus":1,"memory":"much""#), Ok((0, String::new())));
        for body in [r#""cpus":8,"memory":"much""#, r#""cpus":8,"memory":"1G","memory_bytes":5"#] {
            assert!(ask(body).unwrap_err().starts_with("memory: "), "{body}");
        }
    }

    #[test]
    fn an_amount_is_what_its_digits_say_with_an_exponent_or_without() {
        let nanos = |text: &str| serde_json::from_str::<Money>(text).map(|Money(nanos)| nanos).ok();
        for (text, expected) in [
            ("1e-9", Some(1)),
            ("1.25e1", Some(12_500_000_000)),
            ("12E+0", Some(12_000_000_000)),
            ("0.5e-3", Some(500_000)),
            ("-2e2", Some(-200_000_000_000)),
            ("120e-1", Some(12_000_000_000)),
            ("\"12.50\"", Some(12_500_000_000)),
            ("12.300000000000001", Some(12_300_000_000)),
            ("1e-10", Some(0)),
            ("\"12.300000000000001\"", None),
            ("1e30", None),
            ("1e999", None),
            ("\"1e3\"", None),
        ] {
            assert_eq!(nanos(text), expected, "{text}");
        }
    }
}
