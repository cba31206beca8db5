//! What happens on the demo's two nodes: pods of a Kubernetes node, jobs and services of an HPC node.

use std::path::Path;

use harness::kubelet::{self, Kubelet};
use harness::scenario::{
    container_id, device, docker, pod_cgroupfs, pod_systemd, pod_uid, process, session, slurm_v1, slurm_v2,
    unit, uuid,
};
use nvidia_ml::scenario::{Device, MigDevice, Process, Scenario};

/// A pod that the demo names, as the kubelet does by its log folder.
struct Pod {
    number: u32,
    namespace: &'static str,
    name: &'static str,
    given: &'static [Given],
}

/// What the kubelet gave a pod.
#[derive(Clone, Copy)]
enum Given {
    Gpu(u32),
    /// A replica of a GPU that is shared.
    Replica(u32, u32),
    /// Of [`INSTANCES`].
    Instance(usize),
}

/// The last one was given nothing, and uses what is the notebook's.
const PODS: [Pod; 6] = [
    Pod { number: 1, namespace: "research", name: "train-llama-0", given: &[Given::Gpu(0), Given::Gpu(1)] },
    Pod { number: 2, namespace: "research", name: "notebook-jo", given: &[Given::Gpu(2)] },
    Pod {
        number: 3,
        namespace: "serving",
        name: "vllm-7f9c4-x2x8k",
        given: &[Given::Replica(3, 0), Given::Replica(3, 1)],
    },
    Pod { number: 4, namespace: "serving", name: "rerank-5d8b6-q9wjm", given: &[Given::Replica(3, 2)] },
    Pod { number: 6, namespace: "serving", name: "whisper-66b7f-k2mtd", given: &[Given::Instance(0)] },
    Pod { number: 5, namespace: "batch", name: "embed-nightly-28471", given: &[] },
];

/// Replicas of the GPU that is shared; one is free.
const REPLICAS: u32 = 4;

/// What GPU 4 is cut into; one is free.
const INSTANCES: [(&str, &str); 2] = [
    ("MIG-5c1f0e7a-42e4-5de3-91c7-45d71c87eb3f", "3g.40gb"),
    ("MIG-5c1f0e7b-42e4-5de3-91c7-45d71c87eb3f", "2g.20gb"),
];

/// A container that belongs to no pod.
const CONTAINER: &str = "7d3f0b52c1e94a6688d0f3a1b2c45e907d3f0b52c1e94a6688d0f3a1b2c45e90";

/// The HPC node's users.
const PASSWD: &str =
    "root:x:0:0::/root:/bin/sh\njo:x:1001:1001::/home/jo:/bin/sh\nana:x:1002:1002::/home/ana:/bin/sh\n";

/// A Kubernetes node with five GPUs: one shared by two pods, one that its holder hardly uses and another does, and one that
/// is cut into instances (MIG).
pub(crate) fn kubernetes(epoch_ns: i64) -> Scenario {
    let whose = |n: u32| pod_systemd(&pod_uid(n), &container_id(n));
    let processes = vec![
        busy(process(4001, &whose(1), &[0, 1], 0.0), &[(0.0, 92), (20.0, 97), (40.0, 30), (45.0, 95)]),
        busy(process(4002, &whose(2), &[2], 0.0), &[(0.0, 0), (15.0, 40), (18.0, 0)]),
        busy(process(4003, &whose(3), &[3], 0.0), &[(0.0, 55), (10.0, 70), (30.0, 35)]),
        busy(process(4004, &whose(4), &[3], 0.0), &[(0.0, 20), (12.0, 10)]),
        again(process(4005, &pod_cgroupfs(&pod_uid(5), &container_id(5)), &[2], 5.0), 12.0, 25.0, 80),
        Process {
            instance: Some(INSTANCES[0].0.to_owned()),
            ..busy(process(4006, &whose(6), &[4], 0.0), &[(0.0, 65), (22.0, 80)])
        },
    ];
    let mut scenario = node(0..5, processes, epoch_ns);
    let cut = |((uuid, profile), gpu_instance): (&(&str, &str), u32)| MigDevice {
        uuid: (*uuid).to_owned(),
        profile: Some((*profile).to_owned()),
        gpu_instance,
        ..MigDevice::default()
    };
    scenario.device[4].mig = Some(INSTANCES.iter().zip(1..).map(cut).collect());
    scenario
}

/// An HPC node with four GPUs: Slurm jobs with and without hooks, a service, a user's shell, a plain container.
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

/// The Kubernetes node's kubelet, with what it keeps of its pods in the node's folder.
pub(crate) fn kubelet(node: &Path, socket: &Path) -> anyhow::Result<Kubelet> {
    let kubelet = Kubelet::start(socket)?;
    let id = |given: &Given| match given {
        Given::Gpu(gpu) => uuid(*gpu),
        Given::Replica(gpu, replica) => format!("{}::{replica}", uuid(*gpu)),
        Given::Instance(at) => INSTANCES[*at].0.to_owned(),
    };
    let mut listed = Vec::new();
    for Pod { number, namespace, name, given } in PODS {
        kubelet::begin_pod_in(node, namespace, name, &pod_uid(number))?;
        let ids: Vec<String> = given.iter().map(id).collect();
        let mut pod = kubelet::pod(name, &ids.iter().map(String::as_str).collect::<Vec<_>>());
        pod.namespace = namespace.to_owned();
        listed.push(pod);
    }
    let replicas: Vec<String> = (0..REPLICAS).map(|replica| id(&Given::Replica(3, replica))).collect();
    let replicas: Vec<&str> = replicas.iter().map(String::as_str).collect();
    kubelet.set_allocatable(vec![kubelet::devices("nvidia.com/gpu", &replicas)]);
    kubelet.set_pods(listed);
    Ok(kubelet)
}

/// What Slurm's hooks leave on the HPC node: one job that runs, and one that has a GPU and does nothing.
pub(crate) fn jobs(node: &Path, boot_id: &str, epoch_ns: i64) -> std::io::Result<()> {
    std::fs::write(node.join("gres.conf"), "Name=gpu File=/dev/nvidia[0-3]\n")?;
    std::fs::create_dir_all(node.join("jobs"))?;
    for (job, user, account, gpu) in [(184_467, "jo", "physics", 0), (184_470, "ana", "chemistry", 3)] {
        let text = format!(
            "version=1\njob_id={job}\nboot_id={boot_id}\nstart_ns={epoch_ns}\nuser={user}\naccount={account}\n\
             partition=gpu\ngpus={gpu}\n"
        );
        std::fs::write(node.join("jobs").join(job.to_string()), text)?;
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
