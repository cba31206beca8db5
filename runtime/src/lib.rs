//! What every Tonnage process needs, and no word of metering: [`clock`], [`shutdown`], [`telemetry`],
//! [`admin`] (health and metrics over HTTP), [`notify`] (what systemd hears), [`settings`], [`backoff`] and
//! [`heap`].
//!
//! Depends on nothing of Tonnage; the agent, the aggregator and the tests depend on it.

pub mod admin;
pub mod backoff;
pub mod clock;
pub mod heap;
pub mod notify;
pub mod settings;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
