//! Real processes in real cgroups, made where systems make them: the kernel's own words for whose they are.
//!
//! Needs root and a cgroup tree that can be written; where there is none it says so and proves nothing.

#![allow(clippy::print_stdout, reason = "what is skipped is skipped aloud")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use harness::scenario::{self, Whose};
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};

/// A sleeping process in cgroups of its own. Both go when it is dropped.
struct Sleeper {
    child: Child,
    folders: Vec<PathBuf>,
}

impl Sleeper {
    /// A process in `path` of each of these trees; `None` where that is not allowed.
    fn start(trees: &[PathBuf], path: &str) -> Option<Self> {
        let child = Command::new("sleep").arg("600").spawn().ok()?;
        let mut sleeper = Self { child, folders: Vec::new() };
        for tree in trees {
            let mut folder = tree.clone();
            for component in Path::new(path).components() {
                folder.push(component);
                if !folder.exists() {
                    fs::create_dir(&folder).ok()?;
                    sleeper.folders.push(folder.clone());
                }
            }
            fs::write(folder.join("cgroup.procs"), sleeper.child.id().to_string()).ok()?;
        }
        Some(sleeper)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for folder in self.folders.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// The last goes first: folders that several are in were made for the first of them.
#[derive(Default)]
struct Sleepers(Vec<Sleeper>);

impl Drop for Sleepers {
    fn drop(&mut self) {
        while self.0.pop().is_some() {}
    }
}

/// The trees of this machine: one with v2, else one per controller and the unified one beside them.
fn trees() -> (Vec<PathBuf>, Vec<PathBuf>) {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return (vec![root.to_owned()], Vec::new());
    }
    let unified = Some(root.join("unified")).filter(|tree| tree.join("cgroup.controllers").exists());
    let v1 = ["memory", "pids"].map(|name| root.join(name)).into_iter().filter(|tree| tree.exists());
    (unified.into_iter().collect(), v1.collect())
}

/// Where it is, what the agent's metrics should call it, and with which value.
struct Case {
    is_v1: bool,
    path: String,
    label: &'static str,
    value: String,
}

/// `n` keeps those of one test apart from those of another that runs beside it.
fn cases(n: u32) -> Vec<Case> {
    let (uid, id) = (scenario::pod_uid(n), scenario::container_id(n));
    let slice = uid.replace('-', "_");
    let case = |is_v1, path: String, label, value: &str| {
        let path = format!("tonnage-test-{n}/{path}");
        Case { is_v1, path, label, value: value.to_owned() }
    };
    vec![
        case(
            false,
            format!("kubepods.slice/kubepods-pod{slice}.slice/cri-containerd-{id}.scope"),
            "pod",
            &uid,
        ),
        case(true, format!("kubepods/burstable/pod{uid}/{id}"), "pod", &uid),
        case(
            false,
            format!("docker-{id}.scope/kubelet.slice/kubelet-kubepods-pod{slice}.slice/{id}"),
            "pod",
            &uid,
        ),
        case(
            false,
            format!("tonnage-test_slurmstepd.scope/job_{n}/step_0/user/task_0"),
            "slurm_job",
            &n.to_string(),
        ),
        case(
            true,
            format!("slurm_tonnage-test/uid_0/job_{n}/step_batch/task_0"),
            "slurm_job",
            &n.to_string(),
        ),
        case(false, format!("machine.slice/libpod-{id}.scope/container"), "container", &id),
        case(
            false,
            format!("system.slice/tonnage-test-{n}.service"),
            "unit",
            &format!("tonnage-test-{n}.service"),
        ),
        case(false, format!("user.slice/user-{n}.slice/session-9.scope"), "user", &n.to_string()),
    ]
}

#[test]
fn a_process_is_whose_its_real_cgroup_says() -> anyhow::Result<()> {
    owners_by_cgroup(None)
}

#[test]
fn a_process_is_as_well_known_from_within_a_cgroup_namespace() -> anyhow::Result<()> {
    let (v2, _) = trees();
    let Some(folder) = v2.first().map(|tree| tree.join("tonnage-test-namespace")) else {
        println!("SKIPPED: no v2 tree here");
        return Ok(());
    };
    if fs::create_dir(&folder).is_err() {
        println!("SKIPPED: {} cannot be made here", folder.display());
        return Ok(());
    }
    // From there the paths of others begin with `/..`.
    let script = r#"echo $$ > "$0/cgroup.procs" && exec unshare --cgroup -- "$@""#;
    let folder_text = folder.to_string_lossy();
    let result = owners_by_cgroup(Some(["sh", "-c", script, &folder_text].map(str::to_owned).to_vec()));
    wait_until(DEADLINE, "the agent's cgroup to be empty", String::new, || Ok(fs::remove_dir(&folder).ok()))?;
    result
}

/// Every case at once, with an agent that is started by `wrapper`.
fn owners_by_cgroup(wrapper: Option<Vec<String>>) -> anyhow::Result<()> {
    let (v2, v1) = trees();
    let mut scenario = scenario::node(0);
    let mut sleepers = Sleepers::default();
    let mut expected = Vec::new();
    for case in cases(if wrapper.is_some() { 4711 } else { 4712 }) {
        let trees = if case.is_v1 { &v1 } else { &v2 };
        let Some(sleeper) = Sleeper::start(trees, &case.path).filter(|_| !trees.is_empty()) else {
            println!("SKIPPED: no cgroup {} can be made here", case.path);
            continue;
        };
        let gpu = u32::try_from(sleepers.0.len())?;
        let whose = Whose { cgroup: Vec::new(), uid: 0, owner: "unowned".into() };
        scenario.device.push(scenario::device(gpu));
        scenario.process.push(scenario::process(sleeper.child.id(), &whose, &[gpu], 0.0));
        sleepers.0.push(sleeper);
        expected.push((scenario::uuid(gpu), case));
    }
    if expected.is_empty() {
        return Ok(());
    }
    let mut world = World::in_real_time(1)?;
    world.add_node("n", scenario)?;
    world.nodes[0].procfs = Some("/proc".into());
    world.nodes[0].cgroup = Some("/sys/fs/cgroup".into());
    world.nodes[0].wrapper = wrapper.unwrap_or_default();
    world.start()?;
    for (gpu, Case { path, label, value, .. }) in expected {
        let node = &world.nodes[0];
        wait_until(DEADLINE, &format!("{path} as {label} {value}"), String::new, || {
            let scrape = node.metrics()?;
            let series = scrape.series("tonnage_gpu_held_seconds_total");
            let is_it = |labels: &std::collections::BTreeMap<String, String>| {
                labels["gpu"] == gpu && labels.get(label) == Some(&value)
            };
            Ok(series.iter().any(|(labels, _)| is_it(labels)).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn pids_of_another_namespace_are_said_to_be_less_sure() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    let mut scenario = scenario::node(1);
    scenario.process.push(scenario::process(7, &scenario::unit("a.service"), &[0], 0.0));
    world.add_node("n", scenario)?;
    let namespaces = world.nodes[0].dir().join("proc/1/ns");
    fs::create_dir_all(&namespaces)?;
    std::os::unix::fs::symlink("pid:[4026539999]", namespaces.join("pid"))?;
    world.start()?;
    world.live(5)?;
    let log = fs::read_to_string(world.nodes[0].log())?;
    world.nodes[0].stop(DEADLINE)?;
    assert!(log.contains("another pid namespace") && log.contains("hostPID: true"), "{log}");
    let books = crate::books::Books::read(&world.aggregator.data_dir())?;
    let methods = books.folded()?[&scenario::uuid(0)].iter().fold(0, |bits, window| bits | window.method);
    assert_ne!(methods & tonnage_proto::method::HELD_INFERRED, 0, "{methods:b}");
    Ok(())
}
