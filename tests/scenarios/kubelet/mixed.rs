//! One node with every way of sharing: a GPU that is given whole, one in replicas with an intruder, one that is cut
//! anew and anew, and one whose MIG mode is switched, while GPUs get lost and come back, and calls into the driver hang.
//! The story is drawn at random, and what each pod holds is reckoned second by second.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use harness::scenario::{self, process};
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use nvidia_ml::scenario::{Device, Hang, MigDevice, Process, Scenario};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonnage_aggregator::model::RowKind;

use super::{BY_MEMORY, Listed, S, held, in_pod, kubelet, word, world_priced};
use crate::books::Books;

/// Seconds that each story lasts.
const LENGTH: u32 = 60;
const STORIES: usize = 4;
/// Seconds that a call hangs, where one does: more than it is waited for.
const HANG: u32 = 10;
const HUNG: &str = "tonnage_agent_driver_hung_seconds";
/// Lists of processes come before it in a reading.
const HANGING: &str = "nvmlDeviceGetTotalEnergyConsumption";
/// Compute slices of the instances of a GPU, as they may lie on an H100.
const CUTS: [&[u32]; 7] =
    [&[7], &[4, 3], &[3, 3], &[3, 2, 1], &[2, 2, 2, 1], &[1, 1, 1, 1, 1, 1, 1], &[2, 1]];

/// Who has a part of a GPU, and how much of it.
#[derive(Debug, Clone)]
enum Has {
    /// By the kubelet: pods with their parts.
    Claims(Vec<(u32, i128)>),
    /// A pod that the kubelet does not list, by a process there since then.
    Process(u32, f64),
    Nobody,
}

/// A GPU, or an instance of one, from one time to another.
#[derive(Debug, Clone)]
struct Part {
    gpu: u32,
    from_s: f64,
    to_s: f64,
    /// Of so many slices; 0: of the whole GPU while it is not partitioned.
    slices: u32,
    has: Has,
}

struct Story {
    rng: StdRng,
    scenario: Scenario,
    parts: Vec<Part>,
    listed: Vec<Listed>,
    pods: Vec<(String, u32)>,
    /// UUIDs of instances that somebody claims.
    claimed: BTreeSet<String>,
    /// Second from which on calls hang.
    hang: Option<u32>,
}

impl Story {
    fn new(seed: u64) -> Self {
        let (rng, scenario) = (StdRng::seed_from_u64(seed), scenario::node(4));
        let (parts, listed, pods) = (Vec::new(), Vec::new(), Vec::new());
        let mut story = Self { rng, scenario, parts, listed, pods, claimed: BTreeSet::new(), hang: None };
        let end_s = f64::from(LENGTH) + 10.0;
        let whole = |gpu, has| Part { gpu, from_s: 0.0, to_s: end_s, slices: 0, has };
        let pod = story.listed(&[&scenario::uuid(0)]);
        story.parts.push(whole(0, Has::Claims(vec![(pod, 1)])));
        let mut claims = Vec::new();
        let mut replica = 0;
        while claims.len() < 3 {
            let count = story.rng.random_range(1..4);
            let ids: Vec<String> =
                (replica..replica + count).map(|n| format!("{}::{n}", scenario::uuid(1))).collect();
            replica += count;
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            claims.push((story.listed(&ids), i128::from(count)));
        }
        story.parts.push(whole(1, Has::Claims(claims)));
        story.intruder(1);
        let mut from_s = 0.0;
        while from_s < f64::from(LENGTH) {
            let to_s = (from_s + f64::from(story.rng.random_range(8..25)) + 0.5).floor() + 0.5;
            story.cut(2, from_s, to_s);
            from_s = to_s;
        }
        story.switched(3);
        story.hang = story.rng.random_bool(0.5).then(|| story.rng.random_range(3..LENGTH - 2 * HANG));
        if let Some(from) = story.hang {
            let (from_s, to_s) = (f64::from(from), Some(f64::from(from + HANG)));
            story.scenario.faults.hang = vec![Hang { calls: vec![HANGING.to_owned()], from_s, to_s }];
        }
        story.lose();
        story
    }

    /// GPUs get lost. Never one as another comes back, to whoever looks: then the number of GPUs is the same, and that one is
    /// back is seen a reading later. So none while nobody looks.
    fn lose(&mut self) {
        let blind_s = self.hang.map(f64::from).map(|from_s| (from_s - 6.0, from_s + 2.0 * f64::from(HANG)));
        for (device, gpu) in self.scenario.device.iter_mut().zip(0..) {
            let from_s = f64::from(13 * gpu + self.rng.random_range(5..11)) + 0.5;
            let seen = blind_s.is_none_or(|blind_s| from_s < blind_s.0 || blind_s.1 < from_s);
            if self.rng.random_bool(0.5) && seen {
                (device.missing_from_s, device.missing_to_s) = (Some(from_s), Some(from_s + 5.0));
            }
        }
    }

    fn device(&mut self, gpu: u32) -> &mut Device {
        &mut self.scenario.device[gpu as usize]
    }

    /// The next pod, alive throughout.
    fn pod(&mut self) -> (String, u32) {
        let n = u32::try_from(self.pods.len()).unwrap() + 1;
        self.pods.push((format!("pod-{n}"), n));
        (format!("pod-{n}"), n)
    }

    /// One that the kubelet gave these.
    fn listed(&mut self, ids: &[&str]) -> u32 {
        let (name, n) = self.pod();
        self.listed.push(kubelet::pod(&name, ids));
        n
    }

    /// A process of a pod that the kubelet does not list.
    fn process(&mut self, gpu: u32, start_s: f64, end_s: f64) -> (u32, &mut Process) {
        let (_, n) = self.pod();
        let percent = self.rng.random_range(0..100);
        let started = Process {
            end_s: Some(end_s),
            utilisation: vec![(0.0, percent)],
            ..process(1_000 + n, &in_pod(n), &[gpu], start_s)
        };
        self.scenario.process.push(started);
        (n, self.scenario.process.last_mut().unwrap())
    }

    fn intruder(&mut self, gpu: u32) {
        self.process(gpu, 3.0, 40.5);
    }

    /// Cuts a GPU in some way for a while. Instances take the ids of those before them, and some their UUIDs.
    fn cut(&mut self, gpu: u32, from_s: f64, to_s: f64) {
        let cut = CUTS[self.rng.random_range(0..CUTS.len())];
        for (slices, at) in cut.iter().zip(0..) {
            let named = |life: u32| format!("MIG-{gpu:04x}{at:04x}-42e4-5de3-91c7-45d7{life:08x}");
            let mut uuid = named(0);
            // A UUID that comes again is its claimant's again: only those that nobody claimed do.
            if self.claimed.contains(&uuid) || self.rng.random_bool(0.5) {
                uuid = named(self.rng.random_range(1..u32::MAX));
            }
            let part = MigDevice {
                uuid: uuid.clone(),
                profile_slices: *slices,
                gpu_instance: 1 + at,
                from_s: Some(from_s),
                to_s: Some(to_s),
                ..MigDevice::default()
            };
            let parts = self.device(gpu).mig.get_or_insert_default();
            let again = parts.iter().any(|known| known.uuid == uuid);
            parts.push(part);
            // Pods are listed from the beginning, so that a claim would be of the earlier one, too.
            let has = match self.rng.random_range(0..if again { 2 } else { 4 }) {
                0 => Has::Nobody,
                1 => {
                    let start_s = from_s + 0.25;
                    let (n, process) = self.process(gpu, start_s, to_s);
                    process.instance = Some(uuid);
                    Has::Process(n, start_s)
                }
                2 => {
                    let replicas = [format!("{uuid}::0"), format!("{uuid}::1")];
                    let pods = replicas.map(|id| (self.listed(&[&id]), 1));
                    Has::Claims(pods.into())
                }
                _ => Has::Claims(vec![(self.listed(&[&uuid]), 1)]),
            };
            if matches!(has, Has::Claims(_)) {
                self.claimed.insert(named(0));
            }
            self.parts.push(Part { gpu, from_s, to_s, slices: *slices, has });
        }
    }

    /// A GPU that is whole, partitioned for a while, and whole again.
    fn switched(&mut self, gpu: u32) {
        let on_s = f64::from(self.rng.random_range(8..20)) + 0.5;
        let off_s = on_s + f64::from(self.rng.random_range(8..20));
        let end_s = f64::from(LENGTH) + 10.0;
        for (from_s, to_s) in [(0.0, on_s), (off_s, end_s)] {
            let (n, _) = self.process(gpu, from_s + 0.25, to_s);
            let has = Has::Process(n, from_s + 0.25);
            self.parts.push(Part { gpu, from_s, to_s, slices: 0, has });
        }
        self.cut(gpu, on_s, off_s);
        let device = self.device(gpu);
        (device.mig_from_s, device.mig_to_s) = (Some(on_s), Some(off_s));
    }

    /// Lets it happen. The seconds in which nothing was read.
    fn tell(&self, world: &mut World) -> anyhow::Result<Range<u32>> {
        let Some(from) = self.hang else {
            world.live(LENGTH)?;
            return Ok(0..0);
        };
        world.live(from - 1)?;
        world.move_clock(i64::try_from(S)?)?;
        let now_ns = world.now().monotonic_ns;
        let log = world.nodes[0].log();
        let tail = || harness::process::tail(&log);
        wait_until(DEADLINE, "the call that hangs", tail, || {
            let served = world.nodes[0].served()?;
            let listed = served.iter().rev().take_while(|record| record.monotonic_ns >= now_ns);
            Ok(listed.into_iter().any(|record| record.processes.is_some()).then_some(()))
        })?;
        let hung = |world: &World| Ok::<_, anyhow::Error>(world.nodes[0].metrics()?.sum(HUNG) > Some(0.0));
        world.move_clock(6 * i64::try_from(S)?)?;
        wait_until(DEADLINE, "that it is given up on", tail, || Ok(hung(world)?.then_some(())))?;
        let mut now = from + 6;
        while hung(world)? {
            now += 1;
            world.move_clock(i64::try_from(S)?)?;
            world.settle()?;
        }
        anyhow::ensure!((from + HANG..LENGTH).contains(&now), "hung from {from} to {now}");
        world.live(LENGTH - now)?;
        Ok(from..now)
    }

    /// What each pod holds of a GPU in slice-nanoseconds, by readings at whole seconds but those in `blind`.
    fn expected(&self, gpu: u32, blind: &Range<u32>) -> BTreeMap<String, i128> {
        let device = &self.scenario.device[gpu as usize];
        let missing = (device.missing_from_s.unwrap_or(f64::MAX), device.missing_to_s.unwrap_or(f64::MAX));
        let mut held: BTreeMap<String, i128> = BTreeMap::new();
        for second in 1..=LENGTH {
            let now_s = f64::from(second);
            if blind.contains(&second) || (missing.0 <= now_s && now_s < missing.1) {
                continue;
            }
            let here = |part: &&Part| part.gpu == gpu && part.from_s <= now_s && now_s < part.to_s;
            for part in self.parts.iter().filter(here) {
                let whole_ns = i128::from(part.slices.max(1)) * S;
                match &part.has {
                    Has::Nobody => {}
                    Has::Process(pod, start_s) => {
                        let there = (1..=4).filter(|quarter| *start_s <= now_s - 0.25 * f64::from(*quarter));
                        let part_ns = whole_ns / 4 * there.map(|_| 1).sum::<i128>();
                        *held.entry(word(*pod)).or_default() += part_ns;
                    }
                    Has::Claims(pods) => split(whole_ns, pods, &mut held),
                }
            }
        }
        held.retain(|_, ns| *ns > 0);
        held
    }
}

/// A process's container is known, a claim's is not.
fn by_pod(held: &BTreeMap<String, i128>) -> BTreeMap<String, i128> {
    let mut sums = BTreeMap::new();
    for (owner, held_ns) in held {
        let (pod, _) = owner.split_once('/').unwrap_or((owner, ""));
        *sums.entry(format!("{pod}/")).or_default() += held_ns;
    }
    sums
}

/// By largest remainder, the first of equals before the others. Pods are in the order of their numbers.
fn split(whole_ns: i128, pods: &[(u32, i128)], held: &mut BTreeMap<String, i128>) {
    let all: i128 = pods.iter().map(|(_, parts)| parts).sum();
    let mut order: Vec<usize> = (0..pods.len()).collect();
    order.sort_by_key(|&at| -(whole_ns * pods[at].1 % all));
    let left = whole_ns - pods.iter().map(|(_, parts)| whole_ns * parts / all).sum::<i128>();
    for (rank, at) in (0..).zip(order) {
        let (pod, parts) = pods[at];
        *held.entry(word(pod)).or_default() += whole_ns * parts / all + i128::from(rank < left);
    }
}

#[test]
fn whatever_ways_of_sharing_are_mixed_each_pod_holds_its_parts_and_nothing_is_lost() -> anyhow::Result<()> {
    for _ in 0..STORIES {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let Story { scenario, listed, pods, .. } = &Story::new(seed);
        let pods: Vec<(&str, u32)> = pods.iter().map(|(name, n)| (name.as_str(), *n)).collect();
        // Time is the same by whatever instances are weighed, and what they cost is verified.
        let price = if seed & 1 == 0 { BY_MEMORY } else { "" };
        let (mut world, _kubelet) = world_priced(scenario.clone(), &pods, listed.clone(), price)?;
        let story = Story::new(seed);
        let blind = story.tell(&mut world)?;
        for gpu in 0..4 {
            let (held, expected) = (by_pod(&held(&mut world, Some(gpu))?), story.expected(gpu, &blind));
            let pods: BTreeSet<&String> = held.keys().chain(expected.keys()).collect();
            for pod in pods {
                let parts: Vec<&Part> = story.parts.iter().filter(|part| part.gpu == gpu).collect();
                let lost = (story.scenario.device[gpu as usize].missing_from_s, gpu);
                let at = format!("{pod} on GPU {gpu}, lost {lost:?}, blind {blind:?}: {parts:?}");
                assert_eq!(held.get(pod), expected.get(pod), "{at}");
            }
        }
        let books = Books::read(&world.aggregator.data_dir())?;
        let lost = books.time(RowKind::Unobserved, None).values().sum::<i128>();
        let missing = story.scenario.device.iter().filter(|device| device.missing_from_s.is_some()).count();
        assert_eq!(lost > 0, missing > 0 || story.hang.is_some());
        let verified = world.aggregator.admin(&["verify"])?;
        assert!(verified.contains("conserved: held + idle + unobserved = existence"), "{verified}");
    }
    Ok(())
}
