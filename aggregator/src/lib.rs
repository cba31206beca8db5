//! Takes in what agents sealed, keeps the ledger, prices it, and answers over REST.
//!
//! ```text
//! agents --gRPC--> ingest --valid batches--> ledger (fold: pure) --rows--> store (SQLite, one writer)
//!                     ^                        |                             |
//!                     '------ acks ------------'    prices (pure) <-- book   '--readers--> api, metrics
//! ```
//!
//! Neighbours do not import each other; they meet in `serve`. `store` holds all SQL.

pub mod budgets;
pub mod filter;
pub mod http;
pub mod model;

pub mod wire;

pub mod ingest;
pub mod ledger;
pub mod prices;
pub mod store;

pub mod export;

pub mod api;
pub mod live;
pub mod metrics;
pub mod opencost;
pub mod verify;

pub mod alerts;
pub mod commit;
pub mod estimator;
pub mod follow;
pub mod kubernetes;
pub mod serve;

pub mod admin;
pub mod config;
