//! Roll-ups answer as the rows do that they are sums of.

use super::*;
use crate::filter;
use crate::store::query::cost::by_rows;
use crate::store::query::rolled as rollups;
use crate::store::write::{self, Mark};

const SLOTS: i64 = 100 * 96;

fn condition(text: &str) -> filter::Expr<Field> {
    filter::parse(text, |name, _| Ok(Dimension::from_name(name))).unwrap()
}

/// A ledger whose owners have accounts and users, and whose devices have instances.
fn busy_ledger(rng: &mut StdRng) -> (tempfile::TempDir, Connection) {
    let (folder, db) = ledger();
    db.execute_batch(
        "UPDATE owner SET \"user\" = 'ada', account = 'physics' WHERE id = 3;
         UPDATE owner SET \"user\" = 'eve', partition = 'long' WHERE id = 4;
         INSERT INTO instance VALUES (1, 1, 0, 1, 0, 1, 'MIG-1', '1g', 1, 0, 0, 0);
         INSERT INTO instance VALUES (2, 2, 0, 1, 0, 1, 'MIG-2', '', 1, 0, 0, 0)",
    )
    .unwrap();
    random_facts(rng, &db, SLOTS);
    for (instance, tenure) in [(1, 1), (2, 2)] {
        for table in ["slot", "hour", "day"] {
            let sql = format!("UPDATE {table} SET instance = ?1 WHERE tenure = ?2 AND kind IN (0, 1)");
            db.execute(&sql, [instance, tenure]).unwrap();
        }
    }
    roll_up(&db);
    (folder, db)
}

fn random_query(rng: &mut StdRng) -> CostQuery {
    const KNOWN: [Dimension; 8] = [
        Dimension::Namespace,
        Dimension::Account,
        Dimension::User,
        Dimension::Partition,
        Dimension::Kind,
        Dimension::Cluster,
        Dimension::Model,
        Dimension::Profile,
    ];
    const CONDITIONS: [&str; 6] = [
        "namespace:\"ml\",\"__idle__\"",
        "user!:\"ada\"+cluster:\"b\"",
        "account~:\"phys\"|profile:\"1g\"",
        "kind:\"pod\"",
        "controllerName!:\"x\"",
        "model<~:\"H\"+namespace!:\"web\"",
    ];
    let start = rng.random_range(0..SLOTS) * SLOT_NS;
    let end = start + rng.random_range(1..SLOTS) * SLOT_NS;
    let mut by = KNOWN.to_vec();
    by.retain(|_| rng.random_ratio(1, 4));
    let mut one = query(&by, (start, end));
    one.idle = rng.random_ratio(4, 5);
    if rng.random_ratio(1, 2) {
        one.condition = Some(condition(CONDITIONS[rng.random_range(0..CONDITIONS.len())]));
    }
    let some = |rng: &mut StdRng, values: &[&str]| {
        rng.random_ratio(1, 6).then(|| values[rng.random_range(0..values.len())].to_owned())
    };
    one.filter.cluster = some(rng, &["a", "b", "c"]);
    one.filter.namespace = some(rng, &["ml", "web", ""]);
    one.filter.account = some(rng, &["physics", ""]);
    one.filter.partition = some(rng, &["long"]);
    one
}

fn sorted(groups: Groups) -> (Sums, Vec<Group>) {
    let Groups { mut groups, totals } = groups;
    groups.sort_by(|a, b| (a.sentinel, &a.key).cmp(&(b.sentinel, &b.key)));
    (totals, groups)
}

#[test]
fn roll_ups_answer_any_question_as_the_rows_do() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (_folder, db) = busy_ledger(&mut rng);
    let mut found_groups = 0;
    for _ in 0..150 {
        // However far they are built.
        let until_ns = rng.random_range(0..2 * SLOTS) * SLOT_NS;
        write::set_mark(&db, Mark::RolledUntil, until_ns.min(newest(&db))).unwrap();
        let one = random_query(&mut rng);
        assert!(rollups::window(&one).is_some(), "{one:?}");
        let found = sorted(cost(&db, &one, || false).unwrap());
        found_groups += found.1.len();
        assert_eq!(found, sorted(by_rows(&db, &one).unwrap()), "{one:?}");
    }
    assert!(found_groups > 100, "{found_groups}");
}

/// The end of the newest slot.
fn newest(db: &Connection) -> i64 {
    let newest: i64 = db.query_row("SELECT MAX(start) FROM slot", [], |row| row.get(0)).unwrap();
    newest + SLOT_NS
}

#[test]
fn what_roll_ups_do_not_tell_is_asked_of_rows() {
    let window = (0, DAY_NS);
    let filters: [fn(&mut Filter) -> &mut Option<String>; 4] =
        [|f| &mut f.node, |f| &mut f.owner, |f| &mut f.device, |f| &mut f.profile];
    for one in filters {
        let mut asked = query(&[Dimension::Namespace], window);
        *one(&mut asked.filter) = Some("x".into());
        assert_eq!(rollups::window(&asked), None, "{asked:?}");
    }
    for by in [Dimension::Pod, Dimension::Node, Dimension::Region, Dimension::SharingMode, Dimension::Job] {
        assert_eq!(rollups::window(&query(&[Dimension::Namespace, by], window)), None);
    }
    let by_pod =
        CostQuery { condition: Some(condition("pod:\"x\"")), ..query(&[Dimension::Namespace], window) };
    assert_eq!(rollups::window(&by_pod), None);
    let mut odd = query(&[Dimension::Namespace], window);
    odd.ranges[0].end_ns += HOUR_NS;
    assert_eq!(rollups::window(&odd), None, "a day that begins before the end is in it as a whole");
    assert_eq!(rollups::window(&query(&[Dimension::Namespace], window)), Some(window));
}
