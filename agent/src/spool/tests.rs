use rand::{RngExt, SeedableRng};
use tonnage_proto::limits::WINDOW_NS;

use super::*;
use crate::seal::{NodeState, draft};

const LIMITS: Limits = Limits { bytes: 1 << 20, kept_bytes: 1 << 10 };

fn identity() -> Identity {
    Identity { cluster: "c".into(), node: "n".into() }
}

/// sled's threads hold its lock for a moment after the last spool was dropped.
fn open(path: &Path) -> Spool {
    for _ in 0..1_000 {
        match Spool::open(path, identity(), LIMITS, 0) {
            Err(SpoolError::Store(error)) if !error.is_corruption() => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            opened => return opened.unwrap().0,
        }
    }
    panic!("the spool stays locked");
}

fn some_draft(boot: &str) -> Vec<u8> {
    draft(&[], &NodeState { boot_id: boot.into(), ..NodeState::default() }, 0)
}

#[test]
fn what_was_appended_and_sealed_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path());
    spool.append(&some_draft("a"), 7).unwrap();
    assert!(spool.seal(1).unwrap());
    spool.append(&some_draft("b"), 8).unwrap();
    let (epoch, before) = (spool.epoch(), spool.batch(1).unwrap().unwrap());
    drop(spool);
    let spool = open(folder.path());
    assert_eq!(spool.epoch(), epoch);
    assert_eq!(spool.holdings(), Holdings { oldest_seq: 1, sealed_seq: 1, acked_seq: 0 });
    assert_eq!(spool.batch(1).unwrap().unwrap(), before);
    assert_eq!((spool.drafts(), spool.last_window_end_ns().unwrap()), (1, Some(8)));
}

#[test]
fn only_a_few_batches_are_sealed_and_not_acked() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path());
    for n in 0..SEALED_MAX + 3 {
        spool.append(&some_draft(&n.to_string()), 0).unwrap();
        spool.seal(0).unwrap();
    }
    assert_eq!(spool.holdings().sealed_seq, SEALED_MAX);
    assert_eq!(spool.drafts(), 3);
    spool.ack(1, 0, 0).unwrap();
    assert!(spool.seal(0).unwrap());
    assert_eq!(spool.holdings().sealed_seq, SEALED_MAX + 1);
}

#[test]
fn acked_batches_stay_within_their_bytes_and_leave_once_backed_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path());
    for seq in 1..=100 {
        spool.append(&some_draft("a"), 0).unwrap();
        spool.seal(0).unwrap();
        spool.ack(seq, 0, 0).unwrap();
        assert!(spool.bytes() <= LIMITS.kept_bytes);
    }
    let Holdings { oldest_seq, sealed_seq, acked_seq } = spool.holdings();
    assert!(oldest_seq > 1 && oldest_seq < 100, "{oldest_seq}");
    assert_eq!((sealed_seq, acked_seq), (100, 100));
    spool.ack(100, 100, 0).unwrap();
    assert_eq!(spool.holdings().oldest_seq, 101);
}

#[test]
fn acked_batches_leave_after_seven_days() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path());
    spool.append(&some_draft("a"), 0).unwrap();
    spool.seal(0).unwrap();
    spool.ack(1, 0, 0).unwrap();
    assert_eq!(spool.holdings().oldest_seq, 1);
    spool.ack(1, 0, KEPT_NS_MAX + 1).unwrap();
    assert_eq!(spool.holdings().oldest_seq, 2);
}

#[test]
fn a_full_spool_drops_acked_batches_first_and_then_turns_windows_away() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 400, kept_bytes: 400 };
    let mut spool = Spool::open(folder.path(), identity(), limits, 0).unwrap().0;
    spool.append(&some_draft(&"x".repeat(200)), 0).unwrap();
    spool.seal(0).unwrap();
    spool.ack(1, 0, 0).unwrap();
    assert_eq!(spool.holdings().oldest_seq, 1, "acked, and kept while there is room");
    spool.append(&some_draft(&"y".repeat(200)), 5).unwrap();
    assert_eq!(spool.holdings().oldest_seq, 2, "dropped to make room");
    let error = spool.append(&some_draft(&"z".repeat(200)), 6).unwrap_err();
    assert!(matches!(error, SpoolError::Full { limit: 400, .. }), "{error}");
    assert_eq!(spool.last_window_end_ns().unwrap(), Some(5));
}

#[test]
fn a_new_epoch_keeps_every_window_that_was_not_acked() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path());
    for boot in ["acked", "sealed", "draft"] {
        spool.append(&some_draft(boot), 0).unwrap();
        if boot != "draft" {
            spool.seal(0).unwrap();
        }
    }
    spool.ack(1, 0, 0).unwrap();
    let old = spool.epoch();
    spool.new_epoch().unwrap();
    assert_ne!(spool.epoch(), old);
    assert_eq!(spool.holdings(), Holdings { oldest_seq: 1, sealed_seq: 0, acked_seq: 0 });
    spool.seal(0).unwrap();
    let boots: Vec<String> = (1..=2)
        .map(|seq| {
            let payload = spool.batch(seq).unwrap().unwrap().payload;
            let batch: tonnage_proto::metering::Batch = prost::Message::decode(payload.as_slice()).unwrap();
            batch.boot_id
        })
        .collect();
    assert_eq!(boots, ["sealed", "draft"]);
}

#[test]
fn what_was_acked_under_a_former_epoch_is_recalled_by_a_restored_ledger_and_by_no_other() {
    let (disk, mut spool) = in_memory(LIMITS);
    assert!(!spool.recall(b"id", 1).unwrap());
    for boot in ["backed up", "acked", "sealed"] {
        spool.append(&some_draft(boot), 0).unwrap();
        spool.seal(0).unwrap();
    }
    spool.ack(2, 1, 0).unwrap();
    spool.new_epoch().unwrap();
    drop(spool);
    let mut spool = Spool::open_on(Box::new(disk), Box::new(random), identity(), LIMITS, 0).unwrap();
    assert!(!spool.recall(b"id", 1).unwrap(), "the ledger as it was");
    assert_eq!(spool.drafts(), 1);
    assert!(spool.recall(b"id", 2).unwrap(), "it was restored");
    assert_eq!(spool.drafts(), 2);
    assert!(!spool.recall(b"id", 2).unwrap(), "once");
    spool.seal(0).unwrap();
    let boot = |spool: &Spool, seq| {
        let payload = spool.batch(seq).unwrap().unwrap().payload;
        let batch: tonnage_proto::metering::Batch = prost::Message::decode(payload.as_slice()).unwrap();
        batch.boot_id
    };
    assert_eq!(boot(&spool, 1), "acked");
    assert_eq!(boot(&spool, 2), "sealed");
}

#[test]
fn what_was_acked_under_former_epochs_stays_within_the_same_bytes_and_days() {
    let (_, mut spool) = in_memory(LIMITS);
    for n in 0..60 {
        spool.append(&some_draft("acked"), 0).unwrap();
        spool.seal(0).unwrap();
        let Holdings { sealed_seq, .. } = spool.holdings();
        spool.ack(sealed_seq, 0, 0).unwrap();
        if n % 3 == 0 {
            spool.new_epoch().unwrap();
            spool.ack(0, 0, 0).unwrap();
        }
        assert!(spool.bytes() <= LIMITS.kept_bytes, "{} bytes after {n}", spool.bytes());
    }
    assert!(spool.former.len() > 2);
    spool.ack(0, 0, KEPT_NS_MAX + 1).unwrap();
    assert_eq!(spool.former.len(), 0);
}

#[test]
fn a_spool_that_cannot_be_read_is_moved_aside_and_not_deleted() {
    for rubbish in [0, 0xff, b'x'] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let mut spool = open(&path);
        spool.append(&some_draft("a"), 7).unwrap();
        let epoch = spool.epoch();
        drop(spool);
        let db = path.join("db");
        let bytes = std::fs::metadata(&db).unwrap().len();
        std::fs::write(&db, vec![rubbish; usize::try_from(bytes).unwrap()]).unwrap();
        let (spool, aside) = Spool::open(&path, identity(), LIMITS, 5).unwrap();
        let aside = aside.expect("the old spool is somewhere");
        // sled writes when it opens, so the file need not be byte for byte what it was.
        assert!(aside.join("db").exists());
        assert_eq!(spool.holdings().sealed_seq, 0);
        assert_ne!(spool.epoch(), epoch);
    }
}

#[test]
fn a_spool_that_another_agent_has_open_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path());
    let error = Spool::open(folder.path(), identity(), LIMITS, 0).unwrap_err();
    assert!(matches!(error, SpoolError::Store(_)), "{error}");
    assert!(folder.path().exists());
    drop(first);
}

#[test]
fn random_histories_keep_the_numbers_contiguous_through_reopening() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path());
    let (mut appended, mut delivered) = (0_u64, 0_u64);
    for _ in 0..200 {
        match rng.random_range(0..5) {
            0 | 1 => {
                spool.append(&some_draft(&appended.to_string()), 0).unwrap();
                appended += 1;
            }
            2 => drop(spool.seal(0).unwrap()),
            3 => {
                let Holdings { acked_seq, sealed_seq, .. } = spool.holdings();
                if acked_seq < sealed_seq {
                    assert!(spool.batch(acked_seq + 1).unwrap().is_some(), "the next to send is always held");
                    spool.ack(acked_seq + 1, 0, 0).unwrap();
                    delivered += 1;
                }
            }
            _ => {
                drop(spool);
                spool = open(folder.path());
            }
        }
        let Holdings { oldest_seq, sealed_seq, acked_seq } = spool.holdings();
        assert_eq!(acked_seq, delivered);
        assert!(oldest_seq <= acked_seq + 1 && acked_seq <= sealed_seq);
    }
}

/// A draft of one window of one cell of the grid, counted from a slot's edge.
fn cell(n: i64) -> Vec<u8> {
    let info = crate::model::DeviceInfo {
        uuid: "GPU-1".into(),
        model: "H100".into(),
        memory_bytes: 1,
        slices: 1,
        minor: None,
        pci_bus_id: String::new(),
    };
    let window = crate::model::Window {
        info: std::sync::Arc::new(info),
        start_ns: n * WINDOW_NS,
        duration_ns: WINDOW_NS.unsigned_abs(),
        idle_ns: WINDOW_NS.unsigned_abs(),
        usages: std::collections::BTreeMap::new(),
        intruders: std::collections::BTreeMap::new(),
        instance_idle_ns: std::collections::BTreeMap::new(),
        stranded_ns: 0,
        busy_unattributed_ns: 0,
        energy_idle_uj: 1,
        energy_unobserved_uj: 0,
        samples: 10,
    };
    draft(&[window], &NodeState { boot_id: "b".into(), ..NodeState::default() }, 0)
}

/// Seals and acks all there is; gives the windows in the order in which they were sealed.
fn deliver(spool: &mut Spool) -> Vec<tonnage_proto::metering::Window> {
    let mut windows = Vec::new();
    while spool.seal(0).unwrap() {
        let Holdings { acked_seq, sealed_seq, .. } = spool.holdings();
        for seq in acked_seq + 1..=sealed_seq {
            let payload = spool.batch(seq).unwrap().unwrap().payload;
            let batch: tonnage_proto::metering::Batch = prost::Message::decode(payload.as_slice()).unwrap();
            windows.extend(batch.windows);
            spool.ack(seq, seq, 0).unwrap();
        }
    }
    windows
}

/// That these windows are the cells `0..n`, each once, in order.
fn assert_whole(windows: &[tonnage_proto::metering::Window], n: i64) {
    let mut at_ns = 0;
    for window in windows {
        assert_eq!(window.start_ns, at_ns);
        assert_eq!(window.energy_idle_uj, window.duration_ns / WINDOW_NS.unsigned_abs());
        at_ns += i64::try_from(window.duration_ns).unwrap();
    }
    assert_eq!(at_ns, n * WINDOW_NS);
}

fn in_memory(limits: Limits) -> (memory::Memory, Spool) {
    let disk = memory::Memory::default();
    let spool = Spool::open_on(Box::new(disk.clone()), Box::new(random), identity(), limits, 0).unwrap();
    (disk, spool)
}

#[test]
fn a_backlog_of_over_an_hour_is_merged_to_slots_and_loses_nothing() {
    let (_, mut spool) = in_memory(LIMITS);
    let cells = 90 * 48;
    for n in 0..cells {
        spool.append(&cell(n), (n + 1) * WINDOW_NS).unwrap();
        let slots = usize::try_from(n / 90).unwrap();
        assert!(spool.drafts() <= 360 + 91 + slots, "{} drafts after {n}", spool.drafts());
    }
    assert!(spool.counts().merged > 3_500, "{:?}", spool.counts());
    let windows = deliver(&mut spool);
    assert!(windows.len() < 500, "{} windows", windows.len());
    assert_whole(&windows, cells);
}

#[test]
fn a_full_spool_merges_before_it_turns_windows_away() {
    let limits = Limits { bytes: 2_000, kept_bytes: 0 };
    let (_, mut spool) = in_memory(limits);
    let mut n = 0;
    let full = loop {
        match spool.append(&cell(n), (n + 1) * WINDOW_NS) {
            Ok(()) => n += 1,
            Err(error) => break error,
        }
        assert!(spool.bytes() <= limits.bytes);
    };
    assert!(matches!(full, SpoolError::Full { .. }), "{full}");
    // Whole slots lie in the room of some twenty drafts.
    assert!(n > 90 * 10, "full after {n}");
    assert_eq!(spool.last_window_end_ns().unwrap(), Some(n * WINDOW_NS));
    assert_whole(&deliver(&mut spool), n);
}

#[test]
fn merging_that_fails_or_is_cut_off_at_any_write_loses_nothing() {
    for write in 0..40 {
        for fault in [memory::Fault::Refused, memory::Fault::Lost, memory::Fault::Kept] {
            let limits = Limits { bytes: 1_000, kept_bytes: 0 };
            let (disk, mut spool) = in_memory(limits);
            disk.fail_at(write, fault);
            let mut n = 0;
            while n < 30 {
                if spool.append(&cell(n), (n + 1) * WINDOW_NS).is_ok() {
                    n += 1;
                    continue;
                }
                disk.crash();
                spool =
                    Spool::open_on(Box::new(disk.clone()), Box::new(random), identity(), limits, 0).unwrap();
                n += i64::from(spool.last_window_end_ns().unwrap() == Some((n + 1) * WINDOW_NS));
            }
            // One that was still to come.
            disk.fail_at(u64::MAX, fault);
            disk.crash();
            spool = Spool::open_on(Box::new(disk.clone()), Box::new(random), identity(), limits, 0).unwrap();
            assert!(spool.counts() == Counts::default() && spool.drafts() < 30);
            assert_whole(&deliver(&mut spool), 30);
        }
    }
}

#[test]
fn a_new_epoch_in_a_spool_that_numbers_drafts_from_nothing_keeps_every_window() {
    let (_, mut spool) = in_memory(LIMITS);
    spool.next_draft = 0;
    for boot in ["sealed", "one", "two"] {
        spool.append(&some_draft(boot), 0).unwrap();
        if boot == "sealed" {
            spool.seal(0).unwrap();
        }
    }
    spool.drafts.iter_mut().for_each(|draft| assert!(draft.0 < 3));
    spool.new_epoch().unwrap();
    assert_eq!(spool.drafts(), 3);
    spool.append(&some_draft("three"), 0).unwrap();
    assert_eq!(spool.drafts(), 4);
}

#[test]
fn a_kill_while_sled_writes_its_snapshot_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let mut spool = open(&path);
    spool.append(&some_draft("a"), 7).unwrap();
    let epoch = spool.epoch();
    drop(spool);
    std::fs::write(path.join("snap.FFFFFFFFFFFFFFFF.generating"), "half").unwrap();
    let spool = open(&path);
    assert_eq!((spool.epoch(), spool.drafts()), (epoch, 1));
}

#[test]
fn a_long_value_comes_back_whole_and_goes_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(folder.path());
    let long = some_draft(&"x".repeat(300_000));
    spool.append(&long, 7).unwrap();
    assert_eq!(spool.bytes(), long.len());
    spool.seal(0).unwrap();
    let sealed = spool.batch(1).unwrap().unwrap();
    assert!(sealed.payload.len() > 300_000);
    let bytes = spool.bytes();
    drop(spool);
    let mut spool = open(folder.path());
    assert_eq!((spool.batch(1).unwrap().unwrap(), spool.bytes()), (sealed, bytes));
    let files = std::fs::read_dir(folder.path().join("blobs")).unwrap().count();
    assert_eq!(files, 0, "a page went into a file that nobody syncs");
    spool.ack(1, 1, 0).unwrap();
    assert_eq!(spool.bytes(), 0);
}
