//! Every column of FOCUS 1.2 and of FOCUS 1.4, and our own, which begin with `x_`. An empty value is null.

use super::{Category, Line, REFUND, SLA_CREDIT};
use crate::civil;
use crate::ledger::details::Tags;
use crate::ledger::export::decimal;
use crate::ledger::export::text::inert;

/// Places of an amount of pico-USD.
const USD: usize = 12;
/// Places of a price in USD per 1M tokens, and of a quantity of 1M tokens.
const PER_MILLION: usize = 6;
/// Unit of what is held.
const UNIT_HOURS: &str = "Unit-Hours";

/// A column: its name, and its value for a line.
pub(in crate::ledger) type Column = (&'static str, fn(&Line<'_>) -> String);

/// In the order of the specification's column list; readers go by name.
pub(super) const COLUMNS: [Column; 78] = [
    ("AllocatedMethodDetails", null),
    ("AllocatedMethodId", null),
    ("AllocatedResourceId", null),
    ("AllocatedResourceName", null),
    ("AllocatedTags", null),
    ("AvailabilityZone", null),
    ("BilledCost", cost),
    ("BillingAccountId", |line| line.group.org_id.clone()),
    ("BillingAccountName", |line| inert(line.sums.org_name.clone())),
    ("BillingAccountType", |_| "Organization".to_owned()),
    ("BillingCurrency", usd),
    ("BillingPeriodEnd", |line| civil::format_s(civil::month_of(line.hour_ms).1)),
    ("BillingPeriodStart", |line| civil::format_s(civil::month_of(line.hour_ms).0)),
    ("CapacityReservationId", lease),
    ("CapacityReservationStatus", reservation_status),
    ("ChargeCategory", |line| format!("{:?}", line.group.category)),
    ("ChargeClass", null),
    ("ChargeDescription", description),
    ("ChargeFrequency", |line| by_category(line, ["Usage-Based", "Recurring", "One-Time"])),
    ("ChargePeriodEnd", |line| civil::format_s(line.hour_ms + super::HOUR_MS)),
    ("ChargePeriodStart", |line| civil::format_s(line.hour_ms)),
    ("CommitmentDiscountCategory", |line| by_category(line, ["", "Usage", ""])),
    ("CommitmentDiscountId", |line| purchase(line, lease(line))),
    ("CommitmentDiscountName", |line| {
        purchase(line, format!("Lease of {}", inert(line.group.model.clone())))
    }),
    ("CommitmentDiscountQuantity", |line| purchase(line, decimal(line.sums.tokens.into(), 0))),
    ("CommitmentDiscountStatus", null),
    ("CommitmentDiscountType", |line| by_category(line, ["", "Capacity Lease", ""])),
    ("CommitmentDiscountUnit", |line| by_category(line, ["", UNIT_HOURS, ""])),
    ("CommitmentProgramEligibilityDetails", null),
    ("ConsumedQuantity", consumed),
    ("ConsumedUnit", |line| by_category(line, ["Tokens", "", ""])),
    ("ContractApplied", null),
    ("ContractedCost", cost),
    ("ContractedUnitPrice", unit_price),
    ("EffectiveCost", cost),
    ("HostProviderName", provider),
    ("InvoiceDetailId", null),
    ("InvoiceId", |line| invoice_id(&line.group.org_id, line.hour_ms)),
    ("InvoiceIssuerName", provider),
    ("ListCost", cost),
    ("ListUnitPrice", unit_price),
    ("PricingCategory", pricing_category),
    ("PricingCurrency", usd),
    ("PricingCurrencyContractedUnitPrice", unit_price),
    ("PricingCurrencyEffectiveCost", cost),
    ("PricingCurrencyListUnitPrice", unit_price),
    ("PricingQuantity", pricing_quantity),
    ("PricingUnit", |line| by_category(line, ["1000000 Tokens", UNIT_HOURS, ""])),
    ("ProviderName", provider),
    ("PublisherName", provider),
    ("RegionId", region),
    ("RegionName", region),
    ("ResourceId", |line| inert(line.group.model.clone())),
    ("ResourceName", |line| inert(line.group.model.clone())),
    ("ResourceType", |_| "Model".to_owned()),
    ("ServiceCategory", |_| "AI and Machine Learning".to_owned()),
    ("ServiceName", |_| "Spillway Inference".to_owned()),
    ("ServiceProviderName", provider),
    ("ServiceSubcategory", |_| "Generative AI".to_owned()),
    ("SkuId", |line| inert(format!("{}/{}/{}", line.group.model, line.group.tier, line.group.class))),
    ("SkuMeter", meter),
    ("SkuPriceDetails", price_details),
    ("SkuPriceId", |line| priced(line, format!("{}/{}", line.group.price_id, line.group.class))),
    ("SubAccountId", |line| line.group.project_id.clone()),
    ("SubAccountName", |line| inert(line.sums.project_name.clone())),
    ("SubAccountType", |_| "Project".to_owned()),
    ("Tags", |line| line.group.tags.as_ref().map_or(String::new(), |tags| Tags::as_json(tags).to_owned())),
    ("x_ApiKeyId", |line| line.group.key_id.clone()),
    ("x_ApiKeyName", |line| inert(line.sums.key_name.clone())),
    ("x_LedgerFirstSequence", |line| line.sums.first_seq.to_string()),
    ("x_LedgerLastSequence", |line| line.sums.last_seq.to_string()),
    ("x_Model", |line| inert(line.group.model.clone())),
    ("x_PriceVersion", |line| line.group.price_id.clone()),
    ("x_RequestCount", |line| line.sums.requests.to_string()),
    ("x_SchemaVersion", |_| "1".to_owned()),
    ("x_ServiceTier", |line| inert(line.group.tier.clone())),
    ("x_TagsOmitted", |line| line.group.tags_omitted.to_string()),
    ("x_TokenType", |line| line.group.class.to_owned()),
];

/// Number of the monthly invoice of an organisation; it is provisional until the month is over.
pub(in crate::ledger) fn invoice_id(org_id: &str, ms: u64) -> String {
    let month: String = civil::format_date(civil::month_of(ms).0).chars().take(7).collect();
    format!("{month}-{org_id}")
}

/// A token class as people say it.
fn class_name(class: &str) -> &str {
    match class {
        "uncached_input" => "Uncached input",
        "cached_input" => "Cached input",
        "output" => "Output",
        other => other,
    }
}

fn null(_: &Line<'_>) -> String {
    String::new()
}

fn usd(_: &Line<'_>) -> String {
    "USD".to_owned()
}

fn provider(line: &Line<'_>) -> String {
    inert(line.reports.provider.clone())
}

fn region(line: &Line<'_>) -> String {
    inert(line.reports.region.clone())
}

fn cost(line: &Line<'_>) -> String {
    decimal(line.sums.cost, USD)
}

fn unit_price(line: &Line<'_>) -> String {
    let places = if line.group.category == Category::Purchase { USD } else { PER_MILLION };
    priced(line, decimal(line.sums.price.0.into(), places))
}

fn pricing_quantity(line: &Line<'_>) -> String {
    let places = if line.group.category == Category::Purchase { 0 } else { PER_MILLION };
    priced(line, decimal(line.sums.tokens.into(), places))
}

fn consumed(line: &Line<'_>) -> String {
    match line.group.category {
        Category::Usage => decimal(line.sums.tokens.into(), 0),
        Category::Purchase | Category::Credit => String::new(),
    }
}

fn lease(line: &Line<'_>) -> String {
    line.group.lease.clone().unwrap_or_default()
}

/// Only usage has one; what a lease holds and nobody uses is no line of its own.
fn reservation_status(line: &Line<'_>) -> String {
    let is_used = line.group.category == Category::Usage && line.group.lease.is_some();
    (if is_used { "Used" } else { "" }).to_owned()
}

/// A text for each category.
fn by_category(line: &Line<'_>, [usage, purchase, credit]: [&str; 3]) -> String {
    let text = match line.group.category {
        Category::Usage => usage,
        Category::Purchase => purchase,
        Category::Credit => credit,
    };
    text.to_owned()
}

/// What only a purchase has.
fn purchase(line: &Line<'_>, value: String) -> String {
    if line.group.category == Category::Purchase { value } else { String::new() }
}

/// What a credit does not have.
fn priced(line: &Line<'_>, value: String) -> String {
    if line.group.category == Category::Credit { String::new() } else { value }
}

fn meter(line: &Line<'_>) -> String {
    match line.group.category {
        Category::Usage => format!("{} tokens", class_name(line.group.class)),
        Category::Credit if line.group.class == REFUND => "Tokens".to_owned(),
        Category::Purchase | Category::Credit => UNIT_HOURS.to_owned(),
    }
}

fn description(line: &Line<'_>) -> String {
    let group = line.group;
    inert(match group.category {
        Category::Usage => {
            format!("{} {} tokens, {} tier", group.model, class_name(group.class).to_lowercase(), group.tier)
        }
        Category::Purchase => format!("{} capacity held, {}", group.model, lease(line)),
        Category::Credit => match group.class {
            REFUND => format!("{} deadline missed, {} tier", group.model, group.tier),
            SLA_CREDIT => format!("{} target missed, {}", group.model, lease(line)),
            _ => format!("{} capacity given back, {}", group.model, lease(line)),
        },
    })
}

/// What is sold from spare capacity is priced below the list and may be interrupted.
fn pricing_category(line: &Line<'_>) -> String {
    match line.group.category {
        Category::Usage => {}
        Category::Purchase => return "Committed".to_owned(),
        Category::Credit => return String::new(),
    }
    let tier = line.group.tier.as_str();
    let is_spare = matches!(tier, "flex" | "batch" | "spot") || tier.starts_with("batch_");
    (if is_spare { "Dynamic" } else { "Standard" }).to_owned()
}

fn price_details(line: &Line<'_>) -> String {
    if line.group.category == Category::Credit {
        return String::new();
    }
    let details = [("x_Model", &line.group.model), ("x_ServiceTier", &line.group.tier)];
    let token_type = line.group.class.to_owned();
    let all = details.into_iter().chain([("x_TokenType", &token_type)]);
    let object: serde_json::Map<_, _> =
        all.map(|(key, value)| (key.to_owned(), value.clone().into())).collect();
    serde_json::Value::from(object).to_string()
}
