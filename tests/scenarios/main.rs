//! Whole processes, as production runs them, and the rules of the house.
#![allow(clippy::unwrap_used, reason = "a scenario that cannot go on has failed")]

use harness::books;

/// The agent against a simulated driver: what is missing, what it says, how it stops.
mod agent;

/// Budgets over HTTP: many checks at once, kills in the middle of them, several aggregators.
mod alerts;
/// A site that moves here from another system of budgets.
mod asbx;
mod budgets;

/// Processes in real cgroups, as the kernel shows them.
mod cgroups;

/// A ledger in PostgreSQL.
mod databases;

/// An estimator of what work costs, over HTTP.
mod estimator;

/// Drivers that hang, refuse, talk nonsense or are let go of.
mod faults;

/// Slurm jobs that are let in by their account's budget.
mod gate;

/// What agencies awarded, and what is spent of it.
mod grants;

/// A kubelet that says who has which GPUs.
mod kubelet;

/// An API server of Kubernetes that says what pods are.
mod labels;

/// A ledger as a whole: backups and restores, and what people have it do.
mod ledgers;

/// The REST API against its own document, by somebody who asks for anything.
mod contract;

/// A crash at every write of the spool and the store.
mod crash_points;

/// Agents and aggregator killed and started again: the ledger equals the reference.
mod ledger;

/// What an agent knows of its machine, and what systemd hears of it.
mod machine;

/// Samples to prices in one process, against a naive reference that shares nothing with the product.
mod model;

/// MIG, GPM, events and signals, as the driver shows them.
mod partitions;

/// Virtual machines that have virtual GPUs.
mod guests;

/// What clients of OpenCost read.
mod opencost;

/// Units and manifests as they are installed.
mod packaging;

/// A real Prometheus, and the rules and the example that come with Tonnage.
mod prometheus;

/// Several aggregators over one PostgreSQL.
mod replicas;

/// A real Slurm, the hooks that it runs, and what is billed for its jobs.
mod slurm;

/// Everything at once, by seed.
mod storm;

/// Tokens and keys, and what people read.
mod secrets;

/// The rules of the house, read from the sources.
mod tidy;

/// Peers that are hostile or unlucky, on the real wire.
mod uplink;
