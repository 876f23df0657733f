-- The projector's books. No wall clock except in columns that end in `_wall`.

-- Per stream and incarnation (one life of a stream's sequences): how far, and what became of every sequence:
-- projected + dead + ignored + gap = position - first + 1.
CREATE TABLE projector_position (
    stream       TEXT NOT NULL,
    incarnation  INTEGER NOT NULL,
    first        INTEGER NOT NULL,
    position     INTEGER NOT NULL,
    published_at TEXT,              -- of the message at the position; NULL where there is none (a gap, the start)
    subject_hash TEXT,
    projected    INTEGER NOT NULL,
    dead         INTEGER NOT NULL,
    ignored      INTEGER NOT NULL,
    gap          INTEGER NOT NULL,
    past         TEXT NOT NULL,     -- JSON: earlier positions, newest first, exponentially spaced
    PRIMARY KEY (stream, incarnation)
) STRICT;

CREATE TABLE projector_gaps (
    stream      TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    first_seq   INTEGER NOT NULL,
    last_seq    INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    PRIMARY KEY (stream, incarnation, first_seq)
) STRICT, WITHOUT ROWID;

-- One row a result message, in the order of projection: what a pair (PC and job) is derived from, again if need be.
-- No index besides the row's own number: written by appending only.
CREATE TABLE projector_results (
    entry        INTEGER PRIMARY KEY,
    incarnation  INTEGER NOT NULL,
    stream_seq   INTEGER NOT NULL,
    published_ns INTEGER NOT NULL,  -- nanoseconds since 1970
    result_id    TEXT NOT NULL,
    pc_id        TEXT NOT NULL,     -- the message's own; the row's may come from the start event
    job_id       TEXT,
    counts       INTEGER NOT NULL,  -- 0: a duplicate, which changed nothing
    evidence     INTEGER NOT NULL   -- 0: a check learns nothing from it (contract §3.3)
) STRICT;

CREATE TABLE projector_dead_letters (
    stream       TEXT NOT NULL,
    incarnation  INTEGER NOT NULL,
    stream_seq   INTEGER NOT NULL,
    subject      TEXT NOT NULL,
    published_at TEXT NOT NULL,
    reason       TEXT NOT NULL,
    headers      TEXT,              -- JSON: name -> values; NULL when there were none
    payload      BLOB,              -- NULL beyond dead_letters.max_bytes: the stream still holds it
    payload_bytes INTEGER NOT NULL,
    sha256       TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('kept', 'discarded')),
    PRIMARY KEY (stream, incarnation, stream_seq)
) STRICT;

CREATE TABLE projector_outputs (
    result_id     TEXT NOT NULL,
    field         TEXT NOT NULL CHECK (field IN ('stdout', 'stderr')),
    entry         INTEGER NOT NULL, -- of its message in projector_results
    mended        INTEGER NOT NULL, -- 1: the row is the backend's, whose projector did not get this output
    object        TEXT NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('fetched', 'pending', 'gone', 'too_large', 'refused')),
    reason        TEXT,
    attempts      INTEGER NOT NULL,
    published_at  TEXT NOT NULL,
    size_bytes    INTEGER,          -- of what was fetched; of a too large one as its metadata says
    sha256        TEXT,             -- of what was fetched, lower-case hexadecimal
    since_wall    TEXT,             -- when it was first found missing
    next_try_wall TEXT,             -- when the repairer asks again; NULL: never by itself
    PRIMARY KEY (result_id, field)
) STRICT, WITHOUT ROWID;
CREATE INDEX projector_outputs_due ON projector_outputs (next_try_wall) WHERE next_try_wall IS NOT NULL;
CREATE INDEX projector_outputs_missing ON projector_outputs (state) WHERE state <> 'fetched';

-- Per pair whose job has hints: the hints it was derived under, and whether later results must wait.
CREATE TABLE projector_derivations (
    job_id      TEXT NOT NULL,
    pc_id       TEXT NOT NULL,
    hints_hash  TEXT NOT NULL,
    first_entry INTEGER NOT NULL,  -- the first result derived, in projector_results; 0: others may have derived older ones
    state       TEXT NOT NULL CHECK (state IN ('settled', 'waiting', 'due')),
    PRIMARY KEY (job_id, pc_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX projector_derivations_open ON projector_derivations (state) WHERE state <> 'settled';

-- The results of a pair whose hints wait, in the order in which they will be applied.
CREATE TABLE projector_waiting (
    job_id TEXT NOT NULL,
    pc_id  TEXT NOT NULL,
    entry  INTEGER NOT NULL,
    PRIMARY KEY (job_id, pc_id, entry)
) STRICT, WITHOUT ROWID;

-- Parts of good messages that could not be projected: per pair and part the newest, gone once the part succeeds.
CREATE TABLE projector_issues (
    job_id      TEXT NOT NULL,
    pc_id       TEXT NOT NULL,
    part        TEXT NOT NULL,
    code        TEXT NOT NULL,
    stream      TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    stream_seq  INTEGER NOT NULL,
    result_id   TEXT NOT NULL,
    reason      TEXT NOT NULL,
    PRIMARY KEY (job_id, pc_id, part, code)
) STRICT, WITHOUT ROWID;

-- Executions that were seen before their row (contract §7.3).
CREATE TABLE projector_unsettled (
    exec_id    TEXT PRIMARY KEY,
    since_wall TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The results met so far in the first pass over an adopted file; empty once that is over.
CREATE TABLE projector_first_pass (
    result_id TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
