//! Groupings by what nodes are and by how devices are shared, and conditions on any of them.

use tonnage_proto::method::{SHARED_MPS, SHARED_SHARDS, SHARED_TIME_SLICING, SHARED_VGPU};

use super::*;
use crate::filter;
use crate::model::NodeFacts;

fn condition(text: &str) -> filter::Expr<Field> {
    filter::parse(text, |name, key| {
        let name = key.map_or_else(|| name.to_owned(), |key| format!("{name}:{key}"));
        Ok(Dimension::from_name(&name))
    })
    .unwrap()
}

#[test]
fn a_condition_and_its_opposite_share_the_whole() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (_folder, db) = ledger();
    let facts = random_facts(&mut rng, &db, 96 * 4);
    let inside: Vec<&Fact> = facts.iter().collect();
    let whole = naive(&inside);
    let window = (0, 96 * 4 * SLOT_NS);
    for (text, opposite, passes) in [
        ("namespace:\"ml\"", "namespace!:\"ml\"", &(|fact: &Fact| fact.owner == 1) as &dyn Fn(&Fact) -> bool),
        ("pod~>:\"-0\"+cluster:\"b\"", "pod!~>:\"-0\"|cluster!:\"b\"", &|fact| {
            matches!(fact.owner, 1 | 4) && fact.tenure % 2 == 1
        }),
        ("kind:\"__idle__\"", "kind!:\"__idle__\"", &|fact| matches!(fact.kind, 1 | 5)),
        ("controllerName:\"x\"", "controllerName!:\"x\"", &|_| false),
    ] {
        let one = CostQuery { condition: Some(condition(text)), ..query(&[Dimension::Pod], window) };
        let found = cost(&db, &one, || false).unwrap();
        let expected: Vec<&Fact> = inside.iter().copied().filter(|fact| passes(fact)).collect();
        assert_eq!(found.totals, naive(&expected), "{text}");
        assert_eq!(total(&found.groups), found.totals);
        let other = CostQuery { condition: Some(condition(opposite)), ..one };
        let mut both = cost(&db, &other, || false).unwrap().totals;
        both.add(&found.totals);
        assert_eq!(both, whole, "{opposite}");
    }
}

/// Tenure 1 is on-demand by its agent and of a pool; 2 is spot as frozen by a purge; nobody knows of 3 and 4.
fn with_facts() -> (tempfile::TempDir, Connection) {
    let (folder, db) = ledger();
    for (id, capacity_type, pool) in [(1, "on-demand", "a100s"), (2, "spot", "")] {
        let mut facts = NodeFacts { capacity_type: capacity_type.into(), ..NodeFacts::default() };
        if !pool.is_empty() {
            facts.labels.insert("cloud.google.com/gke-nodepool".into(), pool.into());
        }
        let json = serde_json::to_string(&facts).unwrap();
        db.execute("INSERT INTO facts VALUES (?1, ?2, ?3)", params![id, json.as_bytes(), json]).unwrap();
    }
    room(&db, "slot_state", 0);
    db.execute("INSERT INTO slot_state VALUES (0, 1, 1, 1, 1, 0, NULL)", []).unwrap();
    db.execute("UPDATE tenure SET facts = 2 WHERE id = 2", []).unwrap();
    for (tenure, owner, kind, cost) in [(1, 1, 0, 1), (1, 0, 1, 2), (2, 4, 0, 4), (2, 0, 2, 8), (3, 0, 1, 16)]
    {
        let row = [tenure, owner, kind, cost];
        room(&db, "slot", 0);
        db.execute("INSERT INTO slot VALUES (0, ?1, 0, ?2, ?3, 5, 0, 0, 0, 0, ?4, 0)", row).unwrap();
    }
    roll_up(&db);
    (folder, db)
}

fn costs(db: &Connection, query: &CostQuery) -> Vec<(String, i128)> {
    let groups = cost(db, query, || false).unwrap().groups;
    let mut found: Vec<_> = groups.into_iter().map(|g| (g.key.join(" "), g.sums.cost_nanos())).collect();
    found.sort();
    found
}

#[test]
fn what_a_node_is_groups_its_idle_time_too() {
    let (_folder, db) = with_facts();
    let window = (0, SLOT_NS);
    let said = |_: &str, _: &str, said: &NodeFacts| said.clone();
    let facts = facts(&db, window, said, || false).unwrap();
    let by = |by: Dimension| CostQuery { facts: facts.clone(), ..query(&[by], window) };
    let shown = |found: Vec<(String, i128)>| {
        found.into_iter().map(|(key, cost)| format!("{key}={cost}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown(costs(&db, &by(Dimension::CapacityType))), "__unknown__=16 on-demand=3 spot=12");
    assert_eq!(shown(costs(&db, &by(Dimension::Pool))), "__unallocated__=28 a100s=3");
    let label = Dimension::from_name("node_label:cloud.google.com/gke-nodepool").unwrap();
    assert_eq!(label.name(), "node_label:cloud.google.com/gke-nodepool");
    assert_eq!(shown(costs(&db, &by(label))), "__unallocated__=28 a100s=3");
    let spot = CostQuery { condition: Some(condition("capacity_type:\"spot\"")), ..by(Dimension::Namespace) };
    assert_eq!(shown(costs(&db, &spot)), "__unobserved__=8 web=4");
    assert!(!spot.picks_owners() && spot.names(Dimension::of_node));
}

#[test]
fn what_an_operator_says_of_a_node_outweighs_its_agent() {
    let (_folder, db) = with_facts();
    let window = (0, SLOT_NS);
    let outweigh = |cluster: &str, _: &str, said: &NodeFacts| match cluster {
        "b" => NodeFacts { region: "basement".into(), ..said.clone() },
        _ => said.clone(),
    };
    let facts = facts(&db, window, outweigh, || false).unwrap();
    let by = CostQuery { facts, ..query(&[Dimension::Region, Dimension::CapacityType], window) };
    let expected = [("__unknown__ spot", 12), ("basement __unknown__", 16), ("basement on-demand", 3)];
    assert_eq!(costs(&db, &by), expected.map(|(key, cost)| (key.to_owned(), cost)));
}

#[test]
fn how_a_device_is_shared_is_told_by_its_rows() {
    let (_folder, db) = ledger();
    db.execute("INSERT INTO instance VALUES (1, 1, 0, 1, 0, 1, 'MIG-1', '1g', 1, 0, 0, 0)", []).unwrap();
    for (tenure, instance, owner, kind, method, cost) in [
        (1, 0, 1, 0, 1, 1),
        (1, 0, 4, 0, 5, 2),
        (1, 1, 1, 0, 1, 4),
        (1, 1, 4, 0, 5, 8),
        (1, 0, 2, 0, 4 | SHARED_TIME_SLICING, 32),
        (1, 0, 3, 0, 4 | SHARED_TIME_SLICING | SHARED_MPS, 64),
        (1, 1, 2, 0, 4 | SHARED_TIME_SLICING, 128),
        (2, 0, 1, 0, 4 | SHARED_SHARDS, 256),
        (2, 0, 2, 0, 4 | SHARED_VGPU, 512),
        // What it had alone it shared by nothing.
        (2, 0, 4, 0, SHARED_MPS, 1024),
        (2, 0, 3, 4, 16, 0),
        (1, 1, 0, 1, 0, 16),
    ] {
        let row = [tenure, instance, owner, kind, i64::from(method), cost];
        room(&db, "slot", 0);
        db.execute("INSERT INTO slot VALUES (0, ?1, ?2, ?3, ?4, 5, 1, 0, 0, ?5, ?6, 0)", row).unwrap();
    }
    let found = costs(&db, &query(&[Dimension::SharingMode], (0, SLOT_NS)));
    let expected = [
        ("__idle__", 16),
        ("exclusive", 1025),
        ("intruder", 0),
        ("mig", 4),
        ("mig_shared", 8),
        ("mig_time_slicing", 128),
        ("mps", 64),
        ("shards", 256),
        ("shared", 2),
        ("time_slicing", 32),
        ("vgpu", 512),
    ];
    assert_eq!(found, expected.map(|(key, cost)| (key.to_owned(), cost)));
}
