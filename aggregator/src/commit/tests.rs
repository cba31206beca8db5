use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::{NamedTempFile, TempDir};
use tonnage_proto::limits::{GRACE_NS, SILENCE_NS, SLOT_NS, WINDOW_NS};
use tonnage_proto::metering as pb;
use tonnage_runtime::clock::{Reading, write_simulated};

use super::*;
use crate::model::RowKind;
use crate::store::audit::{self, Bucket, BucketKey, Buckets};
use crate::store::{closing, quarantine};
use crate::{verify, wire};

/// The edge of a slot, of an hour and of a day.
const BEGIN: i64 = 1_800_057_600_000_000_000;
const S: i64 = 1_000_000_000;
const BOOK: &str = "currency = \"USD\"\n[[price]]\nprice = \"3.60\"\nunit = \"gpu_hour\"\n";
const ABSENT: &str =
    "currency = \"USD\"\n[[price]]\nprice = \"3.60\"\nunit = \"gpu_hour\"\nsilence = \"absent\"\n";

/// What somebody is to know.
mod alerts;
/// Accounts and holds.
mod budgets;
/// Pods that come and go by the tens of thousands.
mod churn;
/// How many batches of nodes there were.
mod counted;
/// What Kubernetes says of pods.
mod described;
/// Devices in parts.
mod instances;
/// What jobs without GPUs ran for.
mod jobs;
/// Sums over devices and pods.
mod rolled;

struct Ledger {
    dir: TempDir,
    clock: NamedTempFile,
    committer: Committer,
}

/// An agent's spool life, in one life of its node.
#[derive(Clone)]
struct Agent {
    node: &'static str,
    boot: &'static str,
    epoch: u8,
    region: String,
    /// Are there intruders in its windows?
    intruders: bool,
    seq: u64,
}

impl Agent {
    fn new(node: &'static str, boot: &'static str, epoch: u8) -> Self {
        Self { node, boot, epoch, region: String::new(), intruders: false, seq: 0 }
    }

    /// The next batch, of windows of one GPU: start and length in seconds since the beginning, and seconds held.
    fn batch(&mut self, gpu: &str, windows: &[(i64, i64, i64)]) -> Sealed {
        self.seq += 1;
        let window = |(start, length, held): &(i64, i64, i64)| pb::Window {
            start_ns: BEGIN + start * S,
            duration_ns: (length * S).unsigned_abs(),
            idle_ns: ((length - held) * S).unsigned_abs(),
            usages: std::iter::once(pb::Usage {
                kind: pb::usage::Kind::Held.into(),
                held_ns: (held * S).unsigned_abs(),
                ..pb::Usage::default()
            })
            .chain(self.intruders.then(|| pb::Usage {
                owner: u32::from(held % 2 == 0),
                kind: pb::usage::Kind::Intruder.into(),
                // Two processes at once.
                busy_ns: (2 * length * S).unsigned_abs(),
                energy_uj: 1,
                ..pb::Usage::default()
            }))
            .collect(),
            ..pb::Window::default()
        };
        self.seal(pb::Batch {
            devices: vec![pb::Device { uuid: gpu.into(), slices: 1, ..pb::Device::default() }],
            owners: [self.node, "intruder"]
                .map(|user| pb::Owner {
                    kind: pb::owner::Kind::User.into(),
                    user: user.into(),
                    account: "a".into(),
                    ..pb::Owner::default()
                })
                .into(),
            windows: windows.iter().map(window).collect(),
            ..self.empty()
        })
    }

    /// A batch of nothing under the cursor.
    fn empty(&self) -> pb::Batch {
        pb::Batch {
            format: 1,
            cluster: "c".into(),
            node: self.node.into(),
            epoch: vec![self.epoch; 16],
            seq: self.seq,
            boot_id: self.boot.into(),
            facts: Some(pb::NodeFacts { region: self.region.clone(), ..pb::NodeFacts::default() }),
            ..pb::Batch::default()
        }
    }

    fn seal(&self, batch: pb::Batch) -> Sealed {
        let payload = batch.encode_to_vec();
        let node = NodeName { cluster: "c".into(), node: self.node.into() };
        let epoch = [self.epoch; 16];
        let valid = wire::decode(&payload, &node, &epoch, self.seq).map(Arc::new);
        assert!(valid.is_ok(), "{valid:?}");
        Sealed { node, epoch, seq: self.seq, sent_at_ns: 0, sha256: wire::sha256(&payload), payload, valid }
    }
}

impl Ledger {
    fn new(book: &str, at_s: i64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = NamedTempFile::new().unwrap();
        set(&clock, at_s);
        let committer = committer(dir.path(), &clock, book);
        let mut ledger = Self { dir, clock, committer };
        ledger.book(book);
        ledger
    }

    fn at(&mut self, at_s: i64) -> &mut Self {
        set(&self.clock, at_s);
        self
    }

    fn take(&mut self, sealed: Sealed) -> Outcome {
        let (answer, mut answered) = oneshot::channel();
        self.committer.commit_now(vec![Submission::Batch { batch: Box::new(sealed), answer }]);
        match answered.try_recv().unwrap().unwrap() {
            Verdict::Committed { outcome, .. } => outcome,
            resync @ Verdict::Resync { .. } => panic!("{resync:?}"),
        }
    }

    fn tick(&mut self) {
        self.committer.commit_now(vec![Submission::Tick]);
    }

    fn book(&mut self, text: &str) {
        self.committer.commit_now(vec![Submission::Book(Arc::new(Book::parse(text).unwrap()))]);
    }

    fn order(&mut self, order: Order) -> Result<String, OrderError> {
        let (answer, mut answered) = oneshot::channel();
        self.committer.commit_now(vec![Submission::Order { order, answer }]);
        answered.try_recv().unwrap()
    }

    fn retire(&mut self, gpu: &str, at_s: i64) -> Result<String, OrderError> {
        self.order(Order::Retire { device: gpu.into(), at_ns: BEGIN + at_s * S, by: "test".into() })
    }

    fn db(&self) -> Connection {
        Store::open(self.dir.path()).unwrap().writer().unwrap()
    }

    fn slots(&self) -> BTreeMap<BucketKey, Bucket> {
        let mut rows = BTreeMap::new();
        audit::buckets(&self.db(), Buckets::Slot, |key, bucket| {
            rows.insert(key, bucket);
        })
        .unwrap();
        rows.retain(|_, bucket| *bucket != Bucket::default());
        rows
    }

    /// Seconds by kind and owner, and what a second of them is not whole of.
    fn seconds(&self, kind: RowKind, owner: Option<&str>) -> i64 {
        let rows = self.slots();
        let own = rows.iter().filter(|(key, _)| {
            key.kind == kind && owner.is_none_or(|owner| key.owner.as_ref().is_some_and(|o| o.user == owner))
        });
        let ns: i128 = own.map(|(_, bucket)| bucket.time_ns).sum();
        assert_eq!(ns % i128::from(S), 0);
        i64::try_from(ns / i128::from(S)).unwrap()
    }

    fn held(&self, owner: &str) -> i64 {
        self.seconds(RowKind::Held, Some(owner))
    }

    fn verify(&self) -> verify::Report {
        let report = verify::verify(&self.db()).unwrap();
        assert!(report.conserved(), "{report}");
        report
    }

    fn quarantined(&self) -> Vec<quarantine::Record> {
        quarantine::list(&self.db(), 0, None, Some(quarantine::State::Held), 1000).unwrap()
    }
}

fn set(clock: &NamedTempFile, at_s: i64) {
    let wall_ns = BEGIN + at_s * S;
    let reading = Reading { wall_ns, monotonic_ns: wall_ns, boot_ns: wall_ns };
    write_simulated(clock.as_file(), reading).unwrap();
}

fn committer(dir: &Path, clock: &NamedTempFile, book: &str) -> Committer {
    let store = Store::open(dir).unwrap();
    let book = Arc::new(Book::parse(book).unwrap());
    let clock = Clock::simulated(clock.path()).unwrap();
    Committer::new(&store, clock, book, Arc::default(), Arc::default()).unwrap()
}

/// What happens as time passes: silence, closing, posting, purging.
mod passing;

/// What docs/sharing.md says that sharing costs.
mod sharing;

/// Several aggregators over one ledger.
mod replicas;

/// The nodes file: what nodes are by the operator's word.
mod nodes;

#[test]
fn of_two_that_cover_the_same_time_the_one_that_held_the_device_counts_in_either_order() {
    let mut rows = Vec::new();
    for late in [false, true] {
        let (mut own, mut clone) = (Agent::new("own", "a", 1), Agent::new("clone", "b", 2));
        let mut ledger = Ledger::new(BOOK, 200);
        let first = own.batch("GPU-1", &[(0, 10, 10)]);
        let mut rest = vec![own.batch("GPU-1", &[(10, 10, 6), (20, 10, 6)])];
        rest.push(clone.batch("GPU-1", &[(15, 5, 5), (20, 10, 3), (30, 10, 2)]));
        if late {
            rest.reverse();
        }
        ledger.take(first);
        for sealed in rest {
            ledger.take(sealed);
        }
        assert_eq!((ledger.held("own"), ledger.held("clone")), (22, 2));
        assert_eq!(ledger.quarantined().len(), 2);
        ledger.verify();
        rows.push(ledger.slots());
    }
    assert_eq!(rows[0], rows[1]);
}

#[test]
fn what_had_stood_against_a_window_that_gave_way_is_counted_after_all() {
    // The youngest stands against the younger, which gives way to the eldest and so frees the youngest's time.
    let mut ledger = Ledger::new(BOOK, 300);
    let mut eldest = Agent::new("eldest", "a", 1);
    let mut younger = Agent::new("younger", "b", 2);
    let mut youngest = Agent::new("youngest", "c", 3);
    ledger.take(eldest.batch("GPU-1", &[(0, 10, 10)]));
    ledger.take(younger.batch("GPU-1", &[(12, 2, 2), (110, 20, 20)]));
    assert_eq!(ledger.take(youngest.batch("GPU-1", &[(20, 5, 5), (120, 10, 10)])), Outcome::Quarantined);
    assert_eq!(ledger.take(eldest.batch("GPU-1", &[(110, 10, 10)])), Outcome::Accepted);
    assert_eq!((ledger.held("eldest"), ledger.held("younger"), ledger.held("youngest")), (20, 2, 15));
    assert_eq!(ledger.quarantined().len(), 1);
    ledger.verify();
}

#[test]
fn in_whatever_order_batches_arrive_the_ledger_is_the_same() {
    for seed in [rand::random(), 7_u64] {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..12 {
            let mut queues = Vec::new();
            let places = [("n1", "a"), ("n1", "b"), ("n2", "x"), ("n3", "y")];
            for (at, (node, boot)) in places.into_iter().enumerate() {
                let mut agent = Agent::new(node, boot, u8::try_from(at).unwrap());
                agent.intruders = true;
                let mut now = rng.random_range(0..600_i64);
                let batches: Vec<Sealed> = (0..rng.random_range(1..12))
                    .map(|_| {
                        let mut windows = Vec::new();
                        for _ in 0..rng.random_range(1..4) {
                            now += *[0, 0, 3, 10, 700].get(rng.random_range(0..5_usize)).unwrap();
                            // Within a cell of the grid, as an agent makes them.
                            let length = rng.random_range(1..=10 - now.rem_euclid(10));
                            windows.push((now, length, rng.random_range(0..=length)));
                            now += length;
                        }
                        if rng.random_bool(0.2) {
                            agent.region = format!("r{}", rng.random_range(0..3));
                        }
                        agent.batch(if rng.random_bool(0.8) { "GPU-1" } else { "GPU-2" }, &windows)
                    })
                    .collect();
                queues.push(batches);
            }
            let mut results: Vec<BTreeMap<BucketKey, Bucket>> = Vec::new();
            for _ in 0..3 {
                let mut ledger = Ledger::new(BOOK, 40_000);
                let mut left: Vec<std::collections::VecDeque<&Sealed>> =
                    queues.iter().map(|queue| queue.iter().collect()).collect();
                while left.iter().any(|queue| !queue.is_empty()) {
                    let at = rng.random_range(0..left.len());
                    if let Some(sealed) = left[at].pop_front() {
                        ledger.take(Sealed {
                            node: sealed.node.clone(),
                            payload: sealed.payload.clone(),
                            valid: sealed.valid.clone(),
                            ..*sealed
                        });
                    }
                    if rng.random_bool(0.1) {
                        ledger.tick();
                    }
                    if rng.random_bool(0.1) {
                        // A working set that is lost changes nothing.
                        ledger.committer.working = Working::default();
                    }
                }
                ledger.tick();
                ledger.verify();
                results.push(ledger.slots());
            }
            for other in &results[1..] {
                let differs = results[0].iter().find(|(key, bucket)| other.get(key) != Some(bucket));
                assert_eq!(differs, None);
                assert_eq!(results[0].len(), other.len());
            }
        }
    }
}

#[test]
fn a_quarantined_window_is_released_only_into_free_time_and_then_stays() {
    let mut ledger = Ledger::new(BOOK, 1000);
    let (mut own, mut clone) = (Agent::new("own", "a", 1), Agent::new("clone", "b", 2));
    ledger.take(own.batch("GPU-1", &[(0, 10, 6)]));
    ledger.take(clone.batch("GPU-1", &[(5, 5, 5)]));
    ledger.take(own.batch("GPU-1", &[(5000, 10, 6)]));
    let held = ledger.quarantined();
    let kinds: Vec<&str> = held.iter().map(|held| held.kind.as_str()).collect();
    assert_eq!(kinds, ["overlap", "clock_ahead"]);
    let release = |ledger: &mut Ledger, at: usize| {
        let quarantine::Record { journal, window, .. } = held[at];
        ledger.order(Order::Release { journal, window, by: "test".into() })
    };
    for at in [0, 1] {
        let error = release(&mut ledger, at).unwrap_err();
        assert!(matches!(error, OrderError::Conflict(_)), "{error}");
    }
    ledger.at(6000);
    release(&mut ledger, 1).unwrap();
    assert_eq!(ledger.held("own"), 12);
    ledger.verify();
    assert!(release(&mut ledger, 1).is_err(), "once only");
    // What a person ordered to be counted gives way to nobody.
    assert_eq!(ledger.take(own.batch("GPU-1", &[(4995, 10, 10)])), Outcome::Quarantined);
    assert_eq!(ledger.held("own"), 12);
    ledger.tick();
    ledger.verify();
    let order = Order::Release { journal: 999, window: 0, by: "test".into() };
    assert!(matches!(ledger.order(order), Err(OrderError::NotFound(_))));
}

#[test]
fn an_intruder_has_use_in_rows_and_entries_and_neither_time_nor_cost() {
    let mut ledger = Ledger::new(BOOK, 900);
    let mut agent = Agent::new("own", "a", 1);
    agent.intruders = true;
    // The holder itself, where it held an odd time, and another.
    let cells: Vec<_> = (0..90).map(|cell| (cell * 10, 10, 6 + cell % 2)).collect();
    assert_eq!(ledger.take(agent.batch("GPU-1", &cells)), Outcome::Accepted);
    ledger.tick();
    ledger.verify();
    let rows = ledger.slots();
    let intruders: Vec<_> = rows.iter().filter(|(key, _)| key.kind == RowKind::Intruder).collect();
    assert_eq!(intruders.len(), 2);
    for (key, bucket) in intruders {
        let expected = Bucket { busy_ns: i128::from(45 * 20 * S), energy_uj: 45, ..Bucket::default() };
        assert_eq!(*bucket, expected, "{key:?}");
        assert!(key.owner.as_ref().is_some_and(|owner| owner.account == "a"));
    }
    assert_eq!((ledger.held("own"), ledger.held("intruder")), (45 * 6 + 45 * 7, 0));
    let entries = closing::entries_from(&ledger.db(), 0).unwrap();
    assert_eq!(entries.iter().filter(|entry| entry.key.2 == RowKind::Intruder).count(), 2);
}

#[test]
fn a_window_of_the_grid_is_a_window_of_this_test() {
    assert_eq!((WINDOW_NS, BEGIN % SLOT_NS), (10 * S, 0));
}
