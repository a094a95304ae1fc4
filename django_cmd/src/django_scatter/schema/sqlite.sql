-- Control tables of Scatter in the target database, format 1. Used by scatter-plan, the workers, the Django migration
-- and the tests alike. Every statement may run again on a database that has the tables.
-- SQLite dialect: times are ISO 8601 text in UTC, lease_until is Unix seconds.
-- Counts: planned = ok + unchanged + stale + skipped + quarantined + remaining, with
-- ok = position - (unchanged + stale + skipped + quarantined) and remaining = records - position, per batch.
CREATE TABLE IF NOT EXISTS scatter_plan (
    plan          text PRIMARY KEY,
    format        integer NOT NULL DEFAULT 1,
    migration     text NOT NULL,
    table_name    text NOT NULL,
    key_column    text NOT NULL,
    columns       text NOT NULL DEFAULT '[]',
    state         text NOT NULL DEFAULT 'planned'
                  CHECK (state IN ('planned', 'queued', 'running', 'paused', 'finished', 'failed', 'cancelled')),
    store         text NOT NULL,
    queue         text NOT NULL,
    database      text NOT NULL,
    query         text NOT NULL DEFAULT '',
    params        text NOT NULL DEFAULT '{}',
    on_batch      text,
    on_finish     text,
    retry_on      text,
    total         integer NOT NULL,
    n_batches     integer NOT NULL,
    created_by    text NOT NULL DEFAULT '',
    created_at    text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    started_at    text,
    finished_at   text
);
CREATE TABLE IF NOT EXISTS scatter_batch (
    plan          text NOT NULL REFERENCES scatter_plan (plan) ON DELETE CASCADE,
    batch         integer NOT NULL,
    source        text NOT NULL,
    sha256        text NOT NULL,
    records       integer NOT NULL,
    state         text NOT NULL DEFAULT 'planned'
                  CHECK (state IN ('planned', 'queued', 'running', 'parked', 'done', 'failed', 'cancelled')),
    position      integer NOT NULL DEFAULT 0,
    unchanged     integer NOT NULL DEFAULT 0,
    stale         integer NOT NULL DEFAULT 0,
    skipped       integer NOT NULL DEFAULT 0,
    quarantined   integer NOT NULL DEFAULT 0,
    lease_token   integer NOT NULL DEFAULT 0,
    lease_until   real,
    owner         text,
    worker        text,
    attempts      integer NOT NULL DEFAULT 0,
    error         text,
    started_at    text,
    finished_at   text,
    PRIMARY KEY (plan, batch),
    CHECK (position BETWEEN 0 AND records),
    CHECK (unchanged + stale + skipped + quarantined <= position)
);
CREATE TABLE IF NOT EXISTS scatter_outcome (
    plan          text NOT NULL,
    batch         integer NOT NULL,
    position      integer NOT NULL,
    record_key    text NOT NULL,
    outcome       text NOT NULL CHECK (outcome IN ('stale', 'skipped', 'quarantined')),
    error_class   text,
    sqlstate      text,
    message       text,
    attempts      integer NOT NULL DEFAULT 1,
    worker        text,
    at            text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (plan, batch, position),
    FOREIGN KEY (plan, batch) REFERENCES scatter_batch (plan, batch) ON DELETE CASCADE
);
-- Records finished by each worker of each batch: who did how much, also across a takeover.
CREATE TABLE IF NOT EXISTS scatter_share (
    plan          text NOT NULL,
    batch         integer NOT NULL,
    worker        text NOT NULL,
    records       integer NOT NULL DEFAULT 0,
    PRIMARY KEY (plan, batch, worker),
    FOREIGN KEY (plan, batch) REFERENCES scatter_batch (plan, batch) ON DELETE CASCADE
);
CREATE TABLE IF NOT EXISTS scatter_event (
    id            integer PRIMARY KEY,
    plan          text NOT NULL,
    batch         integer,
    at            text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    who           text NOT NULL,
    event         text NOT NULL,
    detail        text NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS scatter_event_plan ON scatter_event (plan, id);
