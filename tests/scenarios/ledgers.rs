//! What a ledger goes through as a whole: backups, restores, successors; and what people tell it to do.

/// Copies made online and taken back, while agents go on.
mod backup;

/// Quarantine, retirement and the journal, by the command line as people use it.
mod orders;
