//! One row: a charge with all that its columns are made of.

use std::borrow::Cow;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Map, Value};

use super::split::Split;
use super::{Bill, Version};
use crate::model::{GpuTime, Instance, Owner, OwnerKind, RowKind};
use crate::store::query::Told;
use crate::store::query::posted::{Charge, Posting};

/// Before the keys of tags that are ours, not the operator's labels.
const TAG: &str = "tonnage/";

/// A row. Times are of the charge period: an hour, or what the window has of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) bill: &'a Bill,
    pub(super) version: Version,
    pub(super) start_ns: i64,
    pub(super) end_ns: i64,
    pub(super) charge: &'a Charge,
    pub(super) split: Option<&'a Split>,
}

/// The UTC month that has `at_ns`: its start and its end.
#[must_use]
pub fn month(at_ns: i64) -> (i64, i64) {
    let at = Timestamp::from_nanosecond(i128::from(at_ns)).unwrap_or(Timestamp::UNIX_EPOCH);
    let first = at.to_zoned(TimeZone::UTC).date().first_of_month();
    let next = first.checked_add(1.month()).unwrap_or(first);
    (midnight(first), midnight(next))
}

fn midnight(date: Date) -> i64 {
    let at = date.to_zoned(TimeZone::UTC).map(|at| at.timestamp().as_nanosecond());
    at.ok().and_then(|ns| i64::try_from(ns).ok()).unwrap_or_default()
}

/// Hours in billionths, rounded down.
pub(super) fn hours(time: GpuTime) -> i128 {
    time.ns().div_euclid(3_600)
}

impl Row<'_> {
    pub(super) fn owner(&self) -> Option<&Owner> {
        self.charge.owner.as_deref()
    }

    /// What is billed for: a GPU, or a MIG instance; of a job without GPUs its partition.
    pub(super) fn resource_id(&self) -> Cow<'_, str> {
        if self.is_of_job() {
            return Cow::Owned(format!("{}/{}", self.charge.tenure.uuid, self.charge.tenure.life));
        }
        match &self.charge.instance {
            None => Cow::Borrowed(&self.charge.tenure.uuid),
            Some(mig) if mig.uuid.is_empty() => Cow::Owned(format!(
                "{}/{}/{}",
                self.charge.tenure.uuid, mig.gpu_instance, mig.compute_instance
            )),
            Some(mig) => Cow::Borrowed(&mig.uuid),
        }
    }

    /// GPUs have no names of their own: node and model, and an instance's profile.
    pub(super) fn resource_name(&self) -> String {
        let tenure = &self.charge.tenure;
        if self.is_of_job() {
            return format!("partition {}", tenure.life);
        }
        let mut name = format!("{} {}", tenure.node.node, tenure.model);
        if let Some(instance) = self.charge.instance.as_ref().filter(|instance| !instance.profile.is_empty())
        {
            name = format!("{name} {}", instance.profile);
        }
        name
    }

    /// `None` also of what of a GPU is in none, which may be a row of its own: that goes by the GPU's UUID.
    pub(super) fn instance(&self) -> Option<&Instance> {
        self.charge.instance.as_deref().filter(|instance| instance.uuid != self.charge.tenure.uuid)
    }

    /// As in answers of the REST API.
    pub(super) fn kind(&self) -> &'static str {
        match self.charge.kind {
            RowKind::Held => "held",
            RowKind::Idle => "idle",
            RowKind::Unobserved => "unobserved",
            RowKind::Rounding => "rounding",
            RowKind::Intruder => "intruder",
            RowKind::Stranded => "stranded",
            RowKind::Cpu => "cpu",
            RowKind::Memory => "memory",
        }
    }

    pub(super) fn is_of_job(&self) -> bool {
        self.charge.kind.is_of_job()
    }

    pub(super) fn description(&self) -> String {
        let gpu = &self.charge.tenure.model;
        let instance = match self.instance() {
            Some(instance) if instance.profile.is_empty() => ", a MIG instance",
            Some(instance) => &format!(", MIG {}", instance.profile),
            None => "",
        };
        let what = match self.charge.kind {
            RowKind::Held => {
                format!("GPU time held by {}", self.owner().map_or_else(String::new, owner_name))
            }
            RowKind::Idle => "GPU time that nobody held".to_owned(),
            RowKind::Stranded => "GPU time of slices that no MIG instance can be made of".to_owned(),
            RowKind::Unobserved => "GPU time that no agent observed".to_owned(),
            RowKind::Rounding => {
                "What is left of the GPU's price when each charge is rounded down".to_owned()
            }
            RowKind::Cpu | RowKind::Memory => return self.description_of_job(),
            RowKind::Intruder => {
                let who = self.owner().map_or_else(String::new, owner_name);
                format!("Use by {who} of a GPU that others held, without time or cost")
            }
        };
        let correction = if self.charge.posting == Posting::First { "" } else { " (correction)" };
        format!("{what}: {gpu}{instance}{correction}")
    }

    fn description_of_job(&self) -> String {
        let what = if self.charge.kind == RowKind::Cpu { "CPU time" } else { "Memory" };
        let who = self.owner().map_or_else(String::new, owner_name);
        let correction = if self.charge.posting == Posting::First { "" } else { " (correction)" };
        format!("{what} held by {who}, which had no GPU{correction}")
    }

    /// JSON of what the resource has, and in 1.2 of its owner, too: 1.3 has `AllocatedTags` for that.
    pub(super) fn tags(&self) -> String {
        let Charge { tenure, facts, .. } = self.charge;
        let mut tags: Map<String, Value> =
            facts.labels.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
        put(&mut tags, "cluster", &tenure.node.cluster);
        put(&mut tags, "node", &tenure.node.node);
        put(&mut tags, "instance_type", &facts.instance_type);
        put(&mut tags, "capacity_type", &facts.capacity_type);
        // What is not split has no other place for its owner.
        if self.version == Version::V1_2 || self.split.is_none() {
            self.put_owner(&mut tags);
        }
        Value::Object(tags).to_string()
    }

    /// JSON of what the owner has; `None` where the charge is not split, or is nobody's.
    pub(super) fn allocated_tags(&self) -> Option<String> {
        self.split?;
        self.owner()?;
        let mut tags = Map::new();
        self.put_owner(&mut tags);
        Some(Value::Object(tags).to_string())
    }

    /// A pod's labels as they are, and all else as ours.
    fn put_owner(&self, tags: &mut Map<String, Value>) {
        let Some(owner) = self.owner() else { return };
        let Told { pod, namespace, team } = &self.charge.told;
        for (key, value) in pod.iter().flat_map(|pod| &pod.labels) {
            tags.insert(key.clone(), Value::from(value.as_str()));
        }
        for (key, value) in namespace.iter().flat_map(|namespace| &namespace.labels) {
            tags.insert(format!("{TAG}namespace_label/{key}"), Value::from(value.as_str()));
        }
        if let Some(pod) = pod {
            put(tags, "controller_kind", &pod.controller_kind);
            put(tags, "controller", &pod.controller);
        }
        put(tags, "team", team);
        put(tags, "owner_kind", owner.kind.name());
        for (key, value) in [
            ("namespace", &owner.namespace),
            ("pod", &owner.pod),
            ("container", &owner.container),
            ("job", &owner.job_id),
            ("unit", &owner.unit),
            ("user", &owner.user),
            ("account", &owner.account),
            ("partition", &owner.partition),
        ] {
            put(tags, key, value);
        }
    }

    /// The owner as the part of the resource that cost is allocated to: unique within a resource and a charge period.
    pub(super) fn allocated_id(&self) -> Option<String> {
        self.split?;
        let owner = self.owner()?;
        let parts: Vec<&str> = match owner.kind {
            OwnerKind::Pod => vec![&owner.namespace, &owner.pod, &owner.pod_uid, &owner.container],
            OwnerKind::SlurmJob => vec![&owner.job_id, &owner.step],
            _ => vec![&owner.unit, &owner.user, &owner.container_id, &owner.container],
        };
        let mut id = format!("{}/{}", self.charge.tenure.node.cluster, owner.kind.name());
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            id.push('/');
            id += part;
        }
        Some(id)
    }

    pub(super) fn allocated_name(&self) -> Option<String> {
        self.split?;
        self.owner().map(owner_name)
    }
}

fn put(tags: &mut Map<String, Value>, key: &str, value: &str) {
    if !value.is_empty() {
        tags.insert(format!("{TAG}{key}"), Value::from(value));
    }
}

/// An owner for people.
pub(super) fn owner_name(owner: &Owner) -> String {
    let name = match owner.kind {
        OwnerKind::Pod => {
            let pod = first([&owner.pod, &owner.pod_uid]);
            return if owner.namespace.is_empty() {
                pod.to_owned()
            } else {
                format!("{}/{pod}", owner.namespace)
            };
        }
        OwnerKind::SlurmJob => return format!("job {}", owner.job_id),
        _ => first([&owner.unit, &owner.container, &owner.container_id, &owner.user]),
    };
    if name.is_empty() { owner.kind.name().to_owned() } else { name.to_owned() }
}

fn first<const N: usize>(names: [&str; N]) -> &str {
    names.into_iter().find(|name| !name.is_empty()).unwrap_or_default()
}
