//! What systemd hears of whole processes.

/// Readiness and signs of life.
mod notify;
