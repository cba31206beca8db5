//! What becomes of alerts, within the transaction of the one thread that writes: triggered once, resolved once it has not been
//! so for a while, told until it was told.
//!
//! Nothing here is journalled: no charge and no balance depends on it.

use std::cmp::Reverse;
use std::collections::HashMap;

use tonnage_proto::limits::DAY_NS;

use super::CommitError;
use crate::model::{Alert, AlertAct, AlertActed, AlertState, Event, Finding, Sent};
use crate::store::alerts::WAIT_NS_MAX;
use crate::store::sql::Connection;
use crate::store::{alerts, closing};

/// How long another aggregator waits before it looks after alerts in place of one that is gone.
const LEASE_NS: i64 = 90_000_000_000;
const LEASE: &str = "alerts";
/// What has not been found for so long is resolved: late data may move a sum to and fro.
const CLEAR_NS: i64 = 300_000_000_000;
const BACKOFF_NS: i64 = 5_000_000_000;
const BACKOFF_NS_MAX: i64 = 900_000_000_000;
const ERROR_CHARS_MAX: usize = 500;
/// How long resolved alerts are kept.
const KEEP_NS: i64 = 400 * DAY_NS;
/// Alerts that are kept: what goes to and fro for months fills no disk.
const KEEP_MAX: i64 = 100_000;
/// Alerts of budgets that are open at once. Those of the ledger as a whole are no more than there are rules, and always have room.
const OPEN_MAX: usize = 2_000;

/// Does it.
pub(super) fn act(
    db: &Connection,
    holder: &str,
    act: &AlertAct,
    now_ns: i64,
) -> Result<AlertActed, CommitError> {
    match act {
        AlertAct::Judged(findings) => {
            if !closing::lease(db, LEASE, holder, now_ns, now_ns.saturating_add(LEASE_NS))? {
                return Ok(AlertActed::NotOurs);
            }
            judged(db, findings, now_ns)?;
            alerts::forget(db, now_ns - KEEP_NS, KEEP_MAX)?;
            Ok(AlertActed::Done)
        }
        AlertAct::Sent(sent) => {
            for (id, sent) in sent {
                told(db, *id, sent, now_ns)?;
            }
            Ok(AlertActed::Done)
        }
        AlertAct::Acknowledge { id, by, notes } => acknowledge(db, *id, by, notes, now_ns),
    }
}

fn judged(db: &Connection, findings: &[Finding], now_ns: i64) -> Result<(), CommitError> {
    let open = alerts::open(db)?;
    let of_budgets = open.iter().filter(|alert| !alert.finding.account.is_empty()).count();
    let mut room = OPEN_MAX.saturating_sub(of_budgets);
    // What nothing tells apart, such as the same limit in two zones, is one alert: that of the first.
    let mut found: HashMap<&str, &Finding> = HashMap::new();
    for finding in findings {
        found.entry(&finding.key).or_insert(finding);
    }
    for alert in open {
        let now = match found.remove(alert.finding.key.as_str()) {
            Some(finding) => {
                told_elsewhere(db, &alert, finding, now_ns)?;
                Alert { finding: finding.clone(), missing_ns: 0, ..alert.clone() }
            }
            // It began to be missing; or that was by a clock that has been set back.
            None if !(1..=now_ns).contains(&alert.missing_ns) => {
                Alert { missing_ns: now_ns, ..alert.clone() }
            }
            None if now_ns - alert.missing_ns < CLEAR_NS => continue,
            None => {
                let resolved = Alert { state: AlertState::Resolved, resolved_ns: now_ns, ..alert.clone() };
                alerts::tell(db, alert.id, Event::Resolve, &alert.finding.channels, now_ns)?;
                resolved
            }
        };
        if now != alert {
            alerts::put(db, &now)?;
        }
    }
    // The worst first, and then in the order of the rules.
    let mut new: Vec<&Finding> =
        findings.iter().filter(|finding| found.remove(finding.key.as_str()).is_some()).collect();
    new.sort_by_key(|finding| Reverse(finding.severity));
    let mut left_out = 0;
    for finding in new {
        if !finding.account.is_empty() {
            if room == 0 {
                left_out += 1;
                continue;
            }
            room -= 1;
        }
        let id = alerts::add(db, finding, now_ns)?;
        alerts::tell(db, id, Event::Trigger, &finding.channels, now_ns)?;
    }
    if left_out > 0 {
        tracing::warn!(left_out, OPEN_MAX, "More is to be told of than alerts of budgets can be open.");
    }
    Ok(())
}

/// Where a rule tells others than before: whom it tells no more hears that it is over there, and whoever is new what it is.
fn told_elsewhere(db: &Connection, alert: &Alert, finding: &Finding, now_ns: i64) -> Result<(), CommitError> {
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|channel| !those.contains(channel)).cloned().collect()
    };
    let (were, are) = (&alert.finding.channels, &finding.channels);
    let new = only(are, were);
    alerts::tell(db, alert.id, Event::Resolve, &only(were, are), now_ns)?;
    alerts::tell(db, alert.id, Event::Trigger, &new, now_ns)?;
    if alert.state == AlertState::Acknowledged {
        alerts::tell(db, alert.id, Event::Acknowledge, &new, now_ns)?;
    }
    Ok(())
}

fn told(db: &Connection, id: i64, sent: &Sent, now_ns: i64) -> Result<(), CommitError> {
    // Told meanwhile, by another aggregator whose lease has ended.
    let Some(delivery) = alerts::delivery_of(db, id)? else { return Ok(()) };
    match sent {
        Sent::Told => alerts::done(db, id, "", now_ns)?,
        Sent::Refused(error) => alerts::done(db, id, &kept(error), now_ns)?,
        Sent::Failed(error) | Sent::Later(error, _) if delivery.is_given_up(now_ns) => {
            alerts::done(db, id, &kept(error), now_ns)?;
        }
        Sent::Failed(error) | Sent::Later(error, _) => {
            let wait_ns = (BACKOFF_NS << delivery.attempts.min(16)).min(BACKOFF_NS_MAX);
            let asked_ns = match sent {
                Sent::Later(_, wait) => i64::try_from(wait.as_nanos()).unwrap_or(i64::MAX).min(WAIT_NS_MAX),
                _ => 0,
            };
            alerts::again(db, id, &kept(error), now_ns.saturating_add(wait_ns.max(asked_ns)))?;
        }
    }
    Ok(())
}

/// What of an error is stored: a server may have written it.
fn kept(error: &str) -> String {
    error.replace(char::is_control, " ").chars().take(ERROR_CHARS_MAX).collect()
}

fn acknowledge(
    db: &Connection,
    id: i64,
    by: &str,
    notes: &str,
    now_ns: i64,
) -> Result<AlertActed, CommitError> {
    let Some(alert) = alerts::one(db, id)? else {
        return Ok(AlertActed::Missing);
    };
    match alert.state {
        AlertState::Resolved => Ok(AlertActed::Resolved),
        // Whoever was first is named.
        AlertState::Acknowledged => Ok(AlertActed::Acknowledged(Box::new(alert))),
        AlertState::Active => {
            let alert = Alert {
                state: AlertState::Acknowledged,
                acknowledged_ns: now_ns,
                acknowledged_by: by.to_owned(),
                notes: notes.to_owned(),
                ..alert
            };
            alerts::put(db, &alert)?;
            alerts::tell(db, id, Event::Acknowledge, &alert.finding.channels, now_ns)?;
            Ok(AlertActed::Acknowledged(Box::new(alert)))
        }
    }
}
