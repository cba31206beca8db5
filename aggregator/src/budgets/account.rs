//! An account as an operator says it is: what it is called, what is bound to it, and what may be spent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tonnage_proto::limits::NAME_BYTES_MAX;

use super::allocation::{Part, SCHEDULES_MAX, Schedule};
use super::period::Period;
use super::selector::Selector;
use super::{BudgetError, invalid};

/// Bytes of a description.
const TEXT_BYTES_MAX: usize = 4096;
pub const BINDINGS_MAX: usize = 256;
pub const LIMITS_MAX: usize = 16;
/// A buffer in thousandths: 1.2 unless told otherwise, 10 at most.
const BUFFER_PERMILLE: u32 = 1200;
const BUFFER_PERMILLE_MAX: u32 = 10_000;

/// All that is said of an account. Journalled as JSON, so that fields may be added and none be renamed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Never changes, and is never used again.
    pub name: String,
    #[serde(default)]
    pub title: String,
    #[serde(default)]
    pub description: String,
    /// Whose limits it has besides its own.
    #[serde(default)]
    pub parent: Option<String>,
    #[serde(default)]
    pub bindings: Vec<Bound>,
    #[serde(default)]
    pub limits: Vec<Limit>,
    #[serde(default)]
    pub status: Status,
    /// 0: since ever.
    #[serde(default)]
    pub starts_ns: i64,
    #[serde(default)]
    pub ends_ns: Option<i64>,
    /// What a hold is more than what its work may cost, in thousandths of that.
    #[serde(default = "buffer")]
    pub buffer_permille: u32,
    /// What happens when work costs more than its hold.
    #[serde(default)]
    pub overrun: Overrun,
    /// What is answered where a price is not known.
    #[serde(default)]
    pub fail: Fail,
    /// What a hold goes by.
    #[serde(default)]
    pub estimate: Estimate,
    /// What comes to the limit for its life in parts. An update leaves them as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<Schedule>,
}

fn buffer() -> u32 {
    BUFFER_PERMILLE
}

/// A selector, and since when usage goes by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    pub selector: Selector,
    /// A slot's edge; without it the account's start if it is new, else the slot of now.
    #[serde(default)]
    pub from_ns: Option<i64>,
}

/// How much may be spent over which time: on everything, or on one partition or model of GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    pub amount_nanos: i64,
    pub period: Period,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// As [`names`] has it: `A100` is every A100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    #[default]
    Active,
    Inactive,
    Suspended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overrun {
    /// It is charged like all else, and the account has so much less.
    #[default]
    Charge,
    /// Besides, the account is suspended when such a hold ends, until an operator makes it active.
    Suspend,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fail {
    /// What has no price is let through, with a hold of nothing, and said to be unpriced.
    Open,
    /// It is refused.
    #[default]
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Estimate {
    /// The price of the whole time limit.
    #[default]
    Price,
    /// What such work typically cost, where that is known and less.
    Measured,
}

/// How an account stands at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Active,
    /// Before its start.
    Pending,
    Inactive,
    Suspended,
    /// From its end on.
    Expired,
    Closed,
}

impl Standing {
    /// By their numbers.
    pub const NAMES: [&'static str; 6] = ["active", "pending", "inactive", "suspended", "expired", "closed"];

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl Spec {
    /// A new account of this name, with nothing bound to it and no limit.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            title: String::new(),
            description: String::new(),
            parent: None,
            bindings: Vec::new(),
            limits: Vec::new(),
            status: Status::Active,
            starts_ns: 0,
            ends_ns: None,
            buffer_permille: BUFFER_PERMILLE,
            overrun: Overrun::default(),
            fail: Fail::default(),
            estimate: Estimate::default(),
            schedules: Vec::new(),
        }
    }

    /// # Errors
    /// At the first field that is wrong by itself.
    pub fn check(&self) -> Result<(), BudgetError> {
        let name = &self.name;
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '+');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(word) {
            let shown: String = name.chars().take(80).collect();
            let reason = format!("{shown:?} has to be 1 to {NAME_BYTES_MAX} letters, digits, or - _ . @ +");
            return Err(invalid("slurm_account", reason));
        }
        for (field, text) in [("name", &self.title), ("description", &self.description)] {
            if text.len() > TEXT_BYTES_MAX {
                return Err(invalid(field, format!("is longer than {TEXT_BYTES_MAX} bytes")));
            }
        }
        if self.ends_ns.is_some_and(|ends_ns| ends_ns <= self.starts_ns) {
            return Err(invalid("end_date", "is not after the account's start"));
        }
        if !(1000..=BUFFER_PERMILLE_MAX).contains(&self.buffer_permille) {
            let reason =
                format!("{} thousandths are not 1000 to {BUFFER_PERMILLE_MAX}", self.buffer_permille);
            return Err(invalid("buffer", reason));
        }
        if self.bindings.len() > BINDINGS_MAX {
            return Err(invalid("bindings", format!("an account has at most {BINDINGS_MAX}")));
        }
        if self.limits.len() > LIMITS_MAX {
            return Err(invalid("limits", format!("an account has at most {LIMITS_MAX}")));
        }
        if self.schedules.len() > SCHEDULES_MAX {
            let reason =
                format!("an account has at most {SCHEDULES_MAX} schedules, cancelled ones with them");
            return Err(invalid("allocation_schedule", reason));
        }
        self.schedules.iter().try_for_each(Schedule::check)?;
        self.bindings.iter().try_for_each(|bound| bound.selector.check())?;
        self.limits.iter().try_for_each(Limit::check)
    }
}

impl Spec {
    /// How much a limit is at some time: with all parts that have come by then, if it is that for the account's life.
    #[must_use]
    pub fn amount_nanos(&self, limit: &Limit, at_ns: i64) -> i64 {
        let parts = self.schedules.iter().filter(|_| limit.is_whole()).map(|of| of.allocated_nanos(at_ns));
        parts.fold(limit.amount_nanos, i64::saturating_add)
    }

    /// The parts that come to a limit by themselves after `now_ns` and before `until_ns`, oldest first.
    #[must_use]
    pub fn coming(&self, limit: &Limit, (now_ns, until_ns): (i64, i64)) -> Vec<Part> {
        let schedules = self.schedules.iter().filter(|_| limit.is_whole());
        let mut parts: Vec<Part> = schedules.flat_map(|of| of.coming(now_ns, until_ns)).collect();
        parts.sort_by_key(|part| part.due_ns);
        parts
    }

    /// A limit for its life that parts can come to, if it has schedules and none yet.
    pub fn begin_with_nothing(&mut self) {
        if !self.schedules.is_empty() && !self.limits.iter().any(Limit::is_whole) {
            let limit = Limit { amount_nanos: 0, period: Period::Lifetime, partition: None, model: None };
            self.limits.insert(0, limit);
        }
    }
}

impl Limit {
    /// Is it for the account's whole life, and on everything?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.period == Period::Lifetime && self.partition.is_none() && self.model.is_none()
    }

    fn check(&self) -> Result<(), BudgetError> {
        if self.amount_nanos < 0 {
            return Err(invalid("limits.amount", "is less than 0"));
        }
        for (field, text) in [("limits.partition", &self.partition), ("limits.model", &self.model)] {
            let wrong = |text: &String| {
                text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control)
            };
            if text.as_ref().is_some_and(wrong) {
                let reason = format!(
                    "has to have 1 to {NAME_BYTES_MAX} bytes without control characters, or not be there"
                );
                return Err(invalid(field, reason));
            }
        }
        if self.model.as_ref().is_some_and(|model| words(model).next().is_none()) {
            return Err(invalid("limits.model", "names no model, as A100 or NVIDIA H100 80GB HBM3 does"));
        }
        self.period.check()
    }

    /// Does usage of this partition and model count?
    #[must_use]
    pub fn counts(&self, partition: &str, model: &str) -> bool {
        self.partition.as_ref().is_none_or(|own| own == partition)
            && self.model.as_ref().is_none_or(|own| names(own, model))
    }

    /// Does a hold reserve from it? One that does not say its model may get any.
    #[must_use]
    pub fn reserves(&self, partition: &str, model: &str) -> bool {
        self.partition.as_ref().is_none_or(|own| own == partition)
            && self
                .model
                .as_ref()
                .is_none_or(|own| model.is_empty() || names(own, model) || names(model, own))
    }
}

/// Does `name` name this model of GPU: are its words, one behind the other, among those of the model? So `A100` names
/// `NVIDIA A100-SXM4-80GB`, as does a type of Slurm's GRES `nvidia_a100-sxm4-80gb`, and `A10` does not.
#[must_use]
pub fn names(name: &str, model: &str) -> bool {
    let (own, of): (Vec<String>, Vec<String>) = (words(name).collect(), words(model).collect());
    !own.is_empty() && of.windows(own.len()).any(|some| some == own)
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_by_whole_words() {
        for (name, model, expected) in [
            ("A100", "NVIDIA A100-SXM4-80GB", true),
            ("nvidia_a100-sxm4-80gb", "NVIDIA A100-SXM4-80GB", true),
            ("a100_sxm4", "NVIDIA A100-SXM4-80GB", true),
            ("a10", "NVIDIA A100-SXM4-80GB", false),
            ("80gb a100", "NVIDIA A100-SXM4-80GB", false),
            ("", "NVIDIA A100-SXM4-80GB", false),
            ("-", "NVIDIA A100-SXM4-80GB", false),
        ] {
            assert_eq!(names(name, model), expected, "{name}");
        }
    }

    #[test]
    fn a_hold_without_a_model_reserves_from_every_models_limit() {
        let limit =
            Limit { amount_nanos: 1, period: Period::Lifetime, partition: None, model: Some("A100".into()) };
        assert!(limit.reserves("gpu", "") && limit.reserves("gpu", "a100") && !limit.reserves("gpu", "h100"));
        assert!(!limit.counts("gpu", ""));
        let limit = Limit { partition: Some("gpu".into()), model: None, ..limit };
        assert!(limit.counts("gpu", "x") && !limit.counts("cpu", "x") && !limit.reserves("cpu", ""));
    }

    #[test]
    fn a_field_that_is_wrong_is_named() {
        let good = Spec::new("physics");
        assert_eq!(good.check(), Ok(()));
        let limit = Limit { amount_nanos: -1, period: Period::Lifetime, partition: None, model: None };
        for (spec, field) in [
            (Spec::new(""), "slurm_account"),
            (Spec::new("a b"), "slurm_account"),
            (Spec { title: "x".repeat(4097), ..good.clone() }, "name"),
            (Spec { ends_ns: Some(0), ..good.clone() }, "end_date"),
            (Spec { buffer_permille: 999, ..good.clone() }, "buffer"),
            (Spec { limits: vec![limit.clone()], ..good.clone() }, "limits.amount"),
            (
                Spec {
                    limits: vec![Limit { amount_nanos: 1, partition: Some("a\0".into()), ..limit.clone() }],
                    ..good.clone()
                },
                "limits.partition",
            ),
            (Spec { limits: vec![Limit { amount_nanos: 1, ..limit }; 17], ..good.clone() }, "limits"),
            (
                Spec { bindings: vec![Bound { selector: Selector::default(), from_ns: None }], ..good },
                "bindings",
            ),
        ] {
            let error = spec.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{error}");
        }
    }
}
