//! `tonnage allocation`: limits that come in parts.

use std::io::Write;

use serde_json::{Map, Value, json};

use super::Show;
use super::audit::{confirm, query};
use super::budgets::{csv, text_of};
use crate::args::budgets::Allocations;
use crate::error::Error;
use crate::output::{Grid, left, right};

const PATH: &str = "/api/v1/allocations";
const NAMES: [&str; 5] = ["id", "account", "allocation_frequency", "status", "next_allocation_date"];
const AMOUNTS: [&str; 4] = ["allocation_amount", "allocated_to_date", "remaining_budget", "due_amount"];

pub(super) fn allocations(show: &Show<'_>, command: Allocations, out: &mut dyn Write) -> Result<(), Error> {
    let decide =
        |schedule: i64, verb: &str| show.client.send("POST", &format!("{PATH}/{schedule}/{verb}"), "");
    let text = match command {
        Allocations::List { account } => {
            let text = show.client.get(PATH, &query([("account", account)]))?;
            return show.write(&text, list, csv, out);
        }
        Allocations::Process { schedule, dry_run, yes } => {
            let ask = |dry_run: bool| {
                let body = json!({ "schedule_id": schedule, "dry_run": dry_run }).to_string();
                show.client.send("POST", &format!("{PATH}/process"), &body)
            };
            if !dry_run && !yes {
                let would: Value = show.client.parse(&ask(true)?)?;
                let (count, total) =
                    (text_of(&would, "processed_count"), text_of(&would["exact"], "total_allocated"));
                confirm(&format!("Allocate {total} by {count} schedules? There is no way back."))?;
            }
            let rows = |answer: &Value| csv(&answer["allocations"].as_array().cloned().unwrap_or_default());
            return show.write(&ask(dry_run)?, processed, rows, out);
        }
        Allocations::Create { account, total, amount, every, start, end, zone, by_hand } => {
            let given = [
                ("account", Some(Value::from(account))),
                ("total_budget", Some(total.into())),
                ("allocation_amount", Some(amount.into())),
                ("allocation_frequency", Some(every.into())),
                ("start_date", Some(start.into())),
                ("end_date", end.map(Value::from)),
                ("zone", zone.map(Value::from)),
                ("auto_allocate", Some((!by_hand).into())),
            ];
            let given = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
            let body: Map<String, Value> = given.collect();
            show.client.send("POST", PATH, &Value::Object(body).to_string())?
        }
        Allocations::Show { schedule } => show.client.get(&format!("{PATH}/{schedule}"), &[])?,
        Allocations::Pause { schedule } => decide(schedule, "pause")?,
        Allocations::Resume { schedule } => decide(schedule, "resume")?,
        Allocations::Cancel { schedule, yes } => {
            if !yes {
                confirm(&format!("Cancel schedule {schedule}? There is no way back."))?;
            }
            decide(schedule, "cancel")?
        }
    };
    show.write(&text, one, |schedule: &Value| csv(&vec![schedule.clone()]), out)
}

#[expect(clippy::ptr_arg, reason = "what is written is decoded as a `Vec`")]
fn list(schedules: &Vec<Value>) -> Grid {
    let row = |schedule: &Value| {
        let names = NAMES.map(|field| text_of(schedule, field));
        names.into_iter().chain(AMOUNTS.map(|field| text_of(&schedule["exact"], field))).collect()
    };
    let titles = ["id", "account", "every", "status", "next"].map(left);
    let amounts = ["amount", "allocated", "remaining", "due"].map(right);
    let rows = schedules.iter().map(row).collect();
    Grid { columns: titles.into_iter().chain(amounts).collect(), rows, notes: Vec::new() }
}

fn one(schedule: &Value) -> Grid {
    let mut grid = list(&vec![schedule.clone()]);
    let parts = schedule["history"].as_array().into_iter().flatten();
    grid.notes.extend(parts.map(|part| format!("{}: {}", text_of(part, "date"), text_of(part, "amount"))));
    grid
}

fn processed(answer: &Value) -> Grid {
    let rows = answer["allocations"].as_array().into_iter().flatten();
    let names = ["schedule_id", "account_id", "transaction_id"];
    let amount = |row: &Value| text_of(&row["exact"], "allocated_amount");
    let rows = rows.map(|row| names.iter().map(|field| text_of(row, field)).chain([amount(row)]).collect());
    let rows = rows.collect();
    let (count, total) = (text_of(answer, "processed_count"), text_of(&answer["exact"], "total_allocated"));
    let done = if answer["dry_run"] == true { "would allocate" } else { "allocated" };
    let columns = names.map(left).into_iter().chain([right("allocated_amount")]).collect();
    Grid { columns, rows, notes: vec![format!("{done} {total} by {count} schedules")] }
}
