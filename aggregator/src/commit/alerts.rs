//! What becomes of alerts, within the transaction of the one thread that writes: triggered once, resolved once it has not been
//! so for a while, told until it was told.
//!
//! Nothing here is journalled: no charge and no balance depends on it.

use std::collections::HashMap;

use tonnage_proto::limits::DAY_NS;

use super::CommitError;
use crate::model::{Alert, AlertAct, AlertActed, AlertState, Event, Finding, Sent};
use crate::store::sql::Connection;
use crate::store::{alerts, closing};

/// How long another aggregator waits before it looks after alerts in place of one that is gone.
const LEASE_NS: i64 = 90_000_000_000;
const LEASE: &str = "alerts";
/// What has not been found for so long is resolved: late data may move a sum to and fro.
const CLEAR_NS: i64 = 300_000_000_000;
/// Who could not be told for so long is given up.
const GIVE_UP_NS: i64 = DAY_NS;
const BACKOFF_NS: i64 = 5_000_000_000;
const BACKOFF_NS_MAX: i64 = 900_000_000_000;
/// How long resolved alerts are kept.
const KEEP_NS: i64 = 400 * DAY_NS;
/// Alerts that are open at once; of more findings the first are taken.
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
            alerts::forget(db, now_ns - KEEP_NS)?;
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
    let mut room = OPEN_MAX.saturating_sub(open.len());
    let mut found: HashMap<&str, &Finding> =
        findings.iter().map(|finding| (finding.key.as_str(), finding)).collect();
    for alert in open {
        let now = match found.remove(alert.finding.key.as_str()) {
            Some(finding) => Alert { finding: finding.clone(), missing_ns: 0, ..alert.clone() },
            None if alert.missing_ns == 0 => Alert { missing_ns: now_ns, ..alert.clone() },
            None if now_ns.saturating_sub(alert.missing_ns) < CLEAR_NS => continue,
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
    // In the order of the rules.
    for finding in findings.iter().filter(|finding| found.contains_key(finding.key.as_str())) {
        if room == 0 {
            tracing::warn!(
                OPEN_MAX,
                "More is to be told of than alerts can be open; the last rules' is left out."
            );
            break;
        }
        room -= 1;
        let id = alerts::add(db, finding, now_ns)?;
        alerts::tell(db, id, Event::Trigger, &finding.channels, now_ns)?;
    }
    Ok(())
}

fn told(db: &Connection, id: i64, sent: &Sent, now_ns: i64) -> Result<(), CommitError> {
    // Told meanwhile, by another aggregator whose lease has ended.
    let Some(delivery) = alerts::delivery_of(db, id)? else { return Ok(()) };
    match sent {
        Sent::Told => alerts::done(db, id, "", now_ns)?,
        Sent::Refused(error) => alerts::done(db, id, error, now_ns)?,
        Sent::Failed(error) if now_ns.saturating_sub(delivery.created_ns) >= GIVE_UP_NS => {
            alerts::done(db, id, error, now_ns)?;
        }
        Sent::Failed(error) => {
            let wait_ns = BACKOFF_NS << delivery.attempts.min(16);
            alerts::again(db, id, error, now_ns.saturating_add(wait_ns.min(BACKOFF_NS_MAX)))?;
        }
    }
    Ok(())
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
