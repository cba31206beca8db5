//! The schema of the ledger's store, version 11.
//!
//! Conventions: `*_ns` are nanoseconds (times since the Unix epoch), `*_nanos` nano-dollars, `start` is the start of
//! a slot, hour or day in nanoseconds. Owner 0 and instance 0 stand for none. Kinds: `model::RowKind`, `model::OwnerKind`.

use std::sync::LazyLock;

mod budgets;

/// Written to `PRAGMA user_version`; a store with a higher one is refused, one with a lower one is brought up to it
/// where `migrate` can.
pub(super) const VERSION: i64 = 11;

/// All tables of a new ledger.
pub(super) static CREATE: LazyLock<String> = LazyLock::new(|| [LEDGER, budgets::CREATE].concat());

const LEDGER: &str = "
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    -- numbers in decimal, bytes in hexadecimal
    value TEXT NOT NULL
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
    id            INTEGER PRIMARY KEY,
    node          INTEGER NOT NULL,
    epoch         BLOB NOT NULL,
    seq           INTEGER NOT NULL,
    -- last seq that is in a finished backup of this ledger
    backed_up_seq INTEGER NOT NULL DEFAULT 0,
    UNIQUE (node, epoch)
);

-- Every input in the order in which it was applied. Nothing here is ever changed.
CREATE TABLE journal (
    id      INTEGER PRIMARY KEY,
    at_ns   INTEGER NOT NULL,
    -- store::write::JournalKind
    kind    INTEGER NOT NULL,
    node    INTEGER NOT NULL,
    epoch   BLOB NOT NULL,
    seq     INTEGER NOT NULL,
    sha256  BLOB NOT NULL,
    -- metering.v1.Ack.Outcome, and why
    outcome INTEGER NOT NULL,
    detail  TEXT NOT NULL,
    -- of a batch: start of its first window and end of its last, else 0
    from_ns INTEGER NOT NULL DEFAULT 0,
    to_ns   INTEGER NOT NULL DEFAULT 0,
    -- of a batch: the agent's clock minus ours when it came, 0 if it did not say
    skew_ns INTEGER NOT NULL DEFAULT 0,
    -- zstd; a batch is byte for byte what the agent sealed, an order is JSON
    payload BLOB NOT NULL
);
CREATE INDEX journal_span ON journal (node, to_ns) WHERE kind = 1;
CREATE UNIQUE INDEX journal_cursor ON journal (node, epoch, seq) WHERE kind = 1;
CREATE INDEX journal_kind ON journal (kind, id);

CREATE TABLE device (
    id             INTEGER PRIMARY KEY,
    uuid           TEXT NOT NULL UNIQUE,
    model          TEXT NOT NULL,
    memory_bytes   INTEGER NOT NULL,
    minor          INTEGER NOT NULL,
    pci_bus_id     TEXT NOT NULL,
    driver_version TEXT NOT NULL
);

-- A device in one life of a node, cut into so many slices. Where it was in between is what its stays say.
CREATE TABLE tenure (
    id               INTEGER PRIMARY KEY,
    device           INTEGER NOT NULL,
    node             INTEGER NOT NULL,
    -- the cloud's instance id where there is one, else the boot id
    life             TEXT NOT NULL,
    -- compute slices of the device: another number once MIG is switched
    slices           INTEGER NOT NULL,
    -- start of the first window that was ever offered: the elder tenure is believed
    claimed_ns       INTEGER NOT NULL,
    -- start of its first stay, end of its last; 0 while it has none
    from_ns          INTEGER NOT NULL DEFAULT 0,
    to_ns            INTEGER NOT NULL DEFAULT 0,
    -- end of its last covered interval: what lies behind it is provisional
    covered_until_ns INTEGER NOT NULL DEFAULT 0,
    -- the node's facts at the purge horizon, and the start of the window that they are from
    facts            INTEGER NOT NULL DEFAULT 0,
    facts_ns         INTEGER NOT NULL DEFAULT 0,
    UNIQUE (device, node, life, slices)
);
CREATE INDEX tenure_device ON tenure (device, to_ns);

-- Existence. Stays of one device never overlap.
CREATE TABLE stay (
    device     INTEGER NOT NULL,
    from_ns    INTEGER NOT NULL,
    covered_ns INTEGER NOT NULL,
    to_ns      INTEGER NOT NULL,
    tenure     INTEGER NOT NULL,
    PRIMARY KEY (device, from_ns)
) WITHOUT ROWID;

-- A device was taken out of service at this time, by order.
CREATE TABLE retired (
    device INTEGER NOT NULL,
    at_ns  INTEGER NOT NULL,
    PRIMARY KEY (device, at_ns)
) WITHOUT ROWID;

-- Covered intervals, merged within one cursor and tenure, never across a slot.
CREATE TABLE covered (
    device   INTEGER NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns   INTEGER NOT NULL,
    cursor   INTEGER NOT NULL,
    tenure   INTEGER NOT NULL,
    PRIMARY KEY (device, start_ns)
) WITHOUT ROWID;

-- Start of the first window that a cursor offered in a tenure: of two in one tenure the elder is believed.
CREATE TABLE claim (
    tenure   INTEGER NOT NULL,
    cursor   INTEGER NOT NULL,
    first_ns INTEGER NOT NULL,
    PRIMARY KEY (tenure, cursor)
) WITHOUT ROWID;

-- What agents said of time that they did not cover. Device 0: every device of the node.
CREATE TABLE gap (
    node     INTEGER NOT NULL,
    device   INTEGER NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns   INTEGER NOT NULL,
    -- metering.v1.Gap.Reason
    reason   INTEGER NOT NULL,
    PRIMARY KEY (node, device, start_ns, end_ns, reason)
) WITHOUT ROWID;

-- A node's facts, each set once; as JSON of model::NodeFacts.
CREATE TABLE facts (
    id     INTEGER PRIMARY KEY,
    -- of the JSON, which can be longer than an index takes
    sha256 BLOB NOT NULL UNIQUE,
    json   TEXT NOT NULL
);

-- What the price of a (slot, tenure) was worked out from.
CREATE TABLE slot_state (
    start        INTEGER NOT NULL,
    tenure       INTEGER NOT NULL,
    existence_ns INTEGER NOT NULL,
    covered_ns   INTEGER NOT NULL,
    facts        INTEGER NOT NULL,
    -- start of the window that the facts are from
    facts_ns     INTEGER NOT NULL,
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
    \"user\"       TEXT NOT NULL,
    account      TEXT NOT NULL,
    partition    TEXT NOT NULL,
    UNIQUE (kind, namespace, pod, pod_uid, container, container_id, job_id, step, unit, \"user\", account, partition)
);
CREATE INDEX owner_pod ON owner (pod_uid);
CREATE INDEX owner_job ON owner (job_id) WHERE job_id <> '';

-- Pods and namespaces of clusters that Kubernetes told of.
CREATE TABLE subject (
    id        INTEGER PRIMARY KEY,
    cluster   TEXT NOT NULL,
    -- model::SubjectKind
    kind      INTEGER NOT NULL,
    -- a pod's UID, a namespace's name
    name      TEXT NOT NULL,
    -- of a pod
    namespace TEXT NOT NULL,
    pod       TEXT NOT NULL,
    -- when it was first seen to be gone; 0 while it is there
    ended_ns  INTEGER NOT NULL DEFAULT 0,
    -- how often it changed in the day that starts here
    day_ns    INTEGER NOT NULL DEFAULT 0,
    changes   INTEGER NOT NULL DEFAULT 0,
    UNIQUE (cluster, kind, name)
);
CREATE INDEX subject_ended ON subject (ended_ns);

-- Labels and controllers, each set of them once; as JSON of model::Description.
CREATE TABLE description (
    id     INTEGER PRIMARY KEY,
    -- of the JSON, which can be longer than an index takes
    sha256 BLOB NOT NULL UNIQUE,
    json   TEXT NOT NULL
);

-- How a subject is from the start of a slot on.
CREATE TABLE described (
    subject     INTEGER NOT NULL,
    from_ns     INTEGER NOT NULL,
    description INTEGER NOT NULL,
    PRIMARY KEY (subject, from_ns)
) WITHOUT ROWID;
CREATE INDEX described_description ON described (description);

-- A part of a partitioned device, in one life of it.
CREATE TABLE instance (
    id               INTEGER PRIMARY KEY,
    device           INTEGER NOT NULL,
    generation       INTEGER NOT NULL,
    -- 2^32 - 1 if unknown
    gpu_instance     INTEGER NOT NULL,
    compute_instance INTEGER NOT NULL,
    slices           INTEGER NOT NULL,
    uuid             TEXT NOT NULL,
    profile          TEXT NOT NULL,
    memory_bytes     INTEGER NOT NULL,
    -- memory slices of its GPU instance, compute slices of that, memory slices of the GPU: 0 where it is not known
    memory_slices       INTEGER NOT NULL,
    gpu_instance_slices INTEGER NOT NULL,
    gpu_memory_slices   INTEGER NOT NULL,
    UNIQUE (device, uuid, generation, gpu_instance, compute_instance, slices, profile, memory_bytes, memory_slices,
        gpu_instance_slices, gpu_memory_slices)
);

CREATE TABLE slot (
    start               INTEGER NOT NULL,
    tenure              INTEGER NOT NULL,
    instance            INTEGER NOT NULL,
    owner               INTEGER NOT NULL,
    kind                INTEGER NOT NULL,
    time_ns             INTEGER NOT NULL,
    -- of the device's idle row: use that no owner explains
    busy_ns             INTEGER NOT NULL,
    memory_byte_seconds INTEGER NOT NULL,
    energy_uj           INTEGER NOT NULL,
    method              INTEGER NOT NULL,
    cost_nanos          INTEGER NOT NULL,
    -- time_ns where the slot has no price, else 0
    unpriced_ns         INTEGER NOT NULL,
    PRIMARY KEY (start, tenure, instance, owner, kind)
) WITHOUT ROWID;

-- Sums of slots, kept in the transaction that changes the slots.
CREATE TABLE hour (
    start INTEGER NOT NULL, tenure INTEGER NOT NULL, instance INTEGER NOT NULL, owner INTEGER NOT NULL,
    kind INTEGER NOT NULL, time_ns INTEGER NOT NULL, busy_ns INTEGER NOT NULL, memory_byte_seconds INTEGER NOT NULL,
    energy_uj INTEGER NOT NULL, method INTEGER NOT NULL, cost_nanos INTEGER NOT NULL,
    unpriced_ns INTEGER NOT NULL,
    PRIMARY KEY (start, tenure, instance, owner, kind)
) WITHOUT ROWID;

CREATE TABLE day (
    start INTEGER NOT NULL, tenure INTEGER NOT NULL, instance INTEGER NOT NULL, owner INTEGER NOT NULL,
    kind INTEGER NOT NULL, time_ns INTEGER NOT NULL, busy_ns INTEGER NOT NULL, memory_byte_seconds INTEGER NOT NULL,
    energy_uj INTEGER NOT NULL, method INTEGER NOT NULL, cost_nanos INTEGER NOT NULL,
    unpriced_ns INTEGER NOT NULL,
    PRIMARY KEY (start, tenure, instance, owner, kind)
) WITHOUT ROWID;

-- All that sums over devices and pods tell apart, each set of values once.
CREATE TABLE rollup_key (
    id         INTEGER PRIMARY KEY,
    cluster    TEXT NOT NULL,
    model      TEXT NOT NULL,
    slices     INTEGER NOT NULL,
    -- model::RowKind
    kind       INTEGER NOT NULL,
    -- of the instance; empty of none
    profile    TEXT NOT NULL,
    -- of the owner; 0 and empty of none
    owner_kind INTEGER NOT NULL,
    namespace  TEXT NOT NULL,
    \"user\"     TEXT NOT NULL,
    account    TEXT NOT NULL,
    partition  TEXT NOT NULL,
    UNIQUE (cluster, model, slices, kind, profile, owner_kind, namespace, \"user\", account, partition)
);

-- Sums of slots by such keys in blocks of time, kept in the transaction that changes the slots (store::rollup).
CREATE TABLE rollup (
    width_ns INTEGER NOT NULL,
    start    INTEGER NOT NULL,
    -- keys id / 64
    part     INTEGER NOT NULL,
    -- store::rollup::packed
    sums     BLOB NOT NULL,
    PRIMARY KEY (width_ns, start, part)
);

-- Windows that were not folded, and why.
CREATE TABLE quarantine (
    id       INTEGER PRIMARY KEY,
    journal  INTEGER NOT NULL,
    -- position in the batch's windows
    \"window\" INTEGER NOT NULL,
    device   TEXT NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns   INTEGER NOT NULL,
    -- one of few words, for programs
    kind     TEXT NOT NULL,
    reason   TEXT NOT NULL,
    -- 0 held, 1 released by order, 2 folded after all because what stood against it went away
    state    INTEGER NOT NULL DEFAULT 0,
    UNIQUE (journal, \"window\")
);
CREATE INDEX quarantine_device ON quarantine (device, start_ns);

-- What was posted when slots closed, and corrections since. Nothing here is ever changed.
CREATE TABLE entry (
    id                  INTEGER PRIMARY KEY,
    checkpoint          INTEGER NOT NULL,
    start               INTEGER NOT NULL,
    tenure              INTEGER NOT NULL,
    instance            INTEGER NOT NULL,
    owner               INTEGER NOT NULL,
    kind                INTEGER NOT NULL,
    time_ns             INTEGER NOT NULL,
    busy_ns             INTEGER NOT NULL,
    memory_byte_seconds INTEGER NOT NULL,
    energy_uj           INTEGER NOT NULL,
    cost_nanos          INTEGER NOT NULL,
    unpriced_ns         INTEGER NOT NULL,
    -- first entry of the same key; 0 for that one itself
    corrects            INTEGER NOT NULL
);
CREATE INDEX entry_key ON entry (start, tenure, instance, owner, kind);

-- (slot, tenure) of closed slots whose rows differ from what is posted, or may.
CREATE TABLE unposted (
    start  INTEGER NOT NULL,
    tenure INTEGER NOT NULL,
    PRIMARY KEY (start, tenure)
) WITHOUT ROWID;

CREATE TABLE checkpoint (
    id              INTEGER PRIMARY KEY,
    at_ns           INTEGER NOT NULL,
    -- slots before this are closed
    closed_until_ns INTEGER NOT NULL,
    -- last entry of the journal that is in it
    journal         INTEGER NOT NULL,
    entries         INTEGER NOT NULL,
    -- SHA-256 over the previous hash and the entries that name this checkpoint
    hash            BLOB NOT NULL
);

-- Sums of all entries ever posted, in decimal: years of a fleet in slice-nanoseconds are more than 64 bits.
CREATE TABLE balance (
    owner       INTEGER NOT NULL,
    kind        INTEGER NOT NULL,
    time_ns     TEXT NOT NULL,
    cost_nanos  TEXT NOT NULL,
    unpriced_ns TEXT NOT NULL,
    PRIMARY KEY (owner, kind)
) WITHOUT ROWID;

-- What verification starts from after a purge; zstd, JSON.
CREATE TABLE opening (
    checkpoint INTEGER PRIMARY KEY,
    horizon_ns INTEGER NOT NULL,
    payload    BLOB NOT NULL
);

-- Who may do what only one may do.
CREATE TABLE lease (
    name     TEXT PRIMARY KEY,
    holder   TEXT NOT NULL,
    -- goes up with every change of hands
    fence    INTEGER NOT NULL,
    until_ns INTEGER NOT NULL
) WITHOUT ROWID;

-- Only hashes: a token is shown once, when it is made.
CREATE TABLE token (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    -- reader, gate, operator, admin; or node, with its cluster and node
    role       TEXT NOT NULL,
    cluster    TEXT NOT NULL DEFAULT '',
    node       TEXT NOT NULL DEFAULT '',
    sha256     BLOB NOT NULL UNIQUE,
    created_ns INTEGER NOT NULL
);
";
