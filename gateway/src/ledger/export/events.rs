//! Events for other people's meters: one for each request and token class. Every consumer drops an event whose id it has
//! seen, and ours are the same for ever, so a file may be sent twice.

use std::collections::HashMap;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{ExportError, LineError, Lines};
use crate::civil;
use crate::config::Reports;
use crate::ledger::details::{Tags, hex};
use crate::ledger::row::{Charge, Transfer, UNIT_HOURS};

/// Longest event id that every consumer takes, in bytes.
const MAX_ID: usize = 100;

/// Request and token class; what is too long is hashed.
fn event_id(row: &Transfer, charge: &Charge) -> String {
    let id = format!("{}:{}", row.request_id, charge.class);
    if id.len() <= MAX_ID { id } else { hex(&Sha256::digest(id.as_bytes())) }
}

/// Name of a class's meter.
fn meter(class: &str) -> String {
    let of = if class == UNIT_HOURS { "" } else { "_tokens" };
    format!("spillway_{class}{of}")
}

/// Writes a JSON line for each class that was used.
fn each_class(
    row: &Transfer,
    out: &mut dyn Write,
    event: impl Fn(&Charge) -> Value,
) -> Result<u64, LineError> {
    let mut lines = 0;
    for charge in row.charges().into_iter().filter(|charge| charge.tokens > 0) {
        serde_json::to_writer(&mut *out, &event(&charge)).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
        lines += 1;
    }
    Ok(lines)
}

/// CloudEvents 1.0 in their JSON form. Values are texts: a meter must not round them.
pub(super) struct CloudEvents {
    source: String,
}

impl CloudEvents {
    pub(super) fn new(reports: &Reports) -> Self {
        // A URI reference: what is no unreserved character is escaped.
        let region = reports.region.bytes().fold(String::new(), |text, byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text + char::from(byte).encode_utf8(&mut [0; 4])
            }
            other => format!("{text}%{other:02X}"),
        });
        Self { source: format!("spillway/{region}") }
    }
}

/// The attributes of an event, in the specification's order.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    data: Value,
}

impl Lines for CloudEvents {
    fn row(&mut self, row: &Transfer, out: &mut dyn Write) -> Result<u64, LineError> {
        let (facts, price) = (&row.facts, &row.facts.price);
        each_class(row, out, |charge| {
            let event = CloudEvent {
                specversion: "1.0",
                id: event_id(row, charge),
                source: &self.source,
                kind: if row.facts.is_holding() { "spillway.unit_hours" } else { "spillway.tokens" },
                subject: &facts.org_id,
                time: civil::format_ms(row.at_ms),
                datacontenttype: "application/json",
                data: json!({
                    "request_id": row.request_id,
                    "project_id": facts.project_id,
                    "key_id": facts.key_id,
                    "model": price.model,
                    "service_tier": price.tier,
                    "token_class": charge.class,
                    "tokens": charge.tokens.to_string(),
                    "cost_usd": charge.cost.to_usd(),
                    "price_version": price.id,
                    "ledger_sequence": row.seq.to_string(),
                    "tags": row.details.as_ref().and_then(|details| details.tags.as_ref()).map(Tags::to_value),
                }),
            };
            serde_json::to_value(event).unwrap_or_default()
        })
    }
}

/// Stripe meter events, one meter a token class.
pub(super) struct Stripe<'a> {
    customers: HashMap<&'a str, &'a str>,
}

impl<'a> Stripe<'a> {
    pub(super) fn new(customers: &'a [(String, String)]) -> Self {
        Self {
            customers: customers.iter().map(|(org, customer)| (org.as_str(), customer.as_str())).collect(),
        }
    }
}

impl Lines for Stripe<'_> {
    fn row(&mut self, row: &Transfer, out: &mut dyn Write) -> Result<u64, LineError> {
        let facts = &row.facts;
        let name = row.details.as_deref().map_or(&facts.org_id, |details| &details.org_name);
        let customer =
            self.customers.get(facts.org_id.as_str()).or_else(|| self.customers.get(name.as_str()));
        let Some(customer) = customer else {
            let (name, id) = (name.clone(), facts.org_id.clone());
            return Err(LineError::Refused(ExportError::NoCustomer { name, id }));
        };
        each_class(row, out, |charge| {
            json!({
                "event_name": meter(charge.class),
                "identifier": event_id(row, charge),
                "timestamp": row.at_ms / 1_000,
                "payload": {
                    "stripe_customer_id": customer,
                    "value": charge.tokens.to_string(),
                    "model": facts.price.model,
                    "service_tier": facts.price.tier,
                    "price_version": facts.price.id,
                },
            })
        })
    }
}
