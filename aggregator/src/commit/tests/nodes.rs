//! What the operator says that nodes are: in the journal, outweighing agents, for the past too.

use tonnage_proto::limits::LABELS_PER_NODE_MAX;

use super::*;

const BY_REGION: &str =
    "currency = \"USD\"\n[[price]]\nmatch = { region = \"eu\" }\nprice = \"3.60\"\nunit = \"gpu_hour\"\n";

fn node(region: &str) -> String {
    Book::joined(BY_REGION, &format!("[[node]]\nname = \"n*\"\nregion = \"{region}\"\n"))
}

fn cost(ledger: &Ledger) -> i128 {
    ledger.slots().values().map(|bucket| bucket.cost_nanos).sum()
}

#[test]
fn what_the_nodes_file_says_prices_slots_again_and_the_journal_needs_nothing_else() {
    let mut ledger = Ledger::new(BY_REGION, 0);
    let mut agent = Agent::new("n1", "a", 1);
    agent.region = "us".into();
    let cells: Vec<_> = (0..90).map(|cell| (cell * 10, 10, 6)).collect();
    ledger.at(910).take(agent.batch("GPU-1", &cells));
    ledger.tick();
    assert_eq!(cost(&ledger), 0, "by what the agent says it is unpriced");
    ledger.verify();
    ledger.book(&node("eu"));
    ledger.tick();
    assert_eq!(cost(&ledger), 900_000_000);
    ledger.verify();
    ledger.book(&node("us"));
    ledger.tick();
    assert_eq!(cost(&ledger), 0);
    ledger.verify();
    ledger.book(BY_REGION);
    ledger.verify();
}

#[test]
fn a_purge_keeps_the_nodes_file_for_what_is_left() {
    let mut ledger = Ledger::new(BY_REGION, 10);
    ledger.book(&node("eu"));
    ledger.committer.retention = Retention { detail_days: 1, ..Retention::default() };
    let mut agent = Agent::new("n1", "a", 1);
    ledger.take(agent.batch("GPU-1", &[(0, 10, 6)]));
    let day_s = 86_400;
    ledger.at(3 * day_s + 100).take(agent.batch("GPU-1", &[(3 * day_s, 10, 6)]));
    ledger.tick();
    assert!(ledger.slots().keys().all(|key| key.start_ns > BEGIN), "the first day is purged");
    assert!(cost(&ledger) > 0);
    ledger.verify();
}

/// No two alike, and nothing in it that could be packed.
fn long(number: usize) -> String {
    wire::sha256(&number.to_le_bytes()).map(|byte| format!("{byte:02x}")).concat().repeat(4)[..256].to_owned()
}

#[test]
fn labels_and_owners_as_long_as_they_may_be_are_kept_and_told_apart() {
    let mut ledger = Ledger::new(BY_REGION, 10);
    let mut agent = Agent::new("n1", "a", 1);
    for last in [98, 99, 98] {
        agent.seq += 1;
        let mut labels: std::collections::HashMap<_, _> =
            (0..LABELS_PER_NODE_MAX).map(|at| (long(at), long(100 + at))).collect();
        labels.insert(long(0), long(last));
        let window = pb::Window {
            start_ns: BEGIN + i64::try_from(agent.seq).unwrap() * 10 * S,
            duration_ns: 10_000_000_000,
            usages: vec![pb::Usage {
                kind: pb::usage::Kind::Held.into(),
                held_ns: 10_000_000_000,
                ..pb::Usage::default()
            }],
            ..pb::Window::default()
        };
        let [namespace, pod, pod_uid, container, container_id, step, user, partition] =
            std::array::from_fn(|at| long(last * 10 + at));
        let owner = pb::Owner {
            kind: pb::owner::Kind::Pod.into(),
            namespace,
            pod,
            pod_uid,
            container,
            container_id,
            step,
            user,
            partition,
            ..pb::Owner::default()
        };
        let batch = pb::Batch {
            facts: Some(pb::NodeFacts { region: "eu".into(), labels, ..pb::NodeFacts::default() }),
            devices: vec![pb::Device { uuid: "GPU-1".into(), slices: 1, ..pb::Device::default() }],
            owners: vec![owner],
            windows: vec![window],
            ..agent.empty()
        };
        let sealed = agent.seal(batch);
        assert_eq!(ledger.at(60).take(sealed), Outcome::Accepted);
    }
    let count = |table| {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        ledger.db().query_row(&sql, [], |row| row.get::<i64>(0)).unwrap()
    };
    assert_eq!((count("facts"), count("owner")), (2, 2));
    ledger.verify();
}
