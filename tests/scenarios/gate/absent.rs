//! Who cannot be asked: each policy, and what was let in is booked later. And what a job does not say itself.

use super::*;

#[test]
fn where_nobody_can_say_the_policy_does_and_what_is_let_in_is_booked() -> anyhow::Result<()> {
    let Some(mut site) = Site::start("0.10", "policy = \"open\"")? else { return Ok(()) };
    let big = ["--gres=gpu:2", "--time=30"];
    site.refused(&big)?;

    // The aggregator is down: the gate's policy is to refuse, unless told.
    site.world.aggregator.stop(DEADLINE)?;
    let text = site.refused(&big)?;
    ensure!(text.contains("its balance cannot be read now"), "{text}");
    site.gate.stop(DEADLINE)?;
    site.gate.extra_args.extend(["--policy".to_owned(), "open".to_owned()]);
    site.gate.start(DEADLINE)?;
    let (taken, text) = site.sbatch(&[&big[..], &["--hold"]].concat(), "sleep 1")?;
    ensure!(taken && text.contains("not checked, since its balance cannot be read now"), "{text}");
    let let_in: u32 = text.lines().find_map(|line| line.trim().parse().ok()).context("an id")?;
    site.slurm.run("scontrol", &["update", &format!("JobId={let_in}"), "TimeLimit=40"])?;
    site.gate.kill9()?;

    // The gate is down too: the plugin's policy is to let in.
    let (taken, text) = site.sbatch(&[&big[..], &["--hold"]].concat(), "sleep 1")?;
    ensure!(taken && text.contains("not checked, since the gate does not answer"), "{text}");
    let unseen: u32 = text.lines().find_map(|line| line.trim().parse().ok()).context("an id")?;

    site.world.aggregator.start(DEADLINE)?;
    site.gate.start(DEADLINE)?;
    for job in [let_in, unseen] {
        let hold = site.wait_hold(job, "open")?;
        // What the first was given more may be one with it already.
        let more = job == let_in && hold["exact"]["amount"] == "5.760000000";
        ensure!(more || hold["exact"]["amount"] == "4.320000000", "{hold}");
        ensure!(hold["description"].as_str().is_some_and(|text| text.contains("let in")), "{hold}");
    }
    // With ten minutes more of the first: 4.32 + 4.32 + 1.44.
    wait_until(DEADLINE, "all that was let in to be held for", String::new, || {
        Ok(near(site.held()?, 10.08).then_some(()))
    })?;
    ensure!(site.left()? < -9.9, "the account knows: {}", site.left()?);
    site.refused(&["--gres=gpu:1", "--time=1"])?;
    for job in [let_in, unseen] {
        site.slurm.run("scancel", &[&job.to_string()])?;
        site.wait_hold(job, "settled")?;
    }

    // And the plugin's other policy.
    site.gate.stop(DEADLINE)?;
    let closed = format!("socket = {:?}, policy = \"closed\"", site.gate.socket().display().to_string());
    site.slurm.with_submit_plugin(&closed)?;
    let text = site.refused(&big)?;
    ensure!(text.contains("the gate does not answer now"), "{text}");
    // Work without GPUs is none of its business.
    let cpu = site.job(&["--time=1"], "true")?;
    site.slurm.wait_ended(cpu, "COMPLETED")?;
    site.world.nodes[0].stop(DEADLINE)?;
    site.verify()
}

#[test]
fn a_site_keeps_its_own_script_and_what_a_job_leaves_out_is_found_or_refused() -> anyhow::Result<()> {
    let Some(mut site) = Site::start("1.00", "quiet = true")? else { return Ok(()) };
    std::fs::write(
        site.slurm.dir().join("job_submit_site.lua"),
        "function slurm_job_submit(job_desc, part_list, uid)\n\
             if job_desc.name == 'forbidden' then slurm.log_user('no such name') return slurm.ERROR end\n\
             if job_desc.name == 'short' then job_desc.partition = 'short' end\n\
             job_desc.admin_comment = 'of the site'\n\
             return slurm.SUCCESS\n\
         end\n",
    )?;
    let settings = format!("socket = {:?}, quiet = true", site.gate.socket().display().to_string());
    site.slurm.with_submit_plugin(&settings)?;
    let text = site.refused(&["--job-name=forbidden"])?;
    ensure!(text.contains("no such name"), "{text}");

    // The partition that the site's script chose has a default time of a minute.
    let (taken, text) = site.sbatch(&["--gpus=1", "--job-name=short", "--hold"], "true")?;
    ensure!(taken && !text.contains("tonnage"), "it was to be quiet: {text}");
    let job: u32 = text.trim().parse()?;
    ensure!(site.wait_hold(job, "open")?["exact"]["amount"] == "0.072000000");
    let shown = site.slurm.run("scontrol", &["show", "job", &job.to_string()])?;
    ensure!(shown.contains("of the site") && shown.contains("tonnage:held:"), "{shown}");

    // The usual one has no longest time.
    let text = site.refused(&["--gpus=1"])?;
    ensure!(text.contains("time_limit") && text.contains("--time"), "{text}");
    let text = site.refused(&["--gres=gpu:1", "--time=1", "--account=elsewhere"])?;
    ensure!(text.contains("account elsewhere") && text.contains("has no budget"), "{text}");
    // Root, without a word of an account, is of the one that Slurm has for it, which nothing pays for.
    let (taken, text) = site.bare(&["--gres=gpu:1", "--time=1"], "true")?;
    ensure!(!taken && text.contains("account root") && text.contains("has no budget"), "{text}");
    site.slurm.run("scancel", &[&job.to_string()])?;
    site.wait_hold(job, "settled")?;

    // A submission that comes to nothing after it was let in: Slurm makes nothing of its dependency.
    let text = site.refused(&["--gres=gpu:1", "--time=1", "--dependency=nonsense"])?;
    ensure!(!text.contains("tonnage"), "{text}");
    wait_until(DEADLINE, "the end of its hold", String::new, || Ok(near(site.held()?, 0.0).then_some(())))?;
    site.world.nodes[0].stop(DEADLINE)?;
    site.verify()
}
