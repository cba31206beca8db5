//! `tonnage grant`: what was awarded, its periods, and what is spent of it.

use std::io::Write;

use serde_json::{Map, Value};

use super::Show;
use super::audit::{confirm, path_part, query};
use super::budgets::{csv, text_of};
use super::export::save;
use crate::args::grants::{Grants, Said};
use crate::error::Error;
use crate::output::{Grid, left, right};

const PATH: &str = "/api/v1/grants";
const AMOUNTS: [(&str, &str); 4] = [
    ("direct_costs", "direct costs"),
    ("spent_amount", "spent"),
    ("committed_amount", "held"),
    ("remaining_amount", "remaining"),
];
const TEXTS: [&str; 13] = [
    "funding_agency",
    "agency_program",
    "principal_investigator",
    "institution",
    "department",
    "total_award_amount",
    "indirect_cost_rate",
    "budget_period_months",
    "current_budget_period",
    "federal_award_id",
    "internal_project_code",
    "cost_center",
    "compliance_requirements",
];

pub(super) fn grants(show: &Show<'_>, command: Grants, out: &mut dyn Write) -> Result<(), Error> {
    let path = |number: &str| format!("{PATH}/{}", path_part(number));
    let dry = |path: String, dry_run: bool| if dry_run { path + "?dry_run=true" } else { path };
    let text = match command {
        Grants::List { status, account, limit, offset } => {
            let number = |number: Option<u32>| number.map(|number| number.to_string());
            let query = query([
                ("status", status),
                ("account", account),
                ("limit", number(limit)),
                ("offset", number(offset)),
            ]);
            return show.write(&show.client.get(PATH, &query)?, list, csv, out);
        }
        Grants::Periods { number } => {
            let text = show.client.get(&format!("{}/periods", path(&number)), &[])?;
            return show.write(&text, periods, csv, out);
        }
        Grants::Report { number, kind, format, start, end, period, no_details, file } => {
            let query = query([
                ("report_type", Some(kind)),
                ("format", Some(format)),
                ("start_date", start),
                ("end_date", end),
                ("budget_period", period.map(|period| period.to_string())),
                ("include_details", no_details.then(|| "false".to_owned())),
            ]);
            save(show.client, (&format!("{}/report", path(&number)), &query), &file, out)?;
            return Ok(());
        }
        Grants::Show { number } => show.client.get(&path(&number), &[])?,
        Grants::Create { number, said, dry_run } => {
            let mut body = body(*said);
            body.insert("grant_number".to_owned(), number.into());
            show.client.send("POST", &dry(PATH.to_owned(), dry_run), &Value::Object(body).to_string())?
        }
        Grants::Update { number, status, said, dry_run } => {
            let mut body = body(*said);
            if let Some(status) = status {
                body.insert("status".to_owned(), status.into());
            }
            show.client.send("PUT", &dry(path(&number), dry_run), &Value::Object(body).to_string())?
        }
        Grants::Close { number, dry_run, yes } => {
            if !yes && !dry_run {
                confirm(&format!("Close grant {number:?}? There is no way back."))?;
            }
            show.client.send("DELETE", &dry(path(&number), dry_run), "")?;
            show.client.get(&path(&number), &[])?
        }
    };
    show.write(&text, one, |grant: &Value| csv(&vec![grant.clone()]), out)
}

/// The request that says this of a grant.
fn body(said: Said) -> Map<String, Value> {
    let texts = [
        ("account", said.account),
        ("funding_agency", said.agency),
        ("principal_investigator", said.investigator),
        ("institution", said.institution),
        ("grant_start_date", said.start),
        ("grant_end_date", said.end),
        ("total_award_amount", said.award),
        ("indirect_cost_rate", said.indirect_rate),
        ("agency_program", said.program),
        ("department", said.department),
        ("compliance_requirements", said.compliance),
        ("federal_award_id", said.federal_award_id),
        ("internal_project_code", said.project_code),
        ("cost_center", said.cost_center),
    ];
    let texts = texts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
    let mut body: Map<String, Value> = texts.collect();
    if let Some(months) = said.period_months {
        body.insert("budget_period_months".to_owned(), months.into());
    }
    if !said.co_investigators.is_empty() {
        body.insert("co_investigators".to_owned(), said.co_investigators.into());
    }
    body
}

/// A time as the day that it begins.
fn day(value: &Value, field: &str) -> String {
    text_of(value, field).chars().take(10).collect()
}

#[expect(clippy::ptr_arg, reason = "what is written is decoded as a `Vec`")]
fn list(grants: &Vec<Value>) -> Grid {
    let row = |grant: &Value| {
        let names = ["grant_number", "account", "status"].map(|field| text_of(grant, field));
        let days = ["grant_start_date", "grant_end_date"].map(|field| day(grant, field));
        let amounts = AMOUNTS.map(|(field, _)| text_of(&grant["exact"], field));
        names.into_iter().chain(days).chain(amounts).collect()
    };
    let columns = ["grant", "account", "status", "from", "until"].map(left);
    let amounts = AMOUNTS.map(|(_, title)| right(title));
    let rows = grants.iter().map(row).collect();
    Grid { columns: columns.into_iter().chain(amounts).collect(), rows, notes: Vec::new() }
}

fn one(grant: &Value) -> Grid {
    let mut grid = list(&vec![grant.clone()]);
    for field in TEXTS {
        let value = text_of(grant, field);
        if !value.is_empty() {
            grid.notes.push(format!("{field}: {value}"));
        }
    }
    let co = grant["co_investigators"].as_array().into_iter().flatten();
    grid.notes.extend(co.filter_map(Value::as_str).map(|name| format!("co-investigator: {name}")));
    grid
}

#[expect(clippy::ptr_arg, reason = "what is written is decoded as a `Vec`")]
fn periods(periods: &Vec<Value>) -> Grid {
    let amounts = [
        ("period_budget_amount", "budget"),
        ("period_direct_amount", "direct costs"),
        ("period_spent_amount", "spent"),
        ("period_committed_amount", "held"),
    ];
    let row = |period: &Value| {
        let days = ["period_start_date", "period_end_date"].map(|field| day(period, field));
        let amounts = amounts.map(|(field, _)| text_of(&period["exact"], field));
        let of = [text_of(period, "period_number"), text_of(period, "status")];
        of.into_iter().chain(days).chain(amounts).collect()
    };
    let columns = ["period", "status", "from", "until"].map(left);
    let rows = periods.iter().map(row).collect();
    let columns = columns.into_iter().chain(amounts.map(|(_, title)| right(title))).collect();
    Grid { columns, rows, notes: Vec::new() }
}
