//! `tonnage alert`.

use std::io::Write;

use serde_json::{Value, json};

use super::Show;
use super::audit::query;
use crate::args::Alerts;
use crate::error::Error;
use crate::output::{Grid, left, right};

const FIELDS: [&str; 13] = [
    "id",
    "status",
    "severity",
    "account_id",
    "rule",
    "alert_type",
    "actual_value",
    "threshold_value",
    "triggered_at",
    "acknowledged_at",
    "acknowledged_by",
    "resolved_at",
    "message",
];

pub(super) fn alerts(show: &Show<'_>, command: Alerts, out: &mut dyn Write) -> Result<(), Error> {
    match command {
        Alerts::List { account, status, limit } => {
            let limit = limit.map(|limit| limit.to_string());
            let query = query([("account", account), ("status", status), ("limit", limit)]);
            let text = show.client.get("/api/v1/alerts", &query)?;
            show.write(&text, |all: &Vec<Value>| grid(all), |all| csv(all), out)
        }
        Alerts::Acknowledge { id, notes } => {
            let body = json!({ "notes": notes.unwrap_or_default() });
            let path = format!("/api/v1/alerts/{id}/acknowledge");
            let text = show.client.send("POST", &path, &body.to_string())?;
            let one = std::slice::from_ref::<Value>;
            show.write(&text, |alert| grid(one(alert)), |alert| csv(one(alert)), out)
        }
    }
}

fn text(alert: &Value, field: &str) -> String {
    match &alert[field] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn grid(alerts: &[Value]) -> Grid {
    let row = |alert: &Value| {
        let knows = text(alert, "acknowledged_by");
        let status = match text(alert, "status") {
            known if knows.is_empty() => known,
            known => format!("{known} ({knows})"),
        };
        vec![
            text(alert, "id"),
            status,
            text(alert, "severity"),
            text(alert, "triggered_at"),
            text(alert, "rule"),
            text(alert, "message"),
        ]
    };
    let mut columns = vec![right("id")];
    columns.extend(["status", "severity", "since", "rule", "message"].map(left));
    Grid { columns, rows: alerts.iter().map(row).collect(), notes: Vec::new() }
}

fn csv(alerts: &[Value]) -> Vec<Vec<String>> {
    let rows = alerts.iter().map(|alert| FIELDS.map(|field| text(alert, field)).to_vec());
    std::iter::once(FIELDS.map(str::to_owned).to_vec()).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_says_since_when_it_is_so_and_who_knows() {
        let alert = json!({
            "id": 7, "status": "acknowledged", "severity": "warning", "acknowledged_by": "ada", "rule": "nearly spent",
            "message": "physics: 83.2 %", "triggered_at": "2026-03-01T00:00:00Z", "account_id": "physics",
        });
        let lines = grid(std::slice::from_ref(&alert)).lines();
        assert!(
            lines[1].contains("acknowledged (ada)") && lines[1].ends_with("physics: 83.2 %"),
            "{lines:?}"
        );
        let rows = csv(&[alert]);
        assert_eq!((rows[0].len(), rows[1][0].as_str(), rows[1][11].as_str()), (rows[1].len(), "7", ""));
    }
}
