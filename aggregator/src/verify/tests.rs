use std::sync::Arc;

use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tonnage_proto::limits::{HOUR_NS, WINDOW_NS, window_start};
use tonnage_proto::metering as pb;
use tonnage_runtime::clock::Clock;

use super::*;
use crate::commit::{Committer, Sealed, Submission};
use crate::model::NodeName;
use crate::store::Store;
use crate::wire;

const BOOK: &str = "currency = \"USD\"\n[[price]]\nprice = \"2.99\"\nunit = \"gpu_hour\"\n";

/// A ledger of one GPU that a pod held for 6 of 10 seconds, and a gap, and 10 seconds more. It intruded, too.
fn ledger(folder: &std::path::Path) -> Connection {
    priced(folder, Book::parse(BOOK).unwrap())
}

fn priced(folder: &std::path::Path, book: Book) -> Connection {
    let store = Store::open(folder).unwrap();
    let clock = Clock::system();
    let start_ns = window_start(clock.wall_ns() - HOUR_NS);
    let window = |start_ns| pb::Window {
        start_ns,
        duration_ns: 10_000_000_000,
        idle_ns: 4_000_000_000,
        usages: vec![
            pb::Usage { kind: pb::usage::Kind::Held.into(), held_ns: 6_000_000_000, ..pb::Usage::default() },
            pb::Usage {
                kind: pb::usage::Kind::Intruder.into(),
                busy_ns: 11_000_000_000,
                ..pb::Usage::default()
            },
        ],
        ..pb::Window::default()
    };
    let (node, epoch) = (NodeName { cluster: "c".into(), node: "n".into() }, [1; 16]);
    let batch = pb::Batch {
        format: 1,
        cluster: "c".into(),
        node: "n".into(),
        epoch: epoch.to_vec(),
        seq: 1,
        boot_id: "b".into(),
        devices: vec![pb::Device { uuid: "GPU-1".into(), slices: 1, ..pb::Device::default() }],
        owners: vec![pb::Owner { kind: pb::owner::Kind::Pod.into(), ..pb::Owner::default() }],
        windows: vec![window(start_ns), window(start_ns + 3 * WINDOW_NS)],
        ..pb::Batch::default()
    };
    let payload = batch.encode_to_vec();
    let (sha256, valid) = (wire::sha256(&payload), wire::decode(&payload, &node, &epoch, 1).map(Arc::new));
    assert!(valid.is_ok(), "{valid:?}");
    let committer = Committer::new(&store, clock, Arc::new(book), Arc::default(), Arc::default()).unwrap();
    let (queue, submissions) = mpsc::channel(1);
    let batch = Box::new(Sealed { node, epoch, seq: 1, sent_at_ns: 0, payload, sha256, valid });
    queue.blocking_send(Submission::Batch { batch, answer: oneshot::channel().0 }).unwrap();
    drop(queue);
    committer.run(submissions);
    store.writer().unwrap()
}

#[test]
fn an_untouched_ledger_is_conserved() {
    let folder = tempfile::tempdir().unwrap();
    let report = verify(&ledger(folder.path())).unwrap();
    assert_eq!((report.batches, report.windows, report.devices), (1, 2, 1));
    assert_eq!(
        report.to_string(),
        "conserved: held + idle + unobserved = existence on 1 devices, charges = price, difference 0 ns, 0 nanos"
    );
}

#[test]
fn a_ledger_without_a_book_is_unpriced_and_conserved() {
    let folder = tempfile::tempdir().unwrap();
    let report = verify(&priced(folder.path(), Book::empty())).unwrap();
    assert!(report.conserved() && report.windows == 2, "{report:?}");
}

#[test]
fn whatever_was_changed_behind_the_ledgers_back_is_found_and_measured() {
    for (change, ns, nanos) in [
        ("UPDATE slot SET time_ns = time_ns + 7 WHERE kind = 0", true, false),
        ("UPDATE slot SET cost_nanos = cost_nanos - 1 WHERE kind = 1", false, true),
        ("UPDATE slot SET busy_ns = 1 WHERE kind = 0", false, false),
        ("UPDATE hour SET time_ns = time_ns - 1 WHERE kind = 2", true, false),
        ("UPDATE day SET cost_nanos = cost_nanos + 1 WHERE kind = 0", false, true),
        ("DELETE FROM slot WHERE kind = 0", true, true),
        ("DELETE FROM day", true, true),
        ("UPDATE tenure SET from_ns = from_ns + 1", true, true),
        ("UPDATE owner SET pod = 'another'", true, true),
        ("UPDATE owner SET account = 'another'", true, true),
        ("UPDATE slot SET busy_ns = 1 WHERE kind = 4", false, false),
        ("UPDATE slot SET time_ns = 1 WHERE kind = 4", true, false),
        ("DELETE FROM hour WHERE kind = 4", false, false),
        ("DELETE FROM rollup", true, true),
        ("UPDATE rollup_key SET namespace = 'another' WHERE owner_kind <> 0", true, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let db = ledger(folder.path());
        assert!(db.execute(change, []).unwrap() > 0, "{change}");
        let report = verify(&db).unwrap();
        assert!(!report.conserved() && report.to_string().starts_with("NOT conserved"), "{change}: {report}");
        assert_eq!(
            (report.difference_ns > 0, report.difference_nanos > 0),
            (ns, nanos),
            "{change}: {report}"
        );
    }
}

#[test]
fn sealed_bytes_that_were_changed_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let db = ledger(folder.path());
    db.execute("UPDATE journal SET sha256 = ?1 WHERE kind = 1", [&[0_u8; 32][..]]).unwrap();
    let error = verify(&db).unwrap_err().to_string();
    assert!(error.contains("not what its hash says"), "{error}");
}
