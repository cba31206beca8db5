use std::collections::BTreeMap;

use postgres_server::Server;

use super::*;
use crate::store::Store;

/// What Citus and TimescaleDB ask of a table before they take it over: its keys have the column by which rows are
/// distributed, and that by which they are partitioned. Neither is installed here.
#[test]
fn each_key_of_a_table_that_can_be_distributed_has_the_column_to_distribute_by() {
    if postgres_server::programs().is_none() {
        return;
    }
    let server = Server::start(&["fsync=off"]).unwrap();
    let access = Access::parse(&server.database().unwrap(), &TlsFiles::default()).unwrap();
    let db = Store::connect(access).unwrap().writer().unwrap();
    // Unique indexes, whether a constraint made them or not.
    let mut statement = db
        .prepare_cached(
            "SELECT CAST(t.relname AS TEXT), CAST(i.relname AS TEXT), CAST(a.attname AS TEXT)
             FROM pg_index x JOIN pg_class t ON t.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
             JOIN pg_namespace n ON n.oid = t.relnamespace
             JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY(x.indkey)
             WHERE x.indisunique AND n.nspname = current_schema()",
        )
        .unwrap();
    let mut keys: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for row in statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap() {
        let (table, key, column): (String, String, String) = row.unwrap();
        keys.entry((table, key)).or_default().push(column);
    }
    for (table, _) in PARTITIONED {
        let own: Vec<_> = keys.iter().filter(|((of, _), _)| of == table).collect();
        assert!(!own.is_empty(), "{table} has no key");
        for ((_, key), columns) in own {
            for column in ["tenure", "start"] {
                assert!(
                    columns.iter().any(|has| has == column),
                    "{table}: {key} has {columns:?}, not {column}"
                );
            }
        }
    }
    assert!(keys.keys().any(|(table, _)| table == "journal"), "others are seen, too: {keys:?}");
}

#[test]
fn a_database_of_the_version_before_is_brought_up_and_knows_pods() {
    if postgres_server::programs().is_none() {
        return;
    }
    let server = Server::start(&["fsync=off"]).unwrap();
    let access = Access::parse(&server.database().unwrap(), &TlsFiles::default()).unwrap();
    let db = Store::connect(access.clone()).unwrap().writer().unwrap();
    db.execute_batch(
        "DROP TABLE described; DROP TABLE description; DROP TABLE subject; DROP INDEX owner_pod;
         DROP TABLE account; DROP TABLE binding; DROP TABLE hold;
         UPDATE schema_version SET version = 5",
    )
    .unwrap();
    let db = Store::connect(access).unwrap().writer().unwrap();
    assert_eq!(version(&db).unwrap(), Some(schema::VERSION));
    for table in ["described", "description", "subject", "account", "binding", "hold"] {
        let count: i64 =
            db.query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(count, 0);
    }
}
