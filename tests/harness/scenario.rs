//! Scenarios in a few words: devices, and processes by whose they are, with the cgroups that real systems give them.

use nvidia_ml::scenario::{Device, List, Process, Scenario};

mod random;

pub use random::{random, random_of, steady};

/// Whose a process is, as the kernel shows it and as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whose {
    pub cgroup: Vec<String>,
    pub uid: u32,
    /// In the words of [`crate::truth`].
    pub owner: String,
}

/// A node with so many GPUs and no processes.
#[must_use]
pub fn node(gpus: u32) -> Scenario {
    Scenario { device: (0..gpus).map(device).collect(), ..Scenario::empty() }
}

/// The UUID of the node's n-th GPU.
#[must_use]
pub fn uuid(index: u32) -> String {
    format!("GPU-{index:08x}-5a1f-9f7e-3f56-2b6f6e0c7a11")
}

/// The n-th GPU: an H100.
#[must_use]
pub fn device(index: u32) -> Device {
    Device {
        uuid: uuid(index),
        model: "NVIDIA H100 80GB HBM3".to_owned(),
        memory_bytes: 85_520_809_984,
        minor: index,
        pci_bus_id: format!("00000000:{:02X}:00.0", 0x18 + index),
        idle_mw: 70_000,
        busy_mw: 700_000,
        ..Device::default()
    }
}

/// A process on some of a node's GPUs that never ends and uses nothing. Change what differs.
#[must_use]
pub fn process(pid: u32, whose: &Whose, gpus: &[u32], start_s: f64) -> Process {
    Process {
        pid,
        devices: gpus.iter().map(|gpu| uuid(*gpu)).collect(),
        lists: vec![List::Compute],
        start_s,
        memory_bytes: 1 << 30,
        cgroup: whose.cgroup.clone(),
        uid: whose.uid,
        comm: "python3".to_owned(),
        owner: whose.owner.clone(),
        ..Process::default()
    }
}

/// Kubernetes with the systemd cgroup driver, cgroup v2, containerd. `uid` with dashes, `container` 64 hex digits.
#[must_use]
pub fn pod_systemd(uid: &str, container: &str) -> Whose {
    let slice = uid.replace('-', "_");
    let path = format!(
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{container}.scope"
    );
    v2(&path, 0, format!("pod:{uid}/{container}"))
}

/// The same of quality Guaranteed, under CRI-O.
#[must_use]
pub fn pod_crio(uid: &str, container: &str) -> Whose {
    let slice = uid.replace('-', "_");
    let path = format!("/kubepods.slice/kubepods-pod{slice}.slice/crio-{container}.scope");
    v2(&path, 0, format!("pod:{uid}/{container}"))
}

/// Kubernetes with the cgroupfs driver, cgroup v1: a line per controller.
#[must_use]
pub fn pod_cgroupfs(uid: &str, container: &str) -> Whose {
    let path = format!("/kubepods/besteffort/pod{uid}/{container}");
    v1(&["12:devices", "4:memory", "1:name=systemd"], &path, 0, format!("pod:{uid}/{container}"))
}

/// Slurm on cgroup v2, before 26.05.
#[must_use]
pub fn slurm_v2(job: u32, step: &str, uid: u32) -> Whose {
    let path = format!("/system.slice/slurmstepd.scope/job_{job}/step_{step}/user/task_0");
    v2(&path, uid, format!("slurm:{job}/{step}"))
}

/// Slurm on cgroup v1.
#[must_use]
pub fn slurm_v1(job: u32, step: &str, uid: u32) -> Whose {
    let path = format!("/slurm/uid_{uid}/job_{job}/step_{step}/task_0");
    v1(&["11:devices", "5:memory", "3:cpuset"], &path, uid, format!("slurm:{job}/{step}"))
}

/// A system service, name with its suffix.
#[must_use]
pub fn unit(name: &str) -> Whose {
    v2(&format!("/system.slice/{name}"), 0, format!("unit:{name}"))
}

/// A user's login session.
#[must_use]
pub fn session(uid: u32) -> Whose {
    v2(&format!("/user.slice/user-{uid}.slice/session-7.scope"), uid, format!("user:{uid}"))
}

/// A docker container that belongs to no pod.
#[must_use]
pub fn docker(container: &str) -> Whose {
    v2(&format!("/system.slice/docker-{container}.scope"), 0, format!("container:{container}"))
}

/// In the root cgroup: nobody can know whose it is.
#[must_use]
pub fn unowned() -> Whose {
    v2("/", 0, "unowned".to_owned())
}

/// A pod's UID made from a number.
#[must_use]
pub fn pod_uid(n: u32) -> String {
    format!("{n:08x}-aaaa-4bbb-8ccc-{n:012x}")
}

/// A container's id made from a number.
#[must_use]
pub fn container_id(n: u32) -> String {
    format!("{n:064x}")
}

fn v2(path: &str, uid: u32, owner: String) -> Whose {
    Whose { cgroup: vec![format!("0::{path}")], uid, owner }
}

fn v1(controllers: &[&str], path: &str, uid: u32, owner: String) -> Whose {
    let cgroup = controllers.iter().map(|controller| format!("{controller}:{path}")).collect();
    Whose { cgroup, uid, owner }
}
