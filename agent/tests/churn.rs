//! A busy cluster's node for a week: 500 pods an hour come and go on eight GPUs, and what the agent shows and remembers
//! stays as large as it was.
//!
//! Simulated time with a sample a minute, over the files that a kubelet leaves on a node, in a temporary folder.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed; figures are for people"
)]

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use tonnage_agent::attribution::{Attribution, Now, Paths, slurm};
use tonnage_agent::kubelet::View;
use tonnage_agent::metering::Meter;
use tonnage_agent::metrics::Metrics;
use tonnage_agent::model::{
    ContainerDevices, DeviceInfo, DeviceProcess, DeviceReading, GapReason, Gauges, KubeletState, Observation,
    PluginDevice, PodDevices, Tick,
};
use tonnage_runtime::clock::Reading;

const GPUS: usize = 8;
const PODS_PER_HOUR: usize = 500;
const MINUTES: usize = 7 * 24 * 60;
const MINUTE_NS: i64 = 60_000_000_000;
const T0: i64 = 1_800_000_000_000_000_000;
/// Two hours of pods cannot be more than this: they leave the metrics ten minutes after their end.
const METRICS_BYTES_MAX: usize = 400_000;
/// Allocators keep what they had; a pod forgotten in one place would add 84,000 times some hundred bytes.
const GROWTH_BYTES_MAX: u64 = 4 << 20;

/// One pod with one process on one GPU.
struct Pod {
    number: usize,
    gpu: usize,
}

impl Pod {
    fn pid(&self) -> u32 {
        u32::try_from(1 + self.number % 4_000_000).unwrap()
    }

    fn uid(&self) -> String {
        format!("{:08x}-aaaa-4bbb-8ccc-{:012x}", self.number, self.number)
    }

    fn name(&self) -> String {
        format!("train-{}", self.number)
    }

    fn cgroup(&self) -> String {
        format!("kubepods/burstable/pod{}", self.uid())
    }

    fn begin(&self, node: &Path, minute: usize) {
        let proc = node.join("proc").join(self.pid().to_string());
        fs::create_dir_all(&proc).unwrap();
        let ticks = (minute * 60) as u64 * procfs_ticks();
        let (zeros, rest) = ("0 ".repeat(17), "0 ".repeat(30));
        fs::write(
            proc.join("stat"),
            format!("{} (python3) S 1 {zeros}{ticks} {}\n", self.pid(), rest.trim()),
        )
        .unwrap();
        fs::write(proc.join("cgroup"), format!("0::/{}/{:064x}\n", self.cgroup(), self.number)).unwrap();
        fs::create_dir_all(node.join("cgroup").join(self.cgroup())).unwrap();
        fs::create_dir_all(node.join("pods").join(format!("ml_{}_{}", self.name(), self.uid()))).unwrap();
    }

    fn end(&self, node: &Path) {
        fs::remove_dir_all(node.join("proc").join(self.pid().to_string())).unwrap();
        fs::remove_dir_all(node.join("cgroup").join(self.cgroup())).unwrap();
        fs::remove_dir_all(node.join("pods").join(format!("ml_{}_{}", self.name(), self.uid()))).unwrap();
    }
}

/// The unit of field 22 of `stat`.
fn procfs_ticks() -> u64 {
    100
}

fn device(gpu: usize) -> Arc<DeviceInfo> {
    Arc::new(DeviceInfo {
        uuid: format!("GPU-{gpu}").into(),
        model: "NVIDIA H100 80GB HBM3".into(),
        memory_bytes: 80 << 30,
        slices: 1,
        minor: u32::try_from(gpu).ok(),
        pci_bus_id: String::new(),
    })
}

fn reading(gpu: usize, info: &Arc<DeviceInfo>, pods: &VecDeque<Pod>) -> DeviceReading {
    let processes = pods.iter().filter(|pod| pod.gpu == gpu);
    let processes =
        processes.map(|pod| DeviceProcess { pid: pod.pid(), memory_bytes: Some(1 << 30), mps_client: false });
    DeviceReading {
        info: Arc::clone(info),
        index: u32::try_from(gpu).unwrap(),
        mig: None,
        processes: Ok(processes.collect()),
        vgpus: Vec::new(),
        utilisation: Some(Vec::new()),
        energy_mj: None,
        gauges: Gauges::default(),
        signals: Default::default(),
    }
}

fn list(pods: &VecDeque<Pod>) -> Arc<KubeletState> {
    let pods = pods.iter().map(|pod| PodDevices {
        namespace: "ml".into(),
        pod: pod.name(),
        containers: vec![ContainerDevices {
            container: "main".into(),
            devices: vec![PluginDevice { resource: "nvidia.com/gpu".into(), id: format!("GPU-{}", pod.gpu) }],
            claimed: Vec::new(),
        }],
    });
    Arc::new(KubeletState { pods: pods.collect(), allocatable: Vec::new() })
}

/// Memory of this process that is in no file.
fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn a_week_of_500_pods_an_hour_leaves_metrics_and_memory_as_they_were() {
    let node = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let [procfs, cgroup, pod_logs, passwd, dra_checkpoint, docker, podman] =
        ["proc", "cgroup", "pods", "passwd", "checkpoint", "docker", "podman"]
            .map(|name| node.path().join(name));
    fs::create_dir_all(&cgroup).unwrap();
    fs::write(cgroup.join("cgroup.controllers"), "").unwrap();
    let paths = Paths {
        procfs,
        cgroup,
        pod_logs,
        passwd,
        dra_checkpoint,
        docker,
        podman,
        slurm: slurm::Paths::default(),
    };
    let (mut attribution, mut meter) = (Attribution::new(paths, String::new()), Meter::new(MINUTE_NS));
    let metrics = Metrics::new("0", "n".into(), Arc::default(), View::default());
    let infos: Vec<Arc<DeviceInfo>> = (0..GPUS).map(device).collect();
    let (mut pods, mut begun, mut held_ns) = (VecDeque::new(), 0, 0_u64);
    let (mut after_a_day, mut largest) = (None, 0);
    for minute in 0..MINUTES {
        while begun < minute * PODS_PER_HOUR / 60 {
            let pod = Pod { number: begun, gpu: begun % GPUS };
            pod.begin(node.path(), minute);
            pods.push_back(pod);
            begun += 1;
            if pods.len() > 2 * GPUS {
                pods.pop_front().unwrap().end(node.path());
            }
        }
        let at_ns = i64::try_from(minute).unwrap() * MINUTE_NS;
        let reading_at = Reading { wall_ns: T0 + at_ns, monotonic_ns: at_ns, boot_ns: at_ns };
        let now = Now { reading: reading_at, ledger_ns: T0 + at_ns };
        let readings: Vec<DeviceReading> =
            infos.iter().enumerate().map(|(gpu, info)| reading(gpu, info, &pods)).collect();
        let kubelet = list(&pods);
        attribution.allocate(&readings, Some((&kubelet, at_ns)), now);
        let observations = readings.into_iter().map(|device| {
            let (holders, allocation) =
                attribution.resolve(&device.info, None, device.processes.as_ref().unwrap(), now);
            let DeviceReading { info, utilisation, energy_mj, .. } = device;
            Observation { info, partition: None, holders, allocation, utilisation, energy_mj }
        });
        let observations = observations.collect();
        let gap = GapReason::AgentDown;
        let tick = Tick { now_ns: T0 + at_ns, continuous: minute > 0, gap, overlap_ns: 0, new_epoch: false };
        let windows = meter.observe(tick, observations);
        meter.take_gaps();
        held_ns +=
            windows.iter().flat_map(|window| window.usages.values()).map(|usage| usage.held_ns).sum::<u64>();
        metrics.windows(&windows);
        if minute % 60 == 59 {
            let text = metrics.render(None);
            largest = largest.max(text.len());
            assert!(text.len() < METRICS_BYTES_MAX, "{} bytes after {minute} minutes", text.len());
        }
        if minute == 24 * 60 {
            after_a_day = Some(anonymous_bytes());
        }
    }
    assert!(begun >= 7 * 24 * PODS_PER_HOUR - PODS_PER_HOUR, "{begun} pods");
    // The first pods came after some minutes; from then on every GPU was held.
    let whole_ns = (GPUS * (MINUTES - 10)) as u64 * MINUTE_NS.unsigned_abs();
    assert!(held_ns > whole_ns / 10 * 9, "{held_ns} of {whole_ns}");
    let (before, after) = (after_a_day.unwrap(), anonymous_bytes());
    println!(
        "{begun} pods; anonymous memory after a day {before}, after a week {after} bytes; metrics of at most {largest} bytes"
    );
    assert!(after < before + GROWTH_BYTES_MAX, "{before} bytes after a day, {after} after a week");
}
