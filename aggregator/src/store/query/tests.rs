//! The queries against rows made at random and added up the plain way.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonnage_proto::limits::{DAY_NS, HOUR_NS, SLOT_NS};

use super::*;
use crate::model::{GpuTime, RowKind};
use crate::store::sql::{Connection, params};
use crate::store::{Store, rollup, server};

mod budgets;
mod described;
mod dimensions;
mod idle;
mod rolled;

struct Fact {
    start: i64,
    tenure: i64,
    owner: i64,
    kind: i64,
    /// time, busy, memory, energy, cost, unpriced
    figures: [i64; 6],
    method: u32,
}

const OWNERS: [(i64, i64, &str, &str, &str); 4] =
    [(1, 2, "ml", "train-0", ""), (2, 2, "", "", ""), (3, 3, "", "", "4711"), (4, 2, "web", "serve-0", "")];

fn ledger() -> (tempfile::TempDir, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let db = Store::open(folder.path()).unwrap().writer().unwrap();
    for (id, cluster) in [(1, "a"), (2, "b")] {
        db.execute("INSERT INTO node (id, cluster, name) VALUES (?1, ?2, 'n')", params![id, cluster])
            .unwrap();
    }
    for id in 1..=4_i64 {
        let uuid = format!("GPU-{id}");
        db.execute("INSERT INTO device VALUES (?1, ?2, 'H100', 80, 0, '', '')", params![id, uuid]).unwrap();
        db.execute(
            "INSERT INTO tenure (id, device, node, life, slices, claimed_ns, to_ns, covered_until_ns)
             VALUES (?1, ?1, ?4, '', ?3, 0, ?2, ?2)",
            params![id, id * SLOT_NS, slices(id), 1 + id % 2],
        )
        .unwrap();
    }
    for (id, kind, namespace, pod, job) in OWNERS {
        let insert = "INSERT INTO owner VALUES (?1, ?2, ?3, ?4, ?6, '', '', ?5, '', '', '', '', '')";
        let uid = if kind == 2 { format!("uid-{id}") } else { String::new() };
        db.execute(insert, params![id, kind, namespace, pod, job, uid]).unwrap();
    }
    (folder, db)
}

/// Makes the partition of a table that a row goes to.
fn room(db: &Connection, table: &str, start: i64) {
    server::make_room(db, table, std::iter::once(start)).unwrap();
}

/// Roll-ups of what was written behind their back.
fn roll_up(db: &Connection) {
    let transaction = db.begin().unwrap();
    rollup::rebuild(&transaction).unwrap();
    transaction.commit().unwrap();
}

/// Into how many the device of each tenure is cut.
fn slices(tenure: i64) -> u32 {
    if tenure == 3 { 7 } else { 1 }
}

/// Rows at random among so many slots.
fn random_facts(rng: &mut StdRng, db: &Connection, slots: i64) -> Vec<Fact> {
    let mut facts = BTreeMap::new();
    for _ in 0..600 {
        let kind = rng.random_range(0..6_i64);
        let owner = if matches!(kind, 0 | 4) { rng.random_range(1..=4) } else { 0 };
        let (start, tenure) = (rng.random_range(0..slots) * SLOT_NS, rng.random_range(1..=4));
        let figures = std::array::from_fn(|_| rng.random_range(0..i64::MAX / 700));
        let method = if matches!(kind, 0 | 4) { rng.random_range(0..32) } else { 0 };
        let fact = Fact { start, tenure, owner, kind, figures, method };
        facts.insert((start, tenure, owner, kind), fact);
    }
    for fact in facts.values() {
        let Fact {
            start,
            tenure,
            owner,
            kind,
            figures: [time, busy, memory, energy, cost, unpriced],
            method,
        } = fact;
        for (table, width) in [("slot", SLOT_NS), ("hour", HOUR_NS), ("day", DAY_NS)] {
            let sql = format!(
                "INSERT INTO {table} (start, tenure, owner, kind, time_ns, busy_ns, memory_byte_seconds, energy_uj,
                    method, cost_nanos, unpriced_ns, instance) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,0)
                 ON CONFLICT (start, tenure, instance, owner, kind) DO UPDATE SET
                    time_ns = {table}.time_ns + ?5, busy_ns = {table}.busy_ns + ?6,
                    memory_byte_seconds = {table}.memory_byte_seconds + ?7, energy_uj = {table}.energy_uj + ?8,
                    method = {table}.method | ?9, cost_nanos = {table}.cost_nanos + ?10,
                    unpriced_ns = {table}.unpriced_ns + ?11"
            );
            let start = start - start % width;
            room(db, table, start);
            db.execute(
                &sql,
                params![start, tenure, owner, kind, time, busy, memory, energy, method, cost, unpriced],
            )
            .unwrap();
        }
    }
    roll_up(db);
    facts.into_values().collect()
}

fn naive(facts: &[&Fact]) -> Sums {
    let mut sums = Sums::default();
    for fact in facts {
        let [time, busy, memory, energy, cost, unpriced] = fact.figures.map(i128::from);
        let [time, busy, unpriced] =
            [time, busy, unpriced].map(|ns| GpuTime::of_slices(ns, slices(fact.tenure)));
        sums.busy += busy;
        sums.memory_byte_seconds += memory;
        sums.energy_uj += energy;
        sums.unpriced += unpriced;
        match RowKind::from_number(fact.kind).unwrap() {
            RowKind::Held => {
                sums.held += time;
                sums.held_cost_nanos += cost;
                sums.method |= fact.method;
            }
            RowKind::Cpu | RowKind::Memory => {}
            RowKind::Intruder => {
                sums.busy = sums.busy - busy;
                sums.intruder_busy += busy;
                sums.method |= fact.method;
            }
            RowKind::Idle => {
                sums.idle += time;
                sums.idle_cost_nanos += cost;
            }
            RowKind::Stranded => {
                sums.idle += time;
                sums.stranded += time;
                sums.idle_cost_nanos += cost;
                sums.stranded_cost_nanos += cost;
            }
            RowKind::Unobserved => {
                sums.unobserved += time;
                sums.unobserved_cost_nanos += cost;
            }
            RowKind::Rounding => sums.rounding_cost_nanos += cost,
        }
    }
    sums
}

fn total(groups: &[Group]) -> Sums {
    let mut sums = Sums::default();
    for group in groups {
        sums.add(&group.sums);
    }
    sums
}

fn query(by: &[Dimension], (start, end): (i64, i64)) -> CostQuery {
    CostQuery { ranges: ranges(start, end), by: by.to_vec(), idle: true, ..CostQuery::default() }
}

#[test]
fn sums_by_days_hours_and_slots_are_those_of_the_plain_way_even_beyond_64_bits() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (_folder, db) = ledger();
    let facts = random_facts(&mut rng, &db, 96 * 4);
    for _ in 0..60 {
        let start = rng.random_range(0..96 * 4) * SLOT_NS;
        let end = start + rng.random_range(1..96 * 4) * SLOT_NS;
        let inside: Vec<&Fact> = facts.iter().filter(|f| f.start >= start && f.start < end).collect();
        for by in [&[Dimension::Namespace, Dimension::Pod][..], &[Dimension::Cluster], &[Dimension::Kind]] {
            let found = cost(&db, &query(by, (start, end)), || false).unwrap();
            assert_eq!(found.totals, naive(&inside));
            assert_eq!(total(&found.groups), found.totals, "rows sum to totals");
        }
        let one = CostQuery {
            filter: Filter { cluster: Some("b".into()), owner: Some("train-0".into()), ..Filter::default() },
            ..query(&[Dimension::Device], (start, end))
        };
        let expected: Vec<&Fact> =
            inside.iter().copied().filter(|f| f.owner == 1 && f.tenure % 2 == 1).collect();
        let found = cost(&db, &one, || false).unwrap();
        assert_eq!(found.totals, naive(&expected));
        assert_eq!(total(&found.groups), found.totals);
    }
}

fn keys(db: &Connection, query: &CostQuery) -> Vec<(Vec<String>, bool)> {
    let mut keys: Vec<_> =
        cost(db, query, || false).unwrap().groups.into_iter().map(|g| (g.key, g.sentinel)).collect();
    keys.sort();
    keys
}

fn one_of_each(db: &Connection) {
    for (owner, kind) in [(1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (0, 3)] {
        room(db, "slot", 0);
        db.execute("INSERT INTO slot VALUES (0, 1, 0, ?1, ?2, 5, 0, 0, 0, 0, 7, 0)", [owner, kind]).unwrap();
    }
    roll_up(db);
}

#[test]
fn owners_without_a_value_and_time_without_an_owner_have_rows_of_their_own() {
    let (_folder, db) = ledger();
    one_of_each(&db);
    let by = query(&[Dimension::Namespace, Dimension::Pod], (0, SLOT_NS));
    let key = |namespace: &str, pod: &str, sentinel| (vec![namespace.to_owned(), pod.to_owned()], sentinel);
    assert_eq!(
        keys(&db, &by),
        [
            key("__idle__", "__idle__", true),
            key("__rounding__", "__rounding__", true),
            key("__unallocated__", "__unallocated__", false),
            key("__unknown__", "uid-2", false),
            key("__unobserved__", "__unobserved__", true),
            key("ml", "train-0", false),
        ]
    );
    assert_eq!(keys(&db, &CostQuery { idle: false, ..by }).len(), 3);
}

#[test]
fn a_devices_row_carries_its_own_idle_time() {
    let (_folder, db) = ledger();
    one_of_each(&db);
    let found = cost(&db, &query(&[Dimension::Device], (0, SLOT_NS)), || false).unwrap();
    assert_eq!(found.groups.len(), 1);
    let sums = found.groups[0].sums;
    assert!(!found.groups[0].sentinel);
    let time = [sums.held, sums.idle, sums.unobserved].map(GpuTime::ns);
    assert_eq!((time, sums.cost_nanos()), ([15, 5, 5], 42));
}

#[test]
fn a_query_that_takes_too_long_is_given_up() {
    let (_folder, db) = ledger();
    one_of_each(&db);
    let result = cost(&db, &query(&[Dimension::Device], (0, SLOT_NS)), || true);
    assert!(matches!(result, Err(QueryError::Expired)));
}

#[test]
fn nodes_and_devices_are_told_by_their_newest_tenure() {
    let (_folder, db) = ledger();
    db.execute(
        "INSERT INTO tenure (id, device, node, life, slices, claimed_ns, from_ns, to_ns, covered_until_ns)
         VALUES (9, 1, 1, 'again', 1, ?1, ?1, ?2, ?2)",
        [8 * SLOT_NS, 9 * SLOT_NS],
    )
    .unwrap();
    db.execute("INSERT INTO facts VALUES (1, ?1, '{\"instance_type\":\"\",\"region\":\"r\",\"zone\":\"\",\"capacity_type\":\"\",\"labels\":{}}')", [&[1_u8][..]]).unwrap();
    room(&db, "slot_state", 8 * SLOT_NS);
    db.execute("INSERT INTO slot_state VALUES (?1, 9, 1, 1, 1, 0, NULL)", [8 * SLOT_NS]).unwrap();
    let nodes = nodes(&db).unwrap();
    assert_eq!((nodes[0].devices, nodes[1].devices), (3, 1));
    assert_eq!(nodes[0].observed_until_ns, Some(9 * SLOT_NS));
    let devices = devices(&db).unwrap();
    assert_eq!(devices.len(), 4);
    assert_eq!((devices[0].uuid.as_str(), devices[0].facts.region.as_str()), ("GPU-1", "r"));
    assert_eq!((devices[0].node.cluster.as_str(), devices[0].observed_until_ns), ("a", 9 * SLOT_NS));
    assert_eq!(newest_usage_ns(&db).unwrap(), Some(9 * SLOT_NS));
}
