//! What a ledger goes through as a whole: backups, restores, successors; and what people tell it to do.

/// Copies made online and taken back, while agents go on.
mod backup;

/// Who holds without using, who uses without holding, and what nodes are by the operator's word.
mod attributed;

/// Quarantine, retirement and the journal, by the command line as people use it.
pub(crate) mod orders;

/// Costs in parts, pages and reports.
mod reported;

/// Bills for other programs, by FOCUS.
mod exported;

/// A slot line by line, for whoever disputes a bill.
mod explained;
