//! A crowded node: 8 GPUs, 200 processes, 64 of them on a GPU, 8 on each, every one a pod of its own that shares
//! its GPU by time-slicing and uses it. The rest of the processes are on no GPU.

use std::path::Path;

use harness::scenario;
use nvidia_ml::scenario::{Process, Scenario};

const GPUS: u32 = 8;
const ON_A_GPU: u32 = 64;
const PROCESSES: u32 = 200;
const FIRST_PID: u32 = 10_000;

pub(super) fn scenario(epoch_ns: i64) -> Scenario {
    let process = (0..PROCESSES).map(process).collect();
    Scenario { process, epoch_ns: Some(epoch_ns), ..scenario::node(GPUS) }
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
