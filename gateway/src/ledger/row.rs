//! One row of the ledger, its double entry and its hash.

use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::details::Details;
use super::types::{BudgetScope, EndReason, LedgerError, Pace, Settled};
use crate::money::{Cost, MoneyError, Picos, PriceVersion, Tokens};

/// SHA-256 over a row and the hash before it.
pub(super) type Hash = [u8; 32];

/// What the first row is chained to.
pub(super) const GENESIS: Hash = [0; 32];

/// Endpoint of rows that pay for the holding of capacity, and of credits for it.
pub const LEASES: &str = "/v1/capacity/leases";

/// End of the id of a credit for a missed target.
pub(crate) const SLA: &str = ".sla";

/// Class of what is billed there: what one unit is held for one hour.
pub(super) const UNIT_HOURS: &str = "unit_hours";

/// What a row records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Hold,
    Extend,
    Settle,
    Void,
    /// Credit paid in or given.
    Grant,
    /// What was left of a grant is gone.
    Expire,
    /// Credit given or taken back because a bill was wrong.
    Correct,
    /// What a request cost comes back, because the deadline that it was promised was missed.
    Refund,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Hold,
        Kind::Extend,
        Kind::Settle,
        Kind::Void,
        Kind::Grant,
        Kind::Expire,
        Kind::Correct,
        Kind::Refund,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::Hold => "hold",
            Kind::Extend => "extend",
            Kind::Settle => "settle",
            Kind::Void => "void",
            Kind::Grant => "grant",
            Kind::Expire => "expire",
            Kind::Correct => "correct",
            Kind::Refund => "refund",
        }
    }
}

impl FromStr for Kind {
    type Err = LedgerError;

    fn from_str(text: &str) -> Result<Self, LedgerError> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| LedgerError::Corrupt(format!("unknown kind {text:?}")))
    }
}

/// What stays the same in all rows of a request. Model and tier are the price's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) org_id: String,
    pub(super) project_id: String,
    pub(super) key_id: String,
    pub(super) endpoint: String,
    pub(super) price: PriceVersion,
    pub(super) prompt_tokens: u32,
    pub(super) admitted_ms: u64,
    /// Accounts beside key, project and organisation in which the cost counts.
    pub(super) counted: Vec<Counted>,
}

/// An account that a budget looks at: an end user's or a tag's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Counted {
    pub(super) scope: BudgetScope,
    pub(super) id: String,
}

impl Facts {
    /// Of a row that belongs to no request.
    pub(super) fn of_org(org_id: &str) -> Self {
        Self {
            org_id: org_id.to_owned(),
            project_id: String::new(),
            key_id: String::new(),
            endpoint: String::new(),
            price: PriceVersion::new("", "", 0, Picos::ZERO, Picos::ZERO, Picos::ZERO),
            prompt_tokens: 0,
            admitted_ms: 0,
            counted: Vec::new(),
        }
    }

    /// Whether it is about the holding of capacity: then the quantity is of unit-hours, not of tokens.
    pub(super) fn is_holding(&self) -> bool {
        self.endpoint == LEASES
    }

    /// Every account in which the cost counts.
    pub(super) fn accounts(&self) -> impl Iterator<Item = (BudgetScope, &str)> {
        let own = [
            (BudgetScope::Key, self.key_id.as_str()),
            (BudgetScope::Project, self.project_id.as_str()),
            (BudgetScope::Organisation, self.org_id.as_str()),
        ];
        own.into_iter().chain(self.counted.iter().map(|counted| (counted.scope, counted.id.as_str())))
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) seq: i64,
    pub(super) kind: Kind,
    pub(super) request_id: String,
    pub(super) at_ms: u64,
    pub(super) facts: Arc<Facts>,
    /// Newly held, by a hold or extension.
    pub(super) held: Picos,
    /// No longer held, by a settle or void: all that was.
    pub(super) released: Picos,
    pub(super) tokens: Tokens,
    pub(super) cost: Cost,
    /// Of a settle.
    pub(super) end: Option<EndReason>,
    pub(super) first_token_ms: Option<u64>,
    /// Of a settle.
    pub(super) pace: Option<Pace>,
    /// Of a hold and a settle; rows of the first schema have none.
    pub(super) details: Option<Arc<Details>>,
    /// Change of the organisation's balance, by a grant, expiry, correction or refund.
    pub(super) credit: Picos,
    /// Of a grant.
    pub(super) expires_ms: Option<u64>,
    /// What a grant or correction is for; the lease of a hold and its settle.
    pub(super) note: Option<String>,
    pub(super) hash: Hash,
}

/// What a row bills for one class of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Charge {
    pub(super) class: &'static str,
    pub(super) tokens: u32,
    /// Per token.
    pub(super) price: Picos,
    pub(super) cost: Picos,
}

/// One side of a row's double entry; the amounts of a row add up to zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) account: String,
    pub(super) amount: Picos,
}

impl Transfer {
    /// The double entry that this row means: holds move money from the customer to the key's hold account, a settle
    /// moves its cost on to revenue and the rest back; credit comes from the account of its kind.
    pub(super) fn entries(&self) -> Result<Vec<Entry>, MoneyError> {
        let facts = &self.facts;
        let (held, released) = (i128::from(self.held.0), i128::from(self.released.0));
        let revenue = |class: &str| format!("revenue:{}:{class}", facts.price.model);
        let first = if facts.is_holding() { UNIT_HOURS } else { "uncached_input" };
        let credit = i128::from(self.credit.0);
        [
            (format!("customer:{}", facts.org_id), released - held - i128::from(self.cost.total.0) + credit),
            (format!("credits:{}", self.kind.as_str()), -credit),
            (format!("hold:key:{}", facts.key_id), held - released),
            (revenue(first), self.cost.uncached_input.0.into()),
            (revenue("cached_input"), self.cost.cached_input.0.into()),
            (revenue("output"), self.cost.output.0.into()),
        ]
        .into_iter()
        .filter(|(_, amount)| *amount != 0)
        .map(|(account, amount)| {
            let amount = i64::try_from(amount).map_err(|_| MoneyError::OutOfRange)?;
            Ok(Entry { account, amount: Picos(amount) })
        })
        .collect()
    }

    /// What is billed, by token class.
    pub(super) fn charges(&self) -> [Charge; 3] {
        let (price, tokens, cost) = (&self.facts.price, self.tokens, self.cost);
        [
            Charge {
                class: if self.facts.is_holding() { UNIT_HOURS } else { "uncached_input" },
                tokens: tokens.uncached_input,
                price: price.uncached_input,
                cost: cost.uncached_input,
            },
            Charge {
                class: "cached_input",
                tokens: tokens.cached_input,
                price: price.cached_input,
                cost: cost.cached_input,
            },
            Charge { class: "output", tokens: tokens.output, price: price.output, cost: cost.output },
        ]
    }

    /// Tokens that were used; holding capacity uses none.
    pub(super) fn used(&self) -> u64 {
        if self.facts.is_holding() { 0 } else { self.tokens.total() }
    }

    /// The lease that it uses, pays for, or gives back for.
    pub(super) fn lease(&self) -> Option<&str> {
        let is_about =
            matches!(self.kind, Kind::Hold | Kind::Settle | Kind::Refund) || self.facts.is_holding();
        self.note.as_deref().filter(|_| is_about)
    }

    /// The deadline that the request was promised.
    pub(super) fn deadline_ms(&self) -> Option<u64> {
        self.details.as_deref().and_then(|details| details.deadline_ms)
    }

    /// What has to come back after this row: all that it bills, where it breaks a promised deadline.
    pub(super) fn owed(&self) -> Picos {
        let is_broken = self.deadline_ms().is_some() && self.end.is_some_and(EndReason::breaks_deadline);
        if is_broken { self.cost.total } else { Picos::ZERO }
    }

    pub(super) fn settled(&self) -> Option<Settled> {
        Some(Settled { seq: self.seq, cost: self.cost.total, tokens: self.tokens, end: self.end? })
    }

    /// Hash over every field in fixed order and form, and the hash before. Must never change for rows that exist.
    pub(super) fn chained(&self, previous: &Hash) -> Hash {
        let facts = &self.facts;
        let mut hasher = Sha256::new();
        hasher.update(b"spillway-ledger-1\0");
        hasher.update(previous);
        let mut number = |value: i64| hasher.update(value.to_le_bytes());
        number(self.seq);
        for unsigned in [self.at_ms, facts.admitted_ms, facts.price.effective_from_ms] {
            number(unsigned.cast_signed());
        }
        // 0 is no instant; a first token at 0 cannot be.
        number(self.first_token_ms.unwrap_or(0).cast_signed());
        for count in
            [facts.prompt_tokens, self.tokens.uncached_input, self.tokens.cached_input, self.tokens.output]
        {
            number(count.into());
        }
        let price = &facts.price;
        for amount in [price.uncached_input, price.cached_input, price.output, self.held, self.released] {
            number(amount.0);
        }
        for amount in [self.cost.uncached_input, self.cost.cached_input, self.cost.output, self.cost.total] {
            number(amount.0);
        }
        let end = self.end.map_or("", EndReason::as_str);
        let texts = [
            self.kind.as_str(),
            &self.request_id,
            &facts.org_id,
            &facts.project_id,
            &facts.key_id,
            &facts.endpoint,
            &price.id,
            &price.model,
            &price.tier,
            end,
        ];
        for text in texts {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
        // Absent in rows of the first schema, whose hashes stay what they were.
        for field in self.details.iter().flat_map(|details| details.hashed()) {
            hasher.update((field.len() as u64).to_le_bytes());
            hasher.update(field);
        }
        self.hash_later_columns(&mut hasher);
        hasher.finalize().into()
    }

    /// Columns that the first rows did not have: a row without them keeps the hash it would have had then.
    fn hash_later_columns(&self, hasher: &mut Sha256) {
        let facts = &self.facts;
        let counted = facts.counted.iter().map(|counted| (counted.scope.as_str(), counted.id.as_str()));
        let note = self.note.iter().map(|note| ("note", note.as_str()));
        for (name, text) in note.chain(counted) {
            hasher.update(name);
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
        if self.credit != Picos::ZERO {
            hasher.update(b"credit");
            hasher.update(self.credit.0.to_le_bytes());
            hasher.update(self.expires_ms.unwrap_or(0).to_le_bytes());
        }
        if let Some(deadline_ms) = self.deadline_ms() {
            hasher.update(b"deadline");
            hasher.update(deadline_ms.to_le_bytes());
        }
        if let Some(Pace { wait_ms, gap_us }) = self.pace {
            hasher.update(b"pace");
            hasher.update(wait_ms.to_le_bytes());
            // No gap is as long as the largest number.
            hasher.update(gap_us.unwrap_or(u32::MAX).to_le_bytes());
        }
    }
}
