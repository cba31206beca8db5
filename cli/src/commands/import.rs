//! `tonnage import asbb`: moves what an ASBB knows here: what is left of accounts, parts to come, grants, open holds, files of jobs.
//!
//! Each thing is sent by itself, under a name by which it is the same when it is sent again: so whatever breaks off is done again, and
//! changes nothing that is there. What cannot be moved is a row with its reason, and makes the exit code 1.

use std::io::Write;

use serde_json::{Value, json};
use tonnage_proto::decimal::from_nanos;
use tonnage_proto::rest::ErrorAnswer;
use ureq::http::StatusCode;

use super::Show;
use super::audit::{confirm, path_part};
use super::budgets::text_of;
use crate::args::Output;
use crate::args::moved::{Asbb, Import};
use crate::error::Error;
use crate::output::{self, Grid, left, right};
use plan::{Item, MARK, Moved, Plan};

mod plan;
mod rows;
mod source;

/// What became of one thing.
struct Row {
    what: &'static str,
    name: String,
    amount: Option<i128>,
    /// moved, there already, settled, kept, refused; would be moved
    result: &'static str,
    detail: String,
}

pub(super) fn import(show: &Show<'_>, command: Import, out: &mut dyn Write) -> Result<(), Error> {
    let Import::Asbb(asbb) = command;
    let Asbb { from_url, from_token_file, from_dir, job_files, cluster, grant_accounts, dry_run, yes } =
        *asbb;
    let mut found = match (from_url, from_dir) {
        (Some(url), _) => source::from_server(url, from_token_file.as_deref())?,
        (None, Some(folder)) => source::from_folder(&folder)?,
        (None, None) => source::Source::default(),
    };
    if let Some(folder) = job_files {
        found.job_files = source::job_files(&folder)?;
    }
    let plan = Plan::of(&found, cluster.as_deref(), &grant_accounts);
    if !dry_run && !yes {
        let Plan { accounts, holds, grants, jobs, .. } = &plan;
        let [accounts, holds, grants, jobs] = [accounts.len(), holds.len(), grants.len(), jobs.len()];
        confirm(&format!(
            "Move {accounts} accounts, {holds} holds, {grants} grants and {jobs} files of jobs here? Names of accounts are never \
             used again."
        ))?;
    }
    let mut rows: Vec<Row> = plan
        .refused
        .iter()
        .map(|of| Row {
            what: of.what,
            name: of.name.clone(),
            amount: None,
            result: "refused",
            detail: of.reason.clone(),
        })
        .collect();
    let work = Work { show, dry_run };
    for account in &plan.accounts {
        work.account(account, &mut rows)?;
    }
    for (what, path, items) in [
        ("hold", "/api/v1/holds", &plan.holds),
        ("grant", "/api/v1/grants", &plan.grants),
        ("job", "/api/v1/asbx/reconcile", &plan.jobs),
    ] {
        for item in items {
            rows.push(work.item(what, path, item)?);
        }
    }
    let sums = plan.accounts.iter().map(|account| work.sum(account)).collect::<Result<Vec<_>, _>>()?;
    let refused = rows.iter().filter(|row| row.result == "refused").count();
    written(show, &rows, &sums, dry_run, out)?;
    if refused == 0 {
        return Ok(());
    }
    out.flush()?;
    Err(Error::Refused(format!("{refused} rows were refused; each is listed with its reason")))
}

struct Work<'a> {
    show: &'a Show<'a>,
    dry_run: bool,
}

impl Work<'_> {
    /// The answer, or why it was refused. What is wrong with us or the server ends all.
    fn told(&self, method: &str, path: &str, body: &str) -> Result<Result<Value, String>, Error> {
        let client = self.show.client;
        let (status, text) = client.ask(method, path, body)?;
        if status.is_success() {
            return Ok(Ok(client.parse(&text)?));
        }
        let refused = status.is_client_error()
            && !matches!(
                status,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
            );
        match serde_json::from_str::<ErrorAnswer>(&text) {
            Ok(answer) if refused => Ok(Err(answer.error.message)),
            _ => Err(client.refusal(status, &text)),
        }
    }

    /// Makes an account, then what comes to it, and binds usage to it last: whoever finds one without bindings goes on.
    fn account(&self, moved: &Moved, rows: &mut Vec<Row>) -> Result<(), Error> {
        let path = format!("/api/v1/accounts/{}", path_part(&moved.name));
        let amount = Some(moved.limit - moved.used);
        let row = |result, detail: String| Row {
            what: "account",
            name: moved.name.clone(),
            amount,
            result,
            detail,
        };
        let known = self.told("GET", &path, "")?.ok();
        let begun = known.as_ref().is_some_and(|known| {
            text_of(known, "description").starts_with(MARK)
                && known["bindings"].as_array().is_some_and(Vec::is_empty)
        });
        if known.is_some() && !begun {
            rows.push(row("there already", "left as it is".to_owned()));
            return Ok(());
        }
        if self.dry_run {
            rows.push(row("would be moved", text_of(&moved.body, "description")));
            return Ok(());
        }
        if !begun && let Err(reason) = self.told("POST", "/api/v1/accounts", &moved.body.to_string())? {
            rows.push(row("refused", reason));
            return Ok(());
        }
        let query = [("account", moved.name.clone())];
        let there: Vec<Value> =
            self.show.client.parse(&self.show.client.get("/api/v1/allocations", &query)?)?;
        for (schedule, paused) in moved.schedules.iter().skip(there.len()) {
            rows.push(self.schedule(moved, schedule, *paused)?);
        }
        let bindings = json!({ "bindings": [{ "account": moved.name }] });
        rows.push(match self.told("PUT", &path, &bindings.to_string())? {
            Ok(account) => row("moved", text_of(&account, "description")),
            Err(reason) => row("refused", reason),
        });
        Ok(())
    }

    fn schedule(&self, moved: &Moved, schedule: &Value, paused: bool) -> Result<Row, Error> {
        let made = match self.told("POST", "/api/v1/allocations", &schedule.to_string())? {
            Ok(made) if paused => {
                let path = format!("/api/v1/allocations/{}/pause", text_of(&made, "id"));
                self.told("POST", &path, "")?
            }
            made => made,
        };
        let (result, detail) = match made {
            Ok(made) => ("moved", format!("next on {}", text_of(&made, "next_allocation_date"))),
            Err(reason) => ("refused", reason),
        };
        Ok(Row { what: "schedule", name: moved.name.clone(), amount: None, result, detail })
    }

    fn item(&self, what: &'static str, path: &str, item: &Item) -> Result<Row, Error> {
        let row = |result, detail: String| Row {
            what,
            name: item.name.clone(),
            amount: item.amount,
            result,
            detail,
        };
        if what == "grant" && self.told("GET", &format!("{path}/{}", path_part(&item.name)), "")?.is_ok() {
            return Ok(row("there already", "left as it is".to_owned()));
        }
        if self.dry_run {
            return Ok(row("would be moved", String::new()));
        }
        Ok(match self.told("POST", path, &item.body)? {
            Ok(answer) if what == "job" => {
                let result = if answer["success"] == true { "settled" } else { "kept" };
                row(result, text_of(&answer, "message"))
            }
            Ok(answer) if what == "hold" => {
                let [id, state] = ["transaction_id", "state"].map(|field| text_of(&answer, field));
                row("moved", format!("{id} is {state}"))
            }
            Ok(_) => row("moved", String::new()),
            Err(reason) if reason.contains("already") => row("there already", reason),
            Err(reason) => row("refused", reason),
        })
    }

    /// What was left of an account there, what is to be left here, and what is.
    fn sum(&self, moved: &Moved) -> Result<Value, Error> {
        let path = format!("/api/v1/accounts/{}", path_part(&moved.name));
        let here = self.told("GET", &path, "")?.ok().filter(|_| !self.dry_run);
        Ok(json!({
            "account": moved.name, "available_before": from_nanos(moved.before()),
            "held_for_ended_jobs": from_nanos(moved.held - moved.open), "available_after": from_nanos(moved.after()),
            "available_here": here.map(|here| text_of(&here["exact"], "budget_available")),
        }))
    }
}

fn written(
    show: &Show<'_>,
    rows: &[Row],
    sums: &[Value],
    dry_run: bool,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let amount = |row: &Row| row.amount.map(from_nanos).unwrap_or_default();
    let cells = |row: &Row| {
        vec![row.what.to_owned(), row.name.clone(), amount(row), row.result.to_owned(), row.detail.clone()]
    };
    let titles = ["what", "name", "amount", "result", "detail"];
    match show.output {
        Output::Json => {
            let row = |row: &Row| {
                let cells = cells(row).into_iter().map(Value::from);
                Value::Object(titles.iter().map(|title| (*title).to_owned()).zip(cells).collect())
            };
            let rows: Vec<Value> = rows.iter().map(row).collect();
            output::json(&json!({ "dry_run": dry_run, "rows": rows, "accounts": sums }), out)?;
        }
        Output::Csv => {
            let head = titles.map(str::to_owned).to_vec();
            output::csv(std::iter::once(head).chain(rows.iter().map(cells)), out)?;
        }
        Output::Table => {
            let note = |sum: &Value| {
                let [account, before, ended, after, here] = [
                    "account",
                    "available_before",
                    "held_for_ended_jobs",
                    "available_after",
                    "available_here",
                ]
                .map(|field| text_of(sum, field));
                let here = if here.is_empty() { String::new() } else { format!("; here there is {here}") };
                format!(
                    "{account}: {before} was left there, and {ended} held for jobs that had ended: {after} in all{here}"
                )
            };
            let columns =
                [left("what"), left("name"), right("amount"), left("result"), left("detail")].to_vec();
            let grid = Grid {
                columns,
                rows: rows.iter().map(cells).collect(),
                notes: sums.iter().map(note).collect(),
            };
            grid.write(out)?;
        }
    }
    Ok(())
}
