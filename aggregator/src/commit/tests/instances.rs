//! Partitioned devices: rows of instances, modes that are switched, ids that are used again.

use super::*;
use crate::model::Instance;

const GPU: &str = "GPU-mig";

fn instance(number: u32, generation: u32, slices: u32) -> pb::Instance {
    pb::Instance {
        device: 0,
        generation,
        gpu_instance: number,
        compute_instance: 0,
        slices,
        uuid: format!("MIG-{number}"),
        profile: format!("{slices}g.{slices}0gb"),
        ..pb::Instance::default()
    }
}

/// A window of a GPU with these instances: seconds that each is held, and slices that are stranded.
fn window(
    start_s: i64,
    length_s: i64,
    slices: u32,
    instances: &[(pb::Instance, i64)],
    stranded: i64,
) -> pb::Window {
    let ns = |seconds: i64| (seconds * S).unsigned_abs();
    let held_s: i64 = instances.iter().map(|(_, held_s)| held_s).sum();
    let place = |at: usize| u32::try_from(at + 1).unwrap();
    let idle = |(at, (of, held_s)): (usize, &(pb::Instance, i64))| pb::InstanceIdle {
        instance: place(at),
        idle_ns: ns(length_s * i64::from(of.slices) - held_s),
    };
    let usage = |(at, (_, held_s)): (usize, &(pb::Instance, i64))| pb::Usage {
        kind: pb::usage::Kind::Held.into(),
        held_ns: ns(*held_s),
        instance: place(at),
        ..pb::Usage::default()
    };
    pb::Window {
        start_ns: BEGIN + start_s * S,
        duration_ns: ns(length_s),
        idle_ns: ns(length_s * i64::from(slices) - held_s),
        usages: instances.iter().enumerate().map(usage).collect(),
        instance_idles: instances.iter().enumerate().map(idle).collect(),
        stranded_ns: ns(length_s * stranded),
        ..pb::Window::default()
    }
}

impl Agent {
    fn cut(&mut self, slices: u32, instances: &[(pb::Instance, i64)], windows: Vec<pb::Window>) -> Sealed {
        self.seq += 1;
        self.seal(pb::Batch {
            devices: vec![pb::Device { uuid: GPU.into(), slices, ..pb::Device::default() }],
            instances: instances.iter().map(|(of, _)| of.clone()).collect(),
            owners: vec![pb::Owner {
                kind: pb::owner::Kind::User.into(),
                user: self.node.into(),
                ..pb::Owner::default()
            }],
            windows,
            ..self.empty()
        })
    }
}

/// Seconds by instance and kind.
fn by_instance(ledger: &Ledger) -> BTreeMap<(Option<(String, u32)>, RowKind), i64> {
    let mut sums = BTreeMap::new();
    for (key, bucket) in ledger.slots() {
        let instance = key.instance.map(|Instance { uuid, generation, .. }| (uuid, generation));
        *sums.entry((instance, key.kind)).or_default() += i64::try_from(bucket.time_ns).unwrap() / S;
    }
    sums.retain(|_, seconds| *seconds != 0);
    sums
}

#[test]
fn an_instance_has_rows_of_its_own_and_what_is_in_none_is_the_devices() {
    let mut ledger = Ledger::new(BOOK, 2_000);
    let mut agent = Agent::new("n", "b", 1);
    let parts = [(instance(1, 1, 3), 20), (instance(2, 1, 2), 0)];
    let sealed = agent.cut(7, &parts, vec![window(0, 10, 7, &parts, 1)]);
    assert_eq!(ledger.take(sealed), Outcome::Accepted);
    let of = |number: u32| Some((format!("MIG-{number}"), 1));
    let expected = [
        ((of(1), RowKind::Held), 20),
        ((of(1), RowKind::Idle), 10),
        ((of(2), RowKind::Idle), 20),
        ((None, RowKind::Stranded), 10),
        ((None, RowKind::Idle), 10),
    ];
    assert_eq!(by_instance(&ledger), BTreeMap::from(expected));
    ledger.verify();
    // 3.60 an hour is a millionth and a seventh of it for each second of a slice.
    let held = ledger.slots().into_iter().find(|(key, _)| key.kind == RowKind::Held).unwrap().1;
    assert_eq!(held.cost_nanos, 20 * 1_000_000 / 7);
}

#[test]
fn ids_that_are_used_again_are_other_rows_and_a_switched_mode_is_another_tenure_of_the_same_boot() {
    // In a cloud, where a gap between two lives of a node would be time without the GPU.
    let mut ledger = Ledger::new(ABSENT, 2_000);
    let mut agent = Agent::new("n", "b", 1);
    let [old, new] = [[(instance(1, 1, 3), 30)], [(instance(1, 2, 4), 40)]];
    let batches = [
        agent.cut(7, &old, vec![window(0, 10, 7, &old, 0)]),
        agent.cut(7, &new, vec![window(10, 10, 7, &new, 0)]),
        agent.batch(GPU, &[(25, 10, 10)]),
        agent.cut(7, &new, vec![window(40, 10, 7, &new, 0)]),
    ];
    for sealed in batches {
        assert_eq!(ledger.take(sealed), Outcome::Accepted);
    }
    let found = by_instance(&ledger);
    let of = |generation| Some(("MIG-1".to_owned(), generation));
    assert_eq!((found[&(of(1), RowKind::Held)], found[&(of(2), RowKind::Held)]), (30, 80));
    assert_eq!(found[&(None, RowKind::Held)], 10);
    // Both gaps are of one boot: the GPU was there, with the slices that it had before.
    assert_eq!(found[&(None, RowKind::Unobserved)], 5 * 7 + 5);
    ledger.verify();
}

#[test]
fn a_clone_does_not_become_senior_because_the_gpu_is_cut() {
    let mut ledger = Ledger::new(BOOK, 2_000);
    let (mut owner, mut clone) = (Agent::new("a", "b", 1), Agent::new("z", "c", 2));
    let parts = [(instance(1, 1, 7), 70)];
    ledger.take(owner.batch(GPU, &[(0, 10, 10)]));
    assert_eq!(ledger.take(clone.batch(GPU, &[(5, 10, 10)])), Outcome::Quarantined);
    ledger.take(clone.batch(GPU, &[(20, 10, 10)]));
    ledger.take(owner.cut(7, &parts, vec![window(20, 10, 7, &parts, 0)]));
    assert_eq!((ledger.held("a"), ledger.held("z")), (10 + 70, 0));
    ledger.verify();
}

#[test]
fn whatever_is_cut_and_displaced_time_and_money_are_conserved_and_found_again() {
    for _ in 0..12 {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut ledger = Ledger::new(BOOK, 5_000);
        let mut agents = [Agent::new("a", "b1", 1), Agent::new("a", "b1", 2), Agent::new("b", "b2", 3)];
        let mut generation = 0;
        let mut cut = (7, Vec::new());
        for _ in 0..60 {
            if rng.random_bool(0.3) {
                generation += 1;
                cut = (if rng.random_bool(0.3) { 1 } else { 7 }, Vec::new());
                let mut left = cut.0;
                while cut.0 > 1 && left > 0 && rng.random_bool(0.8) {
                    let slices = rng.random_range(1..=left);
                    left -= slices;
                    let number = u32::try_from(cut.1.len()).unwrap();
                    cut.1.push((instance(number, generation, slices), 0));
                }
            }
            let (start_s, length_s) = (10 * rng.random_range(0..300), 10);
            for (of, held_s) in &mut cut.1 {
                *held_s = rng.random_range(0..=length_s * i64::from(of.slices));
            }
            let used: u32 = cut.1.iter().map(|(of, _)| of.slices).sum();
            let stranded = i64::from(rng.random_range(0..=cut.0 - used));
            let agent = &mut agents[rng.random_range(0..3)];
            let sealed = agent.cut(cut.0, &cut.1, vec![window(start_s, length_s, cut.0, &cut.1, stranded)]);
            ledger.take(sealed);
            if rng.random_bool(0.1) {
                ledger.tick();
            }
        }
        ledger.verify();
        // Closed, and posted.
        ledger.at(5_000 + 20_000);
        (0..30).for_each(|_| ledger.tick());
        let report = ledger.verify();
        assert!(report.entries > 0, "{report}");
    }
}
