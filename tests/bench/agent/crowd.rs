//! Two crowded nodes of 8 GPUs and 200 processes. On the one 64 of these are on a GPU, 8 on each, every one a pod of its
//! own that shares its GPU by time-slicing and uses it; on the other each GPU is cut into 7 MIG instances, with such a pod
//! on each. The rest of the processes are on no GPU.

use std::path::Path;

use harness::scenario;
use nvidia_ml::scenario::{Device, MigDevice, Process, Scenario};

const GPUS: u32 = 8;
const ON_A_GPU: u32 = 64;
const INSTANCES: u32 = 7;
const PROCESSES: u32 = 200;
const FIRST_PID: u32 = 10_000;

pub(super) fn scenario(epoch_ns: i64) -> Scenario {
    let process = (0..PROCESSES).map(process).collect();
    Scenario { process, epoch_ns: Some(epoch_ns), ..scenario::node(GPUS) }
}

pub(super) fn partitioned(epoch_ns: i64) -> Scenario {
    let cut = |gpu: u32| {
        let part = |n: u32| MigDevice {
            uuid: instance(gpu, n),
            profile: Some("1g.10gb".to_owned()),
            gpu_instance: 7 + n,
            ..MigDevice::default()
        };
        let model = "NVIDIA H100 80GB HBM3".to_owned();
        Device { model, mig: Some((0..INSTANCES).map(part).collect()), ..scenario::device(gpu) }
    };
    let on_one = |n: u32| {
        if n < GPUS * INSTANCES {
            Process { instance: Some(instance(n % GPUS, n / GPUS)), ..process(n) }
        } else {
            Process { devices: Vec::new(), utilisation: Vec::new(), ..process(n) }
        }
    };
    Scenario {
        device: (0..GPUS).map(cut).collect(),
        process: (0..PROCESSES).map(on_one).collect(),
        epoch_ns: Some(epoch_ns),
        ..scenario::node(GPUS)
    }
}

fn instance(gpu: u32, n: u32) -> String {
    format!("MIG-{gpu}-{n}")
}

/// As the kubelet has it: what gives pods their names.
pub(super) fn make_pod_logs(folder: &Path) -> std::io::Result<()> {
    (0..ON_A_GPU).try_for_each(|n| {
        let name = format!("team-{}_training-{n}-worker-0_{}", n % 7, scenario::pod_uid(n));
        std::fs::create_dir_all(folder.join(name))
    })
}

fn process(n: u32) -> Process {
    let pid = FIRST_PID + n;
    if n < ON_A_GPU {
        let whose = scenario::pod_systemd(&scenario::pod_uid(n), &scenario::container_id(n));
        let busy = scenario::process(pid, &whose, &[n % GPUS], 0.0);
        Process { utilisation: vec![(0.0, 3 + n % 8)], ..busy }
    } else {
        scenario::process(pid, &scenario::unit(&format!("daemon-{n}.service")), &[], 0.0)
    }
}
