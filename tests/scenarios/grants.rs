//! Grants through whole processes: made by the command line, spent by jobs on both sides of a budget period's edge, reported in three
//! forms, and the same after a kill.

use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use harness::forged::{Forged, seal, window};
use harness::http::{http, post};
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use serde_json::{Value, json};
use tonnage_proto::decimal::{from_nanos, to_nanos};
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::metering::{Owner, Usage, owner};
use tonnage_proto::method::HELD_ALLOCATION;

use crate::ledgers::orders::{refused, said};

const S: i64 = 1_000_000_000;
/// 2027-01-01 00:00 UTC, two weeks before the world begins: the edge of two periods.
const EDGE: i64 = 1_798_761_600 * S;
const NUMBER: &str = "NSF 25/34-A";
const CREATE: [&str; 19] = [
    "grant",
    "create",
    NUMBER,
    "--account",
    "physics",
    "--agency",
    "NSF",
    "--pi",
    "Zo\u{eb} \u{141}ukasz",
    "--institution",
    "Universit\u{e4}t",
    "--start",
    "2026-12-01",
    "--end",
    "2027-06-01",
    "--award",
    "1550.000000001",
    "--period-months",
    "1",
];

fn json_of(world: &World, args: &[&str]) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&said(world, &[args, &["-o", "json"]].concat())?)?)
}

fn nanos(value: &Value) -> anyhow::Result<i128> {
    to_nanos(value.as_str().unwrap_or_default()).with_context(|| format!("{value} is no amount"))
}

/// Jobs of the account and one below it: ten seconds before the edge, six behind it, and five now; and a job of somebody else.
fn spend(world: &World) -> anyhow::Result<()> {
    let forged = Forged::new(&world.aggregator.uplink(), "c", "n1")?;
    let now = world.now().wall_ns;
    let ten = (10 * S).unsigned_abs();
    let windows = [(EDGE - 10 * S, 0, 10), (EDGE, 1, 6), (now - 30 * S, 0, 5), (now - 20 * S, 2, 10)];
    let windows = windows.map(|(start_ns, owner, seconds)| {
        let mut window = window(start_ns, ten, (seconds * S).unsigned_abs());
        window.usages = vec![Usage { owner, method: HELD_ALLOCATION, ..window.usages[0] }];
        window
    });
    let job = |account: &str, user: &str, job: &str| Owner {
        kind: owner::Kind::SlurmJob.into(),
        job_id: job.into(),
        account: account.into(),
        partition: "gpu".into(),
        user: user.into(),
        ..Owner::default()
    };
    let mut batch = forged.batch(1, windows.to_vec());
    batch.owners = vec![job("physics", "ada", "1"), job("lattice", "bob", "2"), job("other", "eve", "3")];
    let (mut wire, _) = forged.open()?;
    let (outcome, detail) = wire.ack(seal(&batch))?;
    ensure!(outcome == Outcome::Accepted, "{detail}");
    Ok(())
}

/// What the table of costs has for both accounts in a window of days.
fn cost(world: &World, from: &str, to: &str) -> anyhow::Result<i128> {
    let path = format!("/api/v1/usage?window={from}T00:00:00Z,{to}T00:00:00Z");
    let answer: Value = world.aggregator.answer(&path)?;
    let rows = answer["rows"].as_array().into_iter().flatten();
    let own = rows.filter(|row| row["key"]["budget"] == "physics" || row["key"]["budget"] == "lattice");
    own.map(|row| nanos(&row["held_cost"])).sum()
}

fn spent(periods: &Value) -> anyhow::Result<Vec<i128>> {
    let periods = periods.as_array().into_iter().flatten();
    periods.map(|period| nanos(&period["exact"]["period_spent_amount"])).collect()
}

fn site() -> anyhow::Result<World> {
    site_of("")
}

/// With these prices beside that of a GPU.
fn site_of(prices: &str) -> anyhow::Result<World> {
    let mut world = World::new(1)?;
    let book = "currency = \"USD\"\n[[price]]\nprice = \"3.60\"\nunit = \"gpu_hour\"\n".to_owned();
    std::fs::write(world.aggregator.prices(), book + prices)?;
    world.aggregator.start(DEADLINE)?;
    said(&world, &["account", "create", "physics", "--start", "2026-12-01"])?;
    said(&world, &["account", "create", "lattice", "--parent", "physics", "--start", "2026-12-01"])?;
    // Into a slot that is not closed.
    world.move_clock(60 * S)?;
    Ok(world)
}

#[test]
fn what_is_spent_of_a_grant_is_what_the_ledger_charged_in_each_of_its_periods_to_the_nano()
-> anyhow::Result<()> {
    let mut world = site()?;
    let dry = json_of(&world, &[&CREATE[..], &["--indirect-rate", "0.55", "--dry-run"]].concat())?;
    ensure!(dry["exact"]["direct_costs"] == "1000.000000000", "{dry}");
    ensure!(json_of(&world, &["grant", "list"])? == json!([]), "a dry run makes nothing");
    let made = json_of(&world, &[&CREATE[..], &["--indirect-rate", "0.55"]].concat())?;
    ensure!(made["status"] == "active" && made["current_budget_period"] == 2, "{made}");
    spend(&world)?;

    let periods = json_of(&world, &["grant", "periods", NUMBER])?;
    // A second is 0.001.
    ensure!(spent(&periods)? == [10_000_000, 11_000_000, 0, 0, 0, 0], "{periods}");
    for (of, (from, to)) in
        [("2026-12-01", "2027-01-01"), ("2027-01-01", "2027-02-01")].into_iter().enumerate()
    {
        ensure!(spent(&periods)?[of] == cost(&world, from, to)?, "{from}");
    }
    let budgets = periods.as_array().into_iter().flatten();
    let awarded: anyhow::Result<i128> =
        budgets.map(|period| nanos(&period["exact"]["period_budget_amount"])).sum();
    ensure!(awarded? == 1_550_000_000_001, "{periods}");
    let shown = json_of(&world, &["grant", "show", NUMBER])?;
    ensure!(shown["exact"]["remaining_amount"] == "999.979000000", "{shown}");
    let table = said(&world, &["grant", "periods", NUMBER])?;
    ensure!(table.contains("2027-01-01") && table.contains("0.011000000"), "{table}");

    world.aggregator.kill9()?;
    world.aggregator.start(DEADLINE)?;
    ensure!(json_of(&world, &["grant", "show", NUMBER])? == shown, "as before the kill");
    ensure!(spent(&json_of(&world, &["grant", "periods", NUMBER])?)? == spent(&periods)?);

    let rate = json_of(&world, &["burn-rate", "--grant", NUMBER, "--period", "90d"])?;
    ensure!(rate["grant_number"] == NUMBER && rate["current_metrics"]["cumulative_spend"] == 0.021, "{rate}");
    let days = rate["historical_data"].as_array().into_iter().flatten();
    let days: Vec<&Value> = days.filter(|day| day["daily_spend"] != 0.0).collect();
    ensure!(days.len() == 2 && days[0]["daily_spend"] == 0.01, "{days:?}");
    advised(&world)?;

    said(&world, &["grant", "close", NUMBER, "--dry-run"])?;
    let error = refused(&world, &["grant", "close", NUMBER])?;
    ensure!(error.contains("--yes"), "{error}");
    let closed = json_of(&world, &["grant", "close", NUMBER, "--yes"])?;
    ensure!(closed["status"] == "cancelled" && closed["exact"]["spent_amount"] == "0.021000000", "{closed}");
    let (status, text) = post(&http(), &format!("{}/api/v1/audit/verify", world.aggregator.url()), "")?;
    let verified: Value = serde_json::from_str(&text)?;
    ensure!(status == 200 && verified["conserved"] == true, "{status} {text}");
    Ok(())
}

/// What advisors are told, in both of their shapes.
fn advised(world: &World) -> anyhow::Result<()> {
    let ask = |path: &str, body: Value| -> anyhow::Result<Value> {
        let url = format!("{}/api/v1/asba/{path}", world.aggregator.url());
        let (status, text) = post(&http(), &url, &body.to_string())?;
        ensure!(status == 200, "{path}: {status} {text}");
        Ok(serde_json::from_str(&text)?)
    };
    let body = json!({ "grant_number": NUMBER, "account": "physics", "look_ahead_days": 60 });
    let timeline = ask("grant-timeline", body.clone())?;
    ensure!(timeline["current_period"] == 2 && timeline["total_periods"] == 6, "{timeline}");
    ensure!(timeline["next_allocation"]["date"] == "2027-02-01T00:00:00Z", "{timeline}");
    let deadlines = timeline["upcoming_deadlines"].as_array().context("deadlines")?;
    ensure!(deadlines.len() == 1 && deadlines[0]["type"] == "period_ending", "{deadlines:?}");
    let client = ask("grant-timeline?compat=asba-client", body)?;
    ensure!(client["current_period"] == "2" && client["days_remaining"] == 136, "{client}");

    let status = ask("budget-status", json!({ "account": "", "grant_number": NUMBER }))?;
    ensure!(status["account"] == "physics" && status["budget_limit"] == 1000.0, "{status}");
    let work = |more: Value| {
        let mut body = json!({ "account": "physics", "grant_number": NUMBER, "estimated_aws_cost": 99.9979 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let known = ask("burst-decision", work(json!({})))?;
    ensure!(known["recommended_action"] == "LOCAL" && known["budget_impact"] == 10.0, "{known}");
    for unknown in ["confidence", "cost_efficiency", "timeline_pressure", "deadline_risk"] {
        ensure!(known[unknown].is_null(), "{unknown}: {known}");
    }
    let late = json!({ "estimated_local_time": 1440, "job_deadline": "2027-01-15T12:00:00Z" });
    let late = ask("burst-decision?compat=asba-client", work(late))?;
    ensure!(late["recommended_action"] == "AWS" && late["deadline_risk"] == "HIGH", "{late}");
    ensure!(late["budget_impact"]["cost_as_percent_of_remaining"] == 10.0, "{late}");
    let over = json!({ "estimated_local_time": 1440, "job_deadline": "2027-01-01" });
    let over = ask("burst-decision", work(over))?;
    ensure!(over["recommended_action"] == "LOCAL", "no money brings back what is over: {over}");
    let dear = ask("burst-decision", work(json!({ "estimated_aws_cost": 1000, "estimated_local_time": 9 })))?;
    ensure!(dear["affordable"] == false && dear["recommended_action"] == "LOCAL", "{dear}");
    Ok(())
}

#[test]
fn a_report_has_the_ledgers_sums_in_each_of_its_forms_and_says_how_they_were_measured() -> anyhow::Result<()>
{
    let world = site()?;
    said(&world, &CREATE)?;
    spend(&world)?;
    wait_until(DEADLINE, "what is posted, and a checkpoint", String::new, || {
        let report = json_of(&world, &["grant", "report", NUMBER, "--file", "-"])?;
        let posted = report["totals"]["posted"] == "0.016000000";
        Ok((posted && report["measurement"]["checkpoint"].is_object()).then_some(()))
    })?;
    let report = json_of(&world, &["grant", "report", NUMBER, "--type", "annual", "--file", "-"])?;
    ensure!(report["totals"]["charged"] == "0.021000000", "{report}");
    ensure!(
        report["totals"]["provisional"] == "0.005000000"
            && report["totals"]["held_seconds"] == "21.000000000"
    );
    for list in ["periods", "months", "accounts", "users", "resources", "evidence"] {
        let lines = report[list].as_array().with_context(|| format!("{list}: {report}"))?;
        let sum: anyhow::Result<i128> = lines.iter().map(|line| nanos(&line["charged"])).sum();
        ensure!(sum? == 21_000_000, "{list}: {lines:?}");
    }
    ensure!(report["months"][0]["key"]["month"] == "2026-12" && report["users"][0]["key"]["user"] == "ada");
    ensure!(report["evidence"][0]["methods"] == json!(["held_allocation"]), "{report}");
    let measured = &report["measurement"];
    let hash = measured["checkpoint"]["hash"].as_str().context("a checkpoint")?.to_owned();
    ensure!(hash.len() == 64 && measured["price_book_sha256"].is_string(), "{measured}");
    let statements = measured["statements"].to_string();
    for word in [&hash, "coverage: ", "s of GPUs, is nobody's", "by an allocation", "provisional: "] {
        ensure!(statements.contains(word), "{word}: {statements}");
    }

    let period = ["grant", "report", NUMBER, "--period", "1", "--format", "csv", "--file", "-"];
    let text = said(&world, &period)?;
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    let head = rows.headers()?.clone();
    let at = head.iter().position(|name| name == "charged").context("a column")?;
    let rows = rows.records().collect::<Result<Vec<_>, _>>()?;
    for section in ["totals", "period", "month", "account"] {
        let own = rows.iter().filter(|row| row.get(0) == Some(section));
        let sum: Option<i128> = own.map(|row| to_nanos(row.get(at)?)).sum();
        ensure!(sum == Some(10_000_000), "{section}: {text}");
    }
    read_back(&world, &hash)
}

#[test]
fn jobs_without_gpus_are_in_a_report_as_they_are_in_what_is_spent() -> anyhow::Result<()> {
    let compute = "[[compute]]\nmatch = { partition = \"gpu\" }\ncpu_hour = \"0.36\"\ngb_hour = \"0.036\"\n";
    let world = site_of(compute)?;
    said(&world, &CREATE)?;
    spend(&world)?;
    let now_s = world.now().wall_ns / S;
    let run = |job: &str, account: &str, partition: &str| {
        json!({ "job_id": job, "start_s": now_s - 30, "end_s": now_s - 10, "ended": true, "cpus": 4,
                "memory_bytes": 2_u64 << 30, "account": account, "user": "ada", "partition": partition })
    };
    let jobs = [run("11", "physics", "gpu"), run("12", "other", "gpu"), run("13", "lattice", "free")];
    wait_until(DEADLINE, "charges of jobs", String::new, || {
        let url = format!("{}/api/v1/usage/jobs", world.aggregator.url());
        let (status, text) = post(&http(), &url, &json!({ "cluster": "c", "jobs": jobs }).to_string())?;
        ensure!(status == 200, "{status} {text}");
        let shown = json_of(&world, &["grant", "show", NUMBER])?;
        Ok((shown["exact"]["spent_amount"] == "0.029400000").then_some(()))
    })?;
    // 80 s of a CPU and 40 of a GB cost 0.0084, and what 80 s of another partition cost nobody knows.
    let report = json_of(&world, &["grant", "report", NUMBER, "--type", "annual", "--file", "-"])?;
    let totals = &report["totals"];
    for (field, expected) in [
        ("charged", "0.029400000"),
        ("cpu_seconds", "160.000000000"),
        ("unpriced_cpu_seconds", "80.000000000"),
        ("held_seconds", "21.000000000"),
    ] {
        ensure!(totals[field] == expected, "{field}: {totals}");
    }
    for list in ["periods", "months", "accounts", "users", "resources", "evidence"] {
        let lines = report[list].as_array().with_context(|| format!("{list}: {report}"))?;
        let sum: anyhow::Result<i128> = lines.iter().map(|line| nanos(&line["charged"])).sum();
        ensure!(sum? == 29_400_000, "{list}: {lines:?}");
    }
    let statements = report["measurement"]["statements"].to_string();
    for word in ["(sacct)", "for 80.000000000 s of CPUs the price book has no price"] {
        ensure!(statements.contains(word), "{word}: {statements}");
    }
    Ok(())
}

/// The PDF as another program reads it.
#[allow(clippy::print_stderr, reason = "a skipped test has to say so")]
fn read_back(world: &World, hash: &str) -> anyhow::Result<()> {
    let file = world.dir().join("report.pdf");
    let path = file.display().to_string();
    said(world, &["grant", "report", NUMBER, "--type", "annual", "--format", "pdf", "--file", &path])?;
    let bytes = std::fs::read(&file)?;
    ensure!(bytes.starts_with(b"%PDF-1."), "no PDF");
    let output = Command::new("pdftotext").args(["-layout", &path, "-"]).stdin(Stdio::null()).output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: pdftotext is not installed");
        return Ok(());
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let total = from_nanos(21_000_000);
    for said in ["Zo\u{eb} ?ukasz", "Universit\u{e4}t", "1 characters that", &format!("charged: {total}")] {
        ensure!(text.contains(said), "{said}: {text}");
    }
    let words: String = text.split_whitespace().collect();
    ensure!(words.contains(hash), "{text}");
    // The table of users sums to what the ledger charged.
    let users = text.split("By user").nth(1).and_then(|rest| rest.split("By ").next()).context("users")?;
    let charged =
        users.lines().map(str::trim_start).filter(|line| line.starts_with("ada") || line.starts_with("bob"));
    let sum: Option<i128> = charged.map(|line| to_nanos(line.split_whitespace().nth(1)?)).sum();
    ensure!(sum == Some(21_000_000), "{users}");
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_with_its_field_and_changes_nothing() -> anyhow::Result<()> {
    let world = site()?;
    said(&world, &CREATE)?;
    let with = |more: &[&str]| {
        let mut args: Vec<String> = CREATE.map(str::to_owned).to_vec();
        for pair in more.chunks(2) {
            match args.iter().position(|arg| arg == pair[0]) {
                Some(at) => args[at + 1] = pair[1].to_owned(),
                None => args.extend(pair.iter().map(|text| (*text).to_owned())),
            }
        }
        args
    };
    let number = |number: &str, more: &[&str]| {
        let mut args = with(more);
        args[2] = number.to_owned();
        args
    };
    for (args, why) in [
        (with(&[]), "is there already"),
        (number("B", &[]), "would both pay for the same days"),
        (number("B", &["--account", "lattice"]), "would both pay for the same days"),
        (number("B", &["--account", "nobody"]), "there is none of the name"),
        (number("B", &["--award", "0"]), "total_award_amount: is not more than 0"),
        (number("B", &["--award", "1.0000000001"]), "at most nine places"),
        (number("B", &["--indirect-rate", "1.1"]), "indirect_cost_rate: is not 0 to 1"),
        (number("B", &["--end", "2026-12-01"]), "grant_end_date: is not after"),
        (number("B", &["--start", "2026-12-01T00:15:00Z"]), "is no midnight of UTC"),
        (number("B/", &[]), "grant_number: \"B/\" has to be"),
        (["grant", "update", NUMBER, "--award", "x"].map(str::to_owned).to_vec(), "is not an amount"),
        (["grant", "show", "B"].map(str::to_owned).to_vec(), "there is no grant"),
        (
            ["grant", "report", NUMBER, "--period", "7", "--file", "-"].map(str::to_owned).to_vec(),
            "has none of the number 7",
        ),
        (
            ["grant", "report", NUMBER, "--start", "2027-07-01", "--file", "-"].map(str::to_owned).to_vec(),
            "no day of the grant",
        ),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let error = refused(&world, &args)?;
        ensure!(error.contains(why), "{args:?}: {error}");
    }
    let grants = json_of(&world, &["grant", "list"])?;
    ensure!(grants.as_array().is_some_and(|grants| grants.len() == 1), "{grants}");
    let updated = json_of(&world, &["grant", "update", NUMBER, "--status", "suspended", "--co-pi", "Grace"])?;
    ensure!(updated["status"] == "suspended" && updated["co_investigators"] == json!(["Grace"]), "{updated}");
    ensure!(json_of(&world, &["grant", "list", "--status", "active"])? == json!([]));
    Ok(())
}
