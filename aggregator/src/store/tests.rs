//! What holds for all that is read.

use super::{Store, StoreError};

#[test]
fn all_that_one_query_reads_is_of_one_moment() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (readers, writer) = (store.readers(), store.writer().unwrap());
    let nodes = |db: &rusqlite::Connection| -> Result<i64, StoreError> {
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
