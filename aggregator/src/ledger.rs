//! The ledger's arithmetic, pure: a slot's rows ([`rows`]) and what they are ([`settle`], of jobs without GPUs [`jobs`], of instances by their memory [`memory`]), what is covered and by whom ([`coverage`]),
//! who is believed ([`seniority`]), and where a device was ([`stay`]). The rules are docs/ledger.md's; nothing here
//! reads a clock, a book or a store.

pub mod coverage;
pub mod jobs;
pub mod memory;
pub mod rows;
pub mod seniority;
pub mod settle;
pub mod stay;
