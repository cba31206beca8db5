//! Slurm's hooks under everything that may happen to them, and under a real Slurm: what they note is what Slurm accounts,
//! and what the agent makes of it are the devices that Slurm let the job use.
//!
//! Without root or Slurm the tests that need it skip aloud.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use harness::slurm::{Accounted, GresNode, Slurm};
use tonnage_agent::attribution::slurm::{DeviceRef, Job, Jobs, Paths};
use tonnage_agent::model::SharedBy;
use tonnage_runtime::clock::Clock;

/// What the ledger says of jobs.
pub(crate) mod bill;

/// The hooks alone.
mod hooks;

const S: i64 = 1_000_000_000;
/// Slurm and its hooks mean the same moments: what lies between is the time in which one starts the other.
const SAME_NS: i64 = 15 * S;

/// A job's file as keys and values.
type Noted = BTreeMap<String, String>;

fn noted(folder: &Path, job: u32) -> Option<Noted> {
    let text = fs::read_to_string(folder.join(job.to_string())).ok()?;
    text.lines()
        .map(|line| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
        .collect()
}

fn number(noted: &Noted, key: &str) -> anyhow::Result<i64> {
    noted.get(key).and_then(|value| value.parse().ok()).ok_or_else(|| anyhow::anyhow!("{key}: {noted:?}"))
}

/// A node's file of a job, once it says the job's end.
fn ended(slurm: &Slurm, node: usize, job: u32) -> anyhow::Result<Noted> {
    slurm.wait(&format!("the end of job {job} in its file"), |slurm| {
        Ok(noted(slurm.jobs_dir(node), job).filter(|noted| noted.contains_key("end_ns")))
    })
}

/// Holds a job's file against what sacct says.
#[allow(clippy::print_stdout, reason = "whoever runs it wants to see how far apart they are")]
fn equal(noted: &Noted, accounted: &Accounted) -> anyhow::Result<()> {
    let (start_ns, end_ns) = (number(noted, "start_ns")?, number(noted, "end_ns")?);
    let slurm = |at_s: Option<i64>| at_s.map(|at_s| at_s * S).ok_or_else(|| anyhow::anyhow!("{accounted:?}"));
    let (slurm_start_ns, slurm_end_ns) = (slurm(accounted.start_s)?, slurm(accounted.end_s)?);
    println!(
        "job {} {}: began {:+.3} s, ended {:+.3} s by the hooks against sacct's whole seconds",
        accounted.shown,
        accounted.state,
        (start_ns - slurm_start_ns) as f64 * 1e-9,
        (end_ns - slurm_end_ns) as f64 * 1e-9
    );
    // Slurm rounds down, and then runs the hook; but it may count a job from the end of its Prolog only.
    assert!((start_ns - slurm_start_ns).abs() < SAME_NS, "{noted:?} {accounted:?}");
    assert!((0..SAME_NS).contains(&(end_ns - slurm_end_ns)), "{noted:?} {accounted:?}");
    Ok(())
}

/// What the agent makes of a node's files.
fn jobs(slurm: &Slurm, node: usize) -> anyhow::Result<Vec<Job>> {
    let mut jobs = Jobs::new(Paths {
        jobs: slurm.jobs_dir(node).to_owned(),
        gres_conf: slurm.dir().join("gres.conf"),
        slurm_conf: slurm.conf(),
        procfs: "/proc".into(),
        node: slurm.nodes[node].clone(),
        ..Paths::default()
    });
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let found = jobs.read(boot_id.trim(), Clock::system().read()).to_vec();
    let problems: Vec<_> = jobs.problems().collect();
    assert!(problems.is_empty(), "{problems:?}");
    Ok(found)
}

fn job(slurm: &Slurm, node: usize, id: u32) -> anyhow::Result<Job> {
    let found = jobs(slurm, node)?.into_iter().find(|job| job.job_id == id.to_string());
    found.ok_or_else(|| anyhow::anyhow!("the agent knows of no job {id}"))
}

/// Says in the job's output which of a node's devices its cgroup lets it open. No driver stands behind any, so opening fails in
/// one of two ways.
fn probe(slurm: &Slurm, node: usize) -> String {
    format!(
        "for device in {}/dev/{}/nvidia*; do cat $device 2>&1 | grep -q 'not permitted' || echo may $device; done",
        slurm.dir().display(),
        slurm.nodes[node]
    )
}

/// Minor numbers of the devices that the job might open.
fn opened(slurm: &Slurm, job: u32) -> anyhow::Result<Vec<u32>> {
    let text = fs::read_to_string(slurm.dir().join("out").join(job.to_string()))?;
    let devices = text.lines().filter_map(|line| line.strip_prefix("may ")?.rsplit_once("nvidia"));
    Ok(devices.filter_map(|(_, minor)| minor.parse().ok()).collect())
}

fn minors(job: &Job) -> Vec<u32> {
    let minor = |at| match at {
        DeviceRef::Minor(minor) => minor,
        other => panic!("{other:?}"),
    };
    let mut minors: Vec<u32> = job.devices.iter().map(|device| minor(device.at)).collect();
    minors.sort_unstable();
    minors
}

/// Four GPUs whose files are not in order.
pub(crate) fn four() -> GresNode {
    GresNode { minors: vec![3, 1, 5, 0], ..GresNode::default() }
}

#[test]
fn what_the_hooks_note_is_what_slurm_accounts_whatever_becomes_of_a_job() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(mut slurm) = Slurm::start(&dir.path().join("slurm"), &[four()])? else { return Ok(()) };
    let node = slurm.nodes[0].clone();
    // Slurm looks at time limits twice a minute, so this one goes first.
    let timed_out = slurm.submit(&["--gres=gpu:1"], "sleep 300")?;
    slurm.wait_running(timed_out)?;
    let update = ["update", &format!("JobId={timed_out}"), "EndTime=now+1"];
    slurm.run("scontrol", &update)?;

    let script = format!("{}; sleep 1", probe(&slurm, 0));
    let plain = slurm.submit(&["--gres=gpu:2", "--uid=nobody"], &script)?;
    let accounted = slurm.wait_ended(plain, "COMPLETED")?;
    let noted = ended(&slurm, 0, plain)?;
    equal(&noted, &accounted)?;
    for (key, value) in [("user", "nobody"), ("account", "research"), ("partition", "main"), ("node", &*node)]
    {
        assert_eq!(noted.get(key).map(String::as_str), Some(value), "{noted:?}");
    }
    assert_eq!(minors(&job(&slurm, 0, plain)?), opened(&slurm, plain)?, "{noted:?}");

    let srun = ["--account=research", "--gres=gpu:1", "sh", "-c", "echo $SLURM_JOB_ID; sleep 1"];
    let by_srun = slurm.run("srun", &srun)?.trim().parse()?;
    equal(&ended(&slurm, 0, by_srun)?, &slurm.wait_ended(by_srun, "COMPLETED")?)?;

    let array = slurm.submit(&["--gres=gpu:1", "--array=0-1"], "sleep 1")?;
    slurm.wait("both tasks", |slurm| {
        let tasks = slurm.sacct(array)?;
        Ok((tasks.len() == 2 && tasks.iter().all(|task| task.state == "COMPLETED")).then_some(()))
    })?;
    for task in slurm.sacct(array)? {
        equal(&ended(&slurm, 0, task.job)?, &task)?;
    }

    let cancelled = slurm.submit(&["--gres=gpu:1"], "sleep 300")?;
    slurm.wait_running(cancelled)?;
    slurm.run("scancel", &[&cancelled.to_string()])?;
    equal(&ended(&slurm, 0, cancelled)?, &slurm.wait_ended(cancelled, "CANCELLED")?)?;

    let none = slurm.submit(&[], "true")?;
    slurm.wait_ended(none, "COMPLETED")?;
    assert!(self::noted(slurm.jobs_dir(0), none).is_none());

    equal(&ended(&slurm, 0, timed_out)?, &slurm.wait_ended(timed_out, "TIMEOUT")?)?;
    Ok(())
}

#[test]
fn a_job_keeps_its_file_through_a_restart_of_slurmd_a_drain_and_a_requeue() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(mut slurm) = Slurm::start(&dir.path().join("slurm"), &[four()])? else { return Ok(()) };
    let node = slurm.nodes[0].clone();
    // It ends when it is told to.
    let flag = slurm.dir().join("out/go");
    let until_told = format!("while [ ! -e {} ]; do sleep 0.1; done", flag.display());
    let first = slurm.submit(&["--gres=gpu:1"], &until_told)?;
    slurm.wait_running(first)?;
    let before = slurm.wait("a file", |slurm| Ok(noted(slurm.jobs_dir(0), first)))?;
    slurm.stop_slurmd(0)?;
    slurm.start_slurmd(0)?;
    slurm.run("scontrol", &["update", &format!("NodeName={node}"), "State=DRAIN", "Reason=test"])?;
    let waits = slurm.submit(&["--gres=gpu:1"], "true")?;
    assert_eq!(noted(slurm.jobs_dir(0), first), Some(before.clone()));
    fs::write(&flag, "")?;
    let after = ended(&slurm, 0, first)?;
    equal(&after, &slurm.wait_ended(first, "COMPLETED")?)?;
    assert_eq!(after["start_ns"], before["start_ns"]);
    // A node that is drained begins nothing.
    assert!(noted(slurm.jobs_dir(0), waits).is_none());
    slurm.run("scontrol", &["update", &format!("NodeName={node}"), "State=RESUME"])?;
    equal(&ended(&slurm, 0, waits)?, &slurm.wait_ended(waits, "COMPLETED")?)?;

    fs::remove_file(&flag)?;
    let again = slurm.submit(&["--gres=gpu:1", "--requeue"], &until_told)?;
    slurm.wait_running(again)?;
    let before = slurm.wait("a file", |slurm| Ok(noted(slurm.jobs_dir(0), again)))?;
    slurm.run("scontrol", &["requeue", &again.to_string()])?;
    equal(&ended(&slurm, 0, again)?, &slurm.wait_ended(again, "REQUEUED")?)?;
    slurm.wait("its second run", |slurm| {
        Ok(noted(slurm.jobs_dir(0), again)
            .filter(|noted| !noted.contains_key("end_ns") && noted["start_ns"] != before["start_ns"]))
    })?;
    fs::write(&flag, "")?;
    equal(&ended(&slurm, 0, again)?, &slurm.wait_ended(again, "COMPLETED")?)
}

#[test]
fn shards_mps_types_and_heterogeneous_jobs_hold_what_slurm_gave_them() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let sharded = GresNode { minors: vec![3, 1], shards: 8, ..GresNode::default() };
    let mps = GresNode { minors: vec![5, 0], mps: 200, ..GresNode::default() };
    let typed = GresNode { minors: vec![7, 6, 4], types: vec!["b", "a", "b"], ..GresNode::default() };
    let Some(mut slurm) = Slurm::start(&dir.path().join("slurm"), &[sharded, mps, typed])? else {
        return Ok(());
    };
    let on = [0, 1, 2].map(|at| format!("--nodelist={}", slurm.nodes[at]));
    let scripts = [0, 1, 2].map(|node| format!("{}; sleep 300", probe(&slurm, node)));
    let mut running = Vec::new();
    for (node, gres, parts) in [
        (0, "--gres=shard:3", Some((3, 4, SharedBy::Shards))),
        (0, "--gres=gpu:1", Some((1, 1, SharedBy::Contexts))),
        (1, "--gres=mps:25", Some((25, 100, SharedBy::Mps))),
        (1, "--gres=gpu:1", Some((1, 1, SharedBy::Contexts))),
        // Of types that slurm.conf has in another order than gres.conf.
        (2, "--gres=gpu:a:1", Some((1, 1, SharedBy::Contexts))),
        (2, "--gres=gpu:b:1", Some((1, 1, SharedBy::Contexts))),
    ] {
        let id = slurm.submit(&[&on[node], gres], &scripts[node])?;
        slurm.wait_running(id)?;
        slurm.wait("its file and its output", |slurm| {
            let there = noted(slurm.jobs_dir(node), id).is_some()
                && !opened(slurm, id).unwrap_or_default().is_empty();
            Ok(there.then_some(()))
        })?;
        let job = job(&slurm, node, id)?;
        println!("{gres}: {job:?}");
        let held: Vec<_> =
            job.devices.iter().map(|device| (device.parts, device.of, device.shared_by)).collect();
        assert_eq!((held, job.inferred), (Vec::from_iter(parts), false), "{gres}");
        assert_eq!(minors(&job), opened(&slurm, id)?, "{gres}");
        running.push(id);
    }
    running.iter().try_for_each(|id| slurm.run("scancel", &[&id.to_string()]).map(drop))?;

    let script = "sleep 1";
    let leader = slurm.submit(&[&on[0], "--gres=gpu:1", ":", &on[1], "--gres=gpu:2"], script)?;
    slurm.wait("both parts", |slurm| {
        let parts = slurm.sacct(leader)?;
        Ok((parts.len() == 2 && parts.iter().all(|part| part.state == "COMPLETED")).then_some(()))
    })?;
    for (node, part) in slurm.sacct(leader)?.into_iter().enumerate() {
        equal(&ended(&slurm, node, part.job)?, &part)?;
        assert_eq!(job(&slurm, node, part.job)?.devices.len(), node + 1);
    }
    Ok(())
}
