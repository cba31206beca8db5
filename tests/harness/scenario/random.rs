//! A node's day made from a seed: owners come and go, share GPUs, span several, come again, and reuse pids.

use nvidia_ml::scenario::{Process, Scenario};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{
    Whose, container_id, docker, node, pod_cgroupfs, pod_crio, pod_systemd, pod_uid, process, session,
    slurm_v1, slurm_v2, unit, unowned, uuid,
};

/// The same seed gives the same scenario, which is always valid. Print the seed.
#[must_use]
pub fn random(seed: u64, gpus: u32, seconds: u32) -> Scenario {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut scenario = node(gpus);
    let seconds = f64::from(seconds);
    let mut pid = 1_000;
    for gpu in 0..gpus {
        let mut at_s = rng.random_range(0.0..5.0);
        while at_s < seconds {
            let whose = whose(&mut rng);
            let end_s = at_s + rng.random_range(0.3..seconds / 3.0);
            for _ in 0..rng.random_range(1..=3) {
                let (from_s, to_s) = (at_s + rng.random_range(0.0..0.2), end_s - rng.random_range(0.0..0.05));
                scenario.process.push(random_process(&mut rng, pid, &whose, gpu, from_s, to_s));
                pid += 1;
            }
            // Sometimes the next owner comes before this one goes, sometimes nobody comes for a while.
            at_s = end_s + rng.random_range(-0.4..0.3) * (end_s - at_s);
        }
    }
    span_devices(&mut rng, &mut scenario.process, gpus);
    reuse_pids(&mut rng, &mut scenario.process);
    scenario
}

/// The same for one node of several: its GPUs are its own.
#[must_use]
pub fn random_of(rng: &mut StdRng, node: usize, gpus: u32, seconds: u32) -> Scenario {
    let mut scenario = random(rng.random(), gpus, seconds);
    let own = |gpu: u32| format!("GPU-{node:08x}-{gpu:04x}-9f7e-3f56-2b6f6e0c7a11");
    for (gpu, device) in (0..).zip(&mut scenario.device) {
        device.uuid = own(gpu);
    }
    for process in &mut scenario.process {
        let index = |of: &String| (0..gpus).find(|gpu| uuid(*gpu) == *of);
        process.devices = process.devices.iter().filter_map(index).map(own).collect();
    }
    scenario
}

/// Whoever holds its GPUs has held them for a day and goes on, alone or with others: for a node whose clock is set.
#[must_use]
pub fn steady(rng: &mut StdRng, node: usize, gpus: u32, now_ns: i64) -> Scenario {
    let mut scenario = random_of(rng, node, gpus, 1);
    scenario.epoch_ns = Some(now_ns - 86_400_000_000_000);
    scenario.process.clear();
    let mut pid = 1_000;
    for device in &scenario.device {
        for _ in 0..rng.random_range(0..=3) {
            let devices = vec![device.uuid.clone()];
            scenario.process.push(Process { devices, ..process(pid, &whose(rng), &[], 0.0) });
            pid += 1;
        }
    }
    scenario
}

fn random_process(rng: &mut StdRng, pid: u32, whose: &Whose, gpu: u32, from_s: f64, to_s: f64) -> Process {
    let life_s = to_s - from_s;
    let steps = rng.random_range(0..4_u32);
    let utilisation = (0..steps)
        .map(|step| (life_s * f64::from(step) / f64::from(steps), rng.random_range(0..=100)))
        .collect();
    Process {
        end_s: Some(to_s),
        repeat_s: rng.random_bool(0.2).then(|| life_s * rng.random_range(1.0..2.0)),
        memory_bytes: rng.random_range(1..20_u64) << 30,
        utilisation,
        lag_us: if rng.random_bool(0.2) { rng.random_range(0..9_000_000) } else { 0 },
        ..process(pid, whose, &[gpu], from_s)
    }
}

/// Some processes use a second GPU as well.
fn span_devices(rng: &mut StdRng, processes: &mut [Process], gpus: u32) {
    for process in processes {
        let second = uuid(rng.random_range(0..gpus.max(1)));
        if rng.random_bool(0.15) && !process.devices.contains(&second) {
            process.devices.push(second);
        }
    }
}

/// Some processes get the pid of one that ended before they start: whoever goes by pids alone mixes them up.
fn reuse_pids(rng: &mut StdRng, processes: &mut [Process]) {
    for at in 1..processes.len() {
        let other = rng.random_range(0..at);
        let (one_shot, pid) = (processes[other].repeat_s.is_none(), processes[other].pid);
        let over = processes[other].end_s.is_some_and(|end_s| end_s < processes[at].start_s);
        let taken = processes.iter().filter(|process| process.pid == pid).count() > 1;
        if rng.random_bool(0.3) && one_shot && over && !taken {
            processes[at].pid = pid;
        }
    }
}

fn whose(rng: &mut StdRng) -> Whose {
    let n = rng.random_range(1..12_u32);
    let (uid, container) = (pod_uid(n), container_id(n));
    match rng.random_range(0..10) {
        0 | 1 => pod_systemd(&uid, &container),
        2 => pod_crio(&uid, &container),
        3 => pod_cgroupfs(&uid, &container),
        4 => slurm_v2(4_000 + n, "0", 2_000 + n),
        5 => slurm_v1(4_000 + n, "batch", 2_000 + n),
        6 => unit(&format!("trainer-{n}.service")),
        7 => session(2_000 + n),
        8 => docker(&container),
        _ => unowned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_gives_a_valid_scenario_and_the_same_one_again() {
        for seed in 0..200 {
            let scenario = random(seed, 4, 120);
            scenario.check().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!(scenario, random(seed, 4, 120), "seed {seed}");
        }
    }

    #[test]
    fn seeds_make_shared_devices_repeats_and_reused_pids() {
        let all: Vec<Process> = (0..20).flat_map(|seed| random(seed, 4, 120).process).collect();
        assert!(all.iter().any(|process| process.devices.len() > 1));
        assert!(all.iter().any(|process| process.repeat_s.is_some()));
        let scenario = random(1, 4, 600);
        let pids: std::collections::BTreeSet<u32> =
            scenario.process.iter().map(|process| process.pid).collect();
        assert!(pids.len() < scenario.process.len(), "no pid was used again");
    }
}
