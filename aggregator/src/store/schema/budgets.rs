//! Tables of accounts, holds, grants, alerts and jobs without GPUs.

pub(super) const CREATE: &str = "
-- Accounts of budgets; what is said of one as JSON of budgets::Spec, without its bindings.
CREATE TABLE account (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    json       TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL,
    closed_ns  INTEGER
);

-- Usage that is an account's from a slot on and until another; as JSON of budgets::Selector.
CREATE TABLE binding (
    id      INTEGER PRIMARY KEY,
    account INTEGER NOT NULL,
    json    TEXT NOT NULL,
    from_ns INTEGER NOT NULL,
    -- 2^63 - 1 while it is in force
    to_ns   INTEGER NOT NULL
);
CREATE INDEX binding_account ON binding (account);

-- Holds, and checks that were refused.
CREATE TABLE hold (
    -- entry of the journal that made it
    id              INTEGER PRIMARY KEY,
    transaction_id  BLOB NOT NULL UNIQUE,
    -- the caller's name for the request; empty if it gave none
    key             TEXT NOT NULL,
    account         INTEGER NOT NULL,
    -- what was asked, as JSON of budgets::Ask
    ask             TEXT NOT NULL,
    cluster         TEXT NOT NULL,
    -- 0 none, 1 a job of Slurm, 2 a pod; and its id
    subject_kind    INTEGER NOT NULL,
    subject         TEXT NOT NULL,
    -- NULL = unpriced
    cost_nanos      INTEGER,
    amount_nanos    INTEGER NOT NULL,
    -- what slots from from_ns on charge for its job while it is open
    charged_nanos   INTEGER NOT NULL,
    from_ns         INTEGER NOT NULL,
    until_ns        INTEGER NOT NULL,
    -- budgets::State
    state           INTEGER NOT NULL,
    -- why it was refused, as JSON; else empty
    refusal         TEXT NOT NULL,
    -- what was left in the tightest limit; NULL without any
    available_nanos INTEGER,
    created_ns      INTEGER NOT NULL,
    -- 0 while it is open
    ended_ns        INTEGER NOT NULL,
    -- what the check found besides, as JSON of budgets::Found; empty of those of earlier versions
    found           TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX hold_key ON hold (key) WHERE key <> '';
CREATE UNIQUE INDEX hold_subject ON hold (cluster, subject_kind, subject) WHERE state = 0 AND subject_kind <> 0;
CREATE INDEX hold_of ON hold (subject, id);
CREATE INDEX hold_state ON hold (state, id);
CREATE INDEX hold_ended ON hold (account, state, ended_ns);

-- Jobs that a hold is also of: tasks of its array, under ids of their own.
CREATE TABLE hold_task (hold INTEGER NOT NULL, job_id TEXT NOT NULL, PRIMARY KEY (hold, job_id)) WITHOUT ROWID;
CREATE INDEX hold_task_job ON hold_task (job_id);

-- What was reported of jobs (budgets::Report), once of each hold, or of a job without one; no part of the ledger.
CREATE TABLE report (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, at_ns INTEGER NOT NULL, outcome INTEGER NOT NULL, json TEXT NOT NULL
);

-- Grants; what is said of one as JSON of budgets::Grant.
CREATE TABLE award (
    id         INTEGER PRIMARY KEY,
    number     TEXT NOT NULL UNIQUE,
    json       TEXT NOT NULL,
    created_ns INTEGER NOT NULL, updated_ns INTEGER NOT NULL, closed_ns INTEGER
);

-- What somebody is to know; no part of the ledger.
CREATE TABLE alert (
    id              INTEGER PRIMARY KEY,
    -- of the finding, and of its period
    key             TEXT NOT NULL,
    account         TEXT NOT NULL,
    -- model::Finding
    json            TEXT NOT NULL,
    -- model::AlertState
    state           INTEGER NOT NULL,
    triggered_ns    INTEGER NOT NULL,
    -- since when it has not been found; these are 0 where it is not so
    missing_ns      INTEGER NOT NULL,
    acknowledged_ns INTEGER NOT NULL,
    acknowledged_by TEXT NOT NULL,
    notes           TEXT NOT NULL,
    resolved_ns     INTEGER NOT NULL
);
CREATE UNIQUE INDEX alert_key ON alert (key) WHERE state <> 2;

-- Who is to be told of it.
CREATE TABLE delivery (
    id         INTEGER PRIMARY KEY,
    alert      INTEGER NOT NULL,
    -- model::Event
    event      INTEGER NOT NULL,
    channel    TEXT NOT NULL,
    attempts   INTEGER NOT NULL,
    created_ns INTEGER NOT NULL,
    next_ns    INTEGER NOT NULL,
    -- 0 while it waits
    done_ns    INTEGER NOT NULL,
    -- of the last try; empty if it was told at once
    error      TEXT NOT NULL
);
CREATE INDEX delivery_due ON delivery (next_ns) WHERE done_ns = 0;
CREATE INDEX delivery_alert ON delivery (alert, channel, id);

-- What jobs without GPUs ran for, each start of one as it was last stated; as JSON of budgets::run::Run.
CREATE TABLE job_run (
    cluster TEXT NOT NULL, job_id TEXT NOT NULL, start_s INTEGER NOT NULL, end_s INTEGER NOT NULL,
    ended INTEGER NOT NULL, json TEXT NOT NULL, PRIMARY KEY (cluster, job_id, start_s)
) WITHOUT ROWID;
CREATE INDEX job_run_end ON job_run (cluster, ended, end_s);
-- Until when everything is stated of a cluster's jobs.
CREATE TABLE job_report (cluster TEXT PRIMARY KEY, until_s INTEGER NOT NULL) WITHOUT ROWID;
";
