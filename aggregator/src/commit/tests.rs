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
    seq: u64,
}

impl Agent {
    fn new(node: &'static str, boot: &'static str, epoch: u8) -> Self {
        Self { node, boot, epoch, region: String::new(), seq: 0 }
    }

    /// The next batch, of windows of one GPU: start and length in seconds since the beginning, and seconds held.
    fn batch(&mut self, gpu: &str, windows: &[(i64, i64, i64)]) -> Sealed {
        self.seq += 1;
        let window = |(start, length, held): &(i64, i64, i64)| pb::Window {
            start_ns: BEGIN + start * S,
            duration_ns: (length * S).unsigned_abs(),
            idle_ns: ((length - held) * S).unsigned_abs(),
            usages: vec![pb::Usage {
                kind: pb::usage::Kind::Held.into(),
                held_ns: (held * S).unsigned_abs(),
                ..pb::Usage::default()
            }],
            ..pb::Window::default()
        };
        let batch = pb::Batch {
            format: 1,
            cluster: "c".into(),
            node: self.node.into(),
            epoch: vec![self.epoch; 16],
            seq: self.seq,
            boot_id: self.boot.into(),
            facts: Some(pb::NodeFacts { region: self.region.clone(), ..pb::NodeFacts::default() }),
            devices: vec![pb::Device { uuid: gpu.into(), slices: 1, ..pb::Device::default() }],
            owners: vec![pb::Owner {
                kind: pb::owner::Kind::User.into(),
                user: self.node.into(),
                ..pb::Owner::default()
            }],
            windows: windows.iter().map(window).collect(),
            ..pb::Batch::default()
        };
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
        let report = verify::verify(&mut self.db()).unwrap();
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
fn a_silent_gpu_exists_unobserved_slot_by_slot_until_it_is_retired() {
    let mut ledger = Ledger::new(BOOK, 0);
    let mut agent = Agent::new("n", "a", 1);
    ledger.at(10).take(agent.batch("GPU-1", &[(0, 10, 10)]));
    ledger.at(10 + SILENCE_NS / S).tick();
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 0, "the slot may still be filled");
    ledger.at(2 * SLOT_NS / S).tick();
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 890);
    ledger.at(7 * SLOT_NS / S).tick();
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 890 + 5 * 900);
    ledger.verify();
    let text = ledger.retire("GPU-1", 1000).unwrap();
    assert!(text.contains("GPU-1"), "{text}");
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 990);
    ledger.at(9 * SLOT_NS / S).tick();
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 990);
    ledger.verify();
    assert!(matches!(ledger.retire("GPU-1", 1000), Err(OrderError::Conflict(_))));
    assert!(matches!(ledger.retire("GPU-2", 1000), Err(OrderError::NotFound(_))));
    // It was not gone after all: from then on it exists again, and what lay between it did not.
    ledger.take(agent.batch("GPU-1", &[(7200, 10, 10)]));
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 990);
    assert_eq!(ledger.held("n"), 20);
    ledger.verify();
}

#[test]
fn what_a_silent_gpu_was_doing_fills_the_time_when_it_is_told() {
    let mut ledger = Ledger::new(BOOK, 10);
    let mut agent = Agent::new("n", "a", 1);
    ledger.take(agent.batch("GPU-1", &[(0, 10, 10)]));
    ledger.at(7300).tick();
    let windows: Vec<(i64, i64, i64)> = (1..720).map(|cell| (cell * 10, 10, 5)).collect();
    ledger.take(agent.batch("GPU-1", &windows));
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 0);
    assert_eq!(ledger.held("n"), 10 + 719 * 5);
    ledger.tick();
    ledger.verify();
}

#[test]
fn the_book_says_whether_a_silent_gpu_is_there_or_gone() {
    let mut ledger = Ledger::new(ABSENT, 10);
    let (mut agent, mut rebooted) = (Agent::new("n", "a", 1), Agent::new("n", "b", 1));
    ledger.take(agent.batch("GPU-1", &[(0, 10, 10)]));
    ledger.at(9000).tick();
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 0);
    // The same life on return: it was there all the time.
    ledger.take(agent.batch("GPU-1", &[(8000, 10, 10)]));
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 7990);
    rebooted.seq = agent.seq;
    ledger.take(rebooted.batch("GPU-1", &[(8900, 10, 10)]));
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 7990, "another life: it was gone in between");
    ledger.verify();
    ledger.book(BOOK);
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 7990 + 890, "and by this book it was there");
    ledger.verify();
}

#[test]
fn a_gpu_that_moves_ends_where_it_was_last_seen() {
    let mut ledger = Ledger::new(BOOK, 4000);
    let (mut one, mut two) = (Agent::new("one", "a", 1), Agent::new("two", "b", 2));
    ledger.take(two.batch("GPU-1", &[(1000, 10, 10)]));
    ledger.take(one.batch("GPU-1", &[(0, 10, 10)]));
    ledger.take(one.batch("GPU-1", &[(2000, 10, 10)]));
    assert_eq!((ledger.held("one"), ledger.held("two")), (20, 10));
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 0);
    ledger.verify();
}

#[test]
fn slots_close_when_complete_or_after_grace_and_later_changes_are_corrections() {
    let mut ledger = Ledger::new(BOOK, 0);
    let mut agent = Agent::new("n", "a", 1);
    let cells = |from: i64, to: i64| (from..to).map(|cell| (cell * 10, 10, 10)).collect::<Vec<_>>();
    ledger.at(900).take(agent.batch("GPU-1", &cells(0, 90)));
    ledger.tick();
    let entries = || closing::entries_from(&ledger.db(), 0).unwrap();
    assert_eq!(entries().len(), 1, "held for the whole slot");
    assert_eq!(entries()[0].row.time_ns, 900 * S);
    // Half of the next slot, then silence: it closes after its grace, with what is unobserved.
    ledger.at(1350).take(agent.batch("GPU-1", &cells(90, 135)));
    ledger.at((SLOT_NS * 2 + GRACE_NS) / S - 1).tick();
    assert_eq!(closing::entries_from(&ledger.db(), 0).unwrap().len(), 1);
    ledger.at((SLOT_NS * 2 + GRACE_NS) / S).tick();
    let entries = closing::entries_from(&ledger.db(), BEGIN + SLOT_NS).unwrap();
    assert_eq!(entries.iter().map(|entry| entry.row.time_ns / S).collect::<Vec<_>>(), [450, 450]);
    ledger.verify();
    // Late, but not too late.
    ledger.take(agent.batch("GPU-1", &cells(135, 180)));
    ledger.tick();
    let entries = closing::entries_from(&ledger.db(), BEGIN + SLOT_NS).unwrap();
    let corrections: Vec<i64> =
        entries.iter().filter(|entry| entry.corrects != 0).map(|entry| entry.row.time_ns / S).collect();
    assert_eq!(corrections, [-450, 450]);
    let report = ledger.verify();
    assert!(report.checkpoints >= 3 && report.entries == entries.len() + 1, "{report:?}");
}

#[test]
fn a_price_that_changes_for_the_past_corrects_what_is_closed() {
    let mut ledger = Ledger::new(BOOK, 0);
    let mut agent = Agent::new("n", "a", 1);
    let cells: Vec<_> = (0..90).map(|cell| (cell * 10, 10, 10)).collect();
    ledger.at(910).take(agent.batch("GPU-1", &cells));
    ledger.tick();
    ledger.book(&BOOK.replace("3.60", "7.20"));
    ledger.tick();
    let costs: Vec<i64> =
        closing::entries_from(&ledger.db(), 0).unwrap().iter().map(|entry| entry.row.cost_nanos).collect();
    assert_eq!(costs, [900_000_000, 900_000_000]);
    ledger.verify();
}

#[test]
fn whatever_was_changed_in_what_is_posted_is_found() {
    for change in [
        "UPDATE entry SET time_ns = time_ns + 1 WHERE id = 1",
        "UPDATE entry SET cost_nanos = cost_nanos + 1 WHERE id = 2",
        "DELETE FROM entry WHERE id = 1",
        "UPDATE checkpoint SET hash = zeroblob(32) WHERE id = 1",
        "UPDATE checkpoint SET at_ns = at_ns + 1 WHERE id = 1",
        "DELETE FROM checkpoint WHERE id = 1",
        "UPDATE balance SET cost_nanos = cost_nanos + 1",
        "DELETE FROM balance",
        "UPDATE quarantine SET state = 2",
        "DELETE FROM quarantine",
    ] {
        let mut ledger = Ledger::new(BOOK, 5000);
        let (mut own, mut clone) = (Agent::new("own", "a", 1), Agent::new("clone", "b", 2));
        ledger.take(own.batch("GPU-1", &[(0, 10, 6)]));
        ledger.tick();
        ledger.take(clone.batch("GPU-1", &[(0, 10, 6)]));
        ledger.at(12_000).tick();
        ledger.verify();
        let db = ledger.db();
        assert!(db.execute(change, []).unwrap() > 0, "{change}");
        let report = verify::verify(&mut ledger.db()).unwrap();
        assert!(!report.conserved() && report.first.is_some(), "{change}: {report}");
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
fn after_a_purge_the_rest_still_verifies_and_what_was_purged_is_frozen() {
    let mut ledger = Ledger::new(BOOK, 0);
    let (mut agent, mut clone) = (Agent::new("n", "a", 1), Agent::new("clone", "b", 2));
    let (day, hours) = (86_400, 3600);
    for half_day in 0..7 {
        agent.region = format!("r{half_day}");
        let from = half_day * day / 2;
        let windows = [(from, 10, 6), (from + 600, 10, 10), (from + 5 * hours, 10, 1)];
        ledger.at(from + 6 * hours).take(agent.batch("GPU-1", &windows));
        ledger.take(clone.batch("GPU-1", &[(from + 5, 5, 5), (from + 7 * 10, 10, 10)]));
        ledger.tick();
    }
    ledger.at(4 * day + 6 * hours).tick();
    let before = ledger.verify();
    let totals = |ledger: &Ledger| {
        let db = ledger.db();
        let days = audit::sums_before(&db, Buckets::Day, i64::MAX).unwrap();
        (days, closing::balances(&db).unwrap())
    };
    let was = totals(&ledger);
    ledger.committer.retention = Retention { detail_days: 2, hours_days: 3, days_days: 0 };
    ledger.tick();
    assert_eq!(totals(&ledger), was, "days and balances outlive the detail");
    let after = ledger.verify();
    assert!(after.batches < before.batches && after.entries < before.entries, "{before:?} {after:?}");
    let horizon_ns = BEGIN + 2 * day * S;
    assert!(ledger.slots().keys().all(|key| key.start_ns >= horizon_ns));
    // Too late: acked, and never folded.
    assert_eq!(ledger.take(agent.batch("GPU-1", &[(day, 10, 10)])), Outcome::Quarantined);
    assert_eq!(totals(&ledger).0, was.0);
    // Not too late, in the middle of what is left, and by the junior, who gives way.
    ledger.take(clone.batch("GPU-1", &[(3 * day + 100, 10, 10)]));
    assert_eq!(ledger.take(agent.batch("GPU-1", &[(3 * day + 100, 10, 4)])), Outcome::Accepted);
    ledger.tick();
    ledger.verify();
    ledger.at(7 * day).tick();
    ledger.verify();
    let db = ledger.db();
    db.execute("UPDATE day SET cost_nanos = cost_nanos + 1 WHERE start = ?1", [BEGIN]).unwrap();
    assert!(!verify::verify(&mut ledger.db()).unwrap().conserved(), "frozen days are compared by their sums");
}

#[test]
fn usage_by_a_clock_that_is_far_behind_makes_no_tenure_of_the_time_in_between() {
    let year = 365 * 86_400;
    let mut ledger = Ledger::new(BOOK, year);
    let mut agent = Agent::new("n", "a", 1);
    let behind = Sealed { sent_at_ns: BEGIN + 20 * S, ..agent.batch("GPU-1", &[(0, 10, 10)]) };
    assert_eq!(ledger.take(behind), Outcome::Quarantined);
    assert_eq!(ledger.quarantined()[0].kind, "clock_behind");
    let right = Sealed { sent_at_ns: BEGIN + year * S, ..agent.batch("GPU-1", &[(year - 10, 10, 10)]) };
    assert_eq!(ledger.take(right), Outcome::Accepted);
    assert_eq!((ledger.held("n"), ledger.seconds(RowKind::Unobserved, None)), (10, 0));
    ledger.verify();
    // What waited in a spool is old, and its clock is right.
    let late = Sealed { sent_at_ns: BEGIN + year * S, ..agent.batch("GPU-1", &[(year - 7200, 10, 10)]) };
    assert_eq!(ledger.take(late), Outcome::Accepted);
    ledger.verify();
}

#[test]
fn what_is_unobserved_is_told_by_reason_and_sums_to_the_rows() {
    let mut ledger = Ledger::new(BOOK, 1000);
    let (mut own, mut clone) = (Agent::new("own", "a", 1), Agent::new("clone", "b", 2));
    ledger.take(own.batch("GPU-1", &[(0, 10, 6), (100, 10, 6)]));
    ledger.take(clone.batch("GPU-1", &[(5, 5, 5), (105, 10, 5)]));
    let db = ledger.db();
    db.execute(
        "INSERT INTO gap SELECT node, 0, ?1, ?2, 1 FROM tenure WHERE id = 1",
        [BEGIN + 10 * S, BEGIN + 40 * S],
    )
    .unwrap();
    let mut pieces = Vec::new();
    let all = crate::ledger::coverage::Interval { start_ns: 0, end_ns: i64::MAX };
    audit::unobserved(&db, all, None, |piece| {
        pieces.push(((piece.start_ns - BEGIN) / S, (piece.end_ns - BEGIN) / S, piece.reason));
    })
    .unwrap();
    assert_eq!(pieces, [(10, 40, "agent_down"), (40, 100, "silent")]);
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 90);
}

#[test]
fn a_window_of_the_grid_is_a_window_of_this_test() {
    assert_eq!((WINDOW_NS, BEGIN % SLOT_NS), (10 * S, 0));
}

#[test]
fn only_one_process_closes() {
    let mut ledger = Ledger::new(BOOK, 0);
    let mut agent = Agent::new("n", "a", 1);
    ledger.at(10).take(agent.batch("GPU-1", &[(0, 10, 10)]));
    ledger.tick();
    let mut other = committer(ledger.dir.path(), &ledger.clock, BOOK);
    ledger.at(30);
    other.commit_now(vec![Submission::Tick]);
    let db = ledger.db();
    let fence =
        |db: &Connection| db.query_row("SELECT fence FROM lease", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(fence(&db), 1);
    ledger.at(200);
    other.commit_now(vec![Submission::Tick]);
    assert_eq!(fence(&db), 2);
}
