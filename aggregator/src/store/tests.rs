//! What holds for all that is read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

use postgres_server::Server;
use tonnage_proto::limits::SLOT_NS;

use super::audit::{self, Buckets};
use super::{Store, StoreError, closing, opening, purge, server, sql};
use crate::model::RowKind;

/// With `TONNAGE_TEST_STORE=postgres` every ledger of this crate's tests is a database of its own on a server that they
/// share; the one of a folder is the same whenever it is opened.
#[allow(clippy::disallowed_methods, reason = "tests have no command line to say on which engine they run")]
pub(super) fn on_a_server(folder: &Path) -> Result<Option<Store>, StoreError> {
    static SERVER: LazyLock<(Server, Mutex<HashMap<PathBuf, String>>)> =
        LazyLock::new(|| (shared(), Mutex::default()));
    if std::env::var_os("TONNAGE_TEST_STORE").is_none_or(|engine| engine != "postgres") {
        return Ok(None);
    }
    let (server, databases) = &*SERVER;
    let mut databases = databases.lock().unwrap();
    let url = databases.entry(folder.to_owned()).or_insert_with(|| server.database().unwrap());
    Store::connect(server::Access::parse(url, &server::TlsFiles::default())?).map(Some)
}

/// A server that ends with the process: the thread that starts it outlives all tests.
fn shared() -> Server {
    let (give, take) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        give.send(Server::start(&["fsync=off"]).unwrap()).unwrap();
        loop {
            std::thread::park();
        }
    });
    take.recv().unwrap()
}

#[test]
fn all_that_one_query_reads_is_of_one_moment() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (readers, writer) = (store.readers(), store.writer().unwrap());
    let nodes = |db: &sql::Connection| -> Result<i64, StoreError> {
        Ok(db.query_row("SELECT count(*) FROM node", [], |row| row.get(0))?)
    };
    let seen = readers.with(|db| {
        let before = nodes(db)?;
        writer.execute("INSERT INTO node (cluster, name) VALUES ('c', 'n')", [])?;
        Ok((before, nodes(db)?))
    });
    assert_eq!(seen.unwrap(), (0, 0));
    assert_eq!(readers.with(nodes).unwrap(), 1, "the next one sees it");
}

#[test]
fn the_number_of_an_entry_is_not_given_again_once_it_is_purged() {
    let folder = tempfile::tempdir().unwrap();
    let db = Store::open(folder.path()).unwrap().writer().unwrap();
    let post = |start: i64, tenures: &[i64]| -> Vec<i64> {
        server::make_room(&db, "slot", std::iter::once(start)).unwrap();
        for tenure in tenures {
            db.execute(
                &format!("INSERT INTO slot VALUES ({start}, {tenure}, 0, 7, 0, 5, 0, 0, 0, 0, 1, 1)"),
                [],
            )
            .unwrap();
        }
        let waiting: Vec<_> = tenures.iter().map(|tenure| (start, *tenure)).collect();
        closing::post(&db, &waiting, 1).unwrap().iter().map(|entry| entry.id).collect()
    };
    assert_eq!(post(0, &[1, 2]), [1, 2]);
    let mut opening = purge::opening_at(&db, SLOT_NS).unwrap();
    purge::delete(&db, &mut opening, 0, 0).unwrap();
    assert!(closing::entries_from(&db, 0).unwrap().is_empty());
    assert_eq!(post(SLOT_NS, &[1]), [3]);
}

#[test]
fn sums_over_a_fleets_years_are_wider_than_64_bits() {
    let folder = tempfile::tempdir().unwrap();
    let db = Store::open(folder.path()).unwrap().writer().unwrap();
    let (most, least) = (i64::MAX - 1, i64::MIN + 2);
    for tenure in 1..=3 {
        for (table, time_ns, cost_nanos) in [("slot", most, least), ("hour", most, 1), ("day", least, most)] {
            server::make_room(&db, table, std::iter::once(0)).unwrap();
            let row = format!(
                "INSERT INTO {table} VALUES (0, {tenure}, 0, 7, 0, {time_ns}, 0, 0, 0, 0, {cost_nanos}, 1)"
            );
            db.execute(&row, []).unwrap();
        }
        assert_eq!(closing::post(&db, &[(0, tenure)], 1).unwrap().len(), 1);
    }
    let [most, least] = [most, least].map(|one| 3 * i128::from(one));
    let (owner, kind) = (7, RowKind::Held);
    assert_eq!(closing::balances(&db).unwrap(), [((owner, kind), [most, least, 3])]);
    assert_eq!(audit::sums_before(&db, Buckets::Hour, 1).unwrap(), [most, 3]);
    assert_eq!(audit::sums_before(&db, Buckets::Day, 1).unwrap(), [least, most]);

    let mut opening = purge::opening_at(&db, 1).unwrap();
    purge::delete(&db, &mut opening, 0, 0).unwrap();
    assert_eq!((opening.hours, opening.days), ([most, 3], [least, most]));
    opening::put(&db, 1, &opening).unwrap();
    let (_, read) = opening::last(&db).unwrap().unwrap();
    assert_eq!(read, opening);
    assert_eq!(read.balances, [(owner, kind as u8, [most, least, 3])]);
    assert_eq!(
        purge::opening_at(&db, 1).unwrap().balances,
        read.balances,
        "the next purge goes on from there"
    );
}

#[test]
fn a_query_without_end_is_given_up_in_the_middle_of_a_statement() {
    let folder = tempfile::tempdir().unwrap();
    let readers = Store::open(folder.path()).unwrap().readers();
    let mut looks = 0;
    let expired = move || {
        looks += 1;
        looks > 3
    };
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n";
    let given_up = readers.until(expired, |db| Ok(db.query_row(endless, [], |row| row.get::<i64>(0))?));
    assert!(matches!(given_up, Err(StoreError::Interrupted)), "{given_up:?}");
    let next = readers.with(|db| Ok(db.query_row("SELECT COUNT(*) FROM node", [], |row| row.get::<i64>(0))?));
    assert_eq!(next.unwrap(), 0, "the connection is as good as before");
}

#[test]
fn one_row_of_many_that_fails_fails_them_all_and_the_next_transaction_is_as_good_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let db = Store::open(folder.path()).unwrap().writer().unwrap();
    let stays = || -> Vec<i64> {
        let mut statement = db.prepare_cached("SELECT device FROM stay ORDER BY device").unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let insert = "INSERT INTO stay VALUES (?1, ?2, 0, 0, 1)";
    let rows: Vec<[i64; 2]> = (0..3_000).map(|device| [device, 0]).collect();
    let twice: Vec<[i64; 2]> = rows.iter().chain([&[1_500, 0]]).copied().collect();
    let transaction = db.begin().unwrap();
    assert!(transaction.execute_all(insert, &twice).unwrap_err().is_conflict());
    assert!(db.is_server() == transaction.commit().is_err(), "a server has given it up already");
    db.execute("DELETE FROM stay", []).unwrap();

    let transaction = db.begin().unwrap();
    transaction.execute_all(insert, &rows).unwrap();
    transaction.execute_all("DELETE FROM stay WHERE device = ?1 AND from_ns = ?2", &rows[1..]).unwrap();
    transaction.execute_all::<2>(insert, &[]).unwrap();
    transaction.commit().unwrap();
    assert_eq!(stays(), [0]);
}
