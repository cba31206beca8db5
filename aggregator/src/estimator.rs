//! Somebody outside who knows better than a time limit what work will cost, asked once at each check (docs/budgets.md, "An estimator").
//!
//! ```text
//! check -> breaker -> POST, a second one if the first fails -> what it says goes with the check to the commit thread
//!                '-> nothing: the price decides, as without an estimator
//! ```
//!
//! Constraints: nobody is refused because of it, and nobody waits longer than its time-out, which is for both tries together. What it
//! says is only ever less than what the work may cost by its price. Limits: [`ASKS_MAX`] questions at once, [`BYTES_MAX`] of an answer;
//! one more is not asked.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tonnage_proto::decimal;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::telemetry::chain;

use crate::budgets::Ask;
use crate::budgets::hold::{Escrow, Estimate};
use crate::http::{self, HttpError, Server};
use crate::metrics::Metrics;
use crate::metrics::estimator::Asked;

mod breaker;

use breaker::Breaker;

pub const ASKS_MAX: usize = 64;
pub const BYTES_MAX: usize = 64 << 10;
const TRIES: u32 = 2;
const TOKEN_BYTES_MAX: u64 = 4_096;
const S: i64 = 1_000_000_000;

/// What an operator says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub server: Server,
    /// Read for each question, so that it may be changed at any time.
    pub token_file: Option<PathBuf>,
    /// For all tries of one check.
    pub timeout: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Estimator {
    settings: Settings,
    clock: Clock,
    metrics: Arc<Metrics>,
    breaker: Mutex<Breaker>,
    asks: Semaphore,
}

/// What it is asked.
#[derive(Debug, Serialize)]
struct Question<'a> {
    cluster: &'a str,
    account: &'a str,
    partition: &'a str,
    namespace: &'a str,
    user: &'a str,
    gpus: u32,
    gpu_model: &'a str,
    time_limit_seconds: i64,
    job_details: &'a BTreeMap<String, String>,
}

/// What it answers, as far as it is read.
#[derive(Debug, Deserialize)]
struct Answer {
    estimated_cost: Box<RawValue>,
}

/// Why nothing is known.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the token cannot be read: {0}")]
    Token(String),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("estimated_cost of its answer is no amount of 0 or more")]
    Answer,
    #[error("it did not answer within {0:?}")]
    Slow(Duration),
}

impl Estimator {
    #[must_use]
    pub fn new(settings: Settings, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { settings, clock, metrics, breaker: Mutex::default(), asks: Semaphore::new(ASKS_MAX) }
    }

    /// What is known of the cost of a check. Work that runs already, and money that is leased or is taken out of a lease, has
    /// none.
    pub async fn estimate(&self, ask: &Ask) -> Estimate {
        if ask.gpus == 0 || !ask.overdraft.is_empty() || ask.escrow != Escrow::None {
            return Estimate::Price;
        }
        let Ok(_one) = self.asks.try_acquire() else { return self.none(Asked::NotAsked) };
        if !self.breaker(|breaker, now_ns| breaker.lets(now_ns)) {
            return self.none(Asked::NotAsked);
        }
        let timeout = self.settings.timeout;
        let asked = tokio::time::timeout(timeout, self.ask(ask)).await;
        match asked.unwrap_or(Err(AskError::Slow(timeout))) {
            Ok(cost_nanos) => {
                self.breaker(|breaker, _| breaker.answered());
                self.metrics.estimator.asked(Asked::Answered);
                Estimate::Outside { cost_nanos }
            }
            Err(error) => {
                let opened = self.breaker(Breaker::failed);
                let error = chain(&error);
                if opened {
                    tracing::warn!(
                        error,
                        "The estimator fails, and is left alone for a while; prices decide."
                    );
                } else {
                    tracing::debug!(error, "The estimator said nothing; the price decides.");
                }
                self.none(Asked::Failed)
            }
        }
    }

    fn none(&self, asked: Asked) -> Estimate {
        self.metrics.estimator.asked(asked);
        Estimate::Fallback
    }

    fn breaker<T>(&self, does: impl FnOnce(&mut Breaker, i64) -> T) -> T {
        let now_ns = self.clock.monotonic_ns();
        does(&mut self.breaker.lock().unwrap_or_else(PoisonError::into_inner), now_ns)
    }

    async fn ask(&self, ask: &Ask) -> Result<i64, AskError> {
        let question = Question {
            cluster: &ask.cluster,
            account: &ask.account,
            partition: &ask.partition,
            namespace: &ask.namespace,
            user: &ask.user,
            gpus: ask.gpus,
            gpu_model: &ask.model,
            time_limit_seconds: ask.time_ns / S,
            job_details: &ask.details,
        };
        let body = serde_json::to_vec(&question).map_err(|_| AskError::Answer)?;
        let mut headers = vec![("content-type", "application/json".to_owned())];
        if let Some(path) = &self.settings.token_file {
            headers.push(("authorization", format!("Bearer {}", token(path).map_err(AskError::Token)?)));
        }
        let mut left = TRIES;
        loop {
            left -= 1;
            let question = http::Question {
                method: Method::POST,
                path_and_query: "",
                headers: headers.clone(),
                body: Bytes::from(body.clone()),
                timeout: self.settings.timeout,
                bytes_max: BYTES_MAX,
            };
            match http::ask(&self.settings.server, question).await {
                Ok(answer) => return cost(&answer).ok_or(AskError::Answer),
                Err(error) if error.passing() && left > 0 => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Nano-dollars of an answer: a JSON number, to the nearest one, or the same as text; never by way of a float.
fn cost(answer: &[u8]) -> Option<i64> {
    let answer: Answer = serde_json::from_slice(answer).ok()?;
    let nanos = decimal::json_nanos(answer.estimated_cost.get())?;
    i64::try_from(nanos).ok().filter(|nanos| *nanos >= 0)
}

/// Without the line's end.
fn token(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file =
        std::fs::File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text));
    file.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_an_amount_to_the_last_place_or_none() {
        for (text, expected) in [
            ("12.5", Some(12_500_000_000)),
            ("\"0.000000001\"", Some(1)),
            ("0", Some(0)),
            ("-1", None),
            ("1e3", Some(1_000_000_000_000)),
            ("0.30000000000000004", Some(300_000_000)),
            ("\"1e3\"", None),
            ("null", None),
            ("\"much\"", None),
            ("99999999999999999999", None),
            ("[1]", None),
        ] {
            assert_eq!(
                cost(format!("{{\"estimated_cost\": {text}, \"x\": 1}}").as_bytes()),
                expected,
                "{text}"
            );
        }
        for garbage in ["", "{}", "<html>", "[]", "7"] {
            assert_eq!(cost(garbage.as_bytes()), None, "{garbage}");
        }
    }
}
