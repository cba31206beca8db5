//! `tonnage burn-rate`, `tonnage forecast`, `tonnage usage`: how fast budgets are spent, and on what.

use std::io::Write;

use serde_json::Value;
use tonnage_proto::rest::sentinel;

use super::Show;
use super::audit::path_part;
use super::budgets::text_of;
use crate::args::budgets::{Burn, Usage};
use crate::client::Client;
use crate::error::Error;
use crate::output::{Grid, left, right};

const DAYS: [&str; 6] = [
    "daily_spend",
    "daily_expected",
    "variance_percentage",
    "cumulative_spend",
    "cumulative_expected",
    "budget_health_score",
];

pub(super) fn rate(show: &Show<'_>, burn: &Burn, out: &mut dyn Write) -> Result<(), Error> {
    show.write(&ask(show, burn)?, days, days_csv, out)
}

pub(super) fn forecast(show: &Show<'_>, burn: &Burn, out: &mut dyn Write) -> Result<(), Error> {
    show.write(&ask(show, burn)?, projection, projection_csv, out)
}

/// The answer of `/api/v1/usage`. An account that there is not has no usage either, and so is asked for by itself.
pub(super) fn used(client: &Client, command: Usage) -> Result<String, Error> {
    if let Usage::Show { account, .. } = &command
        && account != sentinel::UNASSIGNED
    {
        client.get(&format!("/api/v1/accounts/{}", path_part(account)), &[])?;
    }
    client.get("/api/v1/usage", &usage(command))
}

/// The query of `/api/v1/usage`.
fn usage(usage: Usage) -> Vec<(&'static str, String)> {
    match usage {
        Usage::Summary { window } => vec![("window", window)],
        Usage::Show { account, window, by } => {
            let account = account.replace('\\', "\\\\").replace('"', "\\\"");
            vec![("window", window), ("aggregate", by), ("filter", format!("budget:\"{account}\""))]
        }
    }
}

fn ask(show: &Show<'_>, burn: &Burn) -> Result<String, Error> {
    let path = match (&burn.grant, &burn.account) {
        (Some(grant), _) => format!("/api/v1/burn-rate/grant/{}", path_part(grant)),
        (None, account) => format!("/api/v1/burn-rate/{}", path_part(account.as_deref().unwrap_or_default())),
    };
    show.client.get(&path, &[("period", burn.period.clone())])
}

/// A number with two places; more than that nobody reads of a rate.
fn short(value: &Value, field: &str) -> String {
    value[field].as_f64().map_or_else(|| text_of(value, field), |number| format!("{number:.2}"))
}

fn days(answer: &Value) -> Grid {
    let rows = answer["historical_data"].as_array().into_iter().flatten();
    let day = |day: &Value| {
        let date = text_of(day, "date").chars().take(10).collect::<String>();
        std::iter::once(date).chain(DAYS.map(|field| short(day, field))).collect()
    };
    let titles = ["spent", "expected", "variance %", "in all", "expected", "health"].map(right);
    let now = &answer["current_metrics"];
    let line = |field: &str| format!("{field}: {}", short(now, field));
    let mut notes = vec![format!("limit: {}", text_of(&answer["budget"], "limit"))];
    notes.extend(
        [
            "rolling_7day_average",
            "rolling_30day_average",
            "daily_expected_rate",
            "cumulative_spend",
            "cumulative_expected",
            "budget_remaining_amount",
            "budget_health_score",
        ]
        .map(line),
    );
    notes.push(format!("{}, {}", text_of(now, "burn_rate_status"), text_of(now, "budget_health_status")));
    let alerts = answer["alerts"].as_array().into_iter().flatten();
    notes
        .extend(alerts.map(|alert| format!("{}: {}", text_of(alert, "severity"), text_of(alert, "message"))));
    let columns = std::iter::once(left("day")).chain(titles).collect();
    Grid { columns, rows: rows.map(day).collect(), notes }
}

fn days_csv(answer: &Value) -> Vec<Vec<String>> {
    let head = std::iter::once("date").chain(DAYS).map(str::to_owned).collect();
    let rows = answer["historical_data"].as_array().into_iter().flatten();
    let row = |day: &Value| std::iter::once("date").chain(DAYS).map(|field| text_of(day, field)).collect();
    std::iter::once(head).chain(rows.map(row)).collect()
}

fn projection(answer: &Value) -> Grid {
    let fields = answer["projection"].as_object().into_iter().flatten();
    let line = |(name, _): (&String, &Value)| format!("{name}: {}", short(&answer["projection"], name));
    let mut notes: Vec<String> = fields.map(line).collect();
    if notes.is_empty() {
        notes.push("no whole day is over yet: there is nothing to go by".to_owned());
    }
    let advice = answer["recommendations"].as_array().into_iter().flatten();
    notes.extend(advice.filter_map(Value::as_str).map(str::to_owned));
    Grid { notes, ..Grid::default() }
}

fn projection_csv(answer: &Value) -> Vec<Vec<String>> {
    let fields = answer["projection"].as_object();
    let names: Vec<String> = fields.into_iter().flatten().map(|(name, _)| name.clone()).collect();
    let values = names.iter().map(|name| text_of(&answer["projection"], name)).collect();
    vec![names, values]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_asked_for_by_its_very_name() {
        let show = |account: &str| Usage::Show {
            account: account.into(),
            window: "month".into(),
            by: "user".into(),
        };
        assert_eq!(usage(show("a\"b\\"))[2].1, r#"budget:"a\"b\\""#);
    }

    #[test]
    fn a_forecast_without_days_says_so() {
        let grid = projection(&serde_json::json!({ "recommendations": [] }));
        assert_eq!(grid.notes, ["no whole day is over yet: there is nothing to go by"]);
    }
}
