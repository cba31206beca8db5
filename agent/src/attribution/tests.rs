mod mps;

use std::fs;

use super::*;
use crate::model::Gauges;

const S: i64 = 1_000_000_000;
const UID: &str = "0b3f4b3e-8a0c-4b6e-9a55-0123456789ab";
const ID: &str = "89abcdef0123456789abcdef0123456789abcdef0123456789abcdef01234567";

/// A made-up node's files.
pub(super) struct Node(tempfile::TempDir);

impl Node {
    pub(super) fn new() -> Self {
        let node = Self(tempfile::tempdir().unwrap());
        fs::create_dir(node.0.path().join("pods")).unwrap();
        fs::write(node.0.path().join("passwd"), "ada:x:1000:1000::/home/ada:/bin/sh\n").unwrap();
        node
    }

    fn attribution(&self) -> Attribution {
        let [procfs, cgroup, pod_logs, passwd, dra_checkpoint, docker, podman] =
            ["proc", "cgroup", "pods", "passwd", "checkpoint", "docker", "podman"]
                .map(|name| self.0.path().join(name));
        let jobs = self.0.path().join("jobs");
        let gres_conf = self.0.path().join("gres.conf");
        let slurm = slurm::Paths { jobs, gres_conf, node: "n".into(), ..slurm::Paths::default() };
        let paths = Paths { procfs, cgroup, pod_logs, passwd, dra_checkpoint, docker, podman, slurm };
        Attribution::new(paths, "this-boot".into())
    }

    /// A process that began `start_s` after boot, of user 1000.
    fn process(&self, pid: u32, start_s: u64, cgroup: &str) {
        self.program(pid, "a) b) c", 1_000, start_s, cgroup);
    }

    pub(super) fn procfs(&self) -> PathBuf {
        self.0.path().join("proc")
    }

    pub(super) fn program(&self, pid: u32, name: &str, uid: u32, start_s: u64, cgroup: &str) {
        let folder = self.0.path().join("proc").join(pid.to_string());
        fs::create_dir_all(&folder).unwrap();
        let ticks = start_s * procfs::ticks_per_second();
        let zeros = "0 ".repeat(17);
        let stat = format!("{pid} ({name}) S 1 {zeros}{ticks} {}\n", "0 ".repeat(30).trim());
        fs::write(folder.join("stat"), stat).unwrap();
        fs::write(folder.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
        let own = fs::read_to_string("/proc/self/status").unwrap();
        let status: String = own
            .lines()
            .map(|line| {
                if line.starts_with("Uid:") {
                    format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
                } else {
                    format!("{line}\n")
                }
            })
            .collect();
        fs::write(folder.join("status"), status).unwrap();
    }

    fn pod_folder(&self, name: &str) {
        fs::create_dir(self.0.path().join("pods").join(name)).unwrap();
    }
}

/// `at_s` after boot; ledger time is 1000 s ahead of the boot clock.
fn reading(at_s: i64) -> Reading {
    Reading { wall_ns: 0, monotonic_ns: at_s * S, boot_ns: at_s * S }
}

fn resolve(attribution: &mut Attribution, pid: u32, at_s: i64) -> Holder {
    let process = DeviceProcess { pid, memory_bytes: Some(5), mps_client: false };
    let now = Now { reading: reading(at_s), ledger_ns: (1_000 + at_s) * S };
    attribution.resolve(&device().info, None, &[process], now).0.remove(0)
}

pub(super) fn device() -> DeviceReading {
    let info = DeviceInfo {
        uuid: "GPU-a".into(),
        model: "NVIDIA H100".into(),
        memory_bytes: 0,
        slices: 1,
        minor: Some(0),
        pci_bus_id: String::new(),
    };
    DeviceReading {
        info: Arc::new(info),
        index: 0,
        mig: None,
        processes: Ok(Vec::new()),
        vgpus: Vec::new(),
        utilisation: None,
        energy_mj: None,
        gauges: Gauges::default(),
        signals: Default::default(),
    }
}

#[test]
fn a_process_has_its_start_in_ledger_time_and_its_owner() {
    let node = Node::new();
    node.process(7, 20, "/system.slice/slurmstepd.scope/job_12/step_batch/user/task_0");
    let holder = resolve(&mut node.attribution(), 7, 100);
    assert_eq!((holder.pid, holder.memory_bytes, holder.started_ns), (7, Some(5), Some(1_020 * S)));
    let expected = Owner {
        kind: OwnerKind::SlurmJob,
        job_id: "12".into(),
        step: "batch".into(),
        user: "ada".into(),
        ..Owner::default()
    };
    assert_eq!(*holder.owner, expected);
}

#[test]
fn a_process_that_proc_does_not_know_holds_and_is_unowned() {
    let node = Node::new();
    let holder = resolve(&mut node.attribution(), 7, 100);
    assert_eq!((holder.owner.as_ref(), holder.started_ns), (&Owner::default(), None));
}

#[test]
fn a_process_that_ended_since_it_was_listed_is_still_itself_for_a_moment_on_every_device() {
    let node = Node::new();
    let mut attribution = node.attribution();
    node.process(7, 20, "/system.slice/a.service");
    resolve(&mut attribution, 7, 100);
    fs::remove_dir_all(node.0.path().join("proc/7")).unwrap();
    for _device in 0..2 {
        let holder = resolve(&mut attribution, 7, 101);
        assert_eq!((holder.owner.unit.as_str(), holder.started_ns), ("a.service", Some(1_020 * S)));
    }
    assert_eq!(*resolve(&mut attribution, 7, 111).owner, Owner::default());
}

#[test]
fn a_process_in_the_root_cgroup_is_unowned_but_has_a_start() {
    let node = Node::new();
    node.process(7, 20, "/");
    let holder = resolve(&mut node.attribution(), 7, 100);
    assert_eq!((holder.owner.as_ref(), holder.started_ns), (&Owner::default(), Some(1_020 * S)));
}

#[test]
fn a_pid_that_is_used_again_is_another_process() {
    let node = Node::new();
    let mut attribution = node.attribution();
    node.process(7, 20, "/system.slice/a.service");
    assert_eq!(resolve(&mut attribution, 7, 100).owner.unit, "a.service");
    node.process(7, 100, "/system.slice/b.service");
    let holder = resolve(&mut attribution, 7, 101);
    assert_eq!((holder.owner.unit.as_str(), holder.started_ns), ("b.service", Some(1_100 * S)));
}

#[test]
fn a_cgroup_is_read_once_and_again_after_half_a_minute() {
    let node = Node::new();
    let mut attribution = node.attribution();
    node.process(7, 20, "/system.slice/sshd.service");
    assert_eq!(resolve(&mut attribution, 7, 100).owner.kind, OwnerKind::SystemdUnit);
    node.process(7, 20, "/system.slice/slurmstepd.scope/job_12/step_extern/user/task_0");
    assert_eq!(resolve(&mut attribution, 7, 129).owner.kind, OwnerKind::SystemdUnit);
    assert_eq!(resolve(&mut attribution, 7, 130).owner.kind, OwnerKind::SlurmJob);
}

#[test]
fn a_pod_gets_its_name_from_the_kubelets_folder_as_soon_as_that_is_there_and_keeps_it() {
    let node = Node::new();
    let mut attribution = node.attribution();
    node.process(7, 20, &format!("/kubepods/burstable/pod{UID}/{ID}"));
    let first = resolve(&mut attribution, 7, 100).owner;
    assert_eq!((first.pod_uid.as_str(), first.container_id.as_str(), first.pod.as_str()), (UID, ID, ""));
    node.pod_folder(&format!("ml_train-0_{UID}"));
    let named = resolve(&mut attribution, 7, 110).owner;
    assert_eq!((named.namespace.as_str(), named.pod.as_str(), named.user.as_str()), ("ml", "train-0", ""));
    fs::remove_dir(node.0.path().join("pods").join(format!("ml_train-0_{UID}"))).unwrap();
    attribution.pod_names = PodNames::new(node.0.path().join("pods"));
    assert_eq!(resolve(&mut attribution, 7, 145).owner, named);
}

#[test]
fn a_start_stays_the_same_while_ledger_time_is_slewed_and_follows_a_step() {
    let node = Node::new();
    let mut attribution = node.attribution();
    node.process(7, 20, "/system.slice/a.service");
    let at = |attribution: &mut Attribution, at_s: i64, off_ns: i64| {
        let process = DeviceProcess { pid: 7, memory_bytes: None, mps_client: false };
        let now = Now { reading: reading(at_s), ledger_ns: (1_000 + at_s) * S + off_ns };
        attribution.resolve(&device().info, None, &[process], now).0.remove(0).started_ns
    };
    assert_eq!(at(&mut attribution, 100, 0), Some(1_020 * S));
    assert_eq!(at(&mut attribution, 101, 500_000), Some(1_020 * S));
    assert_eq!(at(&mut attribution, 102, -100 * S), Some(920 * S));
}

#[test]
fn a_process_that_is_not_seen_for_a_minute_is_forgotten() {
    let node = Node::new();
    let mut attribution = node.attribution();
    for pid in 1..50 {
        node.process(pid, 20, "/system.slice/a.service");
        resolve(&mut attribution, pid, 100);
    }
    assert_eq!(attribution.lives.len(), 49);
    resolve(&mut attribution, 1, 159);
    resolve(&mut attribution, 1, 170);
    assert_eq!(attribution.lives.len(), 1);
}

#[test]
fn a_container_of_no_pod_has_the_name_that_docker_gave_it() {
    let node = Node::new();
    let folder = node.0.path().join("docker").join(ID);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.v2.json"), r#"{"Name":"/trainer"}"#).unwrap();
    node.process(7, 20, &format!("/system.slice/docker-{ID}.scope"));
    let owner = resolve(&mut node.attribution(), 7, 100).owner;
    assert_eq!((owner.container.as_str(), owner.container_id.as_str()), ("trainer", ID));
}

#[test]
fn a_job_holds_by_the_hooks_word_from_its_start_to_its_end_and_its_steps_are_the_jobs() {
    let node = Node::new();
    let jobs = node.0.path().join("jobs");
    fs::create_dir(&jobs).unwrap();
    fs::write(node.0.path().join("gres.conf"), "Name=gpu File=/dev/nvidia0\n").unwrap();
    let file = |end: &str| {
        format!(
            "{end}version=1\njob_id=12\nboot_id=this-boot\nstart_ns=90500000000\nuid=1000\nuser=ada\n\
             account=physics\npartition=gpu\ngpus=0\n"
        )
    };
    fs::write(jobs.join("12"), file("")).unwrap();
    node.process(7, 95, "/system.slice/slurmstepd.scope/job_12/step_0/user/task_0");
    node.process(8, 95, "/system.slice/slurmstepd.scope/job_13/step_0/user/task_0");
    let mut attribution = node.attribution();
    // The wall clock is 1000 s behind ledger time, as after a step.
    let at = |at_s: i64| {
        let reading = Reading { wall_ns: at_s * S, monotonic_ns: at_s * S, boot_ns: at_s * S };
        Now { reading, ledger_ns: (1_000 + at_s) * S }
    };
    let processes = [7, 8].map(|pid| DeviceProcess { pid, memory_bytes: None, mps_client: false });
    attribution.allocate(&[device()], None, at(100));
    let (holders, allocation) = attribution.resolve(&device().info, None, &processes, at(100));
    let claim = &allocation.claims[0];
    let job = Owner {
        kind: OwnerKind::SlurmJob,
        job_id: "12".into(),
        user: "ada".into(),
        account: "physics".into(),
        partition: "gpu".into(),
        ..Owner::default()
    };
    assert_eq!((&*claim.owner, claim.from_ns, claim.until_ns), (&job, Some(1_090 * S + S / 2), None));
    assert_eq!((&*holders[0].owner, holders[1].owner.job_id.as_str()), (&job, "13"), "the other intrudes");
    fs::write(jobs.join(".12"), file("end_ns=100250000000\n")).unwrap();
    fs::rename(jobs.join(".12"), jobs.join("12")).unwrap();
    attribution.allocate(&[device()], None, at(101));
    let (_, allocation) = attribution.resolve(&device().info, None, &[], at(101));
    assert_eq!(allocation.claims[0].until_ns, Some(1_100 * S + S / 4));
    attribution.allocate(&[device()], None, at(200));
    assert!(attribution.resolve(&device().info, None, &[], at(200)).1.claims.is_empty());
}

#[test]
fn a_job_of_another_boot_holds_nothing() {
    let node = Node::new();
    let jobs = node.0.path().join("jobs");
    fs::create_dir(&jobs).unwrap();
    fs::write(node.0.path().join("gres.conf"), "Name=gpu File=/dev/nvidia0\n").unwrap();
    fs::write(jobs.join("12"), "version=1\njob_id=12\nboot_id=last-boot\nstart_ns=1\ngpus=0\n").unwrap();
    let mut attribution = node.attribution();
    attribution.allocate(&[device()], None, Now { reading: reading(100), ledger_ns: 0 });
    assert!(attribution.allocations.is_empty());
}

#[test]
fn a_jobs_number_is_looked_for_at_every_tick_until_it_is_known() {
    let node = Node::new();
    let step = "system.slice/slurmstepd.scope/s5K1KKYAYG5D00/step_0";
    node.process(7, 20, &format!("/{step}/user/task_0"));
    let mut attribution = node.attribution();
    assert_eq!(resolve(&mut attribution, 7, 100).owner.job_id, "s5K1KKYAYG5D00");
    node.process(8, 20, "/");
    let proc = node.0.path().join("proc/8");
    let status = fs::read_to_string(proc.join("status")).unwrap();
    fs::write(proc.join("status"), status.replace("\t1000", "\t0")).unwrap();
    fs::write(proc.join("cmdline"), "slurmstepd: [1234.0]\0").unwrap();
    let procs = node.0.path().join("cgroup").join(step).join("slurm");
    fs::create_dir_all(&procs).unwrap();
    fs::write(procs.join("cgroup.procs"), "8\n").unwrap();
    assert_eq!(resolve(&mut attribution, 7, 101).owner.job_id, "1234");
}
