//! Budgets that are bound by labels of pods and of their namespaces, as these were in each slot, whenever that was told.

use std::sync::Arc;

use super::*;
use crate::commit::describe::Taken;
use crate::model::{Description, Seen, Subject as Told, SubjectKind, Teams};
use crate::prices::Book;
use crate::store::query::{self, CostQuery, Dimension};

/// UIDs and namespaces.
const PODS: [(&str, &str); 4] = [("u0", "ml"), ("u1", "ml"), ("u2", "web"), ("u3", "web")];
const ACCOUNTS: [&str; 5] = ["vision", "nlp", "paid", "web", "rest"];
const LIMIT_S: i64 = 1_000_000;

type Pairs = BTreeMap<String, String>;

fn labels(pairs: &[(&str, &str)]) -> Pairs {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn of_team(team: &str) -> Selector {
    Selector { labels: labels(&[("team", team)]), ..Selector::default() }
}

/// An account that is bound so, and to Slurm's account of its name, so that it can be asked what is left.
fn bound(name: &str, selector: Selector) -> Spec {
    let mut spec = spec(name, LIMIT_S);
    spec.bindings.push(Bound { selector, from_ns: Some(0) });
    spec
}

fn accounts(ledger: &mut Ledger) {
    let of_namespace =
        |namespace: &str| Selector { namespace: Some(namespace.into()), ..Selector::default() };
    let paid = Selector { namespace_labels: labels(&[("cost", "7")]), ..Selector::default() };
    let web = Selector { labels: labels(&[("team", "vision")]), ..of_namespace("web") };
    let selectors = [of_team("vision"), of_team("nlp"), paid, web, of_namespace("*")];
    for (name, selector) in ACCOUNTS.into_iter().zip(selectors) {
        ledger.create(bound(name, selector)).unwrap();
    }
}

fn seen(kind: SubjectKind, name: &str, namespace: &str, labels: &Pairs) -> Seen {
    let (namespace, pod) = match kind {
        SubjectKind::Pod => (namespace.to_owned(), format!("pod-{name}")),
        SubjectKind::Namespace => (String::new(), String::new()),
    };
    let description = Description { labels: labels.clone(), ..Description::default() };
    Seen { subject: Told { kind, name: name.into(), namespace, pod }, created_ns: BEGIN, description }
}

impl Ledger {
    /// False if the ledger will not hear of it today.
    fn told_of(&mut self, seen: Seen) -> bool {
        let told = crate::model::Told { cluster: "c".into(), seen: vec![seen], ..Default::default() };
        let (answer, mut answered) = oneshot::channel();
        self.committer.commit_now(vec![Submission::Told { told: Arc::new(told), answer }]);
        answered.try_recv().unwrap().unwrap() == Taken::Taken { put_off: 0 }
    }

    fn spent_s(&mut self, account: &str) -> i64 {
        let (left_s, nanos) = self.left(account);
        assert_eq!(nanos, 0);
        LIMIT_S - left_s
    }
}

/// A batch of a pod that held a GPU for some seconds.
fn held(agent: &mut Agent, (uid, namespace): (&str, &str), start_s: i64, length_s: i64) -> Sealed {
    agent.seq += 1;
    let duration_ns = (length_s * S).unsigned_abs();
    agent.seal(pb::Batch {
        devices: vec![pb::Device { uuid: "GPU-1".into(), slices: 1, ..pb::Device::default() }],
        owners: vec![pb::Owner {
            kind: pb::owner::Kind::Pod.into(),
            namespace: namespace.into(),
            pod: format!("pod-{uid}"),
            pod_uid: uid.into(),
            ..pb::Owner::default()
        }],
        windows: vec![pb::Window {
            start_ns: BEGIN + start_s * S,
            duration_ns,
            usages: vec![pb::Usage {
                kind: pb::usage::Kind::Held.into(),
                held_ns: duration_ns,
                ..pb::Usage::default()
            }],
            ..pb::Window::default()
        }],
        ..agent.empty()
    })
}

/// What was told, and what was held: in slots since the beginning.
#[derive(Default)]
struct Model {
    versions: BTreeMap<String, Vec<(i64, Pairs)>>,
    held_s: BTreeMap<(usize, i64), i64>,
}

impl Model {
    fn tell(&mut self, name: &str, slot: i64, labels: Pairs) {
        let versions = self.versions.entry(name.to_owned()).or_default();
        match versions.last_mut() {
            // It was never seen otherwise.
            None => versions.push((0, labels)),
            Some((from, last)) if *from == slot => *last = labels,
            Some((_, last)) if *last != labels => versions.push((slot, labels)),
            Some(_) => {}
        }
    }

    fn label(&self, name: &str, slot: i64, key: &str) -> Option<&str> {
        let versions = self.versions.get(name)?.iter().rev();
        let (_, labels) = versions.clone().find(|(from, _)| *from <= slot)?;
        labels.get(key).map(String::as_str)
    }

    fn account(&self, (uid, namespace): (&str, &str), slot: i64) -> &'static str {
        let team = self.label(uid, slot, "team");
        if (namespace, team) == ("web", Some("vision")) {
            return "web";
        }
        if self.label(namespace, slot, "cost") == Some("7") {
            return "paid";
        }
        match team {
            Some("vision") => "vision",
            Some("nlp") => "nlp",
            _ => "rest",
        }
    }

    fn spent_s(&self, account: &str) -> i64 {
        let of = self.held_s.iter().filter(|((pod, slot), _)| self.account(PODS[*pod], *slot) == account);
        of.map(|(_, seconds)| seconds).sum()
    }
}

/// Costs by budget, as they are asked for, in seconds of a GPU.
fn by_budget(ledger: &Ledger) -> BTreeMap<String, i128> {
    let db = ledger.db();
    let window = (BEGIN, BEGIN + 30 * SLOT_NS);
    let mut asked = CostQuery { by: vec![Dimension::Budget], ..CostQuery::default() };
    let says = (Arc::new(Book::parse(BOOK).unwrap()), Arc::new(Teams::default()));
    crate::api::cost::look_up(&db, &mut asked, window, &says, || false).unwrap();
    asked.ranges = crate::api::cost::ranges(&asked, window, &query::kept(&db).unwrap());
    let found = query::cost(&db, &asked, || false).unwrap().groups.into_iter();
    found.map(|group| (group.key[0].clone(), group.sums.held_cost_nanos / i128::from(SECOND))).collect()
}

#[test]
fn each_slot_is_paid_by_whom_its_labels_name_whatever_is_told_when() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ledger = Ledger::new(BOOK, 10);
    accounts(&mut ledger);
    let (mut agent, mut model) = (Agent::new("n", "boot", 1), Model::default());
    let mut now_s = 20;
    for _ in 0..60 {
        let slot = now_s / 900;
        match rng.random_range(0..3) {
            0 => {
                let team = ["", "vision", "nlp", "other"][rng.random_range(0..4)];
                let all = if team.is_empty() { labels(&[]) } else { labels(&[("team", team)]) };
                let (uid, namespace) = PODS[rng.random_range(0..4)];
                if ledger.told_of(seen(SubjectKind::Pod, uid, namespace, &all)) {
                    model.tell(uid, slot, all);
                }
            }
            1 => {
                let all = labels(&[("cost", ["7", "8", "9"][rng.random_range(0..3)])]);
                let namespace = ["ml", "web"][rng.random_range(0..2)];
                if ledger.told_of(seen(SubjectKind::Namespace, namespace, "", &all)) {
                    model.tell(namespace, slot, all);
                }
            }
            _ => {
                let pod = rng.random_range(0..4);
                // Within one slot.
                let length_s = rng.random_range(1..=10).min(900 - now_s % 900);
                ledger.take(held(&mut agent, PODS[pod], now_s, length_s));
                *model.held_s.entry((pod, slot)).or_default() += length_s;
                now_s += length_s;
            }
        }
        if rng.random_bool(0.3) {
            now_s += rng.random_range(1..900);
        }
        ledger.at(now_s);
        let account = ACCOUNTS[rng.random_range(0..5)];
        assert_eq!(ledger.spent_s(account), model.spent_s(account), "{account} at {now_s} s");
    }
    // As whoever comes next reads it.
    ledger.committer = committer(ledger.dir.path(), &ledger.clock, BOOK);
    let costs = by_budget(&ledger);
    for account in ACCOUNTS {
        let expected = model.spent_s(account);
        assert_eq!(ledger.spent_s(account), expected, "{account} read again");
        assert_eq!(costs.get(account).copied().unwrap_or_default(), expected.into(), "{account} in costs");
    }
    ledger.verify();
}

#[test]
fn a_check_goes_by_labels_that_are_told_and_by_those_that_it_says_where_nothing_is() {
    let mut ledger = Ledger::new(BOOK, 10);
    accounts(&mut ledger);
    let pod = |uid: &str, namespace: &str, said: &[(&str, &str)]| Ask {
        namespace: namespace.into(),
        subject: Some(Subject::Pod(uid.into())),
        labels: labels(said),
        ..ask("", 10)
    };
    ledger.told_of(seen(SubjectKind::Pod, "u0", "ml", &labels(&[("team", "vision")])));
    ledger.told_of(seen(SubjectKind::Namespace, "paying", "", &labels(&[("cost", "7")])));
    let id = |ledger: &Ledger, name: &str| stored::tree(&ledger.db()).unwrap().by_name(name).unwrap().id;
    for (ask, expected) in [
        (pod("u0", "ml", &[("team", "nlp")]), "vision"),
        (pod("u1", "ml", &[("team", "nlp")]), "nlp"),
        (pod("u2", "web", &[("team", "vision")]), "web"),
        (pod("u3", "paying", &[("team", "nlp")]), "paid"),
        (pod("u4", "ml", &[]), "rest"),
    ] {
        let hold = ledger.check(ask);
        assert_eq!(hold.account, id(&ledger, expected), "{expected}");
    }
    let many = (0..65).map(|at| (format!("k{at}"), String::new())).collect();
    let error = ledger.hold(What::Check(Box::new(Ask { labels: many, ..ask("", 1) }))).unwrap_err();
    assert!(error.to_string().starts_with("labels: "), "{error}");
    ledger.verify();
}

#[test]
fn two_labels_that_one_pod_could_have_are_refused_as_bindings_of_two_accounts() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(bound("vision", of_team("vision"))).unwrap();
    let app = Selector { labels: labels(&[("app", "web")]), ..Selector::default() };
    let error = ledger.create(bound("web", app)).unwrap_err().to_string();
    assert!(error.contains("label:app \"web\"") && error.contains("label:team \"vision\""), "{error}");
    ledger.create(bound("nlp", of_team("nlp"))).unwrap();
    ledger.verify();
}
