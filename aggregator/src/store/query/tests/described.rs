//! Groupings by what Kubernetes said of pods, against every slot looked up by itself.

use super::*;
use crate::model::{Description, Subject, SubjectKind, TeamSource, Teams};
use crate::store::described as write;

/// Versions by the slot from which they hold, of each subject.
type Versions = BTreeMap<i64, String>;

fn describe(db: &Connection, cluster: &str, subject: &Subject, versions: &Versions, key: &str) {
    let number = write::add(db, cluster, subject).unwrap();
    for (slot, value) in versions {
        let labels = [(key.to_owned(), value.clone())].into();
        let (controller_kind, controller) = ("Job".to_owned(), format!("job-{value}"));
        let text = write::Text::of(&Description { controller_kind, controller, labels }).unwrap();
        write::describe(db, number, slot * SLOT_NS, &text).unwrap();
    }
}

fn pod(owner: i64, named: &str) -> Subject {
    let name = format!("uid-{owner}");
    Subject { kind: SubjectKind::Pod, name, namespace: "ml".into(), pod: named.into() }
}

fn namespace(name: &str) -> Subject {
    let (namespace, pod) = (String::new(), String::new());
    Subject { kind: SubjectKind::Namespace, name: name.into(), namespace, pod }
}

/// The newest that holds in a slot.
fn at(versions: &Versions, slot: i64) -> &str {
    versions.range(..=slot).next_back().map_or("__unallocated__", |(_, value)| value)
}

fn by(db: &Connection, dimension: &Dimension, window: (i64, i64), kept: &Kept) -> BTreeMap<String, Sums> {
    let described = described(db, window, &Teams::default(), || false).unwrap();
    let pieces = described.pieces(window, &[], kept).into_iter();
    let ranges = pieces.flat_map(|(start_ns, end_ns)| ranges(start_ns, end_ns)).collect();
    let query = CostQuery { described, ranges, ..query(std::slice::from_ref(dimension), window) };
    let groups = cost(db, &query, || false).unwrap().groups;
    groups.into_iter().map(|group| (group.key[0].clone(), group.sums)).collect()
}

#[test]
fn a_slot_is_grouped_by_the_labels_of_that_slot_whatever_rows_a_window_is_put_together_from() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (_folder, db) = ledger();
    let slots = 96 * 3;
    let facts = random_facts(&mut rng, &db, slots);
    let mut subjects: BTreeMap<(i64, &str), Versions> = BTreeMap::new();
    for owner in [1, 2, 4] {
        for cluster in ["a", "b"] {
            let count = rng.random_range(1..6);
            // Made before all of this, or as a purge has left it: known from the edge of a day on.
            let first = rng.random_range(0..2) * 96;
            let versions = (0..count).map(|of| (rng.random_range(first..slots), format!("v{}", of % 3)));
            let versions: Versions = versions.chain([(first, "first".to_owned())]).collect();
            describe(&db, cluster, &pod(owner, "p"), &versions, "team");
            subjects.insert((owner, cluster), versions);
        }
    }
    for _ in 0..20 {
        let start = rng.random_range(0..slots);
        let end = rng.random_range(start + 1..=slots);
        let window = (start * SLOT_NS, end * SLOT_NS);
        let found = by(&db, &Dimension::Label("team".into()), window, &Kept::default());
        let mut expected: BTreeMap<String, Vec<&Fact>> = BTreeMap::new();
        for fact in facts.iter().filter(|fact| (window.0..window.1).contains(&fact.start)) {
            let cluster = if fact.tenure % 2 == 0 { "a" } else { "b" };
            let group = match fact.kind {
                0 | 4 => subjects
                    .get(&(fact.owner, cluster))
                    .map_or("__unallocated__", |versions| at(versions, fact.start / SLOT_NS)),
                2 => "__unobserved__",
                3 => "__rounding__",
                _ => "__idle__",
            };
            expected.entry(group.to_owned()).or_default().push(fact);
        }
        let mut expected: BTreeMap<String, Sums> =
            expected.into_iter().map(|(group, facts)| (group, naive(&facts))).collect();
        expected.retain(|_, sums| !Sums { method: 0, ..*sums }.eq(&Sums::default()));
        // Rows of hours and days have the method bits of all their slots.
        let plain = |sums: &BTreeMap<String, Sums>| -> BTreeMap<String, Sums> {
            sums.iter().map(|(group, sums)| (group.clone(), Sums { method: 0, ..*sums })).collect()
        };
        assert_eq!(plain(&found), plain(&expected), "{start}..{end}");
    }
}

#[test]
fn where_slots_are_kept_no_more_all_of_an_hour_or_a_day_is_as_its_end_was() {
    let kept = Kept { slots_from_ns: 2 * DAY_NS, hours_from_ns: DAY_NS, days_from_ns: 0 };
    let (_folder, db) = ledger();
    // A change in a day, one in an hour, one in a slot.
    let versions = [(0, "a"), (50, "b"), (96 + 50, "c"), (192 + 50, "d")];
    let versions: Versions = versions.into_iter().map(|(slot, value)| (slot, value.to_owned())).collect();
    describe(&db, "b", &pod(1, "p"), &versions, "team");
    let described = described(&db, (0, 3 * DAY_NS), &Teams::default(), || false).unwrap();
    let pieces: Vec<(i64, i64)> = described
        .pieces((0, 3 * DAY_NS), &[], &kept)
        .into_iter()
        .map(|(start_ns, end_ns)| (start_ns / SLOT_NS, end_ns / SLOT_NS))
        .collect();
    assert_eq!(pieces, [(0, 96), (96, 144), (144, 148), (148, 242), (242, 288)]);
}

#[test]
fn a_team_is_the_first_that_a_source_has() {
    let (_folder, db) = ledger();
    db.execute("UPDATE owner SET account = 'phys' WHERE id = 3", []).unwrap();
    let one = |value: &str| Versions::from([(0, value.to_owned())]);
    describe(&db, "b", &pod(1, "p"), &one("labelled"), "team");
    describe(&db, "b", &pod(4, "p"), &one("x"), "other");
    describe(&db, "b", &namespace("web"), &one("of-namespace"), "team");
    for owner in 1..=4_i64 {
        room(&db, "slot", 0);
        db.execute("INSERT INTO slot VALUES (0, 1, 0, ?1, 0, 5, 0, 0, 0, 0, ?1, 0)", [owner]).unwrap();
    }
    let accounts = [("phys".to_owned(), "physics".to_owned())].into();
    let shown = |teams: &Teams| {
        let window = (0, SLOT_NS);
        let described = described(&db, window, teams, || false).unwrap();
        let query = CostQuery { described, ..query(&[Dimension::Team], window) };
        let groups = cost(&db, &query, || false).unwrap().groups;
        let mut found: Vec<_> =
            groups.iter().map(|group| format!("{}={}", group.key[0], group.sums.cost_nanos())).collect();
        found.sort();
        found.join(" ")
    };
    let teams = Teams { accounts, ..Teams::default() };
    assert_eq!(shown(&teams), "__unallocated__=2 labelled=1 of-namespace=4 physics=3");
    let namespaces = [("ml".to_owned(), "research".to_owned())].into();
    let teams = Teams {
        sources: vec![TeamSource::Namespaces, TeamSource::Label("team".into())],
        namespaces,
        ..teams
    };
    assert_eq!(shown(&teams), "__unallocated__=9 research=1");
}

#[test]
fn an_owner_without_a_uid_is_the_one_pod_of_its_name_and_none_where_there_were_two() {
    let (_folder, db) = ledger();
    db.execute("UPDATE owner SET pod_uid = '' WHERE id = 1", []).unwrap();
    room(&db, "slot", 0);
    db.execute("INSERT INTO slot VALUES (0, 1, 0, 1, 0, 5, 0, 0, 0, 0, 7, 0)", []).unwrap();
    let one = |value: &str| Versions::from([(0, value.to_owned())]);
    describe(&db, "b", &pod(7, "train-0"), &one("a"), "team");
    let shown = || {
        let found = by(&db, &Dimension::Controller, (0, SLOT_NS), &Kept::default());
        found.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(shown(), ["job-a"]);
    describe(&db, "b", &pod(8, "train-0"), &one("b"), "team");
    assert_eq!(shown(), ["__unallocated__"]);
}
