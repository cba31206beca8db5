//! The ledger's arithmetic, pure: what a slot's rows are ([`settle`]), which windows fit what is already known
//! ([`coverage`], [`tenure`]). The rules are docs/ledger.md's; nothing here reads a clock, a book or a store.

pub mod coverage;
pub mod settle;
pub mod tenure;
