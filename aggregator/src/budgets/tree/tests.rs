use rand::{RngExt, SeedableRng};

use super::*;
use crate::budgets::account::Bound;

const NOW: i64 = 2_000_000 * SLOT_NS + 7;
const SLOT: i64 = 2_000_000 * SLOT_NS;

fn spec(name: &str, parent: Option<&str>, accounts: &[&str]) -> Spec {
    let bound = |account: &&str| Bound { selector: slurm(account), from_ns: None };
    let bindings = accounts.iter().map(bound).collect();
    Spec { parent: parent.map(str::to_owned), bindings, ..Spec::new(name) }
}

fn slurm(account: &str) -> Selector {
    Selector { account: Some(account.into()), ..Selector::default() }
}

/// One label, or none.
fn labels(key: &str, value: Option<String>) -> BTreeMap<String, String> {
    value.map(|value| (key.to_owned(), value)).into_iter().collect()
}

fn usage(account: &str) -> Usage {
    Usage { cluster: "c".into(), account: account.into(), ..Usage::default() }
}

fn create(tree: &mut Tree, spec: Spec) -> Result<i64, BudgetError> {
    tree.apply(&Change::Create(Box::new(spec)), NOW, 0)
}

fn update(tree: &mut Tree, spec: Spec, now_ns: i64) -> Result<i64, BudgetError> {
    tree.apply(&Change::Update(Box::new(spec)), now_ns, 0)
}

fn owner<'a>(tree: &'a Tree, account: &str, at_ns: i64) -> Option<&'a str> {
    Some(tree.by_id(tree.owner_of(&usage(account), Labels::default(), at_ns)?)?.spec.name.as_str())
}

#[test]
fn usage_is_one_accounts_or_nobodys_and_its_path_goes_to_the_root() {
    let mut tree = Tree::default();
    create(&mut tree, spec("org", None, &[])).unwrap();
    create(&mut tree, spec("physics", Some("org"), &["physics"])).unwrap();
    let id = create(&mut tree, spec("qcd", Some("physics"), &["qcd"])).unwrap();
    assert_eq!(owner(&tree, "qcd", NOW), Some("qcd"));
    assert_eq!(owner(&tree, "physics", NOW), Some("physics"));
    assert_eq!(owner(&tree, "other", NOW), None);
    let path: Vec<&str> = tree.path(id).map(|account| account.spec.name.as_str()).collect();
    assert_eq!(path, ["qcd", "physics", "org"]);
}

#[test]
fn of_several_that_match_the_nearest_has_it() {
    let mut tree = Tree::default();
    create(&mut tree, spec("physics", None, &["physics"])).unwrap();
    let selector = Selector { user: Some("ada".into()), ..slurm("physics") };
    let ada = Spec { bindings: vec![Bound { selector, from_ns: None }], ..Spec::new("ada") };
    create(&mut tree, ada).unwrap();
    let of_ada = Usage { user: "ada".into(), ..usage("physics") };
    assert_eq!(tree.owner_of(&of_ada, Labels::default(), NOW), tree.by_name("ada").map(|account| account.id));
    assert_eq!(owner(&tree, "physics", NOW), Some("physics"));
}

#[test]
fn what_two_could_have_is_refused_and_both_are_named() {
    let mut tree = Tree::default();
    let glob = |name: &str, glob: &str| {
        let selector = Selector { namespace: Some(glob.into()), ..Selector::default() };
        Spec { bindings: vec![Bound { selector, from_ns: None }], ..Spec::new(name) }
    };
    create(&mut tree, glob("one", "ml-*")).unwrap();
    let before = tree.clone();
    let error = create(&mut tree, glob("two", "*-ml")).unwrap_err().to_string();
    assert!(error.contains("\"one\"") && error.contains("\"two\"") && error.contains("\"*-ml\""), "{error}");
    assert_eq!(tree, before, "nothing has changed");
    create(&mut tree, glob("three", "ml-dev-*")).unwrap();
}

#[test]
fn a_binding_that_moves_takes_usage_with_it_from_a_slot_on() {
    let mut tree = Tree::default();
    create(&mut tree, spec("old", None, &["a"])).unwrap();
    let later_ns = NOW + 10 * SLOT_NS;
    update(&mut tree, spec("old", None, &[]), later_ns).unwrap();
    let mut new = spec("new", None, &["a"]);
    tree.apply(&Change::Create(Box::new(new.clone())), later_ns, 0).unwrap();
    assert_eq!(owner(&tree, "a", SLOT), Some("old"));
    assert_eq!(owner(&tree, "a", SLOT + 9 * SLOT_NS), Some("old"));
    assert_eq!(owner(&tree, "a", SLOT + 10 * SLOT_NS), Some("new"));
    assert_eq!(owner(&tree, "a", SLOT - SLOT_NS), None);
    assert_eq!(tree.edges((SLOT, later_ns + SLOT_NS)), [SLOT + 10 * SLOT_NS]);
    // What is said again goes on, from when it did.
    new.title = "New".into();
    update(&mut tree, new, later_ns + SLOT_NS).unwrap();
    assert_eq!(owner(&tree, "a", SLOT + 10 * SLOT_NS), Some("new"));
}

#[test]
fn a_binding_may_begin_in_the_past_but_not_in_what_is_purged() {
    let from = |name: &str, from_ns| {
        let bound = Bound { selector: slurm(name), from_ns: Some(from_ns) };
        Change::Create(Box::new(Spec { bindings: vec![bound], ..Spec::new(name) }))
    };
    let mut tree = Tree::default();
    let kept_ns = SLOT - 100 * SLOT_NS;
    tree.apply(&from("a", kept_ns), NOW, kept_ns).unwrap();
    assert_eq!(owner(&tree, "a", kept_ns), Some("a"));
    for from_ns in [kept_ns - SLOT_NS, SLOT + 1, SLOT + 500 * 96 * SLOT_NS] {
        let error = tree.apply(&from("b", from_ns), NOW, kept_ns).unwrap_err().to_string();
        assert!(error.starts_with("bindings.from"), "{error}");
    }
}

#[test]
fn nobody_is_below_itself_and_trees_have_a_depth() {
    let mut tree = Tree::default();
    for level in 0..DEPTH_MAX {
        let parent = level.checked_sub(1).map(|above| format!("l{above}"));
        create(&mut tree, spec(&format!("l{level}"), parent.as_deref(), &[])).unwrap();
    }
    assert!(create(&mut tree, spec("deep", Some("l7"), &[])).unwrap_err().to_string().starts_with("parent"));
    let error = update(&mut tree, spec("l0", Some("l3"), &[]), NOW).unwrap_err().to_string();
    assert!(error.contains("below \"l0\" itself"), "{error}");
    create(&mut tree, spec("top", None, &[])).unwrap();
    assert!(
        update(&mut tree, spec("l0", Some("top"), &[]), NOW).unwrap_err().to_string().starts_with("parent")
    );
    assert!(create(&mut tree, spec("x", Some("none"), &[])).unwrap_err().to_string().starts_with("parent"));
}

#[test]
fn closing_ends_bindings_and_erases_nothing() {
    let mut tree = Tree::default();
    create(&mut tree, spec("org", None, &[])).unwrap();
    create(&mut tree, spec("a", Some("org"), &["a"])).unwrap();
    let close = |tree: &mut Tree, name: &str| tree.apply(&Change::Close(name.into()), NOW + SLOT_NS, 0);
    assert!(matches!(close(&mut tree, "org"), Err(BudgetError::Conflict(_))), "it has a child");
    close(&mut tree, "a").unwrap();
    assert_eq!(owner(&tree, "a", SLOT), Some("a"));
    assert_eq!(owner(&tree, "a", SLOT + SLOT_NS), None);
    assert_eq!(Tree::standing(tree.by_name("a").unwrap(), NOW), Standing::Closed);
    assert!(matches!(close(&mut tree, "a"), Err(BudgetError::Conflict(_))));
    assert!(matches!(create(&mut tree, spec("a", None, &[])), Err(BudgetError::Conflict(_))));
    close(&mut tree, "org").unwrap();
}

#[test]
fn an_account_is_expired_from_its_end_on() {
    let mut tree = Tree::default();
    let id = create(&mut tree, Spec { starts_ns: NOW, ends_ns: Some(NOW + 10), ..Spec::new("a") }).unwrap();
    let standing = |at_ns| Tree::standing(tree.by_id(id).unwrap(), at_ns);
    assert_eq!(
        [NOW - 1, NOW, NOW + 9, NOW + 10].map(standing).map(Standing::name),
        ["pending", "active", "active", "expired"]
    );
}

#[test]
fn no_row_of_usage_is_two_accounts_whatever_is_bound() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let mut pick = |values: &[&str]| {
        let at = rng.random_range(0..values.len());
        values[at].to_owned()
    };
    for _ in 0..200 {
        let mut tree = Tree::default();
        for at in 0..12 {
            let mut some = |values: &[&str]| Some(pick(values)).filter(|value| !value.is_empty());
            let selector = Selector {
                cluster: some(&["", "", "c", "d"]),
                account: some(&["", "", "p", "q"]),
                partition: some(&["", "", "gpu"]),
                namespace: some(&["", "", "a*", "*b", "?b", "ab"]),
                user: some(&["", "", "ada"]),
                labels: labels("team", some(&["", "", "a", "b"])),
                namespace_labels: labels("cost", some(&["", "", "7"])),
            };
            let bound = Bound { selector, from_ns: None };
            let _ = create(&mut tree, Spec { bindings: vec![bound], ..Spec::new(&format!("n{at}")) });
        }
        for _ in 0..50 {
            let usage = Usage {
                cluster: pick(&["c", "d"]),
                namespace: pick(&["", "ab", "b", "aab"]),
                user: pick(&["", "ada"]),
                account: pick(&["", "p", "q"]),
                partition: pick(&["", "gpu"]),
            };
            let mut some = |values: &[&str]| Some(pick(values)).filter(|value| !value.is_empty());
            let (pod, namespace) = (labels("team", some(&["", "a", "b"])), labels("cost", some(&["", "7"])));
            let labels = Labels { pod: Some(&pod), namespace: Some(&namespace) };
            let matches = |binding: &&Binding| binding.selector.matches(&usage, labels);
            let matching: Vec<&Binding> = tree.all_bindings().iter().filter(matches).collect();
            let highest = matching.iter().map(|binding| binding.selector.rank()).max();
            let first = matching.iter().filter(|binding| Some(binding.selector.rank()) == highest).count();
            assert!(first <= 1, "{usage:?}: {matching:?}");
            assert_eq!(tree.owner_of(&usage, labels, NOW).is_some(), first == 1);
        }
    }
}
