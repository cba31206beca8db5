//! Meters the GPUs of one node and keeps what it measured until the ledger has it.
//!
//! ```text
//! driver -> sampler -> attribution -> metering -> seal -> spool -> uplink
//!           kubelet -------^              '-> metrics <- mps
//! ```
//!
//! Neighbouring stages do not import each other; they share [`model`] and meet in [`pump`] and [`node`].
//! The rules of metering are docs/ledger.md's.

pub mod model;

pub mod attribution;
pub mod driver;
pub mod gate;
pub mod kubelet;
pub mod ledger_clock;
pub mod metering;
pub mod mps;
pub mod release;
pub mod sampler;
pub mod seal;
pub mod spool;
pub mod uplink;

pub mod metrics;
pub mod pump;

pub mod cloud;
pub mod dmi;
pub mod facts;

pub mod check;
pub mod config;
pub mod gate_node;
pub mod node;
