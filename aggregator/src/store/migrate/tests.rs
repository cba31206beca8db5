//! Ledgers as the version before left them, brought up.

use std::path::Path;
use std::sync::Arc;

use postgres_server::Server;
use prost::Message as _;
use rusqlite::Connection;
use rusqlite::types::Value;
use tonnage_proto::limits::{HOUR_NS, SLOT_NS, slot_start};
use tonnage_proto::metering as pb;
use tonnage_runtime::clock::Clock;

use super::*;
use crate::commit::{Committer, Sealed, Submission};
use crate::model::{Described, Description, NodeName, Subject, SubjectKind};
use crate::prices::Book;
use crate::store::{FILE, Store, StoreError, backup, described, identity, lock, server, transfer, write};
use crate::{verify, wire};

const VERSION_2: &str = include_str!("version-2.sql");
const BOOK: &str = "currency = \"USD\"\n[[price]]\nprice = \"2.99\"\nunit = \"gpu_hour\"\n";
const VERSION_3: &str = include_str!("version-3.sql");
const VERSION_4: &str = include_str!("version-4.sql");
const VERSION_5: &str = include_str!("version-5.sql");
const VERSION_7: &str = include_str!("version-7.sql");
const VERSIONS: [(i64, &str); 5] =
    [(2, VERSION_2), (3, VERSION_3), (4, VERSION_4), (5, VERSION_5), (7, VERSION_7)];

/// A ledger with closed slots, quarantined windows and a correction, as this version writes it.
fn written(folder: &Path) {
    let store = Store::in_file(folder).unwrap();
    let clock = Clock::system();
    let start_ns = slot_start(clock.wall_ns() - 30 * HOUR_NS);
    let (node, epoch) = (NodeName { cluster: "c".into(), node: "n".into() }, [1; 16]);
    let book = Arc::new(Book::parse(BOOK).unwrap());
    let mut committer =
        Committer::new(&store, clock, Arc::clone(&book), Arc::default(), Arc::default()).unwrap();
    committer.commit_now(vec![Submission::Book(book)]);
    for (seq, slot) in [(1, 0), (2, 4), (3, 4), (4, 1)] {
        let usage = |owner, held_ns| pb::Usage {
            owner,
            kind: pb::usage::Kind::Held.into(),
            held_ns,
            ..pb::Usage::default()
        };
        let window = pb::Window {
            start_ns: start_ns + slot * SLOT_NS,
            duration_ns: 10_000_000_000,
            idle_ns: 3_000_000_000,
            usages: vec![usage(0, 5_000_000_000), usage(1, 2_000_000_000)],
            ..pb::Window::default()
        };
        let pod = |pod: String| pb::Owner { kind: pb::owner::Kind::Pod.into(), pod, ..pb::Owner::default() };
        let user =
            pb::Owner { kind: pb::owner::Kind::User.into(), user: "ada".into(), ..pb::Owner::default() };
        let batch = pb::Batch {
            format: 1,
            cluster: "c".into(),
            node: "n".into(),
            epoch: epoch.to_vec(),
            seq,
            boot_id: "b".into(),
            devices: vec![pb::Device { uuid: "GPU-1".into(), slices: 1, ..pb::Device::default() }],
            owners: vec![pod(format!("train-{seq}")), user],
            windows: vec![window],
            facts: Some(pb::NodeFacts { region: format!("r{}", seq / 2), ..pb::NodeFacts::default() }),
            ..pb::Batch::default()
        };
        let payload = batch.encode_to_vec();
        let valid = wire::decode(&payload, &node, &epoch, seq).map(Arc::new);
        let sha256 = wire::sha256(&payload);
        let sealed = Sealed { node: node.clone(), epoch, seq, sent_at_ns: 0, payload, sha256, valid };
        let answer = tokio::sync::oneshot::channel().0;
        committer.commit_now(vec![Submission::Batch { batch: Box::new(sealed), answer }, Submission::Tick]);
    }
}

/// Tells the ledger of a pod.
fn described(folder: &Path) {
    let store = Store::in_file(folder).unwrap();
    let db = store.writer().unwrap();
    let transaction = db.begin().unwrap();
    let description =
        Description { labels: [("team".to_owned(), "ml".to_owned())].into(), ..Description::default() };
    let [name, namespace, pod] = ["uid", "ml", "train"].map(str::to_owned);
    let subject = Subject { kind: SubjectKind::Pod, name, namespace, pod };
    let news = Described {
        cluster: "c".into(),
        versions: vec![(subject.clone(), SLOT_NS, description.clone())],
        ended: Vec::new(),
    };
    let number = described::add(&transaction, "c", &subject).unwrap();
    described::describe(&transaction, number, SLOT_NS, &described::Text::of(&description).unwrap()).unwrap();
    let payload = serde_json::to_vec(&news).unwrap();
    let entry = write::JournalEntry {
        payload: &payload,
        ..write::JournalEntry::of(1, write::JournalKind::Described)
    };
    write::journal(&transaction, &entry).unwrap();
    transaction.commit().unwrap();
}

/// The ledger in `folder`, brought up where it must be.
fn opened(folder: &Path) -> Connection {
    drop(Store::in_file(folder).unwrap());
    Connection::open(folder.join(FILE)).unwrap()
}

fn tables(db: &Connection) -> Vec<String> {
    let mut statement =
        db.prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Every row of every table, but of roll-ups: those that are made anew have other keys' numbers, and get as far as there are
/// slots. That they are the sums that they should be is verified.
fn contents(db: &Connection) -> Vec<(String, Vec<Vec<Value>>)> {
    let rows = |table: String| {
        let mut statement = db.prepare(&format!("SELECT * FROM {table} ORDER BY 1, 2")).unwrap();
        let count = statement.column_count();
        let read = |row: &rusqlite::Row<'_>| (0..count).map(|at| row.get(at)).collect();
        let mut rows: Vec<Vec<Value>> = statement.query_map([], read).unwrap().map(Result::unwrap).collect();
        rows.sort_by_key(|row| format!("{row:?}"));
        (table, rows)
    };
    let kept = tables(db).into_iter().filter(|table| !table.starts_with("rollup"));
    let mut contents: Vec<_> = kept.map(rows).collect();
    for (_, rows) in contents.iter_mut().filter(|(table, _)| table == "meta") {
        let anew = ["rolled_until_ns", "memory_told_after"].map(|key| Value::Text(key.to_owned()));
        rows.retain(|row| !anew.contains(&row[0]));
    }
    contents
}

/// Columns and what is unique, of every table.
fn shape(db: &Connection) -> Vec<String> {
    let mut shape = Vec::new();
    for table in tables(db) {
        for sql in [
            format!("SELECT name || type || \"notnull\" || pk FROM pragma_table_info('{table}')"),
            format!(
                "SELECT l.\"unique\" || '/' || group_concat(i.name)
                 FROM pragma_index_list('{table}') l, pragma_index_info(l.name) i GROUP BY l.name"
            ),
        ] {
            let mut statement = db.prepare(&sql).unwrap();
            let lines = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
            shape.extend(lines.map(|line| format!("{table}: {}", line.unwrap())));
        }
    }
    shape
}

/// The same ledger as an earlier version would have it: without what it did not know, and with the slices of a device
/// where that version had them.
fn as_version((version, sql): (i64, &str), from: &Path, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let db = Connection::open(folder.join(FILE)).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    db.execute_batch(sql).unwrap();
    db.execute("ATTACH ?1 AS new", [from.join(FILE).to_str().unwrap()]).unwrap();
    for table in tables(&db) {
        let mut columns: Vec<String> = columns(&db, &table);
        for column in columns.iter_mut().filter(|column| table == "device" && *column == "slices") {
            *column = "(SELECT t.slices FROM new.tenure t WHERE t.device = new.device.id)".to_owned();
        }
        let columns = columns.join(", ");
        db.execute_batch(&format!("INSERT INTO main.{table} SELECT {columns} FROM new.{table}")).unwrap();
    }
    db.execute("DELETE FROM meta WHERE key = 'rolled_until_ns'", []).unwrap();
    db.pragma_update(None, "user_version", version).unwrap();
}

fn columns(db: &Connection, table: &str) -> Vec<String> {
    let mut statement =
        db.prepare(&format!("SELECT name FROM pragma_table_info('{table}', 'main') ORDER BY cid")).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

fn verified(folder: &Path) {
    let rolled: i64 = opened(folder).query_row("SELECT COUNT(*) FROM rollup", [], |row| row.get(0)).unwrap();
    assert!(rolled > 0, "sums over devices and pods are there");
    let report = verify::verify(&Store::in_file(folder).unwrap().writer().unwrap()).unwrap();
    assert!(report.conserved() && report.entries > 0 && report.batches == 4, "{report:?}");
}

#[test]
fn a_ledger_of_a_version_before_is_brought_up_and_loses_nothing() {
    for version in VERSIONS {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        written(&new);
        as_version(version, &new, &old);
        // What the version before knew is what this one wrote, and that is there again.
        let expected = contents(&opened(&new));
        let filled = expected.iter().filter(|(_, rows)| !rows.is_empty()).count();
        assert!(filled > 15, "{filled} tables have rows");
        assert!(expected.iter().any(|(table, rows)| table == "owner" && rows.len() == 4), "{expected:?}");

        let db = opened(&old);
        assert_eq!(contents(&db), expected, "from version {}", version.0);
        assert_eq!(shape(&db), shape(&opened(&new)));
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(version, schema::VERSION);
        verified(&old);
    }
}

#[test]
fn a_backup_of_a_version_before_is_taken_back() {
    for version in VERSIONS {
        let folder = tempfile::tempdir().unwrap();
        let [new, old, back] = ["new", "old", "back"].map(|name| folder.path().join(name));
        written(&new);
        as_version(version, &new, &old);
        let file = folder.path().join("backup.sqlite");
        let db = Connection::open(old.join(FILE)).unwrap();
        db.execute("VACUUM INTO ?1", [file.to_str().unwrap()]).unwrap();
        let done = backup::restore(&file, &back, false, 1).unwrap();
        assert_eq!(done.batches, 4);
        verified(&back);
    }
}

#[test]
fn nothing_is_brought_up_under_an_aggregator_that_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (new, old) = (folder.path().join("new"), folder.path().join("old"));
    written(&new);
    as_version(VERSIONS[1], &new, &old);
    let held = lock(&old).unwrap();
    assert!(matches!(Store::in_file(&old), Err(StoreError::Taken { .. })));
    drop(held);
    verified(&old);
}

#[test]
fn what_is_older_or_newer_is_refused() {
    for (version, said) in [(1, "version 1"), (schema::VERSION + 1, "use a newer program")] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        Connection::open(&file).unwrap().pragma_update(None, "user_version", version).unwrap();
        let error = Store::in_file(folder.path()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        let error = backup::restore(&file, &folder.path().join("x"), false, 1).unwrap_err().to_string();
        assert!(error.contains(&format!("version {version}")), "{error}");
    }
}

#[test]
fn a_ledger_goes_to_a_database_and_back_and_is_the_same() {
    if postgres_server::programs().is_none() {
        println!("SKIPPED: PostgreSQL is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [from, back] = ["from", "back"].map(|name| folder.path().join(name));
    written(&from);
    described(&from);
    let expected = contents(&opened(&from));
    let server = Server::start(&["fsync=off"]).unwrap();
    let database = || {
        Store::connect(
            server::Access::parse(&server.database().unwrap(), &server::TlsFiles::default()).unwrap(),
        )
        .unwrap()
    };
    let conserved = |store: &Store| {
        let report = verify::verify(&store.reader().unwrap()).unwrap();
        assert!(report.conserved() && report.entries > 0 && report.batches == 4, "{report:?}");
    };

    let there = database();
    let copied = transfer::copy(&Store::in_file(&from).unwrap().reader().unwrap(), &there.writer().unwrap());
    let copied = copied.unwrap();
    assert!(copied.time_ns > 0 && copied.cost_nanos > 0, "{copied:?}");
    conserved(&there);
    // Numbers go on behind those that were copied.
    let db = there.writer().unwrap();
    let last: i64 = db.query_row("SELECT MAX(id) FROM node", [], |row| row.get(0)).unwrap();
    let transaction = db.begin().unwrap();
    let next = write::node(&transaction, &NodeName { cluster: "c".into(), node: "new".into() }).unwrap();
    assert!(next > last, "{next} {last}");
    drop(transaction);

    let target = Store::in_file(&back).unwrap();
    transfer::copy(&there.reader().unwrap(), &target.writer().unwrap()).unwrap();
    assert_eq!(contents(&opened(&back)), expected);
    let again = transfer::copy(&there.reader().unwrap(), &target.writer().unwrap());
    assert!(matches!(again, Err(StoreError::Occupied)), "{again:?}");

    let file = folder.path().join("backup.sqlite");
    assert_eq!(backup::backup(&there, &file).unwrap().batches, 4);
    let restored = database();
    assert_eq!(backup::restore_to_server(&file, &restored, 1).unwrap().batches, 4);
    conserved(&restored);
    let incarnation = |store: &Store| identity(&store.reader().unwrap()).unwrap().incarnation;
    assert!(incarnation(&restored) > incarnation(&there));
    assert!(backup::restore_to_server(&file, &restored, 1).is_err(), "it holds a ledger");
}
