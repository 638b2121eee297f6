//! The billing invariants as named checks over an exported ledger and what clients saw; to be run after every trial.

use std::collections::HashSet;
use std::path::Path;

use super::export::{Row, Totals, rows};
use super::server::{cli, said};
use super::stream::{Transcript, Usage};

/// Tokens of a stream that may be missing from its last checkpoint.
pub(crate) const CHECKPOINT_TOKENS: u64 = 32;

/// What one client knows of one request.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// Told its usage; with the tokens that it counted itself, where it could.
    Usage { request_id: String, usage: Usage, counted: Option<u64> },
    /// Cut off after this many tokens. All that the server's kernel had taken is read, so these were sent.
    Cut { request_id: String, sent: u64 },
    /// Answered with an error status.
    Refused { request_id: String },
}

impl Seen {
    /// Of a chat stream that asked for `logprobs` and usage.
    pub(crate) fn stream(stream: Transcript) -> Self {
        let (request_id, listed) = (stream.request_id, stream.listed_tokens);
        match stream.usage {
            Some(usage) => Self::Usage { request_id, usage, counted: Some(listed) },
            None => Self::Cut { request_id, sent: listed },
        }
    }
}

/// One trial, after it: nothing runs any more.
pub(crate) struct Trial<'a> {
    data: &'a Path,
    rows: Vec<Row>,
    seen: &'a [Seen],
    /// Most that all requests together may have cost, picos.
    budget: Option<i128>,
    /// Tokens were noted before they were sent.
    ahead: bool,
}

type Check = fn(&Trial) -> Vec<String>;

/// The invariants that an exported ledger can show. B10 is checked where corrections are made, and B17 to B19 where a store
/// fails or a client looks at the ledger before its answer ends: they speak of moments, not of what is left afterwards.
const INVARIANTS: [(&str, &str, Check); 15] = [
    ("B1", "a usage that was told is one equal row", told_usage_is_billed),
    ("B2", "a request is settled at most once", settled_once),
    (
        "B3",
        "what was cut is billed up to the last checkpoint: none of it unsent, or all that was sent with a journal ahead",
        cut_is_billed_as_sent,
    ),
    ("B4", "what was refused costs nothing", refused_is_free),
    ("B5", "double entry, hash chain and triggers are whole", verifies),
    ("B6", "balances are the sums of their rows", sums_are_told),
    ("B7", "the hourly export has the sums of the ledger", exports_agree),
    ("B8", "the same export twice is the same bytes", export_repeats),
    ("B9", "each row is in the export once and in order", rows_are_in_order),
    ("B11", "no budget is overrun", within_budget),
    ("B12", "no hold is left", no_hold_is_left),
    ("B13", "price times tokens is the amount", price_times_tokens),
    ("B14", "classes add up to the totals", classes_add_up),
    ("B15", "the tokens billed are those that came", told_is_counted),
    ("B16", "time never runs backwards", time_runs_forward),
];

impl<'a> Trial<'a> {
    pub(crate) fn after(data: &'a Path, seen: &'a [Seen]) -> Self {
        Self { data, rows: rows(data), seen, budget: None, ahead: false }
    }

    pub(crate) fn within(self, budget_picos: i128) -> Self {
        Self { budget: Some(budget_picos), ..self }
    }

    /// After a server with the journal ahead.
    pub(crate) fn ahead(self, ahead: bool) -> Self {
        Self { ahead, ..self }
    }

    /// Every breach, under the name of its invariant.
    pub(crate) fn breaches(&self) -> Vec<String> {
        let name = |(id, text, check): &(&str, &str, Check)| {
            let (id, text) = (id.to_string(), text.to_string());
            check(self).into_iter().map(move |breach| format!("{id} ({text}): {breach}")).collect::<Vec<_>>()
        };
        INVARIANTS.iter().flat_map(name).collect()
    }

    /// Fails unless all of them hold.
    pub(crate) fn check(&self, context: &str) {
        let breaches = self.breaches();
        assert!(breaches.is_empty(), "{context}: {} breaches:\n{}", breaches.len(), breaches.join("\n"));
    }

    fn row(&self, id: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.request_id == id)
    }

    fn number(row: &Row, name: &str) -> i128 {
        i128::from(row.raw[name].as_i64().unwrap_or_else(|| panic!("{name} is not a number in {row:?}")))
    }

    /// What a command prints.
    fn said(&self, arguments: &[&str]) -> Result<String, String> {
        let output = cli(self.data, arguments);
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!("{arguments:?} failed: {}", said(&output)))
    }
}

fn told_usage_is_billed(trial: &Trial) -> Vec<String> {
    let told = trial.seen.iter().filter_map(|seen| match seen {
        Seen::Usage { request_id, usage, .. } => Some((request_id, usage)),
        Seen::Cut { .. } | Seen::Refused { .. } => None,
    });
    told.filter(|(id, usage)| trial.row(id).map(|row| &row.usage) != Some(usage))
        .map(|(id, usage)| format!("{id} saw {usage:?}, billed {:?}", trial.row(id)))
        .collect()
}

fn settled_once(trial: &Trial) -> Vec<String> {
    let mut ids = HashSet::new();
    let twice = trial.rows.iter().filter(|row| !ids.insert(&row.request_id));
    twice.map(|row| format!("{} is there twice", row.request_id)).collect()
}

fn cut_is_billed_as_sent(trial: &Trial) -> Vec<String> {
    let cut = trial.seen.iter().filter_map(|seen| match seen {
        Seen::Cut { request_id, sent } => Some((request_id, *sent)),
        Seen::Usage { .. } | Seen::Refused { .. } => None,
    });
    cut.filter_map(|(id, sent)| {
        let billed = trial.row(id).map_or(0, |row| row.usage.completion);
        let (less, more) = if trial.ahead { (sent, billed) } else { (billed, sent) };
        let fits = less <= more && less + CHECKPOINT_TOKENS >= more;
        (!fits).then(|| format!("{id} was sent {sent}, billed {billed}: {:?}", trial.row(id)))
    })
    .collect()
}

fn refused_is_free(trial: &Trial) -> Vec<String> {
    let refused = trial.seen.iter().filter_map(|seen| match seen {
        Seen::Refused { request_id } => trial.row(request_id),
        Seen::Usage { .. } | Seen::Cut { .. } => None,
    });
    refused.filter(|row| row.cost_picos != 0).map(|row| format!("{row:?}")).collect()
}

fn verifies(trial: &Trial) -> Vec<String> {
    trial.said(&["verify"]).err().into_iter().collect()
}

fn sums_are_told(trial: &Trial) -> Vec<String> {
    let Ok(report) = trial.said(&["verify"]) else { return Vec::new() };
    let sums = Totals::of(&trial.rows);
    let tokens = format!("billed {} tokens, ", sums.prompt + sums.completion);
    let holds = format!(": {} settled,", sums.rows);
    let missing = [tokens, holds].into_iter().filter(|text| !report.contains(text));
    missing.map(|text| format!("{text:?} is not in {report}")).collect()
}

fn exports_agree(trial: &Trial) -> Vec<String> {
    let focus = match trial.said(&["export", "--format", "focus"]) {
        Ok(text) => text,
        Err(error) => return vec![error],
    };
    let mut lines = csv::Reader::from_reader(focus.as_bytes());
    let headers = lines.headers().expect("a header").clone();
    let column = |name: &str| headers.iter().position(|header| header == name).expect("a column of FOCUS");
    let (cost, quantity) = (column("BilledCost"), column("ConsumedQuantity"));
    let (mut picos, mut tokens) = (0, 0);
    for line in lines.records() {
        let line = line.expect("a line");
        picos += decimal(&line[cost], 12);
        tokens += decimal(&line[quantity], 0);
    }
    let sums = Totals::of(&trial.rows);
    let expected = (sums.cost_picos, i128::from(sums.prompt + sums.completion));
    if (picos, tokens) == expected {
        Vec::new()
    } else {
        vec![format!("{picos} and {tokens}, rows {expected:?}")]
    }
}

fn export_repeats(trial: &Trial) -> Vec<String> {
    let [first, second] = [0, 1].map(|_| trial.said(&["export", "--format", "csv"]));
    if first.is_ok() && first == second { Vec::new() } else { vec!["two exports differ".to_owned()] }
}

fn rows_are_in_order(trial: &Trial) -> Vec<String> {
    let numbers: Vec<i128> = trial.rows.iter().map(|row| Trial::number(row, "seq")).collect();
    let wrong = numbers.windows(2).filter(|pair| pair[0] >= pair[1]);
    wrong.map(|pair| format!("row {} comes before row {}", pair[0], pair[1])).collect()
}

fn within_budget(trial: &Trial) -> Vec<String> {
    let spent = Totals::of(&trial.rows).cost_picos;
    let over = trial.budget.filter(|budget| spent > *budget);
    over.map(|budget| format!("{spent} of {budget}")).into_iter().collect()
}

fn no_hold_is_left(trial: &Trial) -> Vec<String> {
    match trial.said(&["verify"]) {
        Ok(report) if report.contains(" 0 open (") => Vec::new(),
        Ok(report) => vec![report],
        Err(_) => Vec::new(),
    }
}

fn price_times_tokens(trial: &Trial) -> Vec<String> {
    let wrong = |row: &Row| {
        let classes = ["uncached_input", "cached_input", "output"].map(|class| {
            let price = row.raw[format!("{class}_usd_per_million")].as_str().expect("a price").to_owned();
            let tokens = Trial::number(row, &format!("{class}_tokens"));
            (decimal(&price, 6) * tokens, Trial::number(row, &format!("{class}_picos")))
        });
        let sum: i128 = classes.iter().map(|(_, billed)| billed).sum();
        classes.iter().any(|(exact, billed)| exact != billed) || sum != row.cost_picos
    };
    trial.rows.iter().filter(|row| wrong(row)).map(|row| format!("{row:?}")).collect()
}

fn classes_add_up(trial: &Trial) -> Vec<String> {
    let classes = ["uncached_input_tokens", "cached_input_tokens", "output_tokens"];
    let wrong = |row: &&Row| {
        let counts = classes.map(|class| Trial::number(row, class));
        counts.iter().any(|count| *count < 0) || counts[0] + counts[1] != i128::from(row.usage.prompt)
    };
    trial.rows.iter().filter(wrong).map(|row| format!("{row:?}")).collect()
}

fn told_is_counted(trial: &Trial) -> Vec<String> {
    let wrong = trial.seen.iter().filter(|seen| match seen {
        Seen::Usage { usage, counted: Some(counted), .. } => usage.completion != *counted,
        Seen::Usage { counted: None, .. } | Seen::Cut { .. } | Seen::Refused { .. } => false,
    });
    wrong.map(|seen| format!("{seen:?}")).collect()
}

fn time_runs_forward(trial: &Trial) -> Vec<String> {
    let time = |row: &Row, name: &str| row.raw[name].as_str().expect("an instant").to_owned();
    // Instants of one form sort as text.
    let ends = trial.rows.windows(2).filter(|pair| time(&pair[0], "ended_at") > time(&pair[1], "ended_at"));
    let lives = trial.rows.iter().filter(|row| time(row, "admitted_at") > time(row, "ended_at"));
    ends.map(|pair| &pair[1]).chain(lives).map(|row| format!("{row:?}")).collect()
}

/// A decimal number times 10 to the `places`; it has no more places.
fn decimal(text: &str, places: usize) -> i128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    assert!(fraction.len() <= places, "{text} has more than {places} places");
    format!("{whole}{fraction:0<places$}").parse().unwrap_or_else(|e| panic!("{text} is not a number: {e}"))
}
