//! The second guard: limits in Slurm itself.

use super::*;
use crate::ledgers::orders::said;

#[test]
fn an_account_with_nothing_left_may_not_submit_in_slurm_either_until_it_has() -> anyhow::Result<()> {
    let Some(mut site) = Site::start("1.00", "")? else { return Ok(()) };
    let own = ["-i", "modify", "account", "name=research", "set", "GrpSubmitJobs=7"];
    site.slurm.run("sacctmgr", &own)?;
    let conf = std::fs::read_to_string(site.slurm.conf())?;
    std::fs::write(site.slurm.conf(), format!("{conf}AccountingStorageEnforce=limits\n"))?;
    let socket = site.gate.socket().display().to_string();
    site.slurm.with_submit_plugin(&format!("socket = {socket:?}"))?;
    site.gate.stop(DEADLINE)?;
    site.gate.extra_args.extend(["--push-limits", "test"].map(str::to_owned));
    site.gate.start(DEADLINE)?;
    let limit = |site: &Site| {
        let show = ["-n", "-P", "show", "assoc", "account=research", "format=User,GrpSubmitJobs"];
        let text = site.slurm.run("sacctmgr", &show)?;
        let own = text.lines().find_map(|line| line.strip_prefix('|'));
        own.map(str::to_owned).context(text.clone())
    };
    let wait_limit = |site: &Site, expected: &str| {
        let log = || std::fs::read_to_string(site.gate.log()).unwrap_or_default();
        wait_until(DEADLINE, &format!("the limit {expected}"), log, || {
            Ok((limit(site)? == expected).then_some(()))
        })
    };
    site.slurm.wait_ended(site.job(&["--time=1"], "true")?, "COMPLETED")?;
    ensure!(limit(&site)? == "7");

    // Work elsewhere took all there was.
    let url = site.world.aggregator.url();
    let body = json!({
        "account": "research", "partition": "main", "gpus": 4, "wall_time": "10:00:00", "cluster": "test",
        "overdraft": "it runs already",
    });
    let (status, text) = post(&http(), &format!("{url}/api/v1/budget/check"), &body.to_string())?;
    ensure!(status == 200, "{status} {text}");
    let held: Value = serde_json::from_str(&text)?;
    wait_limit(&site, "0")?;
    // Also where nobody asks the gate: jobs without GPUs.
    site.slurm.wait("a refusal by Slurm", |_| {
        let (taken, text) = site.sbatch(&["--time=1"], "true")?;
        Ok((!taken && !text.contains("tonnage")).then_some(()))
    })?;

    let id = held["transaction_id"].as_str().context("an id")?;
    let (status, text) = post(&http(), &format!("{url}/api/v1/holds/{id}/void"), "")?;
    ensure!(status == 200, "{status} {text}");
    wait_limit(&site, "7")?;
    site.slurm.wait("a job that is let in again", |_| Ok(site.job(&["--time=1"], "true").ok()))?;
    site.world.nodes[0].stop(DEADLINE)
}

/// A limit of the account itself, as sacctmgr shows it.
fn limit(site: &Site, of: &str) -> anyhow::Result<String> {
    let format = format!("format=User,{of}");
    let text = site.slurm.run("sacctmgr", &["-n", "-P", "show", "assoc", "account=research", &format])?;
    let own = text.lines().find_map(|line| line.strip_prefix('|'));
    own.map(str::to_owned).context(text.clone())
}

fn wait_minutes(site: &Site, expected: &str) -> anyhow::Result<()> {
    let log = || std::fs::read_to_string(site.gate.log()).unwrap_or_default();
    // Slurm's programs may wait long for a slurmctld that is just started again.
    wait_until(DEADLINE * 4, &format!("the limit {expected}"), log, || {
        Ok((limit(site, "GrpTRESMins")? == expected).then_some(()))
    })
}

fn enforce(site: &mut Site, words: &str) -> anyhow::Result<()> {
    let conf = std::fs::read_to_string(site.slurm.conf())?;
    let own = conf.lines().filter(|line| {
        !["AccountingStorageEnforce=", "PriorityType="].iter().any(|key| line.starts_with(key))
    });
    let own: String = own.map(|line| format!("{line}\n")).collect();
    std::fs::write(
        site.slurm.conf(),
        format!("{own}AccountingStorageEnforce={words}\nPriorityType=priority/multifactor\n"),
    )?;
    let socket = site.gate.socket().display().to_string();
    site.slurm.with_submit_plugin(&format!("socket = {socket:?}, policy = \"open\""))
}

#[test]
fn a_job_that_there_is_no_money_for_waits_in_slurm_while_nobody_can_be_asked() -> anyhow::Result<()> {
    // A minute of a GPU costs 0.06.
    let Some(mut site) = Site::start("1.00", "")? else { return Ok(()) };
    let own = ["-i", "modify", "account", "name=research", "set", "GrpTRESMins=gres/gpu=900"];
    site.slurm.run("sacctmgr", &own)?;
    enforce(&mut site, "limits")?;
    site.gate.stop(DEADLINE)?;
    site.gate.extra_args.extend(["--push-limits", "test", "--push-gpu-minutes"].map(str::to_owned));
    site.gate.start(DEADLINE)?;
    // Slurm would kill jobs that run.
    wait_until(DEADLINE * 4, "a word of it in the gate's log", String::new, || {
        let log = std::fs::read_to_string(site.gate.log())?;
        Ok(log.contains("AccountingStorageEnforce lacks safe").then_some(()))
    })?;
    ensure!(limit(&site, "GrpTRESMins")? == "gres/gpu=900");
    enforce(&mut site, "limits,safe")?;
    wait_minutes(&site, "gres/gpu=17")?;

    site.gate.stop(DEADLINE)?;
    let ten_minutes = site.job(&["--gpus=2", "--time=10"], "true")?;
    let one_minute = site.job(&["--gpus=4", "--time=1"], "sleep 16")?;
    site.slurm.wait_ended(one_minute, "COMPLETED")?;
    let job = ten_minutes.to_string();
    site.slurm.wait("the reason for which the job waits", |slurm| {
        let said = slurm.run("squeue", &["-h", "-j", &job, "--Format=State:20,Reason:40"])?;
        Ok((said.contains("PENDING") && said.contains("AssocGrpGRESMinutes")).then_some(()))
    })?;

    // What Slurm says that it counts are minutes, too.
    let used = site.slurm.wait("what the account used", |slurm| {
        let said = slurm.run("sshare", &["-n", "-P", "-a", "-A", "research", "--format=User,GrpTRESRaw"])?;
        let own = said.lines().find_map(|line| line.strip_prefix('|')).unwrap_or_default();
        let gpus = own.split(',').find_map(|tres| tres.strip_prefix("gres/gpu="));
        Ok(gpus.filter(|gpus| *gpus != "0").map(str::to_owned))
    })?;
    ensure!(used == "1", "64 GPU-seconds are {used}");

    // More money: a person's own limit is less than that again, and the job starts.
    said(&site.world, &["account", "update", "research", "--limit", "100"])?;
    site.gate.start(DEADLINE)?;
    wait_minutes(&site, "gres/gpu=900")?;
    site.slurm.wait_ended(ten_minutes, "COMPLETED")?;
    site.world.nodes[0].stop(DEADLINE)
}
