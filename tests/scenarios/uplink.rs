//! The wire between agents and the ledger, with peers that are hostile or unlucky.

/// What strangers may send, and what becomes of those beside them.
mod hostile;

/// Numbers that come twice, too late, too early, or with other bytes.
mod numbers;

/// Who may send and who may read.
mod tokens;

/// Certificates instead of tokens, good and bad, and replaced while all runs.
mod tls;

/// Real agents whose ledger is away, is another one, or knows more than their spool.
mod spools;
