//! What somebody is to know of the ledger and its budgets, and what became of telling it. Plain data.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonnage_proto::limits::DAY_NS;

/// Who could not be told for so long is given up.
const GIVE_UP_NS: i64 = DAY_NS;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Warning,
    Critical,
}

impl Severity {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What a rule found at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about: the same finding in the same period has the same key, and the next period another.
    pub key: String,
    /// The rule's name.
    pub rule: String,
    /// What the rule looks at, as those who read alerts call it.
    pub kind: String,
    pub severity: Severity,
    /// The budget; empty if it is of none.
    pub account: String,
    /// The grant, by its number; empty if it is of none.
    #[serde(default)]
    pub grant: String,
    pub message: String,
    /// As text, with the rule's unit behind.
    pub value: String,
    pub threshold: String,
    /// Who is told, by name.
    pub channels: Vec<String>,
}

/// The numbers are the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum AlertState {
    Active = 0,
    /// A person knows.
    Acknowledged = 1,
    /// It is no longer so.
    Resolved = 2,
}

impl AlertState {
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Active, "active"), (Self::Acknowledged, "acknowledged"), (Self::Resolved, "resolved")];

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// By its number in the store.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().map(|(state, _)| state).find(|state| i64::from(*state as u8) == number)
    }
}

/// A finding, from when it was first made until it is no longer so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    pub id: i64,
    /// As it was found last.
    pub finding: Finding,
    pub state: AlertState,
    pub triggered_ns: i64,
    /// Since when it has not been found; 0 while it is.
    pub missing_ns: i64,
    /// 0 if nobody did.
    pub acknowledged_ns: i64,
    pub acknowledged_by: String,
    pub notes: String,
    /// 0 until it is.
    pub resolved_ns: i64,
}

/// What a channel is told of an alert. The numbers are the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    Trigger = 0,
    Acknowledge = 1,
    Resolve = 2,
}

impl Event {
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Trigger, "trigger"), (Self::Acknowledge, "acknowledge"), (Self::Resolve, "resolve")];

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// By its number in the store.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().map(|(event, _)| event).find(|event| i64::from(*event as u8) == number)
    }
}

/// One event for one channel, until it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub id: i64,
    pub event: Event,
    pub channel: String,
    /// Tries that failed.
    pub attempts: u32,
    pub created_ns: i64,
    pub alert: Alert,
}

impl Delivery {
    /// Is a try that fails now the last one?
    #[must_use]
    pub fn is_given_up(&self, now_ns: i64) -> bool {
        now_ns.saturating_sub(self.created_ns) >= GIVE_UP_NS
    }
}

/// How a try to tell ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    Told,
    /// To be tried again.
    Failed(String),
    /// To be tried again, and not before so long: the channel said so.
    Later(String, Duration),
    /// No other try can end differently.
    Refused(String),
}

/// What is to be done to alerts, by the one thread that writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlertAct {
    /// All that is found now.
    Judged(Vec<Finding>),
    /// What became of deliveries, by number.
    Sent(Vec<(i64, Sent)>),
    Acknowledge {
        id: i64,
        by: String,
        notes: String,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlertActed {
    Done,
    /// Another aggregator looks after alerts.
    NotOurs,
    Acknowledged(Box<Alert>),
    /// There is no such alert.
    Missing,
    /// It is resolved already.
    Resolved,
}
