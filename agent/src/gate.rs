//! The gate: says beside slurmctld whether a job may be submitted, by what is left of its account's budget.
//!
//! ```text
//! job_submit.lua --line--> socket -> need -> client --check--> aggregator
//!                                               sweep: squeue <-> holds --bind, renew, settle, void--> aggregator
//!                                               reporter: sacct --what jobs without GPUs ran for--> aggregator
//! ```
//!
//! It needs no GPU and no driver, and shares nothing with metering.

pub mod admission;
pub mod client;
pub mod escrow;
pub mod guard;
pub mod ledger;
pub mod mark;
pub mod need;
pub mod owed;
pub mod plan;
pub mod processors;
pub mod reporter;
pub mod request;
pub mod runs;
pub mod settings;
pub mod slurm;
pub mod socket;
pub mod sweep;
pub mod tres;
