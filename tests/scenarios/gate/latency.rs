//! What the gate adds to a submission; printed, not asserted: it is the machine's.

use tonnage_runtime::clock::Clock;

use super::*;

const ROUNDS: usize = 200;
const SUBMISSIONS: usize = 30;

/// Milliseconds of each round, in order.
pub(super) fn timed(
    rounds: usize,
    mut round: impl FnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<f64>> {
    let clock = Clock::system();
    let mut taken = Vec::new();
    for at in 0..rounds {
        let began_ns = clock.monotonic_ns();
        round(at)?;
        taken.push((clock.monotonic_ns() - began_ns) as f64 * 1e-6);
    }
    taken.sort_by(f64::total_cmp);
    Ok(taken)
}

#[allow(clippy::print_stdout, reason = "whoever runs it wants to see it")]
pub(super) fn say(what: &str, taken: &[f64]) {
    let at = |permille: usize| taken[(taken.len() * permille / 1000).min(taken.len() - 1)];
    println!("{what}: p50 {:.2} ms, p99 {:.2} ms, of {}", at(500), at(990), taken.len());
}

#[test]
fn what_the_gate_adds_to_a_submission_is_measured() -> anyhow::Result<()> {
    let Some(mut site) = Site::start("1000000", "")? else { return Ok(()) };
    let line = |at: usize, gpus: &str| {
        format!("submit token={at:032x} user=root account=research partition=main time_limit=1{gpus}")
    };
    let nothing = timed(ROUNDS, |at| {
        let answer = site.gate.ask(&line(at, ""))?;
        ensure!(answer == "ok none", "{answer}");
        Ok(())
    })?;
    say("socket, no GPU", &nothing);
    let asked = timed(ROUNDS, |at| {
        let answer = site.gate.ask(&line(at, " tres_per_job=gres:gpu:1"))?;
        ensure!(answer.starts_with("ok "), "{answer}");
        Ok(())
    })?;
    say("socket, one GPU", &asked);
    let submit = |site: &Site, args: &[&str]| {
        let (taken, text) = site.sbatch(&[&["--hold", "--time=1"], args].concat(), "true")?;
        ensure!(taken, "{text}");
        Ok(())
    };
    let with = timed(SUBMISSIONS, |_| submit(&site, &["--gpus=1"]))?;
    let cpu = timed(SUBMISSIONS, |_| submit(&site, &[]))?;
    std::fs::write(
        site.slurm.dir().join("job_submit.lua"),
        "function slurm_job_submit() return slurm.SUCCESS end\nfunction slurm_job_modify() return slurm.SUCCESS end\nreturn slurm.SUCCESS\n",
    )?;
    site.slurm.stop_slurmctld()?;
    site.slurm.start_slurmctld()?;
    let without = timed(SUBMISSIONS, |_| submit(&site, &["--gpus=1"]))?;
    say("sbatch, one GPU, without the gate", &without);
    say("sbatch, one GPU, with it", &with);
    say("sbatch, no GPU, with it", &cpu);
    site.slurm.run("scancel", &["--user=root"])?;
    site.world.nodes[0].stop(DEADLINE)
}
