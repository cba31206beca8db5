//! What the gate asks of the aggregator: checks and holds, under the names of docs/budgets.md.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tonnage_proto::rest::{ErrorAnswer, PricesAnswer};

use super::client::{Answered, CallError, Client};
use super::guard::Account;
use super::need::Need;
use super::runs::Run;

/// Open holds that one answer lists,
const PAGE: usize = 1000;
/// accounts,
const ACCOUNTS: usize = 100;
/// and pages: as many holds as a ledger has.
const PAGES_MAX: usize = 101;
/// In the details of each hold of a gate: its cluster, the token, and the job that it is an addition to.
pub const GATE: &str = "gate";
pub const TOKEN: &str = "token";
pub const EXTENDS: &str = "extends";
/// It is for all tasks of an array, so that what is charged under its id tells nothing of what it cost.
pub const ARRAY: &str = "array";
/// It is no job's, but an escrow.
pub const ESCROW: &str = "escrow";

/// Whose work it is, and what it needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ask {
    /// The same key is the same ask.
    pub key: String,
    pub account: String,
    pub user: String,
    pub partition: String,
    pub need: Need,
    pub details: BTreeMap<&'static str, String>,
    /// Slurm's, if it is known.
    pub job: Option<String>,
    /// Why it is held whether there is enough or not.
    pub overdraft: String,
    pub escrow: Escrow,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Escrow {
    #[default]
    None,
    /// For so many seconds.
    Lease {
        seconds: u32,
    },
    From {
        transaction: String,
        amount: String,
    },
}

#[derive(Serialize)]
struct CheckBody<'a> {
    cluster: &'a str,
    account: &'a str,
    user_id: &'a str,
    partition: &'a str,
    gpus: u64,
    gpu_model: &'a str,
    cpus: u64,
    memory_bytes: u64,
    wall_time: String,
    idempotency_key: &'a str,
    job_details: &'a BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    overdraft: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_seconds: Option<u32>,
    escrow: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    escrow_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    escrow_amount: Option<&'a str>,
}

/// A check that was granted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Granted {
    pub transaction_id: String,
    pub exact: Amounts,
}

/// Amounts as texts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Amounts {
    /// `None`: no price is known.
    pub estimated_cost: Option<String>,
    pub hold_amount: String,
    /// What is left then; `None`: there is no limit.
    pub budget_remaining: Option<String>,
}

#[derive(Deserialize)]
struct CheckAnswer {
    available: bool,
    #[serde(default)]
    transaction_id: Option<String>,
    message: String,
    exact: Amounts,
}

/// What the ledger says to a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    Granted(Granted),
    /// There is not enough, or the account may not spend; or the ask makes no sense.
    Refused(String),
    /// It is nobody's budget's.
    Unbudgeted(String),
    /// The same was asked for otherwise, or what it refers to has ended.
    Conflict(String),
}

/// An open hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Hold {
    pub transaction_id: String,
    #[serde(default)]
    pub job_id: Option<String>,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

impl Hold {
    #[must_use]
    pub fn detail(&self, key: &str) -> &str {
        self.metadata.get(key).map_or("", String::as_str)
    }
}

/// What may be done to a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Bind { job: String },
    Name { jobs: Vec<String> },
    Join { into: String },
    Renew,
    Settle,
    Void,
}

#[derive(Serialize)]
struct JobsBody<'a> {
    cluster: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    until_s: Option<i64>,
    jobs: &'a [&'a Run],
}

/// What the ledger says to what jobs without GPUs ran for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Reported {
    /// The first so many were looked at.
    pub taken: usize,
    pub refused: Vec<RefusedRun>,
    /// Until when it was told everything; 0: of nothing yet.
    pub until_s: i64,
    /// Jobs whose ends it misses.
    pub missing: Vec<String>,
}

/// What cannot be so.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RefusedRun {
    pub job_id: String,
    pub field: String,
    pub message: String,
}

/// The ledger gave no answer, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("the aggregator did not answer")]
    Call(#[from] CallError),
    #[error("the aggregator answered {status}: {message}")]
    Status { status: StatusCode, message: String },
    #[error("the aggregator's answer cannot be read")]
    Answer(#[from] serde_json::Error),
    #[error("the aggregator lists over {0} of them")]
    TooMany(usize),
}

/// The aggregator, as a gate of one cluster sees it.
pub struct Ledger {
    client: Client,
    pub cluster: String,
    deadline: Duration,
}

impl Ledger {
    #[must_use]
    pub fn new(client: Client, cluster: String, deadline: Duration) -> Self {
        Self { client, cluster, deadline }
    }

    /// Is there enough? Then it is held.
    ///
    /// # Errors
    /// If nobody answers, or it cannot say.
    pub async fn check(&self, ask: &Ask) -> Result<Checked, LedgerError> {
        let Need { gpus, model, seconds, cpus, memory_bytes } = &ask.need;
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        let wall_time = format!("{days}-{:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
        let from = match &ask.escrow {
            Escrow::From { transaction, amount } => Some((transaction.as_str(), amount.as_str())),
            Escrow::None | Escrow::Lease { .. } => None,
        };
        let lease_seconds = if let Escrow::Lease { seconds } = ask.escrow { Some(seconds) } else { None };
        let body = CheckBody {
            cluster: &self.cluster,
            account: &ask.account,
            user_id: &ask.user,
            partition: &ask.partition,
            gpus: *gpus,
            gpu_model: model,
            cpus: *cpus,
            memory_bytes: *memory_bytes,
            wall_time,
            idempotency_key: &ask.key,
            job_details: &ask.details,
            job_id: ask.job.as_deref(),
            overdraft: &ask.overdraft,
            lease_seconds,
            escrow: lease_seconds.is_some(),
            escrow_id: from.map(|(transaction, _)| transaction),
            escrow_amount: from.map(|(_, amount)| amount),
        };
        let body = serde_json::to_vec(&body)?;
        let answered =
            self.client.call(Method::POST, "/api/v1/budget/check", body.into(), self.deadline).await?;
        match answered.status {
            StatusCode::OK => {
                let CheckAnswer { available, transaction_id, message, exact } =
                    serde_json::from_slice(&answered.body)?;
                Ok(match transaction_id.filter(|_| available) {
                    Some(transaction_id) => Checked::Granted(Granted { transaction_id, exact }),
                    None => Checked::Refused(message),
                })
            }
            StatusCode::PAYMENT_REQUIRED | StatusCode::BAD_REQUEST => {
                Ok(Checked::Refused(message(&answered)))
            }
            StatusCode::NOT_FOUND => Ok(Checked::Unbudgeted(message(&answered))),
            StatusCode::CONFLICT => Ok(Checked::Conflict(message(&answered))),
            _ => Err(status(&answered)),
        }
    }

    /// Changes a hold. What stands against it, in words, is no error: it has ended, most likely.
    ///
    /// # Errors
    /// If nobody answers, or it cannot say.
    pub async fn change(
        &self,
        transaction: &str,
        change: &Change,
    ) -> Result<Result<(), String>, LedgerError> {
        let hold = |what: &str| format!("/api/v1/holds/{transaction}/{what}");
        let (path, body) = match change {
            Change::Bind { job } => (hold("bind"), serde_json::json!({ "job_id": job })),
            Change::Name { jobs } => (hold("tasks"), serde_json::json!({ "job_ids": jobs })),
            Change::Join { into } => (hold("join"), serde_json::json!({ "into": into })),
            Change::Renew => (hold("renew"), serde_json::Value::Null),
            Change::Void => (hold("void"), serde_json::Value::Null),
            Change::Settle => {
                ("/api/v1/budget/reconcile".to_owned(), serde_json::json!({ "transaction_id": transaction }))
            }
        };
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body)? };
        let answered = self.client.call(Method::POST, &path, body.into(), self.deadline).await?;
        match answered.status {
            StatusCode::OK => Ok(Ok(())),
            StatusCode::CONFLICT | StatusCode::NOT_FOUND => Ok(Err(message(&answered))),
            _ => Err(status(&answered)),
        }
    }

    /// The open holds of this cluster's gates.
    ///
    /// # Errors
    /// If they cannot be listed whole.
    pub async fn open(&self) -> Result<Vec<Hold>, LedgerError> {
        let mut open: BTreeMap<String, Hold> = BTreeMap::new();
        for page in 0..PAGES_MAX {
            let path =
                format!("/api/v1/transactions?type=hold&status=pending&limit={PAGE}&offset={}", page * PAGE);
            let answered = self.client.call(Method::GET, &path, Bytes::new(), self.deadline).await?;
            if answered.status != StatusCode::OK {
                return Err(status(&answered));
            }
            let holds: Vec<Hold> = serde_json::from_slice(&answered.body)?;
            let last = holds.len() < PAGE;
            let own = holds.into_iter().filter(|hold| hold.detail(GATE) == self.cluster);
            open.extend(own.map(|hold| (hold.transaction_id.clone(), hold)));
            if last {
                return Ok(open.into_values().collect());
            }
        }
        Err(LedgerError::TooMany(PAGES_MAX * PAGE))
    }

    /// Tells what jobs without GPUs ran for; `until_s`: everything until then is told with this.
    ///
    /// # Errors
    /// If nobody answers, or it cannot take it.
    pub async fn report(&self, runs: &[&Run], until_s: Option<i64>) -> Result<Reported, LedgerError> {
        let body = serde_json::to_vec(&JobsBody { cluster: &self.cluster, until_s, jobs: runs })?;
        let answered =
            self.client.call(Method::POST, "/api/v1/usage/jobs", body.into(), self.deadline).await?;
        if answered.status != StatusCode::OK {
            return Err(status(&answered));
        }
        Ok(serde_json::from_slice(&answered.body)?)
    }

    /// The price book in force.
    ///
    /// # Errors
    /// If it is not told.
    pub async fn prices(&self) -> Result<PricesAnswer, LedgerError> {
        let answered = self.client.call(Method::GET, "/api/v1/prices", Bytes::new(), self.deadline).await?;
        if answered.status != StatusCode::OK {
            return Err(status(&answered));
        }
        Ok(serde_json::from_slice(&answered.body)?)
    }

    /// All accounts, as far as they matter to the guard.
    ///
    /// # Errors
    /// If they cannot be listed whole.
    pub async fn accounts(&self) -> Result<Vec<Account>, LedgerError> {
        let mut all = Vec::new();
        for page in 0..PAGES_MAX {
            let path = format!("/api/v1/accounts?limit={ACCOUNTS}&offset={}", page * ACCOUNTS);
            let answered = self.client.call(Method::GET, &path, Bytes::new(), self.deadline).await?;
            if answered.status != StatusCode::OK {
                return Err(status(&answered));
            }
            let accounts: Vec<Account> = serde_json::from_slice(&answered.body)?;
            let last = accounts.len() < ACCOUNTS;
            all.extend(accounts);
            if last {
                return Ok(all);
            }
        }
        Err(LedgerError::TooMany(PAGES_MAX * ACCOUNTS))
    }
}

fn message(answered: &Answered) -> String {
    let answer: Result<ErrorAnswer, _> = serde_json::from_slice(&answered.body);
    let message = answer.map_or_else(|_| answered.status.to_string(), |answer| answer.error.message);
    message.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn status(answered: &Answered) -> LedgerError {
    LedgerError::Status { status: answered.status, message: message(answered) }
}
