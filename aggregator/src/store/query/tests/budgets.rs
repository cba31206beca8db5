//! Groupings by budgets, against every row looked up by itself, and against what accounts say that they spent.

use std::sync::Arc;

use super::*;
use crate::budgets::{Account, Binding, Labels, Selector, Spec, Tree, Usage};
use crate::store::budgets as stored;
use crate::store::query::cost::by_rows;
use crate::store::query::rolled as rollups;
use crate::store::write::{self, Mark};

const SLOTS: i64 = 96 * 4;

fn account(id: i64, name: &str) -> Account {
    Account { id, spec: Spec::new(name), created_ns: 0, updated_ns: 0, closed_ns: None }
}

/// The namespace `ml` and the cluster `b` go to and fro between two accounts and nobody.
fn tree(rng: &mut StdRng) -> Tree {
    let mut bindings = Vec::new();
    for selector in [
        Selector { namespace: Some("ml".into()), ..Selector::default() },
        Selector { cluster: Some("b".into()), ..Selector::default() },
    ] {
        let mut at_ns = 0;
        while at_ns < SLOTS * SLOT_NS {
            let (from_ns, account) = (at_ns, rng.random_range(0..=2));
            at_ns += rng.random_range(1..2 * 96) * SLOT_NS;
            let binding = Binding { account, selector: selector.clone(), from_ns, to_ns: at_ns };
            bindings.extend((account > 0).then_some(binding));
        }
    }
    Tree::new(vec![account(1, "physics"), account(2, "chemistry")], bindings)
}

/// Whose a row is, as its group is called.
fn group(tree: &Tree, fact: &Fact) -> String {
    match RowKind::from_number(fact.kind).unwrap() {
        RowKind::Held | RowKind::Intruder | RowKind::Cpu | RowKind::Memory => {}
        RowKind::Idle | RowKind::Stranded => return "__idle__".into(),
        RowKind::Unobserved => return "__unobserved__".into(),
        RowKind::Rounding => return "__rounding__".into(),
    }
    let owner = OWNERS.iter().find(|(id, ..)| *id == fact.owner).unwrap();
    let cluster = if fact.tenure % 2 == 0 { "a" } else { "b" };
    let usage =
        Usage { cluster: cluster.into(), namespace: owner.2.into(), user: String::new(), ..Usage::default() };
    let account = tree.owner_of(&usage, Labels::default(), fact.start).and_then(|id| tree.by_id(id));
    account.map_or("__unassigned__", |account| &account.spec.name).to_owned()
}

fn by_key(groups: &Groups) -> BTreeMap<String, Sums> {
    let mut sums: BTreeMap<String, Sums> = BTreeMap::new();
    for group in &groups.groups {
        sums.entry(group.key[0].clone()).or_default().add(&group.sums);
    }
    sums
}

#[test]
fn every_row_is_of_one_budget_or_unassigned_and_all_of_them_sum_to_the_total() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (_folder, db) = ledger();
    let facts = random_facts(&mut rng, &db, SLOTS);
    for _ in 0..40 {
        let tree = tree(&mut rng);
        let start = rng.random_range(0..SLOTS) * SLOT_NS;
        let window = (start, start + rng.random_range(1..SLOTS) * SLOT_NS);
        write::set_mark(&db, Mark::RolledUntil, rng.random_range(0..SLOTS) * SLOT_NS).unwrap();
        let mut naive_sums: BTreeMap<String, Vec<&Fact>> = BTreeMap::new();
        for fact in facts.iter().filter(|fact| (window.0..window.1).contains(&fact.start)) {
            naive_sums.entry(group(&tree, fact)).or_default().push(fact);
        }
        let expected: BTreeMap<String, Sums> =
            naive_sums.iter().map(|(key, facts)| (key.clone(), naive(facts))).collect();
        let pieces = Described::default().pieces(window, &tree.edges(window), &Kept::default());
        let asked = CostQuery {
            tree: Arc::new(tree.clone()),
            ranges: pieces.into_iter().flat_map(|(start_ns, end_ns)| ranges(start_ns, end_ns)).collect(),
            ..query(&[Dimension::Budget], window)
        };
        assert!(rollups::window(&asked).is_some());
        let found = cost(&db, &asked, || false).unwrap();
        assert_eq!(by_key(&found), expected, "by roll-ups");
        assert_eq!(total(&found.groups), found.totals, "rows sum to totals");
        assert_eq!(by_key(&by_rows(&db, &asked).unwrap()), expected, "by rows");
        let by_pod = CostQuery { by: vec![Dimension::Budget, Dimension::Pod], ..asked };
        assert_eq!(by_key(&cost(&db, &by_pod, || false).unwrap()), expected, "and by pods");

        // Accounts say the same.
        let (mut usages, now_ns) = (stored::Usages::default(), i64::MAX / 2);
        let spent = stored::spent(&db, &tree, &mut usages, window, now_ns).unwrap();
        let held = |name: &str| expected.get(name).map_or(0, |sums| sums.held_cost_nanos);
        assert_eq!(spent.of(1, |_, _| true), held("physics"));
        assert_eq!(spent.of(2, |_, _| true), held("chemistry"));
        let unassigned = stored::unassigned(&db, &tree, &mut usages, window, now_ns).unwrap();
        assert_eq!(unassigned.values().sum::<i128>(), held("__unassigned__"));
    }
}
