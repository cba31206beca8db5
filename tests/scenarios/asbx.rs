//! A site that moves here from an ASBB: what is left of its accounts, holds of jobs that run, and what its nodes and its bursting service
//! report of jobs afterwards, by the requests that they made before.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use harness::forged::{Forged, seal, window};
use harness::http::{http, post};
use harness::world::{DEADLINE, World};
use serde_json::{Value, json};
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::metering::{Owner, owner};

mod ecosystem;
mod old;

use old::{Old, TOKEN};

const S: i64 = 1_000_000_000;

/// The command line: its exit code, what it answered, and what it said.
fn tonnage(world: &World, args: &[&str]) -> anyhow::Result<(i32, String, String)> {
    let mut command = Command::new(&world.binaries().cli);
    command.args(["--url", &world.aggregator.url()]).args(args).env_remove("TONNAGE_TOKEN_FILE");
    let output = command.stdin(std::process::Stdio::null()).output()?;
    let code = output.status.code().context("an exit code")?;
    Ok((code, String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

fn account(id: usize, name: &str, limit: f64, used: f64, held: f64) -> Value {
    json!({
        "id": id, "slurm_account": name, "name": format!("Account {name}"), "description": "", "budget_limit": limit,
        "budget_used": used, "budget_held": held, "has_incremental_budget": false, "total_allocated": 0,
        "start_date": "2026-01-01T00:00:00Z", "end_date": "2028-01-01T00:00:00Z", "status": "active",
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
    })
}

fn transaction(account: usize, id: &str, kind: &str, amount: f64, job: &str) -> Value {
    json!({
        "id": 1, "account_id": account, "job_id": job, "transaction_id": id, "type": kind, "amount": amount,
        "description": "", "metadata": "{}", "status": "completed", "created_at": "2027-01-14T00:00:00Z",
    })
}

fn accounts(world: &World) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for offset in [0, 100] {
        let page: Vec<Value> =
            world.aggregator.answer(&format!("/api/v1/accounts?limit=100&offset={offset}"))?;
        all.extend(page.into_iter().map(|one| (one["slurm_account"].to_string(), one)));
    }
    Ok(all)
}

fn reconciled(world: &World, path: &str, body: &Value) -> anyhow::Result<Value> {
    let (status, text) = post(&http(), &format!("{}{path}", world.aggregator.url()), &body.to_string())?;
    ensure!(status == 200, "{path}: {status} {text}");
    Ok(serde_json::from_str(&text)?)
}

/// Ten seconds of a GPU for a job, at 3.60 an hour.
fn ran(world: &World, agent: &Forged, seq: u64, job: &str) -> anyhow::Result<()> {
    let now = world.now().wall_ns;
    let ten = (10 * S).unsigned_abs();
    let mut batch = agent.batch(seq, vec![window(now - 20 * S, ten, ten)]);
    batch.owners = vec![Owner {
        kind: owner::Kind::SlurmJob.into(),
        job_id: job.to_owned(),
        account: "physics".to_owned(),
        partition: "gpu".to_owned(),
        ..Owner::default()
    }];
    let (mut wire, _) = agent.open()?;
    let (outcome, detail) = wire.ack(seal(&batch))?;
    ensure!(outcome == Outcome::Accepted, "{detail}");
    Ok(())
}

/// An aggregator, a minute into a slot: what was used just before is of the same one.
fn begun(seed: u64) -> anyhow::Result<World> {
    let mut world = World::new(seed)?;
    world.move_clock(60 * S)?;
    world.aggregator.start(DEADLINE)?;
    Ok(world)
}

fn conserved(world: &World) -> anyhow::Result<()> {
    let verified = reconciled(world, "/api/v1/audit/verify", &json!({}))?;
    ensure!(verified["conserved"] == true, "{verified}");
    Ok(())
}

/// An old system with more accounts than a page has, one of them overspent and one that makes no sense.
fn old() -> anyhow::Result<Old> {
    let mut accounts: Vec<Value> =
        (10..112).map(|id| account(id, &format!("a{id}"), 10.0, 0.1, 0.0)).collect();
    // Of what it says that it holds 60 is of a job that was reconciled.
    accounts.push(account(1, "physics", 1000.0, 249.75, 96.5));
    accounts.push(account(2, "over", 10.0, 12.5, 0.0));
    accounts.push(json!({ "id": 3, "slurm_account": "odd", "budget_limit": "much", "budget_used": 0 }));
    let transactions = vec![
        transaction(1, "txn_1700000000000000001_1", "hold", 60.0, "5"),
        transaction(1, "txn_1700000000000000002_2", "charge", 49.75, "5"),
        transaction(1, "txn_1700000000000000003_3", "hold", 36.5, "7"),
    ];
    Old::start(accounts, transactions)
}

#[test]
fn what_is_left_there_is_what_is_left_here_and_moving_twice_changes_nothing() -> anyhow::Result<()> {
    let world = begun(1)?;
    let old = old()?;
    let token = world.dir().join("old.token");
    std::fs::write(&token, format!("{TOKEN}\n"))?;
    let token = token.display().to_string();
    let from = ["import", "asbb", "--from-url", &old.url, "--cluster", "test", "--from-token-file", &token];

    let (code, _, error) = tonnage(&world, &from[..6])?;
    ensure!(code == 4 && error.contains("--from-token-file"), "{code} {error}");
    let (code, _, error) = tonnage(&world, &from)?;
    ensure!(
        code == 1 && error.contains("Move 103 accounts, 1 holds") && error.contains("--yes"),
        "{code} {error}"
    );
    let (code, plan, _) = tonnage(&world, &[&from[..], &["--dry-run"]].concat())?;
    ensure!(
        code == 1 && plan.contains("would be moved") && plan.contains("budget_used is 2.500000000 more"),
        "{plan}"
    );
    ensure!(accounts(&world)?.is_empty(), "a dry run moves nothing");

    let (code, moved, error) = tonnage(&world, &[&from[..], &["--yes", "-o", "json"]].concat())?;
    ensure!(code == 1 && error.contains("2 rows were refused"), "{code} {error} {moved}");
    let moved: Value = serde_json::from_str(&moved)?;
    for sum in moved["accounts"].as_array().context("sums")? {
        ensure!(sum["available_after"] == sum["available_here"], "{sum}");
    }
    let first = accounts(&world)?;
    let physics = &first["\"physics\""];
    // 1000 - 249.75 - 36.5: what was left there, and 60 that were held for a job that had ended.
    ensure!(physics["exact"]["budget_available"] == "713.750000000", "{physics}");
    ensure!(physics["exact"]["budget_held"] == "36.500000000", "{physics}");
    let holds: Value = world.aggregator.answer("/api/v1/transactions")?;

    let (code, again, _) = tonnage(&world, &[&from[..], &["--yes"]].concat())?;
    ensure!(code == 1 && again.contains("there already"), "{again}");
    ensure!(accounts(&world)? == first, "accounts are as they were");
    ensure!(world.aggregator.answer::<Value>("/api/v1/transactions")? == holds, "and so is the hold");
    conserved(&world)?;

    // Its job runs on, and is reported under the id that it had.
    let agent = Forged::new(&world.aggregator.uplink(), "test", "n")?;
    ran(&world, &agent, 1, "7")?;
    let settle = json!({ "job_id": "7", "actual_cost": 12.5, "transaction_id": "txn_1700000000000000003_3" });
    let settled = reconciled(&world, "/api/v1/budget/reconcile", &settle)?;
    ensure!(settled["exact"]["actual_charge"] == "0.010000000", "{settled}");
    ensure!(settled["exact"]["refund_amount"] == "36.490000000", "{settled}");
    let physics: Value = world.aggregator.answer("/api/v1/accounts/physics")?;
    ensure!(physics["exact"]["budget_available"] == "750.240000000", "{physics}");
    conserved(&world)
}

#[test]
fn a_move_that_broke_off_is_gone_on_with_and_a_folder_is_as_good_as_a_server() -> anyhow::Result<()> {
    let world = begun(2)?;
    let folder = world.dir().join("dump");
    std::fs::create_dir_all(&folder)?;
    let mut incremental = account(1, "physics", 300.0, 50.0, 0.0);
    incremental["has_incremental_budget"] = json!(true);
    let schedule = json!({
        "id": 1, "account_id": 1, "total_budget": 600, "allocation_amount": 100, "allocation_frequency": "monthly",
        "start_date": "2026-10-01T00:00:00Z", "next_allocation_date": "2027-02-01T00:00:00Z", "allocated_to_date": 300,
        "remaining_budget": 300, "status": "active", "auto_allocate": true,
    });
    std::fs::write(folder.join("accounts.json"), json!([incremental]).to_string())?;
    std::fs::write(folder.join("allocations.json"), json!([schedule]).to_string())?;
    // As far as a move came that ended behind its first step.
    let body = json!({
        "slurm_account": "physics", "budget_limit": "250", "bindings": [], "description": "moved from ASBB: of 300.000000000 it",
    });
    let (status, text) =
        post(&http(), &format!("{}/api/v1/accounts", world.aggregator.url()), &body.to_string())?;
    ensure!(status == 201, "{text}");
    let folder = folder.display().to_string();
    for _ in 0..2 {
        let (code, text, error) = tonnage(&world, &["import", "asbb", "--from-dir", &folder, "--yes"])?;
        ensure!(code == 0, "{text} {error}");
    }
    let physics: Value = world.aggregator.answer("/api/v1/accounts/physics")?;
    ensure!(physics["exact"]["budget_available"] == "250.000000000", "{physics}");
    ensure!(physics["next_allocation_date"] == "2027-02-01T00:00:00Z", "{physics}");
    ensure!(physics["bindings"].as_array().is_some_and(|bindings| bindings.len() == 1), "{physics}");
    let schedules: Vec<Value> = world.aggregator.answer("/api/v1/allocations?account=physics")?;
    ensure!(
        schedules.len() == 1 && schedules[0]["exact"]["total_budget"] == "300.000000000",
        "{schedules:?}"
    );
    let (code, _, error) = tonnage(&world, &["import", "asbb", "--from-dir", "/nowhere", "--yes"])?;
    ensure!(code == 1 && error.contains("/nowhere"), "{error}");
    conserved(&world)
}

fn job_file(folder: &Path, job: &str, text: &str) -> anyhow::Result<()> {
    Ok(std::fs::write(folder.join(format!("job-{job}-asbb-reconciliation.json")), text)?)
}

#[test]
fn jobs_are_reported_by_epilogs_and_files_and_a_report_that_a_kill_cut_off_is_the_same_again()
-> anyhow::Result<()> {
    let mut world = begun(3)?;
    let url = world.aggregator.url();
    let body = json!({ "slurm_account": "physics", "budget_limit": 1000 });
    ensure!(post(&http(), &format!("{url}/api/v1/accounts"), &body.to_string())?.0 == 201);
    let agent = Forged::new(&world.aggregator.uplink(), "test", "n")?;
    for (seq, job) in [(1, "7"), (2, "8")] {
        let check = json!({
            "account": "physics", "partition": "gpu", "gpus": 1, "gpu_model": "NVIDIA H100 80GB HBM3", "wall_time": "1", "cluster": "test",
            "job_id": job,
        });
        let held = reconciled(&world, "/api/v1/budget/check", &check)?;
        ensure!(held["exact"]["estimated_cost"] == "0.060000000", "{held}");
        ran(&world, &agent, seq, job)?;
        world.move_clock(20 * S)?;
    }
    // As a shell script writes it.
    let sent = "{\"job_id\": 7, \"account\": \"physics\", \"exit_code\": \"0:0\", \"end_time\": 1800000000, \"allocated_cpus\": 16(x2)}";
    let epilog = |world: &World| -> anyhow::Result<Value> {
        let (status, text) = post(&http(), &format!("{}/api/v1/asbx/epilog", world.aggregator.url()), sent)?;
        ensure!(status == 200, "{status} {text}");
        Ok(serde_json::from_str(&text)?)
    };
    let first = epilog(&world)?;
    ensure!(first["data_import_status"] == "settled", "{first}");
    world.aggregator.kill9()?;
    world.aggregator.start(DEADLINE)?;
    ensure!(epilog(&world)? == first, "whoever asks again is answered as before");

    let folder = world.dir().join("costs");
    std::fs::create_dir_all(&folder)?;
    let file = |job: &str| {
        json!({
            "job_id": job, "account": "physics", "user_id": "ada", "partition": "gpu", "actual_cost": 2.5,
            "compute_cost": 2.0, "spot_savings": 1.0, "instance_types": ["p4d"], "duration_hours": 0.1, "success": true,
            "export_time": "2027-01-15T08:00:10Z", "plugin_version": "1.2.0",
        })
        .to_string()
    };
    job_file(&folder, "8", &file("8"))?;
    job_file(&folder, "99", &file("99"))?;
    job_file(&folder, "100", "{\"job_id\": ")?;
    std::fs::write(folder.join("other.json"), "no job's")?;
    let folder = folder.display().to_string();
    let import = ["import", "asbb", "--job-files", &folder, "--cluster", "test", "--yes", "-o", "csv"];
    let (code, rows, error) = tonnage(&world, &import)?;
    ensure!(code == 1 && error.contains("1 rows were refused"), "{code} {error}");
    for row in [
        "job,8,2.500000000,settled,",
        "job,99,2.500000000,kept,",
        "job,job-100-asbb-reconciliation.json,,refused,",
    ] {
        ensure!(rows.contains(row), "{row}: {rows}");
    }
    let status: Value = world.aggregator.answer("/api/v1/asbx/status")?;
    for (field, expected) in [
        ("total_jobs_reconciled", json!(3)),
        ("successful_reconciliations", json!(2)),
        ("failed_reconciliations", json!(0)),
        ("jobs_without_hold", json!(1)),
        ("asbx_version", json!("1.2.0")),
        ("reported_aws_cost", json!("5.000000000")),
        ("charged_cost", json!("0.020000000")),
        ("health_status", json!("healthy")),
        // 1 - 50/60, twice; a difference is rounded down.
        ("cost_model_accuracy", json!(0.166666667)),
    ] {
        ensure!(status[field] == expected, "{field}: {status}");
    }
    let (_, parts, _) = tonnage(&world, &["ecosystem"])?;
    ensure!(parts.contains("3 jobs reported"), "{parts}");
    conserved(&world)
}

#[test]
fn verbs_of_an_asbb_are_verbs_here() -> anyhow::Result<()> {
    let world = begun(4)?;
    let body = json!({ "slurm_account": "physics", "budget_limit": 1000 });
    ensure!(
        post(&http(), &format!("{}/api/v1/accounts", world.aggregator.url()), &body.to_string())?.0 == 201
    );
    let given = json!({ "idempotency_key": "k", "account": "physics", "amount": 5, "cluster": "test" });
    let hold = reconciled(&world, "/api/v1/holds", &given)?;
    let id = hold["transaction_id"].as_str().context("an id")?;
    for (args, says) in [
        (&["transactions", "list"][..], id),
        (&["transactions", "show", id], "amount: 5.000000000"),
        (&["recover", "--dry-run"], "would end 0 holds"),
        (&["reconcile", id, "--dry-run"], "state: open"),
        (&["reconcile", id, "--yes"], "refund_amount: 5.000000000"),
        (&["account", "update", "physics", "--estimate", "measured"], "estimate: measured"),
    ] {
        let (code, text, error) = tonnage(&world, args)?;
        ensure!(code == 0 && text.contains(says), "{args:?}: {text} {error}");
    }
    let file = world.dir().join("aggregator.toml").display().to_string();
    for (args, code) in [
        (&["config", "init", "--file", &file][..], 0),
        (&["config", "init", "--file", &file], 1),
        (&["config", "validate", &file], 0),
        (&["config", "validate", &file, "--for", "gate"], 1),
    ] {
        let (is, text, error) = tonnage(&world, args)?;
        ensure!(is == code, "{args:?}: {is} {text} {error}");
    }
    Ok(())
}

#[test]
fn grants_move_to_the_accounts_that_they_pay_for() -> anyhow::Result<()> {
    let world = begun(5)?;
    let folder = world.dir().join("dump");
    std::fs::create_dir(&folder)?;
    let grant = |id: usize, number: &str, code: &str| {
        json!({
            "id": id, "grant_number": number, "funding_agency": "NSF", "principal_investigator": "Ada Lovelace",
            "institution": "University", "grant_start_date": "2026-01-01T00:00:00Z", "grant_end_date": "2029-01-01T00:00:00Z",
            "total_award_amount": 1_550_000.5, "direct_costs": 1_000_000, "indirect_cost_rate": 0.55, "indirect_costs": 550_000,
            "budget_period_months": 12, "current_budget_period": 1, "status": "active", "internal_project_code": code,
        })
    };
    let accounts = json!([account(1, "physics", 1000.0, 0.0, 0.0), account(2, "biology", 10.0, 0.0, 0.0)]);
    let grants = json!([grant(1, "NSF-1", "physics"), grant(2, "NSF/2", "P-2"), grant(3, "NSF-3", "P-3")]);
    std::fs::write(folder.join("accounts.json"), accounts.to_string())?;
    std::fs::write(folder.join("grants.json"), grants.to_string())?;
    let folder = folder.display().to_string();
    let import = ["import", "asbb", "--from-dir", &folder, "--grant-account", "NSF/2=biology", "--yes"];
    for result in ["moved", "there already"] {
        let (code, moved, error) = tonnage(&world, &import)?;
        ensure!(code == 1 && error.contains("1 rows were refused"), "{code} {error} {moved}");
        ensure!(moved.contains("--grant-account NSF-3=ACCOUNT"), "{moved}");
        let of_grants: Vec<&str> = moved.lines().filter(|line| line.contains("NSF")).collect();
        ensure!(
            of_grants.iter().filter(|line| line.contains(result)).count() == 2,
            "{result}: {of_grants:?}"
        );
    }
    let grants: Vec<Value> = world.aggregator.answer("/api/v1/grants")?;
    let found: BTreeMap<String, String> = grants
        .iter()
        .map(|grant| (grant["grant_number"].to_string(), grant["exact"]["total_award_amount"].to_string()))
        .collect();
    let award = "\"1550000.500000000\"".to_owned();
    ensure!(
        found == BTreeMap::from([("\"NSF-1\"".to_owned(), award.clone()), ("\"NSF/2\"".to_owned(), award)]),
        "{found:?}"
    );
    conserved(&world)
}
