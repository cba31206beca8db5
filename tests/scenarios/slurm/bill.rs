//! All of it together, in real time: Slurm runs jobs, its hooks note them, an agent meters them over a simulated driver whose
//! minor numbers are those of Slurm's device nodes, and the ledger says what each held.
//!
//! `sacct` counts in whole seconds and rounds both ends down, so it may differ from the truth by almost a second; and it
//! ends a job when it tells it to end, while its GPUs are free only once its Epilog has run. Against the hooks' files, in
//! nanoseconds, the ledger may differ by what its clock is slewed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;

use harness::scenario;
use harness::slurm::Slurm;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use tonnage_proto::rest::{CostAnswer, Figures};

use super::{S, ended, four, number};
use crate::books::Books;

/// By how much ledger time and the wall clock may differ over a job.
const SLEWED_S: f64 = 0.05;
/// A second for Slurm's rounding, and one for running the hooks;
const ROUNDED_S: f64 = 2.0;
/// and what a job that was told to end may take to do so.
const KILLED_S: f64 = 3.0;

fn seconds(text: &str) -> f64 {
    text.parse().unwrap()
}

/// Four GPUs with the minor numbers of Slurm's nodes, and no process on them.
pub(crate) fn world(slurm: &Slurm) -> anyhow::Result<World> {
    let mut world = World::in_real_time(1)?;
    let mut node = scenario::node(4);
    let minors = [0, 1, 3, 5];
    node.device.iter_mut().zip(minors).for_each(|(device, minor)| device.minor = minor);
    fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().clone_into(&mut node.boot_id);
    world.add_node("n", node)?;
    let node = &mut world.nodes[0];
    for (from, to) in [
        (slurm.conf(), "slurm.conf"),
        (slurm.dir().join("gres.conf"), "gres.conf"),
        (slurm.jobs_dir(0).to_owned(), "jobs"),
    ] {
        symlink(from, node.dir().join(to))?;
    }
    node.extra_args.extend(["--slurm.node".to_owned(), slurm.nodes[0].clone()]);
    Ok(world)
}

#[test]
fn the_ledger_bills_each_job_for_what_slurm_accounts_and_the_rest_is_idle() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(mut slurm) = Slurm::start(&dir.path().join("slurm"), &[four()])? else { return Ok(()) };
    let mut world = world(&slurm)?;
    world.start()?;
    let two = slurm.submit(&["--gres=gpu:2", "--uid=nobody"], "sleep 4")?;
    let one = slurm.submit(&["--gres=gpu:1"], "sleep 2")?;
    let cancelled = slurm.submit(&["--gres=gpu:1"], "sleep 300")?;
    slurm.wait_running(cancelled)?;
    let checked = world.nodes[0].command("check").output()?;
    let text = String::from_utf8_lossy(&checked.stdout);
    // Minor 3 is the third of the driver's.
    let index = format!("GRES index 0 is {}", scenario::uuid(2));
    assert!(checked.status.success() && text.contains(&index), "{text}");
    slurm.wait_ended(one, "COMPLETED")?;
    slurm.run("scancel", &[&cancelled.to_string()])?;
    let timed_out = slurm.submit(&["--gres=gpu:1"], "sleep 300")?;
    slurm.wait_running(timed_out)?;
    slurm.run("scontrol", &["update", &format!("JobId={timed_out}"), "EndTime=now+1"])?;
    let array = slurm.submit(&["--gres=gpu:1", "--array=0-1"], "sleep 1")?;
    let tasks = slurm.wait("both tasks", |slurm| {
        let tasks = slurm.sacct(array)?;
        Ok((tasks.len() == 2 && tasks.iter().all(|task| task.state == "COMPLETED")).then_some(tasks))
    })?;

    let tasks = tasks.iter().map(|task| (task.job, 1.0, "COMPLETED"));
    let alone = [
        (two, 2.0, "COMPLETED"),
        (one, 1.0, "COMPLETED"),
        (cancelled, 1.0, "CANCELLED"),
        (timed_out, 1.0, "TIMEOUT"),
    ];
    let mut holds = BTreeMap::new();
    for (job, gpus, state) in alone.into_iter().chain(tasks) {
        let noted = ended(&slurm, 0, job)?;
        let held_s = (number(&noted, "end_ns")? - number(&noted, "start_ns")?) as f64 * 1e-9;
        holds.insert(job.to_string(), (gpus, held_s, slurm.wait_ended(job, state)?));
    }
    // The agent has seen the last of it.
    let last_end_s = tonnage_runtime::clock::Clock::system().read().wall_ns / S;
    let node = &world.nodes[0];
    wait_until(DEADLINE, "metering beyond the last job", String::new, || {
        let until_s = node.metrics()?.sum("tonnage_agent_metered_until_timestamp_seconds");
        Ok(until_s.filter(|until_s| *until_s > last_end_s as f64 + 1.0))
    })?;
    world.nodes[0].stop(DEADLINE)?;

    let answer: CostAnswer = world.aggregator.answer("/api/v1/cost/jobs?window=1h")?;
    let Figures { held_seconds, idle_seconds, unobserved_seconds, .. } = &answer.totals;
    // Samples that came too late on a loaded machine: it is told how much that is.
    let unobserved_s = seconds(unobserved_seconds);
    for (job, (gpus, noted_s, accounted)) in &holds {
        let elapsed_s = accounted.elapsed_s;
        let lag_s = ROUNDED_S + if accounted.state == "COMPLETED" { 0.0 } else { KILLED_S };
        let row = answer.rows.iter().find(|row| row.key.get("job") == Some(job));
        let row = row.ok_or_else(|| anyhow::anyhow!("no job {job}: {answer:?}"))?;
        let held_s = seconds(&row.figures.held_seconds) / gpus;
        println!("job {job} on {gpus} GPUs: ledger {held_s:.3} s, hooks {noted_s:.3} s, sacct {elapsed_s} s");
        assert!((held_s - noted_s).abs() <= SLEWED_S + unobserved_s, "{job}: {held_s} {noted_s}");
        assert!((held_s - elapsed_s as f64).abs() <= lag_s + unobserved_s, "{job}: {held_s} {elapsed_s}");
    }
    // Nobody else holds anything; and what no file says is idle, as long as the devices were observed.
    let windows = Books::read(&world.aggregator.data_dir())?.folded()?;
    let covered_ns: i64 = windows.values().flatten().map(|window| window.end_ns - window.start_ns).sum();
    let all_held_s: f64 = holds.values().map(|(gpus, noted_s, _)| gpus * noted_s).sum();
    let idle_s = covered_ns as f64 * 1e-9 - all_held_s;
    println!(
        "held {held_seconds} s, idle {idle_seconds} s, unobserved {unobserved_seconds} s, by hooks idle {idle_s:.3} s"
    );
    assert!((seconds(idle_seconds) - idle_s).abs() <= 4.0 * SLEWED_S + unobserved_s, "{answer:?}");
    assert!((seconds(held_seconds) - all_held_s).abs() <= 4.0 * SLEWED_S + unobserved_s, "{answer:?}");
    Ok(())
}
