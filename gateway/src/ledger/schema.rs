//! The ledger's tables. `transfers` and `entries` are append only; `checkpoints` is the one table that changes: a row
//! per live stream, gone when the request has ended.

pub(super) const VERSION: i64 = 2;

/// What brings a ledger of version n + 1 to version n + 2; the last element makes the current one.
pub(super) const MIGRATIONS: [&str; 1] = ["
ALTER TABLE transfers ADD COLUMN org_name TEXT;
ALTER TABLE transfers ADD COLUMN project_name TEXT;
ALTER TABLE transfers ADD COLUMN key_name TEXT;
ALTER TABLE transfers ADD COLUMN end_user TEXT;
ALTER TABLE transfers ADD COLUMN tags TEXT;
ALTER TABLE transfers ADD COLUMN request_sha256 BLOB CHECK (length(request_sha256) = 32);
ALTER TABLE transfers ADD COLUMN weights_sha256 BLOB CHECK (length(weights_sha256) = 32);
DROP INDEX settled_at;
CREATE INDEX settled_by_org ON transfers (org_id, at_ms) WHERE kind = 'settle';
"];

/// Names of the triggers that keep rows from changing.
pub(super) const GUARDS: [&str; 4] =
    ["transfers_no_update", "transfers_no_delete", "entries_no_update", "entries_no_delete"];

pub(super) const TABLES: &str = "
CREATE TABLE transfers (
    seq INTEGER PRIMARY KEY CHECK (seq > 0),
    kind TEXT NOT NULL CHECK (kind IN ('hold', 'extend', 'settle', 'void')),
    request_id TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    org_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    tier TEXT NOT NULL,
    price_id TEXT NOT NULL,
    price_from_ms INTEGER NOT NULL,
    price_uncached_input INTEGER NOT NULL,
    price_cached_input INTEGER NOT NULL,
    price_output INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL CHECK (prompt_tokens >= 0),
    admitted_ms INTEGER NOT NULL,
    held_picos INTEGER NOT NULL CHECK (held_picos >= 0),
    released_picos INTEGER NOT NULL CHECK (released_picos >= cost_picos),
    uncached_input INTEGER NOT NULL CHECK (uncached_input >= 0),
    cached_input INTEGER NOT NULL CHECK (cached_input >= 0),
    output INTEGER NOT NULL CHECK (output >= 0),
    cost_uncached_input INTEGER NOT NULL,
    cost_cached_input INTEGER NOT NULL,
    cost_output INTEGER NOT NULL,
    cost_picos INTEGER NOT NULL CHECK (
        cost_picos >= 0 AND cost_picos = cost_uncached_input + cost_cached_input + cost_output),
    end_reason TEXT CHECK ((end_reason IS NOT NULL) = (kind = 'settle')),
    first_token_ms INTEGER,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    org_name TEXT,
    project_name TEXT,
    key_name TEXT,
    end_user TEXT,
    tags TEXT,
    request_sha256 BLOB CHECK (length(request_sha256) = 32),
    weights_sha256 BLOB CHECK (length(weights_sha256) = 32)
) STRICT;
CREATE UNIQUE INDEX one_hold ON transfers (request_id) WHERE kind = 'hold';
CREATE UNIQUE INDEX one_end ON transfers (request_id) WHERE kind IN ('settle', 'void');
CREATE INDEX settled_by_org ON transfers (org_id, at_ms) WHERE kind = 'settle';

CREATE TABLE entries (
    seq INTEGER NOT NULL REFERENCES transfers (seq),
    line INTEGER NOT NULL,
    account TEXT NOT NULL,
    amount_picos INTEGER NOT NULL CHECK (amount_picos <> 0),
    PRIMARY KEY (seq, line)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
    request_id TEXT PRIMARY KEY,
    uncached_input INTEGER NOT NULL,
    cached_input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER transfers_no_update BEFORE UPDATE ON transfers BEGIN SELECT raise(ABORT, 'append only'); END;
CREATE TRIGGER transfers_no_delete BEFORE DELETE ON transfers BEGIN SELECT raise(ABORT, 'append only'); END;
CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries BEGIN SELECT raise(ABORT, 'append only'); END;
CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries BEGIN SELECT raise(ABORT, 'append only'); END;
";

/// The columns of a [`super::row::Transfer`], in the order that reading and writing use.
pub(super) const COLUMNS: &str = "seq, kind, request_id, at_ms, org_id, project_id, key_id, endpoint, model, tier,
 price_id, price_from_ms, price_uncached_input, price_cached_input, price_output, prompt_tokens, admitted_ms,
 held_picos, released_picos, uncached_input, cached_input, output, cost_uncached_input, cost_cached_input, cost_output,
 cost_picos, end_reason, first_token_ms, hash, org_name, project_name, key_name, end_user, tags, request_sha256,
 weights_sha256";
