//! The meter against a naive model: random devices, owners, processes, clocks and failures; GPUs that are cut into
//! instances, cut anew with the same ids, and made whole again.
//!
//! The model knows nothing of windows: it walks each interval from one moment at which anything may change to the
//! next, and keeps one sum per device, cell of the grid and owner. The meter's windows, added up by cell, must say
//! the same of time, exactly, and keep their promises one by one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonnage_agent::metering::Meter;
use tonnage_agent::model::{
    Allocation, Claim, DeviceInfo, GapReason, Holder, Instance, InstanceObservation, InstanceUtilisation,
    Observation, Owner, OwnerKind, Partition, SharedBy, Tick, UtilisationSample, Window,
};
use tonnage_proto::limits::WINDOW_NS;

const SEEDS: usize = 60;
const TICKS: usize = 300;
const PERIOD_NS: i64 = 1_000_000_000;
const T0: i64 = 1_800_000_000_123_456_789;

/// (device, start of the cell, instance or "", owner's pod uid or "" for idle) -> slice-nanoseconds. What is stranded is
/// under "stranded", and in no other sum.
type Sums = BTreeMap<(String, i64, String, String), u64>;

/// A device, or an instance of it, or what of it is in none.
struct Place {
    instance: Option<Arc<Instance>>,
    slices: u64,
    processes: Vec<Holder>,
    allocation: Allocation,
}

impl Place {
    fn new(instance: Option<Arc<Instance>>, slices: u32) -> Self {
        let (processes, allocation) = (Vec::new(), Allocation::default());
        Self { instance, slices: u64::from(slices), processes, allocation }
    }

    fn name(&self) -> String {
        self.instance.as_ref().map_or(String::new(), |of| format!("{}#{}", of.uuid, of.generation))
    }
}

/// One device as it is, and as it was in the reading before.
struct Gpu {
    info: Arc<DeviceInfo>,
    /// The device itself, or what is in no instance, is the first.
    places: Vec<Place>,
    stranded_slices: u64,
    generation: u32,
    before: BTreeSet<(u32, Option<i64>)>,
    known: bool,
    energy_mj: u64,
    /// What the meter was shown of the counter.
    energy_shown: Vec<u64>,
}

struct World {
    rng: StdRng,
    now_ns: i64,
    next_pid: u32,
    gpus: Vec<Gpu>,
    expected: Sums,
    unobserved: BTreeMap<String, u64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let count: u32 = rng.random_range(1..4);
        let gpus = (0..count)
            .map(|n| Gpu {
                info: info(n, 1),
                places: vec![Place::new(None, 1)],
                stranded_slices: 0,
                generation: 0,
                before: BTreeSet::new(),
                known: false,
                energy_mj: rng.random_range(0..1_000_000),
                energy_shown: Vec::new(),
            })
            .collect();
        let (expected, unobserved) = (Sums::new(), BTreeMap::new());
        Self { rng, now_ns: T0, next_pid: 1, gpus, expected, unobserved }
    }

    /// Moves time on, lets processes come and go, and books the interval in the model.
    fn step(&mut self, n: usize) -> (Tick, Vec<Observation>) {
        // The last one is quiet: what waits for a window gets one.
        let (first, last) = (n == 0, n == TICKS - 1);
        let from_ns = self.now_ns;
        let (length_ns, continuous) = match self.rng.random_range(0..40) {
            _ if last => (PERIOD_NS, true),
            0 => (0, true),
            1 => (self.rng.random_range(2 * PERIOD_NS..30 * PERIOD_NS), true),
            2 => (self.rng.random_range(0..5 * PERIOD_NS), false),
            3 => (2 * PERIOD_NS, true),
            _ => (self.rng.random_range(900_000_000..1_100_000_000), true),
        };
        self.now_ns += length_ns;
        let covered = continuous && !first && length_ns <= 2 * PERIOD_NS;
        let mut observations = Vec::new();
        for at in 0..self.gpus.len() {
            self.churn(at, from_ns);
            let readable = last || self.rng.random_bool(0.95);
            let gpu = &mut self.gpus[at];
            if gpu.known && covered && readable {
                book(&mut self.expected, gpu, from_ns, self.now_ns);
            } else if gpu.known {
                *self.unobserved.entry(gpu.info.uuid.to_string()).or_default() += length_ns.unsigned_abs();
            }
            if readable {
                let processes = gpu.places.iter().filter(|at| at.slices > 0).flat_map(|at| &at.processes);
                gpu.before = processes.map(|p| (p.pid, p.started_ns)).collect();
                gpu.known = true;
                observations.push(self.observe(at));
            }
        }
        let overlap_ns = if self.rng.random_bool(0.05) { 1_000 } else { 0 };
        let continuous = continuous && !first;
        let gap = if first { GapReason::AgentDown } else { GapReason::Clock };
        (Tick { now_ns: self.now_ns, continuous, gap, overlap_ns, new_epoch: false }, observations)
    }

    fn churn(&mut self, at: usize, from_ns: i64) {
        let (rng, gpu) = (&mut self.rng, &mut self.gpus[at]);
        if rng.random_bool(0.05) {
            gpu.cut(rng);
        }
        for place in gpu.places.iter_mut().filter(|at| at.slices > 0) {
            place.processes.retain(|_| rng.random_bool(0.9));
            while rng.random_bool(0.3) {
                // Some start long ago (the device was not theirs), some within the interval, some nobody knows when.
                let started_ns = match rng.random_range(0..6) {
                    0 => None,
                    1 => Some(from_ns - 5 * PERIOD_NS),
                    _ => Some(rng.random_range(from_ns..=self.now_ns)),
                };
                let pod_uid = format!("pod-{}", rng.random_range(0..5));
                let owner = Arc::new(Owner { kind: OwnerKind::Pod, pod_uid, ..Owner::default() });
                let memory_bytes = rng.random_bool(0.8).then(|| rng.random_range(0..80 << 30));
                let inferred = rng.random_bool(0.1);
                place.processes.push(Holder {
                    pid: self.next_pid,
                    owner,
                    started_ns,
                    memory_bytes,
                    inferred,
                });
                self.next_pid += 1;
            }
            allocate(rng, &mut place.allocation, from_ns, self.now_ns);
        }
        // No device draws more than 100 kW.
        let most_mj = (self.now_ns - from_ns).unsigned_abs() / 10;
        gpu.energy_mj += rng.random_range(0..800_000).min(most_mj);
        if rng.random_bool(0.01) {
            gpu.energy_mj = 0;
        }
    }

    fn observe(&mut self, at: usize) -> Observation {
        let (rng, gpu) = (&mut self.rng, &mut self.gpus[at]);
        let mut samples = Vec::new();
        let stranger = self.next_pid + 7;
        let processes = gpu.places.iter().flat_map(|place| &place.processes);
        for pid in processes.map(|p| p.pid).chain([stranger]) {
            for _ in 0..rng.random_range(0..3) {
                let late_ns = rng.random_range(0..3 * PERIOD_NS);
                let timestamp_us = ((self.now_ns - late_ns) / 1_000).unsigned_abs();
                samples.push(UtilisationSample { pid, timestamp_us, sm_percent: rng.random_range(0..=100) });
            }
        }
        let energy_mj = rng.random_bool(0.95).then_some(gpu.energy_mj);
        gpu.energy_shown.extend(energy_mj);
        let (rest, instances) = gpu.places.split_first().unwrap();
        let instances = instances.iter().map(|place| InstanceObservation {
            instance: Arc::clone(place.instance.as_ref().unwrap()),
            holders: place.processes.clone(),
            allocation: place.allocation.clone(),
            utilisation: rng.random_bool(0.8).then(|| InstanceUtilisation {
                permille: rng.random_range(0..=1_100),
                slices: u32::try_from(place.slices).unwrap() + rng.random_range(0..2),
            }),
        });
        let instances = instances.collect();
        let stranded_slices = u32::try_from(gpu.stranded_slices).unwrap();
        Observation {
            info: Arc::clone(&gpu.info),
            partition: (gpu.info.slices > 1).then_some(Partition { instances, stranded_slices }),
            holders: rest.processes.clone(),
            allocation: rest.allocation.clone(),
            utilisation: rng.random_bool(0.9).then_some(samples),
            energy_mj,
        }
    }
}

fn info(n: u32, slices: u32) -> Arc<DeviceInfo> {
    Arc::new(DeviceInfo {
        uuid: format!("GPU-{n}").into(),
        model: "model".into(),
        memory_bytes: 80 << 30,
        slices,
        minor: None,
        pci_bus_id: String::new(),
    })
}

impl Gpu {
    /// Whole, or cut into instances of random sizes. Ids, and even UUIDs, are those of instances before.
    fn cut(&mut self, rng: &mut StdRng) {
        let slices = [1, 4, 7][rng.random_range(0..3)];
        self.info = Arc::new(DeviceInfo { slices, ..DeviceInfo::clone(&self.info) });
        self.generation += 1;
        let mut places = vec![Place::new(None, slices)];
        while slices > 1 && places[0].slices > 0 && rng.random_bool(0.8) {
            let slices = rng.random_range(1..=u32::try_from(places[0].slices).unwrap());
            let number = u32::try_from(places.len()).unwrap();
            let instance = Instance {
                gpu_instance: Some(number / 2),
                compute_instance: Some(number % 2),
                generation: self.generation,
                uuid: format!("MIG-{number}").into(),
                slices,
                slices_guessed: false,
                profile: format!("{slices}g"),
                memory_bytes: 0,
                memory: None,
            };
            places[0].slices -= u64::from(slices);
            places.push(Place::new(Some(Arc::new(instance)), slices));
        }
        self.stranded_slices = if slices > 1 { rng.random_range(0..=places[0].slices) } else { 0 };
        self.places = places;
    }
}

fn cell(at_ns: i64) -> i64 {
    at_ns - at_ns.rem_euclid(WINDOW_NS)
}

/// Claims come with or without a start, end within an interval or by being gone from the next reading.
fn allocate(rng: &mut StdRng, allocation: &mut Allocation, from_ns: i64, now_ns: i64) {
    allocation.claims.retain(|claim| claim.until_ns.is_none() && rng.random_bool(0.95));
    for claim in &mut allocation.claims {
        claim.until_ns = rng.random_bool(0.05).then(|| rng.random_range(from_ns - 10..=now_ns + 10));
    }
    if rng.random_bool(0.1) {
        allocation.parts = rng.random_range(0..9);
        let pod_uid = format!("pod-{}", rng.random_range(0..5));
        allocation.claims.push(Claim {
            owner: Arc::new(Owner { kind: OwnerKind::Pod, pod_uid, ..Owner::default() }),
            parts: rng.random_range(1..5),
            from_ns: rng.random_bool(0.7).then(|| rng.random_range(from_ns - 10..=now_ns)),
            until_ns: None,
            inferred: rng.random_bool(0.1),
            shared_by: SharedBy::default(),
        });
    }
}

/// Largest remainders, one by one.
fn deal(whole: u64, parts: &[(String, u64)]) -> Vec<u64> {
    let total: u64 = parts.iter().map(|(_, parts)| parts).sum();
    // A piece of two seconds and a few parts: far below 2^64.
    let mut dealt: Vec<u64> = parts.iter().map(|(_, n)| whole * n / total).collect();
    let mut left: Vec<u64> = parts.iter().map(|(_, n)| whole * n % total).collect();
    while dealt.iter().sum::<u64>() < whole {
        let mut winner = 0;
        for at in 1..left.len() {
            if left[at] > left[winner] {
                winner = at;
            }
        }
        dealt[winner] += 1;
        left[winner] = 0;
    }
    dealt
}

/// The rules of `docs/ledger.md` for held time, in the plainest form.
fn book(sums: &mut Sums, gpu: &Gpu, from_ns: i64, to_ns: i64) {
    gpu.places.iter().filter(|at| at.slices > 0).for_each(|at| book_place(sums, gpu, at, from_ns, to_ns));
}

fn book_place(sums: &mut Sums, gpu: &Gpu, place: &Place, from_ns: i64, to_ns: i64) {
    let mut moments = BTreeSet::from([from_ns, to_ns]);
    moments.extend(place.processes.iter().filter_map(|p| p.started_ns));
    let claims = &place.allocation.claims;
    moments.extend(claims.iter().flat_map(|claim| [claim.from_ns, claim.until_ns]).flatten());
    moments.extend((1..5).map(|n| cell(from_ns) + n * WINDOW_NS));
    moments.retain(|at_ns| (from_ns..=to_ns).contains(at_ns));
    let moments: Vec<i64> = moments.into_iter().collect();
    for pair in moments.windows(2) {
        let started = |p: &&Holder| {
            gpu.before.contains(&(p.pid, p.started_ns)) || p.started_ns.is_none_or(|at_ns| at_ns <= pair[0])
        };
        let length = (pair[1] - pair[0]).unsigned_abs();
        let whole = length * place.slices;
        let mut claimed: BTreeMap<String, u64> = BTreeMap::new();
        let in_force = |claim: &&Claim| {
            claim.from_ns.unwrap_or(i64::MIN) <= pair[0] && pair[0] < claim.until_ns.unwrap_or(i64::MAX)
        };
        for claim in claims.iter().filter(in_force) {
            *claimed.entry(claim.owner.pod_uid.clone()).or_default() += claim.parts;
        }
        let mut book = |owner: String, part: u64| {
            let mut add = |name: String, owner: String| {
                let key = (gpu.info.uuid.to_string(), cell(pair[0]), name, owner);
                *sums.entry(key).or_default() += part;
            };
            match place.instance {
                None if owner.is_empty() => {
                    add(String::new(), String::new());
                    let key = (gpu.info.uuid.to_string(), cell(pair[0]), "stranded".into(), String::new());
                    *sums.entry(key).or_default() += part.min(length * gpu.stranded_slices);
                }
                _ => add(place.name(), owner),
            }
        };
        if !claimed.is_empty() {
            let free = place.allocation.parts.saturating_sub(claimed.values().sum());
            let parts: Vec<(String, u64)> = claimed.into_iter().chain([(String::new(), free)]).collect();
            let dealt = deal(whole, &parts);
            parts.into_iter().zip(dealt).for_each(|((owner, _), part)| book(owner, part));
            continue;
        }
        let mut owners: BTreeSet<String> =
            place.processes.iter().filter(started).map(|p| p.owner.pod_uid.clone()).collect();
        if owners.is_empty() {
            owners.insert(String::new());
        }
        let n = owners.iter().fold(0, |n, _| n + 1);
        for (rank, owner) in (0..).zip(owners) {
            book(owner, whole / n + u64::from(rank < whole % n));
        }
    }
}

/// What every window promises by itself.
fn check(window: &Window) {
    let held: u64 = window.usages.values().map(|usage| usage.held_ns).sum();
    let whole = window.duration_ns * u64::from(window.info.slices);
    assert_eq!(held + window.idle_ns, whole, "time is conserved in {window:?}");
    assert!(window.duration_ns > 0 && window.samples > 0, "{window:?}");
    for usage in window.usages.values() {
        assert!(usage.busy_ns <= usage.held_ns, "busy over held in {window:?}");
    }
    for intruder in window.intruders.values() {
        assert_eq!(intruder.held_ns, 0, "an intruder holds in {window:?}");
        assert!(intruder.busy_ns <= whole, "busier than there was time in {window:?}");
    }
    let last_ns = end_ns(window) - 1;
    assert_eq!(cell(window.start_ns), cell(last_ns), "over the grid: {window:?}");
}

fn end_ns(window: &Window) -> i64 {
    window.start_ns.saturating_add_unsigned(window.duration_ns)
}

fn add_up(windows: &[Window]) -> Sums {
    let name = |of: &Instance| format!("{}#{}", of.uuid, of.generation);
    let mut sums = Sums::new();
    for window in windows {
        let mut add = |instance: String, owner: String, ns: u64| {
            let key = (window.info.uuid.to_string(), cell(window.start_ns), instance, owner);
            *sums.entry(key).or_default() += ns;
        };
        for ((instance, owner), usage) in &window.usages {
            add(instance.as_deref().map_or(String::new(), name), owner.pod_uid.clone(), usage.held_ns);
        }
        for (instance, idle_ns) in &window.instance_idle_ns {
            add(name(instance), String::new(), *idle_ns);
        }
        let of_instances: u64 = window.instance_idle_ns.values().sum();
        add(String::new(), String::new(), window.idle_ns - of_instances);
        add("stranded".into(), String::new(), window.stranded_ns);
    }
    sums
}

fn energy_uj(window: &Window) -> u64 {
    let usages = window.usages.values().chain(window.intruders.values());
    let owners: u64 = usages.map(|usage| usage.energy_uj).sum();
    owners + window.energy_idle_uj + window.energy_unobserved_uj
}

fn check_together(windows: &[Window], world: &World) {
    let mut ends: BTreeMap<&str, i64> = BTreeMap::new();
    for window in windows {
        let before_ns = ends.insert(&window.info.uuid, end_ns(window)).unwrap_or(i64::MIN);
        assert!(window.start_ns >= before_ns, "windows of one device overlap at {window:?}");
    }
    let spent = |sums: &Sums| -> Sums { sums.clone().into_iter().filter(|(_, ns)| *ns > 0).collect() };
    assert_eq!(spent(&add_up(windows)), spent(&world.expected));
    for gpu in &world.gpus {
        let rises = gpu.energy_shown.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        let drawn_uj = rises.sum::<u64>() * 1_000;
        let of_gpu = windows.iter().filter(|window| window.info.uuid == gpu.info.uuid);
        assert_eq!(of_gpu.map(energy_uj).sum::<u64>(), drawn_uj, "energy is conserved");
    }
}

#[test]
fn the_meter_says_what_the_rules_say_whatever_happens() {
    for _ in 0..SEEDS {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut world = World::new(seed);
        let mut meter = Meter::new(PERIOD_NS);
        let mut windows = Vec::new();
        let mut told: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        for n in 0..TICKS {
            let (tick, observations) = world.step(n);
            let known: Vec<Arc<str>> = meter.known().map(|info| Arc::clone(&info.uuid)).collect();
            windows.extend(meter.observe(tick, observations));
            for gap in meter.take_gaps() {
                let of = |uuid: &&Arc<str>| gap.device.as_ref().is_none_or(|info| info.uuid == **uuid);
                for uuid in known.iter().filter(of) {
                    *told.entry(Arc::clone(uuid)).or_default() += (gap.end_ns - gap.start_ns).unsigned_abs();
                }
            }
        }
        windows.extend(meter.finish());
        windows.iter().for_each(check);
        check_together(&windows, &world);
        for (uuid, unobserved_ns) in meter.unobserved_ns() {
            assert_eq!(unobserved_ns, world.unobserved.get(&*uuid).copied().unwrap_or(0), "{uuid}");
            assert_eq!(unobserved_ns, told.get(&uuid).copied().unwrap_or(0), "gaps of {uuid}");
        }
    }
}
