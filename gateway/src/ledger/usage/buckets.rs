//! Usage over a row of equal stretches of time, for the usage and costs endpoints.

use std::path::Path;

use rusqlite::Row;
use rusqlite::types::Value;

use crate::ledger::reader;
use crate::ledger::types::LedgerError;
use crate::money::Picos;

/// What lines may be told apart by, or restricted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// Project.
    Project,
    /// The caller's end user.
    User,
    /// API key.
    Key,
    /// Model.
    Model,
    /// Service tier.
    Tier,
}

impl Dimension {
    fn column(self) -> &'static str {
        match self {
            Dimension::Project => "project_id",
            Dimension::User => "end_user",
            Dimension::Key => "key_id",
            Dimension::Model => "model",
            Dimension::Tier => "tier",
        }
    }
}

/// True of what is paid for the holding of capacity.
const HOLDING: &str = "endpoint = '/v1/capacity/leases'";

/// Kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Whatever generates text.
    Completions,
    /// Embeddings.
    Embeddings,
    /// Both.
    All,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Whose requests.
    pub org_id: String,
    /// Kind of request.
    pub served: Served,
    /// First instant of the first bucket, Unix milliseconds; a multiple of the width.
    pub from_ms: u64,
    /// First instant after the last request counted.
    pub to_ms: u64,
    /// Length of a bucket, milliseconds.
    pub width_ms: u64,
    /// What to tell apart.
    pub group_by: Vec<Dimension>,
    /// Only these values.
    pub only: Vec<(Dimension, Vec<String>)>,
    /// Most lines of the answer.
    pub max_lines: usize,
}

/// One line: a bucket's requests that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// First instant of the bucket.
    pub from_ms: u64,
    /// Value of each dimension of `group_by`.
    pub group: Vec<Option<String>>,
    /// Settled requests.
    pub requests: u64,
    /// Unit-hours of capacity held, and their cost; apart from the classes of tokens.
    pub held: (u64, Picos),
    /// Tokens and cost by class: uncached input, cached input, output.
    pub classes: [(u64, Picos); 3],
}

/// How far an answer reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// Last row of the ledger that was seen.
    pub sequence: i64,
    /// Buckets that end by then get no further row, Unix milliseconds.
    pub complete_until_ms: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Too fine a question.
    #[error("more than {0} lines")]
    TooMany(usize),
}

/// The lines in the order of time and groups, and how far they reach.
pub fn answer(dir: &Path, question: &Question) -> Result<(Vec<Line>, Watermark), AnswerError> {
    let db = reader::open(dir)?;
    let head = "SELECT coalesce(max(seq), 0), coalesce(max(at_ms), 0) FROM
                (SELECT seq, at_ms FROM transfers ORDER BY seq DESC LIMIT 1)";
    let watermark = db
        .query_row(head, [], |row| Ok(Watermark { sequence: row.get(0)?, complete_until_ms: row.get(1)? }))
        .map_err(LedgerError::from)?;
    let (sql, values) = statement(question);
    let mut statement = db.prepare(&sql).map_err(LedgerError::from)?;
    let lines = statement
        .query_map(rusqlite::params_from_iter(values), |row| line(row, question))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>)
        .map_err(LedgerError::from)?;
    if lines.len() > question.max_lines {
        return Err(AnswerError::TooMany(question.max_lines));
    }
    Ok((lines, watermark))
}

/// The query, which walks the index by organisation and time; every value is a bound parameter.
fn statement(question: &Question) -> (String, Vec<Value>) {
    let integer = |value: u64| Value::Integer(i64::try_from(value).unwrap_or(i64::MAX));
    let mut values = vec![
        integer(question.width_ms),
        Value::Text(question.org_id.clone()),
        integer(question.from_ms),
        integer(question.to_ms),
        integer(question.max_lines as u64 + 1),
    ];
    let mut conditions = String::new();
    match question.served {
        Served::Completions => {
            conditions.push_str(" AND endpoint NOT IN ('/v1/embeddings', '/v1/capacity/leases')")
        }
        Served::Embeddings => conditions.push_str(" AND endpoint = '/v1/embeddings'"),
        Served::All => {}
    }
    for (dimension, wanted) in &question.only {
        let places: Vec<_> = wanted
            .iter()
            .map(|value| {
                values.push(Value::Text(value.clone()));
                format!("?{}", values.len())
            })
            .collect();
        conditions.push_str(&format!(" AND {} IN ({})", dimension.column(), places.join(", ")));
    }
    let columns: String = question.group_by.iter().map(|group| format!(", {}", group.column())).collect();
    let sql = format!(
        "SELECT at_ms / ?1 AS bucket, count(*) FILTER (WHERE NOT {HOLDING}),
                coalesce(sum(uncached_input) FILTER (WHERE NOT {HOLDING}), 0), sum(cached_input), sum(output),
                coalesce(sum(cost_uncached_input) FILTER (WHERE NOT {HOLDING}), 0), sum(cost_cached_input),
                sum(cost_output), coalesce(sum(uncached_input) FILTER (WHERE {HOLDING}), 0),
                coalesce(sum(cost_uncached_input) FILTER (WHERE {HOLDING}), 0){columns}
         FROM transfers WHERE kind = 'settle' AND org_id = ?2 AND at_ms >= ?3 AND at_ms < ?4{conditions}
         GROUP BY bucket{columns} ORDER BY bucket{columns} LIMIT ?5"
    );
    (sql, values)
}

fn line(row: &Row<'_>, question: &Question) -> rusqlite::Result<Line> {
    let class = |at: usize| Ok::<_, rusqlite::Error>((row.get(at)?, Picos(row.get(at + 3)?)));
    let group = (0..question.group_by.len()).map(|at| row.get(10 + at));
    Ok(Line {
        from_ms: row.get::<_, u64>(0)? * question.width_ms,
        group: group.collect::<rusqlite::Result<_>>()?,
        requests: row.get(1)?,
        held: (row.get(8)?, Picos(row.get(9)?)),
        classes: [class(2)?, class(3)?, class(4)?],
    })
}
