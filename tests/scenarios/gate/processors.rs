//! Jobs without GPUs: held for at submission, charged by Slurm's accounting, settled; whatever is away meanwhile.
//!
//! A CPU costs 3.60 an hour here, so a second 0.001. Slurm accounts whole seconds, so what is charged is known to the last digit.

use tonnage_proto::rest::CostAnswer;
use tonnage_runtime::clock::Clock;

use super::*;

const PRICE: &str =
    "\n[[compute]]\nmatch = { cluster = \"test\", partition = \"main\" }\ncpu_hour = \"3.60\"\n";
/// A CPU for a second, in nano-dollars.
const SECOND: i64 = 1_000_000;

fn start(limit: &str) -> anyhow::Result<Option<Site>> {
    let Some(site) = Site::start_with(limit, "cpu_jobs = true", &["--cpu-jobs"])? else { return Ok(None) };
    let book = std::fs::read_to_string(site.world.aggregator.prices())?;
    std::fs::write(site.world.aggregator.prices(), book + PRICE)?;
    wait_until(DEADLINE, "a price of CPUs", String::new, || {
        let prices: Value = site.world.aggregator.answer("/api/v1/prices")?;
        let rows = prices["prices"].as_array().cloned().unwrap_or_default();
        Ok(rows.iter().any(|row| row["unit"] == "cpu_hour").then_some(()))
    })?;
    Ok(Some(site))
}

/// What the ledger has of a job's CPUs, in nano-dollars.
fn charged(site: &Site, job: u32) -> anyhow::Result<i64> {
    let answer: CostAnswer = site.world.aggregator.answer("/api/v1/cost/jobs?window=2h&limit=1000")?;
    let row = answer.rows.iter().find(|row| row.key.get("job").is_some_and(|id| *id == job.to_string()));
    let Some(row) = row else { return Ok(0) };
    ensure!(
        row.figures.cost == row.figures.job_cpu_cost && row.figures.held_seconds == "0.000000000",
        "{row:?}"
    );
    Ok(row.figures.job_cpu_cost.replace('.', "").parse()?)
}

/// What a job's runs cost by Slurm's accounting, once `runs` of them have ended.
fn accounted(site: &Site, job: u32, runs: usize) -> anyhow::Result<i64> {
    site.slurm.wait(&format!("{runs} runs of job {job} to have ended"), |slurm| {
        let ended: Vec<_> = slurm.sacct(job)?.into_iter().filter(|run| run.job == job).collect();
        let seconds = ended.iter().filter_map(|run| Some(run.end_s? - run.start_s?));
        let cpus =
            ended.iter().find_map(|run| run.tres.split(',').find_map(|tres| tres.strip_prefix("cpu=")));
        let Some(cpus) = cpus else { return Ok(None) };
        let cpus: i64 = cpus.parse()?;
        let seconds: Vec<i64> = seconds.collect();
        Ok((seconds.len() == runs).then(|| seconds.iter().sum::<i64>() * cpus * SECOND))
    })
}

fn wait_charged(site: &Site, job: u32, nanos: i64) -> anyhow::Result<()> {
    let log = || std::fs::read_to_string(site.gate.log()).unwrap_or_default();
    wait_until(DEADLINE * 2, &format!("job {job} to be charged {nanos}"), log, || {
        Ok((charged(site, job)? == nanos).then_some(()))
    })
}

#[test]
fn a_job_without_gpus_is_held_for_and_charged_by_slurms_accounting_whoever_is_away() -> anyhow::Result<()> {
    let Some(mut site) = start("1.00")? else { return Ok(()) };
    let text = site.refused(&["--ntasks=4", "--time=60"])?;
    ensure!(
        text.contains("account research: 4 CPUs for 01:00:00") && text.contains("17.280000000"),
        "{text}"
    );
    let first = site.job(&["--ntasks=2", "--time=1"], "sleep 5")?;
    let held = site.wait_hold(first, "open")?;
    ensure!(held["exact"]["amount"] == "0.144000000", "{held}");
    site.slurm.wait_running(first)?;
    wait_until(DEADLINE, "charges while it runs", String::new, || {
        Ok((charged(&site, first)? > 0).then_some(()))
    })?;
    let cost = accounted(&site, first, 1)?;
    wait_charged(&site, first, cost)?;
    site.wait_hold(first, "settled")?;
    ensure!(near(site.held()?, 0.0) && near(1.00 - site.left()?, cost as f64 * 1e-9), "{}", site.left()?);

    // A job with a GPU costs what its GPU costs.
    let gpu = site.job(&["--gres=gpu:1", "--ntasks=2", "--time=1"], "sleep 2")?;
    site.slurm.wait_ended(gpu, "COMPLETED")?;

    // Each start of a job that is requeued.
    let again = site.job(&["--ntasks=1", "--time=1", "--requeue"], "sleep 60")?;
    site.slurm.wait_running(again)?;
    wait_until(DEADLINE, "charges of its first run", String::new, || {
        Ok((charged(&site, again)? > 0).then_some(()))
    })?;
    site.slurm.run("scontrol", &["requeue", &again.to_string()])?;
    accounted(&site, again, 1)?;
    site.slurm.wait_running(again)?;
    site.slurm.run("scancel", &[&again.to_string()])?;
    let both = accounted(&site, again, 2)?;
    wait_charged(&site, again, both)?;

    // What runs and ends while the aggregator is away.
    let away = site.job(&["--ntasks=3", "--time=1"], "sleep 3")?;
    site.slurm.wait_running(away)?;
    site.world.aggregator.stop(DEADLINE)?;
    let missed = accounted(&site, away, 1)?;
    site.world.aggregator.start(DEADLINE)?;
    wait_charged(&site, away, missed)?;

    // A gate that remembers nothing tells all of it again.
    site.gate.kill9()?;
    site.gate.start(DEADLINE)?;
    wait_until(DEADLINE, "all to be told again", String::new, || {
        Ok(site.gate.metrics()?.sum("tonnage_gate_jobs_reported_total").filter(|count| *count >= 4.0))
    })?;
    for (job, nanos) in [(first, cost), (again, both), (away, missed)] {
        ensure!(charged(&site, job)? == nanos, "job {job}");
    }
    let answer: CostAnswer = site.world.aggregator.answer("/api/v1/cost/jobs?window=2h&limit=1000")?;
    let of_gpu = answer.rows.iter().find(|row| row.key.get("job").is_some_and(|id| *id == gpu.to_string()));
    ensure!(of_gpu.is_some_and(|row| row.figures.job_cpu_cost == "0.000000000"), "{of_gpu:?}");

    refuses_what_cannot_be(&site, first)?;
    ensure!(charged(&site, first)? == cost);
    site.world.nodes[0].stop(DEADLINE)?;
    site.verify()
}

fn refuses_what_cannot_be(site: &Site, job: u32) -> anyhow::Result<()> {
    let url = format!("{}/api/v1/usage/jobs", site.world.aggregator.url());
    let now_s = Clock::system().wall_ns() / 1_000_000_000;
    let run = |start_s: i64, end_s: i64, cpus: u64| {
        json!({ "job_id": job.to_string(), "start_s": start_s, "end_s": end_s, "ended": true, "cpus": cpus,
                "memory_bytes": 0, "account": "research", "user": "root", "partition": "main" })
    };
    let jobs = [run(now_s, now_s - 10, 1), run(now_s - 10, now_s, 1_000_000), run(1, now_s, 1)];
    let (status, text) = post(&http(), &url, &json!({ "cluster": "test", "jobs": jobs }).to_string())?;
    let answer: Value = serde_json::from_str(&text)?;
    let fields: Vec<_> =
        answer["refused"].as_array().into_iter().flatten().map(|one| &one["field"]).collect();
    ensure!(status == 200 && fields == ["end_s", "cpus", "start_s"], "{status} {text}");
    let many = vec![run(now_s - 10, now_s, 1); 51];
    for (body, says) in [
        (json!({ "cluster": "test", "jobs": many }), "jobs: 51 at once"),
        (json!({ "cluster": "", "jobs": [] }), "cluster: has to have"),
        (json!({ "cluster": "nowhere", "jobs": [] }), "cluster: \\\"nowhere\\\" is of no agent"),
        (json!({ "cluster": "test", "until_s": -1 }), "until_s: is not a time"),
    ] {
        let (status, text) = post(&http(), &url, &body.to_string())?;
        ensure!(status == 400 && text.contains(says), "{status} {text}");
    }
    Ok(())
}
