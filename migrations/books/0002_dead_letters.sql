-- The dead-letter book in another order: a flood of malformed messages makes it long, and what is asked of it must not
-- become slow with that. A message is found by its sequence alone, whichever life of the sequences it was kept in; what
-- is counted and listed stands before what may be long.
ALTER TABLE projector_dead_letters RENAME TO projector_dead_letters_before;
CREATE TABLE projector_dead_letters (
    stream        TEXT NOT NULL,
    incarnation   INTEGER NOT NULL,
    stream_seq    INTEGER NOT NULL,
    subject       TEXT NOT NULL,
    published_at  TEXT NOT NULL,
    reason        TEXT NOT NULL,
    sha256        TEXT NOT NULL,    -- of the payload, lower-case hexadecimal
    state         TEXT NOT NULL CHECK (state IN ('kept', 'discarded')),
    payload_bytes INTEGER NOT NULL,
    headers       TEXT,             -- JSON: name -> values; NULL when there were none
    payload       BLOB,             -- NULL, as the headers, beyond dead_letters.max_bytes: the stream still holds both
    PRIMARY KEY (stream, stream_seq, incarnation)
) STRICT;
INSERT INTO projector_dead_letters (stream, incarnation, stream_seq, subject, published_at, reason, sha256, state,
    payload_bytes, headers, payload)
SELECT stream, incarnation, stream_seq, subject, published_at, reason, sha256, state, payload_bytes, headers, payload
FROM projector_dead_letters_before ORDER BY stream, stream_seq, incarnation;
DROP TABLE projector_dead_letters_before;
