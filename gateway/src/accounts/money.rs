//! Credit orders and price versions, for those who hold [`Accounts`].

use std::fmt;
use std::str::FromStr;

use super::{Accounts, AccountsError, store};
use crate::money::{Picos, PriceVersion};

/// Why a balance changes without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CreditKind {
    /// Paid in, or given.
    Grant,
    /// A bill was wrong.
    Correction,
}

impl CreditKind {
    /// The spelling in database and API.
    pub fn as_str(self) -> &'static str {
        match self {
            CreditKind::Grant => "grant",
            CreditKind::Correction => "correction",
        }
    }
}

impl fmt::Display for CreditKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CreditKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found =
            [CreditKind::Grant, CreditKind::Correction].into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is not one of grant, correction"))
    }
}

/// A change of a balance that somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCredit {
    /// Its id, where the caller may ask twice; `None`: a new one.
    pub id: Option<String>,
    /// Id or name of the organisation.
    pub org: String,
    /// Why.
    pub kind: CreditKind,
    /// How much; negative only for a correction.
    pub amount: Picos,
    /// First instant at which what is left of it is gone, Unix milliseconds.
    pub expires_ms: Option<u64>,
    /// What it is for, or the row it corrects.
    pub note: String,
}

/// A change of a balance as ordered. It counts once the ledger has a row of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreditOrder {
    /// `cred_...`.
    pub id: String,
    /// `org_...`.
    pub org_id: String,
    /// Why.
    pub kind: CreditKind,
    /// How much.
    pub amount: Picos,
    /// First instant at which what is left of it is gone, Unix milliseconds.
    pub expires_ms: Option<u64>,
    /// What it is for.
    pub note: String,
    /// Who ordered it: an admin key's id, or `cli`.
    pub actor: String,
    /// When it was ordered, Unix milliseconds.
    pub created_ms: u64,
    /// Why the ledger refused it.
    pub refused: Option<String>,
    /// The ledger's row.
    pub seq: Option<i64>,
}

impl Accounts {
    /// Orders a change of a balance; the same id again gives back the first order.
    pub fn order_credit(&self, new: &NewCredit, now_ms: u64) -> Result<CreditOrder, AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| store::credits::insert(db, &by, new))
    }

    /// The order with this id.
    pub fn credit_order(&self, id: &str) -> Result<CreditOrder, AccountsError> {
        self.inner.read(|db| store::credits::get(db, id))
    }

    /// Orders that nobody has posted yet, oldest first.
    pub fn waiting_credits(&self) -> Result<Vec<CreditOrder>, AccountsError> {
        self.inner.read(store::credits::waiting)
    }

    /// All orders of an organisation (id or name), oldest first.
    pub fn list_credits(&self, org: &str) -> Result<Vec<CreditOrder>, AccountsError> {
        self.inner.read(|db| store::credits::of_org(db, &store::orgs::org(db, org)?.id))
    }

    /// Notes the row that posted an order, or why it was refused.
    pub fn finish_credit(&self, id: &str, outcome: Result<i64, &str>) -> Result<(), AccountsError> {
        self.inner.change(|db| store::credits::finish(db, id, outcome))
    }

    /// Adds a version of a price.
    pub fn add_price(&self, price: &PriceVersion, now_ms: u64) -> Result<(), AccountsError> {
        let by = self.acting(now_ms);
        self.inner.change(|db| store::prices::insert(db, &by, price))
    }

    /// All versions that were added, oldest first; those of the configuration are not among them.
    pub fn list_prices(&self) -> Result<Vec<PriceVersion>, AccountsError> {
        self.inner.read(store::prices::list)
    }
}
