//! The schema of the ledger's store, version 1.
//!
//! Conventions: `*_ns` are nanoseconds (times since the Unix epoch), `*_nanos` nano-dollars, `start` is the start of
//! a slot, hour or day in nanoseconds. Owner 0 stands for none. Kinds: `model::RowKind`, `model::OwnerKind`.

/// Written to `PRAGMA user_version`; a store with a higher one is refused.
pub(super) const VERSION: i64 = 1;

pub(super) const CREATE: &str = "
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE node (
    id            INTEGER PRIMARY KEY,
    cluster       TEXT NOT NULL,
    name          TEXT NOT NULL,
    agent_version TEXT NOT NULL DEFAULT '',
    -- Agent's clock minus ours at its last Hello; NULL before the first.
    skew_ns       INTEGER,
    accepted      INTEGER NOT NULL DEFAULT 0,
    refused       INTEGER NOT NULL DEFAULT 0,
    quarantined   INTEGER NOT NULL DEFAULT 0,
    UNIQUE (cluster, name)
);

-- One contiguous cursor per spool life.
CREATE TABLE cursor (
    node  INTEGER NOT NULL,
    epoch BLOB NOT NULL,
    seq   INTEGER NOT NULL,
    PRIMARY KEY (node, epoch)
) WITHOUT ROWID;

-- Every input in the order in which it was applied. Nothing here is ever changed.
CREATE TABLE journal (
    id      INTEGER PRIMARY KEY,
    at_ns   INTEGER NOT NULL,
    -- 1 batch, 2 price book, 3 hole in an agent's batches
    kind    INTEGER NOT NULL,
    node    INTEGER NOT NULL,
    epoch   BLOB NOT NULL,
    seq     INTEGER NOT NULL,
    sha256  BLOB NOT NULL,
    -- metering.v1.Ack.Outcome, and why
    outcome INTEGER NOT NULL,
    detail  TEXT NOT NULL,
    -- zstd; a batch is byte for byte what the agent sealed
    payload BLOB NOT NULL
);
CREATE UNIQUE INDEX journal_cursor ON journal (node, epoch, seq) WHERE kind = 1;
CREATE INDEX journal_kind ON journal (kind, id);

CREATE TABLE device (
    id             INTEGER PRIMARY KEY,
    uuid           TEXT NOT NULL UNIQUE,
    model          TEXT NOT NULL,
    memory_bytes   INTEGER NOT NULL,
    slices         INTEGER NOT NULL,
    minor          INTEGER NOT NULL,
    pci_bus_id     TEXT NOT NULL,
    driver_version TEXT NOT NULL
);

CREATE TABLE tenure (
    id          INTEGER PRIMARY KEY,
    device      INTEGER NOT NULL,
    node        INTEGER NOT NULL,
    boot_id     TEXT NOT NULL,
    instance_id TEXT NOT NULL,
    from_ns     INTEGER NOT NULL,
    to_ns       INTEGER NOT NULL
);
CREATE INDEX tenure_device ON tenure (device, to_ns);

-- Covered intervals, merged, never across a slot.
CREATE TABLE covered (
    device   INTEGER NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns   INTEGER NOT NULL,
    PRIMARY KEY (device, start_ns)
) WITHOUT ROWID;

-- A node's facts, each set once; as JSON of model::NodeFacts.
CREATE TABLE facts (
    id   INTEGER PRIMARY KEY,
    json TEXT NOT NULL UNIQUE
);

-- What the price of a (slot, tenure) was worked out from.
CREATE TABLE slot_state (
    start        INTEGER NOT NULL,
    tenure       INTEGER NOT NULL,
    existence_ns INTEGER NOT NULL,
    covered_ns   INTEGER NOT NULL,
    facts        INTEGER NOT NULL,
    -- NULL = unpriced
    price_nanos  INTEGER,
    PRIMARY KEY (start, tenure)
) WITHOUT ROWID;

CREATE TABLE owner (
    id           INTEGER PRIMARY KEY,
    kind         INTEGER NOT NULL,
    namespace    TEXT NOT NULL,
    pod          TEXT NOT NULL,
    pod_uid      TEXT NOT NULL,
    container    TEXT NOT NULL,
    container_id TEXT NOT NULL,
    job_id       TEXT NOT NULL,
    step         TEXT NOT NULL,
    unit         TEXT NOT NULL,
    user         TEXT NOT NULL,
    UNIQUE (kind, namespace, pod, pod_uid, container, container_id, job_id, step, unit, user)
);

CREATE TABLE slot (
    start               INTEGER NOT NULL,
    tenure              INTEGER NOT NULL,
    owner               INTEGER NOT NULL,
    kind                INTEGER NOT NULL,
    time_ns             INTEGER NOT NULL,
    -- of the idle row: use by processes that hold nothing
    busy_ns             INTEGER NOT NULL,
    memory_byte_seconds INTEGER NOT NULL,
    energy_uj           INTEGER NOT NULL,
    method              INTEGER NOT NULL,
    cost_nanos          INTEGER NOT NULL,
    -- time_ns where the slot has no price, else 0
    unpriced_ns         INTEGER NOT NULL,
    PRIMARY KEY (start, tenure, owner, kind)
) WITHOUT ROWID;

-- Sums of slots, kept in the transaction that changes the slots.
CREATE TABLE hour (
    start INTEGER NOT NULL, tenure INTEGER NOT NULL, owner INTEGER NOT NULL, kind INTEGER NOT NULL,
    time_ns INTEGER NOT NULL, busy_ns INTEGER NOT NULL, memory_byte_seconds INTEGER NOT NULL,
    energy_uj INTEGER NOT NULL, method INTEGER NOT NULL, cost_nanos INTEGER NOT NULL,
    unpriced_ns INTEGER NOT NULL,
    PRIMARY KEY (start, tenure, owner, kind)
) WITHOUT ROWID;

CREATE TABLE day (
    start INTEGER NOT NULL, tenure INTEGER NOT NULL, owner INTEGER NOT NULL, kind INTEGER NOT NULL,
    time_ns INTEGER NOT NULL, busy_ns INTEGER NOT NULL, memory_byte_seconds INTEGER NOT NULL,
    energy_uj INTEGER NOT NULL, method INTEGER NOT NULL, cost_nanos INTEGER NOT NULL,
    unpriced_ns INTEGER NOT NULL,
    PRIMARY KEY (start, tenure, owner, kind)
) WITHOUT ROWID;

-- Windows that were not folded, and why.
CREATE TABLE quarantine (
    id       INTEGER PRIMARY KEY,
    journal  INTEGER NOT NULL,
    device   TEXT NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns   INTEGER NOT NULL,
    reason   TEXT NOT NULL
);

-- Only hashes: a token is shown once, when it is made.
CREATE TABLE token (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    -- reader, operator, admin; or node, with its cluster and node
    role       TEXT NOT NULL,
    cluster    TEXT NOT NULL DEFAULT '',
    node       TEXT NOT NULL DEFAULT '',
    sha256     BLOB NOT NULL UNIQUE,
    created_ns INTEGER NOT NULL
);
";
