//! The figures, as a table and as JSON.

use serde_json::{Value, json};

/// What a figure is compared with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Floor {
    /// Bytes over the copy bandwidth of this GPU.
    Bytes(f64),
    /// Floating-point operations over another program's matmul rate.
    Operations(f64),
    /// Nothing.
    None,
}

struct Row {
    name: String,
    seconds: f64,
    floor: Floor,
    /// Units of work of one run, for a rate.
    tokens: Option<f64>,
}

/// All rows so far.
pub(crate) struct Table {
    rows: Vec<Row>,
    /// Bytes read and written a second by a copy on this GPU.
    copy_rate: Option<f64>,
    rates: Value,
}

impl Table {
    /// `rates` as of `--rates`.
    pub(crate) fn new(rates: Value) -> Self {
        Self { rows: Vec::new(), copy_rate: None, rates }
    }

    /// Takes over the measured copy bandwidth.
    pub(crate) fn set_copy_rate(&mut self, bytes_per_second: f64) {
        self.copy_rate = Some(bytes_per_second);
    }

    /// Adds a figure.
    pub(crate) fn push(&mut self, name: String, seconds: f64, floor: Floor, tokens: Option<f64>) {
        let row = Row { name, seconds, floor, tokens };
        eprintln!("{}", self.line(&row));
        self.rows.push(row);
    }

    /// The least time that the floor allows, if its rate is known.
    fn least(&self, floor: Floor) -> Option<f64> {
        match floor {
            Floor::Bytes(bytes) => self.copy_rate.map(|rate| bytes / rate),
            Floor::Operations(count) => {
                self.rates["matmul_tflop_s"].as_f64().map(|rate| count / (rate * 1e12))
            }
            Floor::None => None,
        }
    }

    fn line(&self, row: &Row) -> String {
        let rate = match row.floor {
            Floor::Bytes(bytes) => format!("{:8.1} GB/s", bytes / row.seconds / 1e9),
            Floor::Operations(count) => format!("{:8.1} TFLOP/s", count / row.seconds / 1e12),
            Floor::None => String::new(),
        };
        let share =
            self.least(row.floor).map(|least| format!("{:5.1} % of its floor", 100.0 * least / row.seconds));
        let tokens = row.tokens.map(|tokens| format!("{:10.0} tokens/s", tokens / row.seconds));
        let (share, tokens) = (share.unwrap_or_default(), tokens.unwrap_or_default());
        format!("{:<44} {:10.1} us  {rate:<17} {share:<20} {tokens}", row.name, row.seconds * 1e6)
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let lines: String = self.rows.iter().map(|row| self.line(row) + "\n").collect();
        format!("{lines}other rates of this run: {}\n", self.rates)
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let (bytes, operations) = match row.floor {
                    Floor::Bytes(bytes) => (Some(bytes), None),
                    Floor::Operations(count) => (None, Some(count)),
                    Floor::None => (None, None),
                };
                json!({
                    "name": row.name,
                    "seconds": row.seconds,
                    "bytes": bytes,
                    "operations": operations,
                    "of_floor": self.least(row.floor).map(|least| least / row.seconds),
                    "tokens_per_second": row.tokens.map(|tokens| tokens / row.seconds),
                })
            })
            .collect();
        json!({ "copy_bytes_per_second": self.copy_rate, "rates": self.rates, "rows": rows })
    }
}
