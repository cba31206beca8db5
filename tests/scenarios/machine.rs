//! What an agent knows of its machine, and what systemd hears of it.

/// The cloud's metadata, over real sockets at its real address.
mod cloud;

/// A metadata service as the clouds have them.
mod imds;

/// Readiness and signs of life.
mod notify;
