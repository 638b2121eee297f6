//! The ledger's tables. `transfers` and `entries` are append only. Tables that change only keep what could be computed
//! from these, so that a start need not read them all: `open_holds` and `checkpoints` (a row per live request, gone when
//! it has ended), `spent` (by account and hour), `credited` and `grants` (what is left of credit). Each changes in the
//! transaction of its rows; `verify` computes them anew.

/// Steps to the current version: a file of version n gets the steps from n on.
pub(super) const STEPS: [&str; 4] = [FIRST, DETAILS, SUMS, PROMISES];
pub(super) const VERSION: i64 = STEPS.len() as i64;

/// Names of the triggers that keep rows from changing.
pub(super) const GUARDS: [&str; 4] =
    ["transfers_no_update", "transfers_no_delete", "entries_no_update", "entries_no_delete"];

const FIRST: &str = "
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
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;
CREATE UNIQUE INDEX one_hold ON transfers (request_id) WHERE kind = 'hold';
CREATE UNIQUE INDEX one_end ON transfers (request_id) WHERE kind IN ('settle', 'void');
CREATE INDEX settled_at ON transfers (at_ms) WHERE kind = 'settle';

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

/// Names, tags and hashes of a request.
const DETAILS: &str = "
ALTER TABLE transfers ADD COLUMN org_name TEXT;
ALTER TABLE transfers ADD COLUMN project_name TEXT;
ALTER TABLE transfers ADD COLUMN key_name TEXT;
ALTER TABLE transfers ADD COLUMN end_user TEXT;
ALTER TABLE transfers ADD COLUMN tags TEXT;
ALTER TABLE transfers ADD COLUMN request_sha256 BLOB CHECK (length(request_sha256) = 32);
ALTER TABLE transfers ADD COLUMN weights_sha256 BLOB CHECK (length(weights_sha256) = 32);
DROP INDEX settled_at;
CREATE INDEX settled_by_org ON transfers (org_id, at_ms) WHERE kind = 'settle';
";

/// Credit, and sums. A total is kept beside the hours, as hour -1. A cost belongs to the hour of its hold.
const SUMS: &str = "
CREATE TABLE transfers_3 (
    seq INTEGER PRIMARY KEY CHECK (seq > 0),
    kind TEXT NOT NULL CHECK (kind IN ('hold', 'extend', 'settle', 'void', 'grant', 'expire', 'correct')),
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
    weights_sha256 BLOB CHECK (length(weights_sha256) = 32),
    counted TEXT,
    credit_picos INTEGER NOT NULL DEFAULT 0 CHECK (
        (credit_picos <> 0) = (kind IN ('grant', 'expire', 'correct'))),
    expires_ms INTEGER CHECK (expires_ms IS NULL OR kind = 'grant'),
    note TEXT
) STRICT;
INSERT INTO transfers_3 SELECT *, NULL, 0, NULL, NULL FROM transfers;
DROP TABLE transfers;
ALTER TABLE transfers_3 RENAME TO transfers;
CREATE UNIQUE INDEX one_hold ON transfers (request_id) WHERE kind = 'hold';
CREATE UNIQUE INDEX one_end ON transfers (request_id) WHERE kind IN ('settle', 'void');
CREATE UNIQUE INDEX one_credit ON transfers (request_id) WHERE kind IN ('grant', 'correct');
CREATE INDEX settled_by_org ON transfers (org_id, at_ms) WHERE kind = 'settle';
CREATE TRIGGER transfers_no_update BEFORE UPDATE ON transfers BEGIN SELECT raise(ABORT, 'append only'); END;
CREATE TRIGGER transfers_no_delete BEFORE DELETE ON transfers BEGIN SELECT raise(ABORT, 'append only'); END;

CREATE TABLE open_holds (
    request_id TEXT PRIMARY KEY, seq INTEGER NOT NULL, held_picos INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO open_holds SELECT request_id, min(seq), sum(held_picos) FROM transfers t WHERE NOT EXISTS (
    SELECT 1 FROM transfers e WHERE e.request_id = t.request_id AND e.kind IN ('settle', 'void')) GROUP BY request_id;

CREATE TABLE spent (
    scope TEXT NOT NULL, id TEXT NOT NULL, hour_ms INTEGER NOT NULL, picos INTEGER NOT NULL CHECK (picos > 0),
    PRIMARY KEY (scope, id, hour_ms)
) STRICT, WITHOUT ROWID;
INSERT INTO spent
    WITH cost AS (
        SELECT s.key_id, s.project_id, s.org_id, h.at_ms / 3600000 * 3600000 AS hour_ms, s.cost_picos AS picos
        FROM transfers s JOIN transfers h ON h.request_id = s.request_id AND h.kind = 'hold'
        WHERE s.kind = 'settle' AND s.cost_picos > 0),
    by_account AS (
        SELECT 'key' AS scope, key_id AS id, hour_ms, picos FROM cost
        UNION ALL SELECT 'project', project_id, hour_ms, picos FROM cost
        UNION ALL SELECT 'organisation', org_id, hour_ms, picos FROM cost)
    SELECT scope, id, hour_ms, sum(picos) FROM by_account GROUP BY scope, id, hour_ms
    UNION ALL SELECT scope, id, -1, sum(picos) FROM by_account GROUP BY scope, id;

CREATE TABLE credited (org_id TEXT PRIMARY KEY, picos INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE grants (
    seq INTEGER PRIMARY KEY, org_id TEXT NOT NULL, left_picos INTEGER NOT NULL CHECK (left_picos >= 0), expires_ms INTEGER
) STRICT;
CREATE INDEX grants_left ON grants (org_id) WHERE left_picos > 0;
CREATE INDEX grants_due ON grants (expires_ms) WHERE left_picos > 0 AND expires_ms IS NOT NULL;
";

/// Deadlines and their refunds, and how fast answers came.
const PROMISES: &str = "
CREATE TABLE transfers_4 (
    seq INTEGER PRIMARY KEY CHECK (seq > 0),
    kind TEXT NOT NULL CHECK (kind IN ('hold', 'extend', 'settle', 'void', 'grant', 'expire', 'correct', 'refund')),
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
    weights_sha256 BLOB CHECK (length(weights_sha256) = 32),
    counted TEXT,
    credit_picos INTEGER NOT NULL DEFAULT 0 CHECK (
        (credit_picos <> 0) = (kind IN ('grant', 'expire', 'correct', 'refund'))),
    expires_ms INTEGER CHECK (expires_ms IS NULL OR kind = 'grant'),
    note TEXT,
    deadline_ms INTEGER,
    wait_ms INTEGER CHECK (wait_ms IS NULL OR (wait_ms >= 0 AND kind = 'settle')),
    gap_us INTEGER CHECK (gap_us IS NULL OR (gap_us >= 0 AND wait_ms IS NOT NULL))
) STRICT;
INSERT INTO transfers_4 SELECT *, NULL, NULL, NULL FROM transfers;
DROP TABLE transfers;
ALTER TABLE transfers_4 RENAME TO transfers;
CREATE UNIQUE INDEX one_hold ON transfers (request_id) WHERE kind = 'hold';
CREATE UNIQUE INDEX one_end ON transfers (request_id) WHERE kind IN ('settle', 'void');
CREATE UNIQUE INDEX one_credit ON transfers (request_id) WHERE kind IN ('grant', 'correct');
CREATE UNIQUE INDEX one_refund ON transfers (request_id) WHERE kind = 'refund';
CREATE INDEX settled_by_org ON transfers (org_id, at_ms) WHERE kind = 'settle';
CREATE TRIGGER transfers_no_update BEFORE UPDATE ON transfers BEGIN SELECT raise(ABORT, 'append only'); END;
CREATE TRIGGER transfers_no_delete BEFORE DELETE ON transfers BEGIN SELECT raise(ABORT, 'append only'); END;
";

/// The columns of a [`super::row::Transfer`], in the order that reading and writing use.
pub(super) const COLUMNS: &str = "seq, kind, request_id, at_ms, org_id, project_id, key_id, endpoint, model, tier,
 price_id, price_from_ms, price_uncached_input, price_cached_input, price_output, prompt_tokens, admitted_ms,
 held_picos, released_picos, uncached_input, cached_input, output, cost_uncached_input, cost_cached_input, cost_output,
 cost_picos, end_reason, first_token_ms, hash, org_name, project_name, key_name, end_user, tags, request_sha256,
 weights_sha256, counted, credit_picos, expires_ms, note, deadline_ms, wait_ms, gap_us";
