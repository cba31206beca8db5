//! What was said of pods and namespaces: which version is kept from when, by whom, and what is told twice.

use super::*;
use crate::model::{Description, Seen, Subject, SubjectKind, Told};

const DAY: i64 = 86_400;

fn pod(uid: &str, labels: &[(&str, &str)]) -> Seen {
    let subject = Subject {
        kind: SubjectKind::Pod,
        name: uid.into(),
        namespace: "ml".into(),
        pod: format!("pod-{uid}"),
    };
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let description = Description { controller_kind: "Job".into(), controller: "train".into(), labels };
    Seen { subject, created_ns: BEGIN, description }
}

fn told(seen: Vec<Seen>) -> Told {
    Told { cluster: "c".into(), seen, ..Told::default() }
}

fn tell(committer: &mut Committer, told: Told) -> Taken {
    let (answer, mut answered) = oneshot::channel();
    committer.commit_now(vec![Submission::Told { told: Arc::new(told), answer }]);
    answered.try_recv().unwrap().unwrap()
}

impl Ledger {
    fn tell(&mut self, told: Told) -> usize {
        match tell(&mut self.committer, told) {
            Taken::Taken { put_off } => put_off,
            Taken::NotOurs => panic!("another aggregator has the lease"),
        }
    }

    /// Seconds from which on subjects are so, and a label.
    fn versions(&self) -> Vec<(String, i64, String)> {
        let mut found = Vec::new();
        audit::described(&self.db(), |key, json, _, _| {
            let description: Description = serde_json::from_str(json).unwrap();
            let label = description.labels.get("team").cloned().unwrap_or_default();
            found.push((key.subject.name, (key.from_ns - BEGIN) / S, label));
        })
        .unwrap();
        found
    }

    fn journalled(&self) -> i64 {
        self.db().query_row("SELECT COUNT(*) FROM journal WHERE kind = 9", [], |row| row.get(0)).unwrap()
    }
}

fn version(name: &str, from_s: i64, label: &str) -> (String, i64, String) {
    (name.into(), from_s, label.into())
}

/// A batch of a pod that held a GPU for ten seconds.
fn held(agent: &mut Agent, uid: &str, at_s: i64) -> Sealed {
    agent.seq += 1;
    agent.seal(pb::Batch {
        devices: vec![pb::Device { uuid: "GPU-1".into(), slices: 1, ..pb::Device::default() }],
        owners: vec![pb::Owner {
            kind: pb::owner::Kind::Pod.into(),
            namespace: "ml".into(),
            pod: format!("pod-{uid}"),
            pod_uid: uid.into(),
            ..pb::Owner::default()
        }],
        windows: vec![pb::Window {
            start_ns: BEGIN + at_s * S,
            duration_ns: 10_000_000_000,
            usages: vec![pb::Usage {
                kind: pb::usage::Kind::Held.into(),
                held_ns: 10_000_000_000,
                ..pb::Usage::default()
            }],
            ..pb::Window::default()
        }],
        ..agent.empty()
    })
}

#[test]
fn what_is_first_seen_of_a_pod_holds_from_its_creation_and_a_changed_label_from_the_slot_in_which_it_is_seen()
{
    let mut ledger = Ledger::new(BOOK, 2000);
    ledger.tell(told(vec![pod("u", &[("team", "a")])]));
    ledger.at(4600).tell(told(vec![pod("u", &[("team", "b")])]));
    ledger.at(4700).tell(told(vec![pod("u", &[("team", "c")])]));
    assert_eq!(ledger.versions(), [version("u", 0, "a"), version("u", 4500, "c")]);
    ledger.verify();
}

#[test]
fn the_same_twice_changes_nothing_whichever_aggregator_says_it() {
    let mut ledger = Ledger::new(BOOK, 2000);
    let mut other = committer(ledger.dir.path(), &ledger.clock, BOOK);
    ledger.tell(told(vec![pod("u", &[("team", "a")])]));
    ledger.tell(told(vec![pod("u", &[("team", "a")])]));
    assert_eq!(tell(&mut other, told(vec![pod("u", &[("team", "z")])])), Taken::NotOurs);
    // The first is not heard of for longer than its lease.
    ledger.at(2100);
    let same = told(vec![pod("u", &[("team", "a")])]);
    assert_eq!(tell(&mut other, same), Taken::Taken { put_off: 0 });
    assert_eq!(tell(&mut ledger.committer, told(Vec::new())), Taken::NotOurs);
    assert_eq!((ledger.versions(), ledger.journalled()), (vec![version("u", 0, "a")], 1));
    ledger.verify();
}

#[test]
fn a_pod_whose_author_changes_it_without_end_has_few_versions_in_a_day_and_the_last_word_in_the_next() {
    let mut ledger = Ledger::new(BOOK, 100);
    ledger.tell(told(vec![pod("u", &[("team", "first")])]));
    let mut put_off = 0;
    for slot in 0..60 {
        for half in 0..2 {
            let team = format!("{slot}-{half}");
            put_off += ledger.at(200 + slot * 900 + half).tell(told(vec![pod("u", &[("team", &team)])]));
        }
    }
    let most = describe::CHANGES_PER_DAY_MAX;
    assert_eq!((ledger.journalled(), i64::try_from(put_off).unwrap()), (1 + most, 120 - most));
    assert_eq!(ledger.versions().last().unwrap().2, "7-1");
    ledger.at(DAY + 10).tell(told(vec![pod("u", &[("team", "59-1")])]));
    assert_eq!(ledger.versions().last().unwrap(), &version("u", DAY, "59-1"));
    ledger.verify();
}

#[test]
fn what_a_list_does_not_have_is_gone_and_is_there_again_when_it_is_seen_again() {
    let mut ledger = Ledger::new(BOOK, 100);
    ledger.tell(told(vec![pod("u", &[]), pod("v", &[])]));
    let all = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Told { all: vec![(SubjectKind::Pod, names)], ..told(Vec::new()) }
    };
    ledger.at(1000).tell(all(&["v"]));
    let ended = |ledger: &Ledger| {
        let db = ledger.db();
        let mut statement = db.prepare_cached("SELECT ended_ns FROM subject ORDER BY name").unwrap();
        let rows = statement.query_map([], |row| row.get::<i64>(0)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(ended(&ledger), [BEGIN + 1000 * S, 0]);
    ledger.at(1100).tell(all(&["v"]));
    ledger.tell(Told { gone: vec![(SubjectKind::Pod, "v".into())], ..told(Vec::new()) });
    assert_eq!(ended(&ledger), [BEGIN + 1000 * S, BEGIN + 1100 * S]);
    ledger.verify();
    ledger.tell(told(vec![pod("u", &[])]));
    assert_eq!(ended(&ledger), [0, BEGIN + 1100 * S]);
    ledger.verify();
}

#[test]
fn a_pod_that_never_held_a_gpu_is_let_go_of_a_week_after_its_end() {
    let mut ledger = Ledger::new(BOOK, 100);
    let mut agent = Agent::new("n", "a", 1);
    ledger.take(held(&mut agent, "gpu", 0));
    ledger.tell(told(vec![pod("gpu", &[("team", "a")]), pod("web", &[("team", "a")]), pod("stays", &[])]));
    let gone = ["gpu", "web"].map(|name| (SubjectKind::Pod, name.to_owned())).to_vec();
    ledger.at(1000).tell(Told { gone, ..told(Vec::new()) });
    ledger.at(6 * DAY).tick();
    assert_eq!(ledger.versions().len(), 3);
    ledger.at(7 * DAY + 2000).tick();
    let names: Vec<_> = ledger.versions().into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["gpu", "stays"]);
    ledger.verify();
}

#[test]
fn labels_outlive_the_detail_as_days_do_and_go_with_them() {
    let mut ledger = Ledger::new(BOOK, 100);
    let mut agent = Agent::new("n", "a", 1);
    ledger.tell(told(vec![pod("old", &[("team", "a")]), pod("web", &[]), pod("new", &[("team", "a")])]));
    for (day, uid) in [(0, "old"), (1, "new"), (2, "new"), (3, "new"), (4, "new"), (5, "new")] {
        ledger.at(day * DAY + 20).take(held(&mut agent, uid, day * DAY));
        ledger.tell(told(vec![pod("new", &[("team", &format!("day-{day}"))])]));
    }
    let gone = ["old", "web"].map(|name| (SubjectKind::Pod, name.to_owned())).to_vec();
    ledger.at(DAY - 10).tell(Told { gone, ..told(Vec::new()) });
    ledger.at(6 * DAY).tick();
    ledger.committer.retention = Retention { detail_days: 2, hours_days: 2, days_days: 0 };
    ledger.tick();
    ledger.verify();
    let names = |ledger: &Ledger| -> Vec<String> {
        ledger.versions().into_iter().map(|(name, from_s, _)| format!("{name} {}", from_s / DAY)).collect()
    };
    assert_eq!(names(&ledger), ["new 0", "new 1", "new 2", "new 3", "new 4", "new 5", "old 0"]);
    // Seen for the first time, and made before the horizon: what lies there is frozen.
    ledger.tell(told(vec![pod("late", &[])]));
    assert_eq!(ledger.versions()[0], version("late", 4 * DAY, ""));
    ledger.verify();
    ledger.committer.retention = Retention { detail_days: 2, hours_days: 2, days_days: 3 };
    ledger.at(7 * DAY).tick();
    assert_eq!(names(&ledger), ["late 4", "new 4", "new 5"]);
    ledger.verify();
    ledger
        .db()
        .execute("UPDATE described SET from_ns = from_ns - 1 WHERE from_ns < ?1", [BEGIN + 5 * DAY * S])
        .unwrap();
    assert!(!verify::verify(&ledger.db()).unwrap().conserved(), "what is frozen is known by its hash");
}

#[test]
fn whatever_was_changed_of_pods_behind_the_ledgers_back_is_found() {
    for change in [
        "UPDATE description SET json = '{\"controller_kind\":\"\",\"controller\":\"\",\"labels\":{}}'",
        "UPDATE described SET from_ns = from_ns + 900000000000",
        "DELETE FROM described",
        "DELETE FROM description",
        "UPDATE subject SET name = 'another'",
        "UPDATE subject SET cluster = 'another'",
        "UPDATE subject SET ended_ns = 5 WHERE ended_ns > 0",
        "DELETE FROM subject",
    ] {
        let mut ledger = Ledger::new(BOOK, 100);
        let mut agent = Agent::new("n", "a", 1);
        ledger.take(held(&mut agent, "u", 0));
        ledger.tell(told(vec![pod("u", &[("team", "a")])]));
        ledger.tell(Told { gone: vec![(SubjectKind::Pod, "u".into())], ..told(Vec::new()) });
        ledger.verify();
        assert!(ledger.db().execute(change, []).unwrap() > 0, "{change}");
        let found = verify::verify(&ledger.db()).map_or(true, |report| !report.conserved());
        assert!(found, "{change}");
    }
}

#[test]
fn as_many_labels_as_kubernetes_has_are_kept_on_either_engine() {
    let mut ledger = Ledger::new(BOOK, 100);
    let mut rng = StdRng::seed_from_u64(7);
    let mut text = |bytes: usize| -> String {
        (0..bytes).map(|_| char::from(b'a' + rng.random_range(0..26_u8))).collect()
    };
    let mut long = pod("u", &[]);
    long.description.labels = (0..64).map(|_| (text(317), text(63))).collect();
    assert!(!long.description.trim());
    ledger.tell(told(vec![long]));
    assert_eq!(ledger.versions().len(), 1);
    ledger.verify();
}
