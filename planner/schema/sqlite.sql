-- Control tables of Scatter in the target database, format 1. Used by scatter-plan, the workers, the Django migration
-- and the tests alike. Every statement may run again on a database that has the tables.
-- SQLite dialect: times are ISO 8601 text in UTC; lease_until, window_*, resume_at and beat_at are Unix seconds.
-- Counts: planned = ok + unchanged + stale + skipped + quarantined + remaining, with
-- ok = position - (unchanged + stale + skipped + quarantined) and remaining = records - position, per batch.
CREATE TABLE IF NOT EXISTS scatter_plan (
    plan          text PRIMARY KEY,
    format        integer NOT NULL DEFAULT 1,
    migration     text NOT NULL,
    table_name    text NOT NULL,
    key_column    text NOT NULL,
    columns       text NOT NULL DEFAULT '[]',
    kind          text NOT NULL DEFAULT 'migrate' CHECK (kind IN ('migrate', 'redrive', 'undo', 'topup')),
    parent        text REFERENCES scatter_plan (plan) ON DELETE SET NULL,
    state         text NOT NULL DEFAULT 'planned'
                  CHECK (state IN ('planned', 'queued', 'running', 'draining', 'paused', 'finished', 'failed',
                                   'cancelled')),
    reason        text,                     -- why it is paused or failed, for people
    store         text NOT NULL,
    queue         text NOT NULL,
    database      text NOT NULL,
    query         text NOT NULL DEFAULT '',
    params        text NOT NULL DEFAULT '{}',
    on_planned    text,                     -- callbacks: a task's name, or a signature as JSON
    on_batch      text,
    on_paused     text,
    on_failed     text,
    on_finish     text,
    retry_on      text,
    policy        text,                     -- JSON: SQLSTATE, its class or an exception -> retry, quarantine, fail
    max_quarantined integer,                 -- records of the plan; one more pauses it
    max_quarantined_batch integer,
    max_failure_rate real,                -- of the last 1,000 records tried; more pauses the plan
    canary        integer,                   -- so many records, then paused until somebody resumes
    canary_at     text,                     -- when they were done
    -- obeyed by every worker at its next chunk
    rate          real,                   -- records a second of all workers together
    chunk_ms      integer,
    max_workers   integer,                  -- batches at a time
    windows       text,                     -- JSON: when it may run
    window_ends   real,                 -- of the window it is in; behind it no worker goes on
    window_next   real,                 -- when the next one begins
    resume_at     real,                 -- paused until then; NULL: until somebody resumes it
    -- SQL migrations: the expressions; what the migration called itself
    statement     text,
    version       text,
    total         integer NOT NULL,
    n_batches     integer NOT NULL,
    verification  text,                     -- JSON of the last verification
    verified_at   text,
    report_sha256 text,                     -- of the report's manifest
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
    failed_at     integer,                   -- position of the record that stopped it last
    failed_times  integer NOT NULL DEFAULT 0, -- how often in a row
    error         text,
    driven_by     text,                     -- failed: the re-drive that has what was left of it
    throttled_ms  integer NOT NULL DEFAULT 0,
    sent_at       text,                     -- of its last message
    started_at    text,
    finished_at   text,
    PRIMARY KEY (plan, batch),
    CHECK (position BETWEEN 0 AND records),
    CHECK (unchanged + stale + skipped + quarantined <= position)
);
CREATE INDEX IF NOT EXISTS scatter_batch_running ON scatter_batch (plan) WHERE state = 'running';
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
    driven_by     text,                     -- the re-drive that has it, and where in it
    driven_batch  integer,
    driven_position integer,
    resolved_by   text,                     -- the plan that did it later; 'gone': there is no such row any more
    at            text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (plan, batch, position),
    FOREIGN KEY (plan, batch) REFERENCES scatter_batch (plan, batch) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS scatter_outcome_driven ON scatter_outcome (driven_by) WHERE driven_by IS NOT NULL;
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
-- Callbacks that are to be sent, written with the change of state that they tell of. A fixed task id makes it harmless to
-- send one twice.
CREATE TABLE IF NOT EXISTS scatter_outbox (
    id            integer PRIMARY KEY,
    plan          text NOT NULL REFERENCES scatter_plan (plan) ON DELETE CASCADE,
    batch         integer,
    event         text NOT NULL CHECK (event IN ('planned', 'batch', 'paused', 'failed', 'finished')),
    signature     text NOT NULL,
    kwargs        text NOT NULL,
    task_id       text NOT NULL UNIQUE,
    created_at    text NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    tried_at      text,                     -- taken by a sender
    sent_at       text,
    attempts      integer NOT NULL DEFAULT 0,
    error         text
);
CREATE INDEX IF NOT EXISTS scatter_outbox_open ON scatter_outbox (id) WHERE sent_at IS NULL;
-- One row: how much the migrations of this database may do together, and why. Written by whoever is governor now.
CREATE TABLE IF NOT EXISTS scatter_governor (
    id            integer PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    stopped       integer NOT NULL DEFAULT 0,    -- everything on this database stands still
    rate          real,                   -- records a second of all plans together; NULL: no limit
    floor_rate    real NOT NULL DEFAULT 100, -- of all together while the governor is silent
    pressure      real NOT NULL DEFAULT 0,
    reason        text NOT NULL DEFAULT '',
    sensors       text NOT NULL DEFAULT '{}',
    limits        text NOT NULL DEFAULT '{}',
    holder        text,
    beat_at       real
);
INSERT INTO scatter_governor (id) VALUES (1) ON CONFLICT (id) DO NOTHING;
