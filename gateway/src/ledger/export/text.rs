//! Values as text.

/// `units` of which `places` are behind the point, exact, always with a point: `12.0`, `0.0000005`. Readers that guess
/// types take a column of whole numbers for integers.
pub(in crate::ledger) fn decimal(units: i128, places: usize) -> String {
    let digits = format!("{:0width$}", units.unsigned_abs(), width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let fraction = fraction.trim_end_matches('0');
    let sign = if units < 0 { "-" } else { "" };
    let fraction = if fraction.is_empty() { "0" } else { fraction };
    format!("{sign}{whole}.{fraction}")
}

/// A text that a spreadsheet does not take for a formula.
pub(super) fn inert(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_keep_every_digit_and_a_point() {
        for (units, places, text) in [
            (0, 12, "0.0"),
            (1, 12, "0.000000000001"),
            (12_000_000_000_000, 12, "12.0"),
            (-1_500_000_000_000, 12, "-1.5"),
            (1_234, 0, "1234.0"),
            (i128::from(i64::MAX) * 1_000, 12, "9223372036.854775807"),
        ] {
            assert_eq!(decimal(units, places), text);
        }
    }

    #[test]
    fn formulas_are_defused() {
        for formula in ["=1", "+1", "-1", "@x", "\tx", "\rx"] {
            assert_eq!(inert(formula.to_owned()), format!("'{formula}"));
        }
        assert_eq!(inert("a=1".to_owned()), "a=1");
    }
}
