//! A ledger in PostgreSQL: the way to it, and what becomes of it there.

/// TLS to it, and whom it lets in.
mod encrypted;
