//! A hold: what work may cost, reserved before it runs. It reserves and never charges; slots alone do. So what it takes from an
//! account is what its job has not been charged yet, and nothing counts twice while the job runs.
//!
//! ```text
//! check -> open -> settled     the job has ended
//!       |       -> voided      it never ran
//!       |       -> expired     nobody spoke of it, nor did it use anything, for as long as its lease
//!       -> refused
//! ```
//!
//! Every end is final: an end that comes twice is the same end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tonnage_proto::limits::NAME_BYTES_MAX;

use super::amount::{CPUS_MAX, MEMORY_BYTES_MAX};
use super::selector::Usage;
use super::{BudgetError, invalid};

mod estimate;
mod event;

pub use estimate::Estimate;
pub use event::Event;

const S: i64 = 1_000_000_000;
/// For how long a hold lasts of which nothing is heard, unless it is told: a day, in which a job may wait to start.
pub const LEASE_NS: i64 = 86_400 * S;
const LEASE_NS_MIN: i64 = 60 * S;
const LEASE_NS_MAX: i64 = 90 * 86_400 * S;
/// Pairs in a request's details, and bytes of all.
const DETAILS_MAX: usize = 64;
const DETAILS_BYTES_MAX: usize = 8192;

/// In the details of a gate's hold for all tasks of an array.
const ARRAY: &str = "array";

/// What work asks for. Journalled with its answer, and hashed: the same key with another request is a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ask {
    /// The caller's name for this very request; empty if it gives none.
    #[serde(default)]
    pub key: String,
    /// Whose usage it will be.
    pub cluster: String,
    #[serde(default)]
    pub account: String,
    #[serde(default)]
    pub partition: String,
    #[serde(default)]
    pub namespace: String,
    #[serde(default)]
    pub user: String,
    /// Of the pod that it will be, as far as nothing is told of that.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Of the GPUs, in any form that `account::names`; empty if it may be any.
    #[serde(default)]
    pub model: String,
    pub gpus: u32,
    /// Of work without GPUs, all of it; 0 if it does not say.
    #[serde(default, skip_serializing_if = "is_none")]
    pub cpus: u64,
    #[serde(default, skip_serializing_if = "is_none")]
    pub memory_bytes: u64,
    pub time_ns: i64,
    pub lease_ns: i64,
    /// The job or pod, if it is known already.
    #[serde(default)]
    pub subject: Option<Subject>,
    /// What the caller wants to find again.
    #[serde(default)]
    pub details: BTreeMap<String, String>,
    /// Why it is held whether there is enough or not, as for work that was let in while nobody could ask; empty: it is checked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub overdraft: String,
    #[serde(default, skip_serializing_if = "Escrow::is_none")]
    pub escrow: Escrow,
    /// It is held elsewhere already, and so much: no price is asked, and it is held whether there is enough or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_nanos: Option<i64>,
    /// What somebody outside said of its cost. The same request may have another one when it comes again.
    #[serde(default, skip_serializing_if = "Estimate::is_price")]
    pub estimate: Estimate,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_none(number: &u64) -> bool {
    *number == 0
}

/// What a hold has to do with money that a gate spends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Escrow {
    #[default]
    None,
    /// It is such money: a gate lets work in for it until its lease ends. So it neither expires nor is voided before that, and then only
    /// by who has looked which work was let in.
    Lease,
    /// It is taken out of such a hold, and so much of it: its money is held already.
    From { transaction: [u8; 16], amount_nanos: i64 },
}

impl Escrow {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// What a hold is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Slurm's job id.
    Job(String),
    /// UID of a pod.
    Pod(String),
}

impl Subject {
    /// Its number in the store, and its name.
    #[must_use]
    pub fn parts(&self) -> (i64, &str) {
        match self {
            Self::Job(id) => (1, id),
            Self::Pod(uid) => (2, uid),
        }
    }

    /// `None` for 0, which is a hold that is not bound.
    #[must_use]
    pub fn of(number: i64, name: String) -> Option<Self> {
        match number {
            1 => Some(Self::Job(name)),
            2 => Some(Self::Pod(name)),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum State {
    Open = 0,
    Settled = 1,
    Voided = 2,
    Expired = 3,
    /// It never was one.
    Refused = 4,
}

impl State {
    /// Each with its name.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Open, "open"),
        (Self::Settled, "settled"),
        (Self::Voided, "voided"),
        (Self::Expired, "expired"),
        (Self::Refused, "refused"),
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(state, _)| *state == self).map_or("open", |(_, name)| name)
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(state, _)| state)
    }

    /// By its number in the store.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().map(|(state, _)| state).find(|state| i64::from(*state as u8) == number)
    }
}

/// A hold, or a check that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Entry of the journal that made it.
    pub id: i64,
    /// For callers: random, so that none is ever used again.
    pub transaction: [u8; 16],
    pub account: i64,
    pub ask: Ask,
    pub subject: Option<Subject>,
    /// What the work may cost; `None` if its price is not known.
    pub cost_nanos: Option<i64>,
    pub amount_nanos: i64,
    /// What slots from `from_ns` on charge for its job, and for tasks of it that it is also of. No longer kept once it has ended.
    pub charged_nanos: i64,
    pub from_ns: i64,
    /// When it expires unless something is heard.
    pub until_ns: i64,
    pub state: State,
    /// Why it was refused; a code, and in words.
    pub refusal: Option<(Code, String)>,
    /// What was left before it, in the tightest limit; `None` without any.
    pub available_nanos: Option<i64>,
    pub found: Found,
    pub created_ns: i64,
    /// 0 while it is open.
    pub ended_ns: i64,
}

/// What a check found besides what was left: told with its answer, and with the same one whenever it is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Found {
    /// What open holds of the account, and of those below it, reserved.
    pub held_nanos: i64,
    /// The tightest of the limits on the work's partition, of the account and of those above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<PartitionFound>,
    /// What such work typically costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typical_nanos: Option<i64>,
    /// The hold goes by that, and not by the price alone.
    #[serde(default)]
    pub measured: bool,
    /// What it held at first: holds are taken out of some, and joined to others. Of earlier versions nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount_nanos: Option<i64>,
}

impl Found {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A limit on a partition, in its period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionFound {
    pub limit_nanos: i64,
    pub used_nanos: i64,
    pub held_nanos: i64,
}

/// Why a check is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    InsufficientBudget,
    PartitionLimitExceeded,
    ModelLimitExceeded,
    AccountInactive,
    AccountExpired,
    Unpriced,
}

impl Code {
    pub const ALL: [Self; 6] = [
        Self::InsufficientBudget,
        Self::PartitionLimitExceeded,
        Self::ModelLimitExceeded,
        Self::AccountInactive,
        Self::AccountExpired,
        Self::Unpriced,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InsufficientBudget => "insufficient_budget",
            Self::PartitionLimitExceeded => "partition_limit_exceeded",
            Self::ModelLimitExceeded => "model_limit_exceeded",
            Self::AccountInactive => "account_inactive",
            Self::AccountExpired => "account_expired",
            Self::Unpriced => "unpriced",
        }
    }
}

impl Hold {
    /// What it takes from its account and all above it: what its job has not been charged yet.
    #[must_use]
    pub fn reserved_nanos(&self) -> i128 {
        if self.state == State::Open {
            i128::from(self.amount_nanos.saturating_sub(self.charged_nanos).max(0))
        } else {
            0
        }
    }

    /// What it held at first.
    #[must_use]
    pub fn first_amount_nanos(&self) -> i64 {
        self.found.amount_nanos.unwrap_or(self.amount_nanos)
    }

    /// When anything was heard of it last: it was made or renewed, or a slot ended in which its job used something.
    #[must_use]
    pub fn heard_ns(&self) -> i64 {
        self.until_ns.saturating_sub(self.ask.lease_ns)
    }

    /// How it ends if it is left behind: its job was charged something and is over, or nobody knows that it ever ran. `None` if
    /// it is not, by what was heard of it; `waiting`: nor does it count that its job may wait in a queue. Escrow never is: what a gate
    /// let in for it is known only to who looks.
    #[must_use]
    pub fn orphaned(&self, now_ns: i64, silent_ns: i64, waiting: bool) -> Option<State> {
        let leased = self.ask.escrow == Escrow::Lease;
        if leased || self.state != State::Open || self.heard_ns() > now_ns.saturating_sub(silent_ns) {
            return None;
        }
        match (&self.subject, self.charged_nanos) {
            (Some(_), 0) => waiting.then_some(State::Expired),
            (None, _) => Some(State::Expired),
            (Some(_), _) => Some(State::Settled),
        }
    }

    /// Is it for all tasks of an array? They are charged under ids of their own, and that all of them were named nobody knows.
    #[must_use]
    pub fn is_of_array(&self) -> bool {
        self.ask.details.contains_key(ARRAY)
    }

    /// What its job cost beyond it.
    #[must_use]
    pub fn overrun_nanos(&self) -> i64 {
        self.charged_nanos.saturating_sub(self.amount_nanos).max(0)
    }

    /// Ends it. True if it was open; an end of the same kind again changes nothing.
    ///
    /// # Errors
    /// If it has ended otherwise, or was never one.
    pub fn end(&mut self, state: State, now_ns: i64) -> Result<bool, BudgetError> {
        if self.state == state {
            return Ok(false);
        }
        if self.state != State::Open {
            let text = format!("transaction_id: {} is {} already", self.transaction_id(), self.state.name());
            return Err(BudgetError::Conflict(text));
        }
        (self.state, self.ended_ns) = (state, now_ns);
        Ok(true)
    }

    /// As callers have it.
    #[must_use]
    pub fn transaction_id(&self) -> String {
        let digits: String = self.transaction.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("txn_{digits}")
    }
}

/// Reads what [`Hold::transaction_id`] writes.
#[must_use]
pub fn transaction(text: &str) -> Option<[u8; 16]> {
    let digits = text.strip_prefix("txn_").filter(|digits| digits.len() == 32 && digits.is_ascii())?;
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

impl Ask {
    /// # Errors
    /// At the first field that is too long, or otherwise wrong by itself.
    pub fn check(&self) -> Result<(), BudgetError> {
        for (field, text) in [
            ("idempotency_key", &self.key),
            ("cluster", &self.cluster),
            ("account", &self.account),
            ("partition", &self.partition),
            ("namespace", &self.namespace),
            ("user_id", &self.user),
            ("gpu_model", &self.model),
            ("overdraft", &self.overdraft),
        ] {
            if text.len() > NAME_BYTES_MAX {
                return Err(invalid(field, format!("is longer than {NAME_BYTES_MAX} bytes")));
            }
            if text.contains('\0') {
                return Err(invalid(field, "has the character U+0000; leave it out"));
            }
        }
        for (field, number, most) in
            [("cpus", self.cpus, CPUS_MAX), ("memory_bytes", self.memory_bytes, MEMORY_BYTES_MAX)]
        {
            if number > most {
                return Err(invalid(field, format!("{number} is more than {most}")));
            }
        }
        let of_nobody = self.account.is_empty() && self.namespace.is_empty() && self.user.is_empty();
        if of_nobody && self.labels.is_empty() {
            return Err(invalid(
                "account",
                "is not there; give the account, the namespace, the user or the labels whose work it is",
            ));
        }
        if let Some((_, name)) = self.subject.as_ref().map(Subject::parts) {
            check_subject(name)?;
        }
        if !(LEASE_NS_MIN..=LEASE_NS_MAX).contains(&self.lease_ns) {
            let (least, most) = (LEASE_NS_MIN / S, LEASE_NS_MAX / S);
            return Err(invalid("lease_seconds", format!("is not {least} to {most}")));
        }
        let bytes: usize = self.details.iter().map(|(key, value)| key.len() + value.len()).sum();
        if self.details.len() > DETAILS_MAX || bytes > DETAILS_BYTES_MAX {
            let reason = format!("has more than {DETAILS_MAX} pairs or {DETAILS_BYTES_MAX} bytes");
            return Err(invalid("job_details", reason));
        }
        let bytes: usize = self.labels.iter().map(|(key, value)| key.len() + value.len()).sum();
        if self.labels.len() > DETAILS_MAX || bytes > DETAILS_BYTES_MAX {
            let reason = format!("has more than {DETAILS_MAX} pairs or {DETAILS_BYTES_MAX} bytes");
            return Err(invalid("labels", reason));
        }
        if self.given_nanos.is_some_and(|nanos| nanos < 0) {
            return Err(invalid("amount", "is less than 0"));
        }
        self.check_escrow()
    }

    fn check_escrow(&self) -> Result<(), BudgetError> {
        if self.escrow == Escrow::Lease && (self.subject.is_some() || !self.overdraft.is_empty()) {
            return Err(invalid(
                "escrow",
                "is for work that is not known yet; leave out job_id, pod_uid and overdraft",
            ));
        }
        if let Escrow::From { amount_nanos, .. } = self.escrow
            && (amount_nanos < 0 || !self.overdraft.is_empty())
        {
            return Err(invalid("escrow_amount", "has to be 0 or more, and no overdraft is needed for it"));
        }
        Ok(())
    }

    /// Whose the work's usage will be.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            cluster: self.cluster.clone(),
            namespace: self.namespace.clone(),
            user: self.user.clone(),
            account: self.account.clone(),
            partition: self.partition.clone(),
        }
    }
}

/// # Errors
/// If it is no id of a job or a pod.
pub fn check_subject(name: &str) -> Result<(), BudgetError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
        return Err(invalid("job_id", format!("has to have 1 to {NAME_BYTES_MAX} bytes, and no U+0000")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
