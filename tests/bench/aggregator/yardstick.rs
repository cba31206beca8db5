//! What this machine's disk and SQLite can do with the same load at best: rows into one table, bytes into another,
//! in as many transactions, with nothing decided, summed or priced. For PostgreSQL the same by COPY.

use std::io::Write;
use std::path::Path;

use postgres_server::Server;
use tonnage_aggregator::store::Store;
use tonnage_runtime::clock::Clock;

const TABLES: &str = "
CREATE TABLE bare_row (
    start INTEGER NOT NULL, tenure INTEGER NOT NULL, instance INTEGER NOT NULL, owner INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    time_ns INTEGER NOT NULL, busy_ns INTEGER NOT NULL, memory_byte_seconds INTEGER NOT NULL,
    energy_uj INTEGER NOT NULL, method INTEGER NOT NULL, cost_nanos INTEGER NOT NULL,
    unpriced_ns INTEGER NOT NULL,
    PRIMARY KEY (start, tenure, instance, owner, kind)
) WITHOUT ROWID;
CREATE TABLE bare_batch (id INTEGER PRIMARY KEY, payload BLOB NOT NULL);
";

/// So much to write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) windows: i64,
    pub(super) rows_per_window: i64,
    pub(super) batches: i64,
    pub(super) batch_bytes: usize,
    pub(super) transactions: i64,
}

/// Seconds for all of it, through a connection with the aggregator's own settings.
pub(super) fn sqlite(folder: &Path, load: Load) -> anyhow::Result<f64> {
    let db = Store::open(folder)?.writer()?;
    db.execute_batch(TABLES)?;
    let payload = vec![0xa5_u8; load.batch_bytes];
    let clock = Clock::system();
    let from_ns = clock.monotonic_ns();
    for transaction in 0..load.transactions {
        let part = |of: i64| of * transaction / load.transactions..of * (transaction + 1) / load.transactions;
        db.execute_batch("BEGIN IMMEDIATE")?;
        let mut row =
            db.prepare_cached("INSERT INTO bare_row VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)")?;
        for window in part(load.windows) {
            for owner in 0..load.rows_per_window {
                let large = 1_000_000_007 * (owner + 1);
                row.execute([window, 1, 0, owner, 0, large, large, large, large, 3, large, 0])?;
            }
        }
        let mut batch = db.prepare_cached("INSERT INTO bare_batch (payload) VALUES (?1)")?;
        for _ in part(load.batches) {
            batch.execute([&payload])?;
        }
        db.execute_batch("COMMIT")?;
    }
    Ok((clock.monotonic_ns() - from_ns) as f64 / 1e9)
}

/// The same by COPY into a database, from a file of statements that its own client sends; rows are made before the clock runs.
pub(super) fn postgres(server: &Server, folder: &Path, load: Load) -> anyhow::Result<f64> {
    let url = server.database()?;
    let tables = TABLES
        .replace("INTEGER PRIMARY KEY", "BIGINT PRIMARY KEY")
        .replace("INTEGER", "BIGINT")
        .replace("BLOB", "BYTEA")
        .replace(" WITHOUT ROWID", "");
    server.sql(&url, &tables)?;
    let path = folder.join("bare.sql");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
    let payload = "a5".repeat(load.batch_bytes);
    for transaction in 0..load.transactions {
        let part = |of: i64| of * transaction / load.transactions..of * (transaction + 1) / load.transactions;
        writeln!(file, "BEGIN;\nCOPY bare_row FROM STDIN;")?;
        for window in part(load.windows) {
            for owner in 0..load.rows_per_window {
                let large = 1_000_000_007 * (owner + 1);
                writeln!(
                    file,
                    "{window}\t1\t0\t{owner}\t0\t{large}\t{large}\t{large}\t{large}\t3\t{large}\t0"
                )?;
            }
        }
        writeln!(file, "\\.\nCOPY bare_batch FROM STDIN;")?;
        for batch in part(load.batches) {
            writeln!(file, "{batch}\t\\\\x{payload}")?;
        }
        writeln!(file, "\\.\nCOMMIT;")?;
    }
    file.into_inner()?;
    let clock = Clock::system();
    let from_ns = clock.monotonic_ns();
    server.run_file(&url, &path)?;
    Ok((clock.monotonic_ns() - from_ns) as f64 / 1e9)
}

/// Milliseconds of each of so many appends of a page, each brought to the disk.
pub(super) fn fsync(folder: &Path, times: usize) -> anyhow::Result<Vec<f64>> {
    let mut file = std::fs::File::create(folder.join("fsync"))?;
    let clock = Clock::system();
    (0..times)
        .map(|_| {
            let from_ns = clock.monotonic_ns();
            file.write_all(&[0x5a; 4096])?;
            file.sync_data()?;
            Ok((clock.monotonic_ns() - from_ns) as f64 / 1e6)
        })
        .collect()
}
