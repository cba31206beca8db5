//! The log's format. A record: kind (1 byte), inode, number, length of a, length of b (8 bytes each, little-endian),
//! then a and b. Kinds from 128 on are for whoever else appends to the log, such as the test that drives the process.

/// What happened. `number` and the two texts mean what stands beside each.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(crate) enum Kind {
    /// a file was opened; number 1: it was made by that; a: path
    Open = 1,
    /// number: offset; a: data
    Write = 2,
    /// number: new length
    Truncate = 3,
    /// `fsync`, `fdatasync`
    Sync = 4,
    /// number: offset, a: length in 8 bytes
    SyncRange = 5,
    /// a: old path, b: new path
    Rename = 6,
    /// a: path
    Unlink = 7,
    /// a: path
    Mkdir = 8,
    /// a: path
    Rmdir = 9,
    /// a call was made to fail; number: errno; a: name of the class
    Fault = 10,
}

pub(crate) fn encode(kind: Kind, inode: u64, number: u64, a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(33 + a.len() + b.len());
    record.push(kind as u8);
    for field in [inode, number, a.len() as u64, b.len() as u64] {
        record.extend_from_slice(&field.to_le_bytes());
    }
    record.extend_from_slice(a);
    record.extend_from_slice(b);
    record
}
