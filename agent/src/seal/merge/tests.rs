use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonnage_proto::limits::{SLOT_NS, WINDOW_NS};

use super::*;
use crate::model::{DeviceInfo, Instance, Owner, OwnerKind, Usage, Window};
use crate::seal::{Header, NodeState, draft, seal};

/// A slot's last minute, so that drafts of two slots follow each other.
const T0: i64 = 2_000 * SLOT_NS - 6 * WINDOW_NS;

/// (device, owner or nothing for idle, slot) -> held, busy, memory, energy, and idle of no owner.
type Sums = BTreeMap<(String, String, i64), [u64; 4]>;

fn node(boot: &str) -> NodeState {
    NodeState { boot_id: boot.into(), ..NodeState::default() }
}

fn window(rng: &mut StdRng, gpu: u32, start_ns: i64, duration_ns: u64) -> Window {
    let info = DeviceInfo {
        uuid: format!("GPU-{gpu}").into(),
        model: "H100".into(),
        memory_bytes: 1,
        slices: 1 + gpu,
        minor: None,
        pci_bus_id: String::new(),
    };
    let mut left_ns = duration_ns * u64::from(info.slices);
    // A life of the same ids each time, as of a GPU that is cut anew over and over; each weighs the whole GPU.
    let instance = |rng: &mut StdRng| {
        Arc::new(Instance {
            gpu_instance: Some(1),
            compute_instance: Some(0),
            generation: rng.random_range(0..100),
            uuid: "MIG-1".into(),
            slices: 1 + gpu,
            slices_guessed: false,
            profile: String::new(),
            memory_bytes: 0,
            memory: None,
        })
    };
    let partitioned = gpu > 0;
    let mut usages = BTreeMap::new();
    for _ in 0..rng.random_range(0..4) {
        let pod_uid = format!("pod-{}", rng.random_range(0..6));
        let held_ns = rng.random_range(0..=left_ns);
        let usage = Usage {
            held_ns,
            busy_ns: rng.random_range(0..=held_ns),
            memory_byte_seconds: rng.random_range(0..1 << 40),
            energy_uj: rng.random_range(0..1 << 30),
            method: 1 << rng.random_range(0..6),
        };
        let owner = Owner { kind: OwnerKind::Pod, pod_uid, ..Owner::default() };
        let at = (partitioned && rng.random_bool(0.5)).then(|| instance(rng));
        if usages.insert((at, Arc::new(owner)), usage).is_none() {
            left_ns -= held_ns;
        } else {
            return window(rng, gpu, start_ns, duration_ns);
        }
    }
    let mut instance_idle_ns = BTreeMap::new();
    let mut stranded_ns = 0;
    if partitioned {
        let idle_ns = rng.random_range(0..=left_ns);
        instance_idle_ns.insert(instance(rng), idle_ns);
        stranded_ns = rng.random_range(0..=left_ns - idle_ns);
    }
    Window {
        info: Arc::new(info),
        start_ns,
        duration_ns,
        idle_ns: left_ns,
        usages,
        intruders: BTreeMap::new(),
        instance_idle_ns,
        stranded_ns,
        busy_unattributed_ns: rng.random_range(0..1 << 30),
        energy_idle_uj: rng.random_range(0..1 << 30),
        energy_unobserved_uj: rng.random_range(0..1 << 30),
        samples: rng.random_range(1..20),
    }
}

/// Adds up a draft, and holds each window to what the ledger asks of one.
fn add_up(sums: &mut Sums, encoded: &[u8]) -> usize {
    let batch = pb::Batch::decode(encoded).unwrap();
    for window in &batch.windows {
        let device = &batch.devices[window.device as usize];
        let slot = slot_start(window.start_ns);
        assert_eq!(slot, slot_start(end_ns(window) - 1), "over a slot's edge: {window:?}");
        let held: u64 = window.usages.iter().map(|usage| usage.held_ns).sum();
        assert_eq!(held + window.idle_ns, window.duration_ns * u64::from(device.slices), "{window:?}");
        let mut add = |owner: &str, figures: [u64; 4]| {
            let sum = sums.entry((device.uuid.clone(), owner.to_owned(), slot)).or_default();
            sum.iter_mut().zip(figures).for_each(|(sum, figure)| *sum += figure);
        };
        for (at, usage) in window.usages.iter().enumerate() {
            assert!(usage.busy_ns <= usage.held_ns);
            let same = |other: &pb::Usage| (other.owner, other.instance) == (usage.owner, usage.instance);
            assert!(!window.usages[..at].iter().any(same), "twice: {window:?}");
            let of = usage.instance.checked_sub(1).map(|at| batch.instances[at as usize].generation);
            let owner = &format!("{} on {of:?}", batch.owners[usage.owner as usize].pod_uid);
            add(owner, [usage.held_ns, usage.busy_ns, usage.memory_byte_seconds, usage.energy_uj]);
            add(&format!("{owner} method {}", usage.method & 1), [0; 4]);
        }
        let (unattributed, unobserved) = (window.busy_unattributed_ns, window.energy_unobserved_uj);
        add("", [window.idle_ns, unattributed, unobserved, window.energy_idle_uj]);
        assert!(window.instance_idles.len() <= INSTANCE_IDLES_PER_WINDOW_MAX);
        for idle in &window.instance_idles {
            let of = &batch.instances[idle.instance as usize - 1];
            assert_eq!(batch.devices[of.device as usize], *device);
            add(&format!("idle on {}", of.generation), [idle.idle_ns, 0, 0, 0]);
        }
        add("stranded", [window.stranded_ns, 0, 0, 0]);
        add("samples", [u64::from(window.samples), 0, 0, 0]);
    }
    batch.windows.len()
}

/// Drafts of random windows, one per cell of the grid, with holes, several boots and a slot's edge.
fn random_drafts(rng: &mut StdRng) -> Vec<Vec<u8>> {
    let mut boot = 0;
    (0..rng.random_range(2..120))
        .map(|cell| {
            boot += u32::from(rng.random_bool(0.02));
            let mut windows = Vec::new();
            for gpu in 0..3 {
                let (mut start_ns, end_ns) = (T0 + cell * WINDOW_NS, T0 + (cell + 1) * WINDOW_NS);
                while start_ns < end_ns && rng.random_bool(0.95) {
                    let length_ns = if rng.random_bool(0.8) {
                        end_ns - start_ns
                    } else {
                        rng.random_range(1..=end_ns - start_ns)
                    };
                    windows.push(window(rng, gpu, start_ns, length_ns.unsigned_abs()));
                    start_ns += length_ns + if rng.random_bool(0.1) { 1 } else { 0 };
                }
            }
            draft(&windows, &node(&boot.to_string()), u64::from(rng.random_bool(0.1)))
        })
        .collect()
}

#[test]
fn merged_or_not_random_windows_add_up_to_the_same_per_device_owner_and_slot() {
    for _ in 0..100 {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let drafts = random_drafts(&mut rng);
        let (mut before, mut after) = (Sums::new(), Sums::new());
        let windows: usize = drafts.iter().map(|draft| add_up(&mut before, draft)).sum();
        let (mut left, mut merged_windows) = (drafts.as_slice(), 0);
        while !left.is_empty() {
            let (merged, taken) = merge(left);
            assert!(taken > 0);
            merged_windows += add_up(&mut after, &merged);
            left = &left[taken..];
        }
        let sums = |sums: &Sums| -> Sums {
            sums.iter().filter(|(key, _)| !key.1.contains("method")).map(|(k, v)| (k.clone(), *v)).collect()
        };
        assert_eq!(sums(&before), sums(&after));
        assert!(merged_windows <= windows);
    }
}

#[test]
fn a_quiet_slot_becomes_one_window_per_device_and_keeps_all_methods() {
    let mut rng = StdRng::seed_from_u64(1);
    let start = 2_000 * SLOT_NS;
    let drafts: Vec<Vec<u8>> = (0..90)
        .map(|cell| {
            let windows =
                [0, 1].map(|gpu| window(&mut rng, gpu, start + cell * WINDOW_NS, WINDOW_NS.unsigned_abs()));
            draft(&windows, &node("b"), 1)
        })
        .collect();
    let (merged, taken) = merge(&drafts);
    assert_eq!(taken, 90);
    let merged = pb::Batch::decode(merged.as_slice()).unwrap();
    assert_eq!((merged.windows.len(), merged.overlap_ns), (2, 90));
    assert_eq!(merged.windows[0].duration_ns, SLOT_NS.unsigned_abs());
    let methods = |batch: &pb::Batch| {
        let usages = batch.windows.iter().flat_map(|window| &window.usages);
        usages.fold(0, |methods, usage| methods | usage.method)
    };
    let all = drafts.iter().map(|draft| methods(&pb::Batch::decode(draft.as_slice()).unwrap()));
    assert_eq!(methods(&merged), all.fold(0, |a, b| a | b));
    // What is merged seals like any other.
    let header = Header { cluster: "c".into(), node: "n".into(), epoch: [7; 16], seq: 1, sealed_at_ns: 0 };
    let (sealed, taken) = seal(&[merged.encode_to_vec()], &header);
    assert_eq!((pb::Batch::decode(sealed.as_slice()).unwrap().windows, taken), (merged.windows, 1));
}

#[test]
fn what_is_of_another_boot_or_slot_stays_apart() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut at = |boot: &str, cell: i64| {
        let window = window(&mut rng, 0, T0 + cell * WINDOW_NS, WINDOW_NS.unsigned_abs());
        draft(&[window], &node(boot), 0)
    };
    assert_eq!(merge(&[at("a", 0), at("b", 1)]).1, 1);
    assert_eq!(merge(&[at("a", 5), at("a", 6)]).1, 1, "a slot begins between them");
    assert_eq!(merge(&[at("a", 4), at("a", 5)]).1, 2);
    assert_eq!(merge(&[vec![0xff; 5], at("a", 5)]).1, 2, "what cannot be read is in nobody's way");
}

#[test]
fn a_gpu_that_is_cut_anew_all_the_time_has_no_window_with_more_instances_than_the_ledger_takes() {
    let mut rng = StdRng::seed_from_u64(1);
    let start_ns = 2_000 * SLOT_NS;
    let drafts: Vec<Vec<u8>> = (0..90_u32)
        .map(|life| {
            let at_ns = start_ns + i64::from(life) * WINDOW_NS;
            let mut window = window(&mut rng, 1, at_ns, WINDOW_NS.unsigned_abs());
            let (instance, idle_ns) = window.instance_idle_ns.pop_first().unwrap();
            let instance = Instance { generation: life, ..Instance::clone(&instance) };
            window.instance_idle_ns.insert(Arc::new(instance), idle_ns);
            draft(&[window], &node("b"), 0)
        })
        .collect();
    let (merged, taken) = merge(&drafts);
    let windows = pb::Batch::decode(merged.as_slice()).unwrap().windows;
    let idles: Vec<usize> = windows.iter().map(|window| window.instance_idles.len()).collect();
    assert_eq!((taken, idles), (90, vec![INSTANCE_IDLES_PER_WINDOW_MAX, 90 - INSTANCE_IDLES_PER_WINDOW_MAX]));
}
