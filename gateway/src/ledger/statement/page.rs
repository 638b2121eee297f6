//! The statement as HTML with a chart in SVG. Colours follow the reader's preference; paper is always white.

use std::fmt::Write as _;

use super::{DAY_MS, Statement, Sums};
use crate::civil;
use crate::ledger::export::focus::invoice_id;
use crate::ledger::row::UNIT_HOURS;
use crate::money::Picos;

const STYLE: &str = "
:root{color-scheme:light dark;--bg:#fff;--ink:#1b1f24;--soft:#5b6570;--line:#dfe3e8;--bar:#2f6fde;--tint:#f5f7fa}
@media(prefers-color-scheme:dark){:root{--bg:#14171b;--ink:#e8eaed;--soft:#9aa4af;--line:#2d333b;--bar:#6ea3ff;--tint:#1c2127}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:860px;margin:0 auto;padding:40px 24px 64px}
header{display:flex;justify-content:space-between;gap:24px;flex-wrap:wrap;border-bottom:2px solid var(--ink);padding-bottom:20px}
h1{font-size:26px;line-height:1.2;margin:0 0 4px}h2{font-size:17px;margin:36px 0 10px}
p{margin:0}.soft,figcaption{color:var(--soft)}.small{font-size:13px}
.due{text-align:right}.due strong{display:block;font-size:28px;line-height:1.2;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:16px;margin:24px 0 0}
dt{color:var(--soft);font-size:13px}dd{margin:0;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
figure{margin:0;background:var(--tint);border:1px solid var(--line);border-radius:8px;padding:16px}
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font:11px system-ui,sans-serif}
.bar{fill:var(--bar)}.grid{stroke:var(--line)}figcaption{font-size:13px;margin-top:8px}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:7px 10px 7px 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
th{font-size:13px;color:var(--soft);font-weight:600}.n{text-align:right;white-space:nowrap}.n:last-child{padding-right:0}
tfoot td{font-weight:700;border-bottom:0;border-top:2px solid var(--ink)}
code{font:12px ui-monospace,Menlo,monospace;overflow-wrap:anywhere}footer{margin-top:40px;border-top:1px solid var(--line);padding-top:14px}
.draft{border:1px solid var(--bar);border-radius:8px;padding:10px 14px;margin-top:20px}
@media print{:root{color-scheme:light;--bg:#fff;--ink:#000;--soft:#444;--line:#ccc;--bar:#2f6fde;--tint:#fff}main{padding:0;max-width:none}
figure,tr{break-inside:avoid}h2{break-after:avoid}}
";

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The whole page.
pub(super) fn render(statement: &Statement) -> String {
    let mut page = String::with_capacity(1 << 14);
    let title = month_name(&statement.month);
    let org = escaped(&statement.org_name);
    page.push_str("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n");
    write(
        &mut page,
        format_args!("<title>Statement {title}, {org}</title>\n<style>{STYLE}</style></head>\n"),
    );
    page.push_str("<body><main>\n");
    header(&mut page, statement, &title);
    if !statement.is_final {
        page.push_str(
            "<p class=\"draft small\">This month is not over in the ledger: the figures can still grow.</p>\n",
        );
    }
    facts(&mut page, statement);
    page.push_str("<h2>Day by day</h2>\n");
    chart(&mut page, statement);
    items(&mut page, statement);
    keys(&mut page, statement);
    rebates(&mut page, statement);
    footer(&mut page, statement);
    page.push_str("</main></body></html>\n");
    page
}

/// Writing to a `String` cannot fail.
fn write(page: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = page.write_fmt(text);
}

fn header(page: &mut String, statement: &Statement, title: &str) {
    let (org, provider) = (escaped(&statement.org_name), escaped(&statement.provider));
    let total = usd(statement.total.cost);
    let number = escaped(&invoice_id(&statement.org_id, statement.from_ms));
    write(
        page,
        format_args!(
            "<header><div><h1>Statement for {title}</h1><p>{org}</p>\
             <p class=\"soft small\">No. {number} · issued by {provider}</p></div>\
             <p class=\"due\"><span class=\"soft small\">Total</span><strong>{total} USD</strong></p></header>\n"
        ),
    );
}

fn facts(page: &mut String, statement: &Statement) {
    let days = statement.days.iter().filter(|day| day.requests > 0).count();
    let rows = statement.rows.map_or_else(|| "none".to_owned(), |(first, last)| format!("{first} to {last}"));
    let facts = [
        ("Requests", grouped(statement.total.requests)),
        ("Tokens", grouped(statement.total.tokens)),
        ("Days with requests", format!("{days} of {}", statement.days.len())),
        ("Ledger rows of the month", rows),
    ];
    page.push_str("<dl>");
    for (name, value) in facts {
        write(page, format_args!("<div><dt>{name}</dt><dd>{value}</dd></div>"));
    }
    page.push_str("</dl>\n");
}

/// A bar a day. Heights are rounded to a tenth of a unit; the exact amount is in each bar's title.
fn chart(page: &mut String, statement: &Statement) {
    const WIDTH: usize = 800;
    const LEFT: usize = 8;
    const HEIGHT: i128 = 200;
    const TOP: i128 = 22;
    const BOTTOM: i128 = 20;
    let most = statement.days.iter().map(|day| day.cost).max().unwrap_or(0);
    let count = statement.days.len().max(1);
    let step = (WIDTH - 2 * LEFT) / count;
    let (plot, floor) = (HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM);
    page.push_str("<figure>");
    write(
        page,
        format_args!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Cost by day in USD\">\
             <line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{TOP}\" y2=\"{TOP}\"/>\
             <line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{floor}\" y2=\"{floor}\"/>",
            WIDTH - LEFT,
            WIDTH - LEFT
        ),
    );
    if most > 0 {
        let (x, y, most) = (WIDTH - LEFT, TOP - 6, usd(most));
        write(page, format_args!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{most} USD</text>"));
    }
    for (at, day) in statement.days.iter().enumerate() {
        let x = LEFT + at * step;
        if day.cost > 0 {
            // In tenths, and a day that cost anything is to be seen.
            let tenths = (day.cost * plot * 10 / most).max(10);
            let (height, y) = (tenth(tenths), tenth(floor * 10 - tenths));
            let date = civil::format_date(statement.from_ms + at as u64 * DAY_MS);
            let (cost, requests) = (usd(day.cost), grouped(day.requests));
            write(
                page,
                format_args!(
                    "<rect class=\"bar\" x=\"{}\" y=\"{y}\" width=\"{}\" height=\"{height}\" rx=\"2\">\
                     <title>{date}: {cost} USD, {requests} requests</title></rect>",
                    x + 3,
                    step - 6
                ),
            );
        }
        if at == 0 || (at + 1) % 5 == 0 {
            let middle = x + step / 2;
            write(
                page,
                format_args!(
                    "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                    HEIGHT - 6,
                    at + 1
                ),
            );
        }
    }
    page.push_str("</svg><figcaption>");
    match busiest(&statement.days) {
        Some((at, day)) => {
            let date = civil::format_date(statement.from_ms + at as u64 * DAY_MS);
            write(page, format_args!("Cost by day (UTC). The highest is {} USD on {date}.", usd(day.cost)));
        }
        None => page.push_str("Nothing was billed in this month."),
    }
    page.push_str("</figcaption></figure>\n");
}

fn busiest(days: &[Sums]) -> Option<(usize, &Sums)> {
    days.iter().enumerate().rev().max_by_key(|(_, day)| day.cost).filter(|(_, day)| day.cost > 0)
}

fn items(page: &mut String, statement: &Statement) {
    page.push_str(
        "<h2>What was used</h2>\n<div class=\"wide\"><table><thead><tr><th>Model and tokens</th><th>Tier</th>\
         <th class=\"n\">Tokens</th><th class=\"n\">USD per 1M</th><th class=\"n\">USD</th></tr></thead><tbody>\n",
    );
    let places = places(statement.items.values().map(|item| item.cost).chain([statement.total.cost]));
    for ((model, tier, class, version), item) in &statement.items {
        let price = match *class {
            UNIT_HOURS => format!("{} each", item.price),
            _ => padded(&item.price.to_usd_per_million(), 2),
        };
        let class = class.replace('_', " ");
        let (model, tier, version) = (escaped(model), escaped(tier), escaped(version));
        write(
            page,
            format_args!(
                "<tr><td>{model}, {class}<br><code class=\"soft\">{version}</code></td><td>{tier}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
                grouped(item.tokens),
                price,
                padded(&usd(item.cost), places)
            ),
        );
    }
    total_row(page, &statement.total, places, true);
}

fn keys(page: &mut String, statement: &Statement) {
    page.push_str(
        "<h2>Who used it</h2>\n<div class=\"wide\"><table><thead><tr><th>Project</th><th>Key</th>\
         <th class=\"n\">Requests</th><th class=\"n\">Tokens</th><th class=\"n\">USD</th></tr></thead><tbody>\n",
    );
    let places = places(statement.keys.values().map(|sums| sums.cost).chain([statement.total.cost]));
    for ((project, key, id), sums) in &statement.keys {
        write(
            page,
            format_args!(
                "<tr><td>{}</td><td>{}<br><code class=\"soft\">{}</code></td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td></tr>\n",
                escaped(project),
                escaped(key),
                escaped(id),
                grouped(sums.requests),
                grouped(sums.tokens),
                padded(&usd(sums.cost), places)
            ),
        );
    }
    total_row(page, &statement.total, places, false);
}

/// What came back to the balance: it pays for later use, and the total above stays what was used.
fn rebates(page: &mut String, statement: &Statement) {
    if statement.rebates.is_empty() {
        return;
    }
    page.push_str(
        "<h2>What was given back</h2>\n<p class=\"soft small\">For leased capacity that was resold or taken back; it was \
         added to the balance.</p>\n<div class=\"wide\"><table><thead><tr><th>Lease</th><th class=\"n\">USD</th></tr></thead>\
         <tbody>\n",
    );
    let sum: i128 = statement.rebates.values().sum();
    let places = places(statement.rebates.values().copied().chain([sum]));
    for (lease, given) in &statement.rebates {
        let (lease, given) = (escaped(lease), padded(&usd(*given), places));
        write(page, format_args!("<tr><td><code>{lease}</code></td><td class=\"n\">{given}</td></tr>\n"));
    }
    let sum = padded(&usd(sum), places);
    write(
        page,
        format_args!(
            "</tbody><tfoot><tr><td>Given back</td><td class=\"n\">{sum}</td></tr></tfoot></table></div>\n"
        ),
    );
}

/// Closes the table with its total.
fn total_row(page: &mut String, total: &Sums, places: usize, by_price: bool) {
    let (requests, tokens) = (grouped(total.requests), grouped(total.tokens));
    let cost = padded(&usd(total.cost), places);
    let middle = match by_price {
        true => format!("<td class=\"n\">{tokens}</td><td></td>"),
        false => format!("<td class=\"n\">{requests}</td><td class=\"n\">{tokens}</td>"),
    };
    write(
        page,
        format_args!(
            "</tbody><tfoot><tr><td colspan=\"2\">Total</td>{middle}<td class=\"n\">{cost}</td></tr></tfoot>\
             </table></div>\n"
        ),
    );
}

fn footer(page: &mut String, statement: &Statement) {
    write(
        page,
        format_args!(
            "<footer class=\"soft small\"><p>Amounts are exact, to 0.000000000001 USD; each is price × tokens. Days are \
             UTC; a request counts on the day it ended.</p><p>Organisation <code>{}</code></p></footer>\n",
            escaped(&statement.org_id)
        ),
    );
}

/// `2026-11` as `November 2026`.
fn month_name(month: &str) -> String {
    let (year, number) = month.split_once('-').unwrap_or((month, ""));
    let name = number.parse::<usize>().ok().and_then(|number| MONTHS.get(number.wrapping_sub(1)));
    name.map_or_else(|| month.to_owned(), |name| format!("{name} {year}"))
}

/// The exact amount with at least cents: `12.50`, `0.0000148`.
fn usd(picos: i128) -> String {
    padded(&Picos(i64::try_from(picos).unwrap_or(i64::MAX)).to_usd(), 2)
}

/// A decimal with at least so many places.
fn padded(decimal: &str, places: usize) -> String {
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, ""));
    format!("{whole}.{fraction:0<places$}")
}

/// Places that the longest of these amounts needs, so that a column's points stand below each other.
fn places(costs: impl Iterator<Item = i128>) -> usize {
    costs.map(|cost| usd(cost).split('.').nth(1).map_or(0, str::len)).max().unwrap_or(2)
}

/// A count with a thin space before every third digit.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn tenth(tenths: i128) -> String {
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// Text inside an element or a quoted attribute.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, character| {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_as_people_read_them() {
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!((grouped(0), grouped(999)), ("0".to_owned(), "999".to_owned()));
        assert_eq!(
            (usd(12_500_000_000_000), usd(0), usd(14_800_000)),
            ("12.50".to_owned(), "0.00".to_owned(), "0.0000148".to_owned())
        );
        assert_eq!(
            (padded("0.4", 2), places([10_000_000_000, 14_800_000].into_iter())),
            ("0.40".to_owned(), 7)
        );
        assert_eq!(
            (month_name("2026-11"), month_name("2026-13")),
            ("November 2026".to_owned(), "2026-13".to_owned())
        );
        assert_eq!(escaped("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
    }
}
