//! Every life of a job: refused, run, cancelled, requeued, an array, timed out, over its hold; and more time, by `scontrol`.

use super::*;

#[test]
fn a_job_is_let_in_by_what_is_left_and_its_hold_ends_with_it() -> anyhow::Result<()> {
    let Some(mut site) = Site::start("1.00", "")? else { return Ok(()) };
    // 4 GPUs for an hour are 14.40, and 17.28 with the buffer.
    let text = site.refused(&["--gres=gpu:4", "--time=60"])?;
    let line = text.lines().find(|line| line.contains("tonnage: ")).context("no word to the user")?;
    for part in ["account research", "4 GPUs for 01:00:00", "17.280000000", "1.000000000 left"] {
        ensure!(line.contains(part), "{part}: {text}");
    }
    ensure!(site.held()? == 0.0 && site.slurm.run("squeue", &["-h"])?.trim().is_empty());

    let (taken, text) = site.sbatch(&["--gpus=2", "--time=1"], "sleep 4")?;
    ensure!(
        taken && text.contains("2 GPUs for 00:01:00 cost 0.12 at most, 0.144 held, 0.856 left"),
        "{text}"
    );
    let job: u32 = text.lines().find_map(|line| line.trim().parse().ok()).context("an id")?;
    let held = site.wait_hold(job, "open")?;
    ensure!(held["exact"]["amount"] == "0.144000000", "{held}");
    site.slurm.wait_ended(job, "COMPLETED")?;
    // Its last windows are in, and it is settled by what they cost: four seconds of two GPUs at 0.001 are 0.008.
    let settled = site.wait_hold(job, "settled")?;
    ensure!(near(site.held()?, 0.0), "{settled}");
    let charged = || -> anyhow::Result<f64> { Ok(1.00 - site.left()?) };
    let elapsed = site.slurm.wait_ended(job, "COMPLETED")?.elapsed_s as f64;
    let in_time = wait_until(DEADLINE, "all that the job cost", String::new, || {
        // Not less than it slept, and not more than Slurm's rounding and the hooks add.
        Ok(Some(charged()?).filter(|cost| (0.0078..elapsed * 0.002 + 0.004).contains(cost)))
    });
    println!(
        "{elapsed} s of two GPUs by sacct: {:.6} charged, {} when it was settled",
        charged()?,
        settled["exact"]["charged"]
    );
    in_time?;

    // Cancelled before it ran, and while it does.
    let waits = site.job(&["--gres=gpu:1", "--time=1", "--hold"], "sleep 60")?;
    site.wait_hold(waits, "open")?;
    site.slurm.run("scancel", &[&waits.to_string()])?;
    site.wait_hold(waits, "settled")?;
    let runs = site.job(&["--gres=gpu:1", "--time=1"], "sleep 60")?;
    site.slurm.wait_running(runs)?;
    site.slurm.run("scancel", &[&runs.to_string()])?;
    site.wait_hold(runs, "settled")?;
    site.world.nodes[0].stop(DEADLINE)?;
    site.verify()
}

#[test]
fn a_requeued_job_keeps_its_hold_and_one_of_an_array_lasts_as_long_as_its_tasks() -> anyhow::Result<()> {
    let Some(mut site) = Site::start("10", "")? else { return Ok(()) };
    let again = site.job(&["--gres=gpu:1", "--time=1", "--requeue"], "sleep 60")?;
    let first = site.wait_hold(again, "open")?;
    site.slurm.wait_running(again)?;
    site.slurm.run("scontrol", &["requeue", &again.to_string()])?;
    // Longer than a hold of a job that ended would last.
    let swept = |site: &Site| {
        site.gate.metrics().map(|scrape| scrape.sum("tonnage_gate_last_sweep_timestamp_seconds"))
    };
    let began = swept(&site)?.context("a sweep")?;
    wait_until(DEADLINE, "some sweeps", String::new, || Ok(swept(&site)?.filter(|at| *at > began + 4.0)))?;
    let still = site.hold(again)?.context("a hold")?;
    ensure!(still["transaction_id"] == first["transaction_id"] && still["state"] == "open", "{still}");

    // Three tasks, one after the other, in one hold: 3 x 0.072.
    let array = site.job(&["--gres=gpu:1", "--time=1", "--array=0-2%1"], "sleep 1")?;
    let held = site.wait_hold(array, "open")?;
    ensure!(held["exact"]["amount"] == "0.216000000", "{held}");
    site.slurm.wait("all tasks", |slurm| {
        let tasks = slurm.sacct(array)?;
        let done = tasks.iter().filter(|task| task.state == "COMPLETED").count();
        // As long as one is left the hold stands.
        if done < 2 {
            ensure!(site.hold(array)?.is_some_and(|hold| hold["state"] == "open"));
        }
        Ok((done == 3).then_some(()))
    })?;
    site.wait_hold(array, "settled")?;

    // A heterogeneous job is held for part by part.
    let parts = ["--gres=gpu:1", "--time=1", "--hold", ":", "--gres=gpu:2", "--time=1"];
    let leader = site.job(&parts, "sleep 1")?;
    for (job, amount) in [(leader, "0.072000000"), (leader + 1, "0.144000000")] {
        let held = site.wait_hold(job, "open")?;
        ensure!(held["exact"]["amount"] == amount, "{held}");
    }
    site.slurm.run("scancel", &[&leader.to_string()])?;
    site.slurm.run("scancel", &[&again.to_string()])?;
    for job in [leader, leader + 1, again] {
        site.wait_hold(job, "settled")?;
    }

    // Slurm ends it, and it is settled like any other.
    let timed_out = site.job(&["--gres=gpu:1", "--time=1"], "sleep 300")?;
    site.slurm.wait_running(timed_out)?;
    site.wait_hold(timed_out, "open")?;
    site.slurm.run("scontrol", &["update", &format!("JobId={timed_out}"), "EndTime=now+1"])?;
    site.wait_hold(timed_out, "settled")?;
    site.world.nodes[0].stop(DEADLINE)?;
    site.verify()
}

#[test]
fn while_an_array_runs_nothing_of_it_counts_twice() -> anyhow::Result<()> {
    let Some(mut site) = Site::start("100", "")? else { return Ok(()) };
    let array = site.job(&["--gres=gpu:1", "--time=1", "--array=0-3"], "sleep 300")?;
    let hold = site.wait_hold(array, "open")?;
    let held = 4.0 * MINUTE;
    ensure!(near(hold["amount"].as_f64().unwrap_or_default(), held), "{hold}");
    // Each task has an id of its own, but the last, and is found by it.
    let tasks = site.slurm.wait("all tasks to run", |slurm| {
        let listed = slurm.run("squeue", &["-h", "--array", "-t", "RUNNING", "-O", "JobID:20"])?;
        let tasks: Vec<u32> = listed.split_whitespace().filter_map(|id| id.parse().ok()).collect();
        Ok((tasks.len() == 4).then_some(tasks))
    })?;
    ensure!(tasks.iter().filter(|task| **task != array).count() == 3, "{tasks:?}");
    for task in &tasks {
        let own =
            wait_until(DEADLINE, &format!("task {task} to be named"), String::new, || site.hold(*task))?;
        ensure!(own["transaction_id"] == hold["transaction_id"], "{own}");
    }
    // What is left is the limit less what was charged or held, whichever is more.
    let charged = |site: &Site, enough: f64| -> anyhow::Result<Option<f64>> {
        let account: Value = site.world.aggregator.answer("/api/v1/accounts/research")?;
        let [used, left] =
            ["budget_used", "budget_available"].map(|field| account[field].as_f64().unwrap_or_default());
        ensure!(near(left, 100.0 - used.max(held)), "{used} charged, {held} held, {left} left: {account}");
        Ok((used > enough).then_some(used))
    };
    wait_until(DEADLINE, "charges of all tasks", String::new, || charged(&site, 0.02))?;
    let book = std::fs::read_to_string(site.world.aggregator.prices())?;
    std::fs::write(site.world.aggregator.prices(), book.replace("3.60", "360.00"))?;
    wait_until(DEADLINE * 2, "charges over the hold", String::new, || charged(&site, held * 1.5))?;
    site.slurm.run("scancel", &[&array.to_string()])?;
    let settled = site.wait_hold(array, "settled")?;
    ensure!(settled["charged"].as_f64() > Some(held * 1.5), "all tasks are its charges: {settled}");
    site.world.nodes[0].stop(DEADLINE)?;
    site.verify()
}

#[test]
fn more_time_is_asked_for_and_a_restart_of_slurmctld_forgets_nothing() -> anyhow::Result<()> {
    let Some(mut site) = Site::start("1.00", "")? else { return Ok(()) };
    let job = site.job(&["--gres=gpu:1", "--time=2", "--hold"], "sleep 60")?;
    site.wait_hold(job, "open")?;
    ensure!(near(site.held()?, 2.0 * MINUTE), "{}", site.held()?);
    let update = |what: &str| site.slurm.run("scontrol", &["update", &format!("JobId={job}"), what]);
    update("TimeLimit=5")?;
    ensure!(near(site.held()?, 5.0 * MINUTE), "three minutes more: {}", site.held()?);
    // In a hold of their own until the next sweep: from then on what the job is charged counts against both.
    wait_until(DEADLINE, "one hold of both", String::new, || {
        Ok(site.hold(job)?.filter(|hold| hold["exact"]["amount"] == "0.360000000"))
    })?;
    ensure!(near(site.held()?, 5.0 * MINUTE), "{}", site.held()?);
    let refused = update("TimeLimit=60").unwrap_err().to_string();
    ensure!(refused.contains("accounting/QOS policy"), "{refused}");
    ensure!(site.slurm.controller_log()?.contains("1 GPU for 00:55:00"), "the log says why");
    for free in ["TimeLimit=3", "Name=other", "Nice=10"] {
        update(free)?;
    }
    ensure!(near(site.held()?, 5.0 * MINUTE), "less is no ask: {}", site.held()?);

    site.slurm.stop_slurmctld()?;
    // Without a whole answer of Slurm's nothing is done, however long that lasts.
    let failures =
        |site: &Site| site.gate.metrics().map(|scrape| scrape.sum("tonnage_gate_sweep_failures_total"));
    let before = failures(&site)?.unwrap_or_default();
    wait_until(DEADLINE * 2, "sweeps that fail", String::new, || {
        Ok(failures(&site)?.filter(|count| *count >= before + 3.0))
    })?;
    ensure!(near(site.held()?, 5.0 * MINUTE), "{}", site.held()?);
    site.slurm.start_slurmctld()?;
    site.slurm.run("scontrol", &["release", &job.to_string()])?;
    site.slurm.wait_running(job)?;
    ensure!(site.wait_hold(job, "open")?["job_id"] == job.to_string());
    site.slurm.run("scancel", &[&job.to_string()])?;
    site.wait_hold(job, "settled")?;
    ensure!(near(site.held()?, 0.0), "what was added ends with it: {}", site.held()?);
    site.world.nodes[0].stop(DEADLINE)?;
    site.verify()
}

#[test]
fn a_job_that_costs_more_than_its_hold_is_charged_for_all_of_it() -> anyhow::Result<()> {
    let Some(mut site) = Site::start("100", "")? else { return Ok(()) };
    let job = site.job(&["--gres=gpu:1", "--time=1"], "sleep 300")?;
    site.wait_hold(job, "open")?;
    site.slurm.wait_running(job)?;
    // A thousand times dearer: a second is 1.00, and its hold was 0.072.
    let book = std::fs::read_to_string(site.world.aggregator.prices())?;
    std::fs::write(site.world.aggregator.prices(), book.replace("3.60", "3600.00"))?;
    wait_until(DEADLINE * 2, "charges over the hold", String::new, || {
        let hold = site.hold(job)?.context("a hold")?;
        Ok((hold["charged"].as_f64() > Some(0.1)).then_some(()))
    })?;
    ensure!(site.left()? < 99.9, "{}", site.left()?);
    site.slurm.run("scancel", &[&job.to_string()])?;
    let settled = site.wait_hold(job, "settled")?;
    ensure!(settled["charged"].as_f64() > settled["amount"].as_f64(), "{settled}");
    site.world.nodes[0].stop(DEADLINE)?;
    site.verify()
}

#[test]
fn a_job_that_runs_into_its_time_limit_is_settled_by_what_it_used() -> anyhow::Result<()> {
    let Some(mut site) = Site::start("100", "")? else { return Ok(()) };
    let job = site.job(&["--gres=gpu:1", "--time=1"], "sleep 300")?;
    site.wait_hold(job, "open")?;
    site.slurm.wait_running(job)?;
    // Slurm looks at limits twice a minute.
    let jobs = || format!("{:?}", site.slurm.sacct(job));
    let ended = wait_until(DEADLINE * 6, "Slurm to end the job", jobs, || {
        let jobs = site.slurm.sacct(job)?;
        Ok(jobs.into_iter().find(|of| of.job == job && of.end_s.is_some()))
    })?;
    ensure!(ended.state.starts_with("TIMEOUT"), "{ended:?}");
    let settled = site.wait_hold(job, "settled")?;
    // At 0.001 a second: a minute, and until Slurm looked and the job was gone.
    let charged = settled["charged"].as_f64().context("a charge")?;
    ensure!((0.055..0.2).contains(&charged), "{settled}");
    site.world.nodes[0].stop(DEADLINE)?;
    ensure!(site.left()? <= 100.0 - charged && near(site.held()?, 0.0), "{}", site.left()?);
    site.verify()
}
