//! Partitioned devices: rows of instances, modes that are switched, ids that are used again.

use super::*;
use crate::model::{Instance, UsageBatch};
use crate::store::write::Mark;

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

/// The same, with so many memory slices of a GPU's eight, or of nothing known.
fn with_memory(of: pb::Instance, memory_slices: u32, gpu_memory_slices: u32) -> pb::Instance {
    let gpu_instance_slices = of.slices;
    pb::Instance { memory_slices, gpu_instance_slices, gpu_memory_slices, ..of }
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

const BY_MEMORY: &str =
    "currency = \"USD\"\n[[price]]\nprice = \"3.60\"\nunit = \"gpu_hour\"\nweight = \"memory\"\n";

/// Nano-dollars by instance and kind.
fn costs(ledger: &Ledger) -> BTreeMap<(String, RowKind), i128> {
    let mut sums = BTreeMap::new();
    for (key, bucket) in ledger.slots() {
        let instance = key.instance.map_or_else(String::new, |of| of.uuid);
        *sums.entry((instance, key.kind)).or_default() += bucket.cost_nanos;
    }
    sums.retain(|_, nanos| *nanos != 0);
    sums
}

#[test]
fn where_the_book_says_so_instances_are_weighed_by_their_memory_and_by_another_book_no_more() {
    let mut ledger = Ledger::new(BY_MEMORY, 2_000);
    let mut agent = Agent::new("n", "b", 1);
    // 3g.40gb, all of the time, and 1g.20gb, nobody's: 4 and 2 of 8; ten seconds of the GPU are a cent.
    let parts = [(with_memory(instance(1, 1, 3), 4, 8), 30), (with_memory(instance(2, 1, 1), 2, 8), 0)];
    let sealed = agent.cut(7, &parts, vec![window(0, 10, 7, &parts, 1)]);
    assert_eq!(ledger.take(sealed), Outcome::Accepted);
    let of = |number: u32, kind| (format!("MIG-{number}"), kind);
    let none = |kind| (String::new(), kind);
    let expected = [
        (of(1, RowKind::Held), 5_000_000),
        (of(2, RowKind::Idle), 2_500_000),
        // Two slices of eight are left, and one of three compute slices there is stranded.
        (none(RowKind::Stranded), 833_333),
        (none(RowKind::Idle), 1_666_666),
        (none(RowKind::Rounding), 1),
    ];
    assert_eq!(costs(&ledger), BTreeMap::from(expected));
    ledger.verify();
    ledger.book(BOOK);
    ledger.tick();
    assert_eq!(costs(&ledger)[&of(1, RowKind::Held)], 30 * 1_000_000 / 7);
    ledger.verify();
}

#[test]
fn an_agent_that_comes_to_tell_memory_slices_does_so_from_then_on_and_what_was_is_marked() {
    let mut ledger = Ledger::new(BY_MEMORY, 2_000);
    let mut agent = Agent::new("n", "b", 1);
    let untold = [(instance(1, 1, 3), 30), (instance(2, 1, 4), 40)];
    let told = [(with_memory(instance(1, 1, 3), 4, 8), 30), (with_memory(instance(2, 1, 4), 4, 8), 40)];
    ledger.take(agent.cut(7, &untold, vec![window(0, 10, 7, &untold, 0)]));
    ledger.take(agent.cut(7, &told, vec![window(10, 10, 7, &told, 0)]));
    let of = |number: u32| (format!("MIG-{number}"), RowKind::Held);
    let (by_compute, by_memory) = (30 * 1_000_000 / 7, 5_000_000);
    assert_eq!(costs(&ledger)[&of(1)], by_compute + by_memory);
    ledger.verify();
    let slots = "SELECT method FROM slot WHERE instance > 0 AND kind = 0 ORDER BY instance";
    let db = ledger.db();
    let mut statement = db.prepare_cached(slots).unwrap();
    let methods = statement.query_map([], |row| row.get::<u32>(0)).unwrap();
    let marked: Vec<bool> =
        methods.map(|bits| bits.unwrap() & tonnage_proto::method::WEIGHED_BY_COMPUTE != 0).collect();
    assert_eq!(marked, [true, true, false, false]);
}

#[test]
fn what_was_folded_before_memory_slices_were_known_of_says_none_when_it_is_folded_again() {
    let mut ledger = Ledger::new(BY_MEMORY, 2_000);
    let (mut owner, mut clone) = (Agent::new("a", "b", 1), Agent::new("z", "c", 2));
    let told = [(with_memory(instance(1, 1, 3), 4, 8), 30)];
    // As a program of the version before had it.
    let untold = |mut sealed: Sealed| {
        let mut known = UsageBatch::clone(sealed.valid.as_ref().unwrap());
        known.instances[0].memory = None;
        sealed.valid = Ok(Arc::new(known));
        sealed
    };
    let first = untold(owner.cut(7, &told, vec![window(0, 10, 7, &told, 0)]));
    let second = untold(clone.cut(7, &told, vec![window(20, 10, 7, &told, 0)]));
    for sealed in [first, second] {
        assert_eq!(ledger.take(sealed), Outcome::Accepted);
    }
    let last: i64 = ledger.db().query_row("SELECT MAX(id) FROM journal", [], |row| row.get(0)).unwrap();
    write::set_mark(&ledger.db(), Mark::MemoryToldAfter, last).unwrap();
    assert_eq!(ledger.take(owner.cut(7, &told, vec![window(20, 10, 7, &told, 0)])), Outcome::Accepted);
    let held = ledger.slots().into_iter().filter(|(key, _)| key.kind == RowKind::Held);
    let held: Vec<_> = held.map(|(key, _)| (key.node.node, key.instance.unwrap().memory.is_some())).collect();
    assert_eq!(held, [("a".to_owned(), false), ("a".to_owned(), true)], "the clone gave way");
    ledger.verify();
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
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut ledger = Ledger::new(if seed.is_multiple_of(4) { BOOK } else { BY_MEMORY }, 5_000);
        let mut agents = [Agent::new("a", "b1", 1), Agent::new("a", "b1", 2), Agent::new("b", "b2", 3)];
        let mut generation = 0;
        let mut cut = (7, Vec::new());
        for _ in 0..60 {
            if rng.random_bool(0.3) {
                generation += 1;
                cut = (if rng.random_bool(0.3) { 1 } else { 7 }, Vec::new());
                let (mut left, mut memory_left) = (cut.0, 8);
                let gpu_memory = if rng.random_bool(0.8) { 8 } else { 0 };
                while cut.0 > 1 && left > 0 && rng.random_bool(0.8) {
                    let (slices, memory) = (rng.random_range(1..=left), rng.random_range(0..=memory_left));
                    (left, memory_left) = (left - slices, memory_left - memory);
                    let number = u32::try_from(cut.1.len()).unwrap();
                    let part = with_memory(instance(number, generation, slices), memory, gpu_memory);
                    // Some compute instances have a part of their GPU instance alone.
                    let gpu_instance_slices = slices + rng.random_range(0..=left);
                    cut.1.push((pb::Instance { gpu_instance_slices, ..part }, 0));
                }
                if left > 0 && !cut.1.is_empty() && rng.random_bool(0.3) {
                    // Held as a whole, so what is left is an instance.
                    let rest = pb::Instance { uuid: GPU.into(), ..instance(u32::MAX, 0, left) };
                    cut.1.push((with_memory(rest, memory_left, gpu_memory), 0));
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
            if rng.random_bool(0.05) {
                // Slots are priced again.
                ledger.book([BOOK, BY_MEMORY, ABSENT][rng.random_range(0..3)]);
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
