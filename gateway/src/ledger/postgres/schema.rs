//! The tables in PostgreSQL: those of SQLite, and who holds what.

/// Steps to the current version: tables of version n get the steps from n on.
pub(super) const STEPS: [&str; 2] = [TABLES, PROMISES];
/// Version of the tables.
pub(super) const VERSION: i64 = STEPS.len() as i64;

/// Deadlines and their refunds, and how fast answers came.
const PROMISES: &str = "
DO $$
DECLARE old TEXT;
BEGIN
    FOR old IN SELECT conname FROM pg_constraint WHERE conrelid = 'transfers'::regclass AND contype = 'c'
               AND pg_get_constraintdef(oid) LIKE '%correct%' LOOP
        EXECUTE format('ALTER TABLE transfers DROP CONSTRAINT %I', old);
    END LOOP;
END $$;
ALTER TABLE transfers
    ADD CHECK (kind IN ('hold', 'extend', 'settle', 'void', 'grant', 'expire', 'correct', 'refund')),
    ADD CHECK ((credit_picos <> 0) = (kind IN ('grant', 'expire', 'correct', 'refund'))),
    ADD COLUMN deadline_ms BIGINT,
    ADD COLUMN wait_ms BIGINT CHECK (wait_ms IS NULL OR (wait_ms >= 0 AND kind = 'settle')),
    ADD COLUMN gap_us BIGINT CHECK (gap_us IS NULL OR (gap_us >= 0 AND wait_ms IS NOT NULL));
CREATE UNIQUE INDEX one_refund ON transfers (request_id) WHERE kind = 'refund';
UPDATE ledger_version SET version = 2;
";

/// The first version, which says so itself.
const TABLES: &str = "
CREATE TABLE ledger_version (version BIGINT NOT NULL);
INSERT INTO ledger_version VALUES (1);

-- The last row; whoever writes has it locked, so writers take turns and each knows all rows before its own.
CREATE TABLE ledger_head (
    one BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one), seq BIGINT NOT NULL, at_ms BIGINT NOT NULL, hash BYTEA NOT NULL
);
INSERT INTO ledger_head (seq, at_ms, hash) VALUES (0, 0, decode(repeat('00', 32), 'hex'));

CREATE TABLE transfers (
    seq BIGINT PRIMARY KEY CHECK (seq > 0),
    kind TEXT NOT NULL CHECK (kind IN ('hold', 'extend', 'settle', 'void', 'grant', 'expire', 'correct')),
    request_id TEXT NOT NULL,
    at_ms BIGINT NOT NULL,
    org_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    key_id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    tier TEXT NOT NULL,
    price_id TEXT NOT NULL,
    price_from_ms BIGINT NOT NULL,
    price_uncached_input BIGINT NOT NULL,
    price_cached_input BIGINT NOT NULL,
    price_output BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL CHECK (prompt_tokens >= 0),
    admitted_ms BIGINT NOT NULL,
    held_picos BIGINT NOT NULL CHECK (held_picos >= 0),
    released_picos BIGINT NOT NULL CHECK (released_picos >= cost_picos),
    uncached_input BIGINT NOT NULL CHECK (uncached_input >= 0),
    cached_input BIGINT NOT NULL CHECK (cached_input >= 0),
    output BIGINT NOT NULL CHECK (output >= 0),
    cost_uncached_input BIGINT NOT NULL,
    cost_cached_input BIGINT NOT NULL,
    cost_output BIGINT NOT NULL,
    cost_picos BIGINT NOT NULL CHECK (
        cost_picos >= 0 AND cost_picos = cost_uncached_input + cost_cached_input + cost_output),
    end_reason TEXT CHECK ((end_reason IS NOT NULL) = (kind = 'settle')),
    first_token_ms BIGINT,
    hash BYTEA NOT NULL CHECK (length(hash) = 32),
    org_name TEXT,
    project_name TEXT,
    key_name TEXT,
    end_user TEXT,
    tags TEXT,
    request_sha256 BYTEA CHECK (length(request_sha256) = 32),
    weights_sha256 BYTEA CHECK (length(weights_sha256) = 32),
    counted TEXT,
    credit_picos BIGINT NOT NULL DEFAULT 0 CHECK (
        (credit_picos <> 0) = (kind IN ('grant', 'expire', 'correct'))),
    expires_ms BIGINT CHECK (expires_ms IS NULL OR kind = 'grant'),
    note TEXT
);
CREATE UNIQUE INDEX one_hold ON transfers (request_id) WHERE kind = 'hold';
CREATE UNIQUE INDEX one_end ON transfers (request_id) WHERE kind IN ('settle', 'void');
CREATE UNIQUE INDEX one_credit ON transfers (request_id) WHERE kind IN ('grant', 'correct');

CREATE TABLE entries (
    seq BIGINT NOT NULL REFERENCES transfers (seq),
    line BIGINT NOT NULL,
    account TEXT NOT NULL,
    amount_picos BIGINT NOT NULL CHECK (amount_picos <> 0),
    PRIMARY KEY (seq, line)
);

CREATE FUNCTION ledger_append_only() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'append only'; END $$;
CREATE TRIGGER transfers_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only();
CREATE TRIGGER entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only();

-- The owner is the gateway that serves the request; while it lives it holds an advisory lock of this number.
CREATE TABLE open_holds (
    request_id TEXT PRIMARY KEY, seq BIGINT NOT NULL, held_picos BIGINT NOT NULL, owner BIGINT NOT NULL
);
CREATE TABLE checkpoints (
    request_id TEXT PRIMARY KEY,
    uncached_input BIGINT NOT NULL,
    cached_input BIGINT NOT NULL,
    output BIGINT NOT NULL,
    at_ms BIGINT NOT NULL
);
CREATE TABLE spent (
    scope TEXT NOT NULL, id TEXT NOT NULL, hour_ms BIGINT NOT NULL, picos BIGINT NOT NULL CHECK (picos > 0),
    PRIMARY KEY (scope, id, hour_ms)
);
CREATE TABLE credited (org_id TEXT PRIMARY KEY, picos BIGINT NOT NULL);
CREATE TABLE grants (
    seq BIGINT PRIMARY KEY, org_id TEXT NOT NULL, left_picos BIGINT NOT NULL CHECK (left_picos >= 0), expires_ms BIGINT
);
CREATE INDEX grants_left ON grants (org_id) WHERE left_picos > 0;
CREATE INDEX grants_due ON grants (expires_ms) WHERE left_picos > 0 AND expires_ms IS NOT NULL;
";
