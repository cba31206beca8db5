//! What is held-idle, intruding and unattributed, against rows added up the plain way.

use super::*;
use crate::model::OwnerKind;
use crate::store::sql::params;

const BY_ALLOCATION: u32 = 2;
const BUSY_KNOWN: u32 = 16;

fn report(db: &Connection, (start, end): (i64, i64), filter: &Filter, limit: usize) -> IdleReport {
    idle(db, &ranges_in_slots(start, end, 0), filter, limit, || false).unwrap()
}

/// A slot's row: device and tenure have one number.
fn row(db: &Connection, slot: i64, tenure: i64, owner: i64, kind: i64, figures: [i64; 3], method: u32) {
    let [time, busy, cost] = figures;
    room(db, "slot", slot * SLOT_NS);
    db.execute(
        "INSERT INTO slot VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, 0, 9, ?7, ?8, 0)",
        params![slot * SLOT_NS, tenure, owner, kind, time, busy, method, cost],
    )
    .unwrap();
}

#[test]
fn lists_of_random_rows_are_those_of_the_plain_way() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (_folder, db) = ledger();
    db.execute("UPDATE owner SET kind = 1 WHERE id = 3", []).unwrap();
    let facts = random_facts(&mut rng, &db, 96 * 4);
    for _ in 0..40 {
        let start = rng.random_range(0..96 * 4) * SLOT_NS;
        let end = start + rng.random_range(1..96 * 4) * SLOT_NS;
        let inside: Vec<&Fact> = facts.iter().filter(|f| f.start >= start && f.start < end).collect();
        let found = report(&db, (start, end), &Filter::default(), 1000);
        let mut held: BTreeMap<(i64, i64, bool), (GpuTime, GpuTime, i128)> = BTreeMap::new();
        let mut intruders: BTreeMap<(i64, i64), (GpuTime, i64, i64)> = BTreeMap::new();
        let (mut unattributed, mut unowned) = (GpuTime::default(), GpuTime::default());
        for fact in inside {
            let [time, busy, _, _, cost, _] = fact.figures.map(i128::from);
            let [time, busy] = [time, busy].map(|ns| GpuTime::of_slices(ns, slices(fact.tenure)));
            if fact.kind == 0 && fact.method & BY_ALLOCATION != 0 {
                let sum = held.entry((fact.tenure, fact.owner, fact.method & BUSY_KNOWN != 0)).or_default();
                *sum = (sum.0 + time, sum.1 + busy, sum.2 + cost);
            }
            if fact.kind == 0 && fact.owner == 3 {
                unowned += time;
            }
            if fact.kind == 4 {
                let sum = intruders.entry((fact.tenure, fact.owner)).or_insert((
                    GpuTime::default(),
                    fact.start,
                    fact.start,
                ));
                *sum = (sum.0 + busy, sum.1.min(fact.start), sum.2.max(fact.start));
            }
            if fact.kind == 1 {
                unattributed += busy;
            }
        }
        let device = |uuid: &str| uuid.trim_start_matches("GPU-").parse::<i64>().unwrap();
        for (at, row) in found.held_idle.iter().enumerate() {
            let key = held.iter().find(|((tenure, owner, known), sums)| {
                (*tenure, *known) == (device(&row.place.device), row.busy_known)
                    && owner_is(*owner, &row.owner)
                    && *sums == &(row.held, row.busy, row.cost_nanos)
            });
            assert!(key.is_some(), "{row:?}");
            if let Some(cost) = row.idle_cost_nanos() {
                // Slice-nanoseconds of one device, which have the same ratio.
                let [held, idle] = [row.held, row.held - row.busy]
                    .map(|time| time.share_of(GpuTime::of_slices(1, slices(device(&row.place.device))), 1));
                assert_eq!(cost, (row.cost_nanos * idle).div_euclid(held));
            }
            if let Some(before) = at.checked_sub(1).map(|before| &found.held_idle[before]) {
                assert!(before.idle_cost_nanos() >= row.idle_cost_nanos(), "dearest first, unknown last");
            }
        }
        // Random rows may be busier than held: those are left out as never idle.
        let shown = held.iter().filter(|((.., known), (time, busy, _))| !known || time > busy).count();
        assert_eq!((found.held_idle.len(), found.totals.held_idle_rows), (shown, shown));
        let known = held.iter().filter(|((.., known), _)| *known);
        let idle: GpuTime = known.map(|(_, (time, busy, _))| *time - *busy).sum();
        assert_eq!(found.totals.held - found.totals.busy, idle);
        assert_eq!((found.totals.busy_unattributed, found.totals.unowned_held), (unattributed, unowned));
        assert_eq!(found.intruders.len(), intruders.len());
        for row in &found.intruders {
            let known = intruders.iter().any(|((tenure, owner), sum)| {
                *tenure == device(&row.place.device)
                    && owner_is(*owner, &row.owner)
                    && *sum == (row.busy, row.first_ns, row.last_ns)
            });
            assert!(known, "{row:?}");
        }
    }
}

fn owner_is(number: i64, owner: &crate::model::Owner) -> bool {
    let (_, _, namespace, pod, job) = OWNERS[usize::try_from(number).unwrap() - 1];
    (owner.namespace.as_str(), owner.pod.as_str(), owner.job_id.as_str()) == (namespace, pod, job)
}

#[test]
fn only_who_holds_by_allocation_is_held_idle_and_unknown_use_is_in_no_total() {
    let (_folder, db) = ledger();
    row(&db, 0, 1, 1, 0, [100, 30, 11], BY_ALLOCATION | BUSY_KNOWN);
    row(&db, 1, 1, 1, 0, [100, 100, 11], BY_ALLOCATION | BUSY_KNOWN);
    row(&db, 0, 1, 2, 0, [50, 0, 5], BY_ALLOCATION);
    row(&db, 0, 1, 4, 0, [900, 0, 90], BUSY_KNOWN);
    let found = report(&db, (0, 2 * SLOT_NS), &Filter::default(), 10);
    let [first, second] = &found.held_idle[..] else { panic!("{found:?}") };
    assert_eq!(
        (first.owner.pod.as_str(), first.idle().map(GpuTime::ns), first.idle_cost_nanos()),
        ("train-0", Some(70), Some(7))
    );
    assert_eq!((second.owner.pod_uid.as_str(), second.busy_known, second.idle()), ("uid-2", false, None));
    let IdleSums { held, busy, idle_cost_nanos, busy_unknown_held, .. } = found.totals;
    assert_eq!(([held, busy, busy_unknown_held].map(GpuTime::ns), idle_cost_nanos), ([200, 130, 50], 7));
    let one = report(&db, (0, 2 * SLOT_NS), &Filter::default(), 1);
    assert_eq!((one.held_idle.len(), one.totals), (1, found.totals), "totals are of all");
}

#[test]
fn an_intruder_is_told_with_whose_device_it_was_if_one_alone_held_it() {
    let (_folder, db) = ledger();
    for (slot, holder) in [(0, 1), (5, 1), (7, 4)] {
        row(&db, slot, 1, holder, 0, [900, 0, 1], BY_ALLOCATION | BUSY_KNOWN);
    }
    // A process that was there, too, holds nothing of what is allocated.
    row(&db, 0, 1, 2, 0, [5, 0, 1], BUSY_KNOWN);
    row(&db, 0, 1, 3, 4, [0, 60, 0], BUSY_KNOWN);
    row(&db, 5, 1, 3, 4, [0, 40, 0], BUSY_KNOWN);
    let found = report(&db, (0, 8 * SLOT_NS), &Filter::default(), 10);
    let [intruder] = &found.intruders[..] else { panic!("{found:?}") };
    assert_eq!((intruder.owner.job_id.as_str(), intruder.busy.ns(), intruder.energy_uj), ("4711", 100, 18));
    assert_eq!((intruder.first_ns, intruder.last_ns), (0, 5 * SLOT_NS));
    assert_eq!(intruder.holder.as_ref().map(|owner| owner.pod.as_str()), Some("train-0"));
    row(&db, 7, 1, 3, 4, [0, 1, 0], BUSY_KNOWN);
    let found = report(&db, (0, 8 * SLOT_NS), &Filter::default(), 10);
    assert_eq!(found.intruders[0].holder, None, "two held it meanwhile");
}

#[test]
fn filters_pick_and_what_takes_too_long_is_given_up() {
    let (_folder, db) = ledger();
    db.execute("UPDATE owner SET account = 'physics', partition = 'gpu' WHERE id = 3", []).unwrap();
    for tenure in 1..=4 {
        for owner in 1..=4 {
            row(&db, 0, tenure, owner, 0, [10, 5, 2], BY_ALLOCATION | BUSY_KNOWN);
        }
        row(&db, 0, tenure, 0, 1, [10, 5, 2], 0);
    }
    let count = |filter: Filter| {
        let found = report(&db, (0, SLOT_NS), &filter, 100);
        (found.held_idle.len(), found.unattributed.len())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(count(Filter::default()), (16, 4));
    assert_eq!(count(Filter { cluster: some("a"), ..Filter::default() }), (8, 2));
    assert_eq!(count(Filter { account: some("physics"), ..Filter::default() }), (4, 0));
    assert_eq!(count(Filter { partition: some("cpu"), ..Filter::default() }), (0, 0));
    assert_eq!(count(Filter { namespace: some("ml"), ..Filter::default() }), (4, 0));
    let expired = idle(&db, &ranges_in_slots(0, SLOT_NS, 0), &Filter::default(), 9, || true);
    assert!(matches!(expired, Err(QueryError::Expired)));
    assert_eq!(OwnerKind::Unowned as u8, 1, "as the test of random rows has it");
}
