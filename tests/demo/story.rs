//! What happens on the demo's two nodes: pods of a Kubernetes node, jobs and services of an HPC node.

use std::path::Path;

use harness::scenario::{
    container_id, device, docker, pod_cgroupfs, pod_systemd, pod_uid, process, session, slurm_v1, slurm_v2,
    unit,
};
use nvidia_ml::scenario::{Device, Process, Scenario};

/// A pod that the demo names, as the kubelet does by its log folder.
struct Pod {
    number: u32,
    namespace: &'static str,
    name: &'static str,
}

const PODS: [Pod; 5] = [
    Pod { number: 1, namespace: "research", name: "train-llama-0" },
    Pod { number: 2, namespace: "research", name: "notebook-jo" },
    Pod { number: 3, namespace: "serving", name: "vllm-7f9c4-x2x8k" },
    Pod { number: 4, namespace: "serving", name: "rerank-5d8b6-q9wjm" },
    Pod { number: 5, namespace: "batch", name: "embed-nightly-28471" },
];

/// A container that belongs to no pod.
const CONTAINER: &str = "7d3f0b52c1e94a6688d0f3a1b2c45e907d3f0b52c1e94a6688d0f3a1b2c45e90";

/// The HPC node's users.
const PASSWD: &str =
    "root:x:0:0::/root:/bin/sh\njo:x:1001:1001::/home/jo:/bin/sh\nana:x:1002:1002::/home/ana:/bin/sh\n";

/// A Kubernetes node with four GPUs: one shared by two pods, one idle now and then.
pub(crate) fn kubernetes(epoch_ns: i64) -> Scenario {
    let whose = |n: u32| pod_systemd(&pod_uid(n), &container_id(n));
    let processes = vec![
        busy(process(4001, &whose(1), &[0, 1], 0.0), &[(0.0, 92), (20.0, 97), (40.0, 30), (45.0, 95)]),
        busy(process(4002, &whose(2), &[2], 0.0), &[(0.0, 0), (15.0, 40), (18.0, 0)]),
        busy(process(4003, &whose(3), &[3], 0.0), &[(0.0, 55), (10.0, 70), (30.0, 35)]),
        busy(process(4004, &whose(4), &[3], 0.0), &[(0.0, 20), (12.0, 10)]),
        again(process(4005, &pod_cgroupfs(&pod_uid(5), &container_id(5)), &[2], 5.0), 12.0, 25.0, 80),
    ];
    node(0..4, processes, epoch_ns)
}

/// An HPC node with four GPUs: Slurm jobs one after another, a service, a user's shell, a plain container.
pub(crate) fn hpc(epoch_ns: i64) -> Scenario {
    let processes = vec![
        busy(process(5001, &slurm_v2(184_467, "0", 1001), &[8], 0.0), &[(0.0, 99)]),
        again(process(5002, &slurm_v1(184_468, "batch", 1002), &[9], 2.0), 20.0, 30.0, 88),
        busy(process(5003, &unit("triton.service"), &[10], 0.0), &[(0.0, 12), (25.0, 60)]),
        again(process(5004, &session(1001), &[10], 8.0), 10.0, 40.0, 25),
        busy(process(5005, &docker(CONTAINER), &[10], 3.0), &[(0.0, 5)]),
    ];
    node(8..12, processes, epoch_ns)
}

/// Makes the folders by which the kubelet names pods.
pub(crate) fn name_pods(pod_logs: &Path) -> std::io::Result<()> {
    for Pod { number, namespace, name } in PODS {
        std::fs::create_dir_all(pod_logs.join(format!("{namespace}_{name}_{}", pod_uid(number))))?;
    }
    Ok(())
}

/// Writes the passwd file that names users.
pub(crate) fn name_users(passwd: &Path) -> std::io::Result<()> {
    std::fs::write(passwd, PASSWD)
}

fn node(gpus: std::ops::Range<u32>, process: Vec<Process>, epoch_ns: i64) -> Scenario {
    let first = gpus.start;
    // Minor numbers count from 0 on every node; UUIDs are unique in the world.
    let device = gpus.map(|index| Device { minor: index - first, ..device(index) }).collect();
    Scenario { epoch_ns: Some(epoch_ns), device, process, ..Scenario::empty() }
}

fn busy(mut process: Process, steps: &[(f64, u32)]) -> Process {
    process.utilisation = steps.to_vec();
    process.memory_bytes = 24 << 30;
    process
}

/// Runs for `length_s` out of every `every_s` seconds.
fn again(mut process: Process, length_s: f64, every_s: f64, percent: u32) -> Process {
    process.end_s = Some(process.start_s + length_s);
    process.repeat_s = Some(every_s);
    busy(process, &[(0.0, percent)])
}
