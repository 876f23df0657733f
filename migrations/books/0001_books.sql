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

-- One row a result message, in the order of projection. No key and no index: written by appending only.
CREATE TABLE projector_results (
    incarnation  INTEGER NOT NULL,
    stream_seq   INTEGER NOT NULL,
    published_ns INTEGER NOT NULL,  -- nanoseconds since 1970
    result_id    TEXT NOT NULL,
    pc_id        TEXT NOT NULL,     -- the message's own; the row's may come from the start event
    job_id       TEXT
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
