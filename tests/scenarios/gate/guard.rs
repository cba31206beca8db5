//! The second guard: limits in Slurm itself.

use super::*;

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
