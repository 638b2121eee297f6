use proptest::prelude::*;

use super::*;

#[test]
fn decimals_are_exact() {
    for (text, picos) in [
        ("0", 0),
        ("1", 1_000_000_000_000),
        ("0.000000000001", 1),
        ("-1.5", -1_500_000_000_000),
        ("0012.50000000000000000", 12_500_000_000_000),
        ("9223372.036854775807", i64::MAX),
        ("-9223372.036854775808", i64::MIN),
    ] {
        assert_eq!(Picos::parse_usd(text), Ok(Picos(picos)), "{text}");
    }
    assert_eq!(Picos::parse_per_million("0.10"), Ok(Picos(100_000)));
    assert_eq!(Picos::parse_per_million("1"), Ok(Picos(1_000_000)));
    assert_eq!(Picos::parse_per_million("0.000001"), Ok(Picos(1)));
    assert_eq!(Picos(100_000).to_usd_per_million(), "0.1");
}

#[test]
fn bad_decimals_are_refused() {
    for text in ["", "-", ".", ".5", "5.", "1e3", "+1", "1,5", "0x1", "--1", "1.2.3", "NaN", "１", "1 2"] {
        assert!(matches!(Picos::parse_usd(text), Err(MoneyError::NotDecimal(_))), "{text}");
    }
    assert_eq!(Picos::parse_usd("9223372.036854775808"), Err(MoneyError::OutOfRange));
    assert_eq!(Picos::parse_usd(&"9".repeat(4000)), Err(MoneyError::OutOfRange));
    assert!(matches!(Picos::parse_usd("0.0000000000001"), Err(MoneyError::TooPrecise { limit: 12, .. })));
    assert!(matches!(Picos::parse_per_million("0.1234567"), Err(MoneyError::TooPrecise { limit: 6, .. })));
    assert!(Picos::parse_per_million("-0.1").is_err());
}

#[test]
fn cost_is_price_times_tokens() {
    let price = PriceVersion::new("m", "default", 0, Picos(100_000), Picos(50_000), Picos(400_000));
    let cost = price.cost(Tokens { uncached_input: 10, cached_input: 20, output: 3 }).unwrap();
    assert_eq!(
        (cost.uncached_input, cost.cached_input, cost.output),
        (Picos(1_000_000), Picos(1_000_000), Picos(1_200_000))
    );
    assert_eq!(cost.total.to_usd(), "0.0000032");
    let dear = PriceVersion::new("m", "default", 0, Picos(i64::MAX / 2), Picos(1), Picos(1));
    assert!(dear.cost(Tokens { uncached_input: 3, ..Tokens::default() }).is_err());
}

#[test]
fn the_version_in_force_is_the_latest_begun() {
    let version = |from, picos| PriceVersion::new("m", "default", from, Picos(picos), Picos(0), Picos(0));
    let card = RateCard::new(vec![version(200, 2), version(100, 1)]).unwrap();
    assert_eq!(card.at("m", "default", 99), None);
    assert_eq!(card.at("m", "default", 199).map(|v| v.uncached_input), Some(Picos(1)));
    assert_eq!(card.at("m", "default", 200).map(|v| v.uncached_input), Some(Picos(2)));
    assert_eq!(card.at("m", "flex", 200), None);
    assert_eq!(version(5, 1).id, version(5, 1).id);
    assert_ne!(version(5, 1).id, version(5, 2).id);
    assert!(RateCard::new(vec![version(5, 1), version(5, 2)]).is_err());
}

proptest! {
    #[test]
    fn format_then_parse_is_identity(picos: i64) {
        prop_assert_eq!(Picos::parse_usd(&Picos(picos).to_usd()), Ok(Picos(picos)));
    }

    #[test]
    fn any_text_is_answered(text in ".{0,30}") {
        let _ = Picos::parse_usd(&text);
    }
}
