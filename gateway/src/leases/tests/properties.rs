//! What is sold is sold once; what is offered is accounted for.

use proptest::prelude::*;

use super::*;

/// What customers do.
#[derive(Clone, Debug)]
enum Deed {
    Lease { org: u8, start: u64, steps: Vec<(u64, u32)>, hours: u64 },
    Notice { which: usize, operator: bool },
    Wait { hours: u64 },
}

fn deed() -> impl Strategy<Value = Deed> {
    let steps = proptest::collection::vec((1_u64..5, 1_u32..6), 0..4);
    prop_oneof![
        5 => (0_u8..3, 0_u64..20, steps, 1_u32..6, 1_u64..20).prop_map(|(org, start, later, units, hours)| {
            let mut steps = vec![(0, units)];
            for (after, units) in later {
                steps.push((steps[steps.len() - 1].0 + after, units));
            }
            steps.retain(|(at, _)| *at < hours);
            Deed::Lease { org, start, steps, hours }
        }),
        2 => (0_usize..30, any::<bool>()).prop_map(|(which, operator)| Deed::Notice { which, operator }),
        1 => (1_u64..6).prop_map(|hours| Deed::Wait { hours }),
    ]
}

/// Units that are held in an hour, the slow way.
fn held_in(all: &[Lease], hour: u64) -> u32 {
    all.iter().map(|lease| lease.units_at(hour * HOUR_MS)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// No sequence of leases and notices sells more than there is at any hour, and what fits is sold.
    #[test]
    fn nothing_is_sold_twice(deeds in proptest::collection::vec(deed(), 1..50)) {
        const UNITS: u32 = 8;
        let dir = tempfile::tempdir().unwrap();
        let leases = leases(dir.path(), UNITS);
        let (mut now, mut sold) = (100_u64, Vec::<Lease>::new());
        for (n, deed) in deeds.into_iter().enumerate() {
            match deed {
                Deed::Lease { org, start, steps, hours } => {
                    let from = now + start;
                    let steps: Vec<_> = steps.iter().map(|(at, units)| (from + at, *units)).collect();
                    let mut new = lease(&leases, &format!("l{n}"), &steps, from + hours, now * HOUR_MS);
                    new.org_id = format!("org_{org}");
                    let fits = (from..from + hours)
                        .all(|hour| held_in(&sold, hour) + new.units_at(hour * HOUR_MS) <= UNITS);
                    let free = (from..from + hours).map(|hour| UNITS - held_in(&sold, hour)).min();
                    let told = leases.free("m", from * HOUR_MS, (from + hours) * HOUR_MS).unwrap();
                    prop_assert_eq!(Some(told), free.map(u64::from));
                    match leases.reserve(&new) {
                        Ok(()) => {
                            prop_assert!(fits);
                            store::set_stage(&leases.lock(), &new.id, Stage::Live).unwrap();
                            sold.push(new);
                        }
                        Err(LeaseError::Full { .. }) => prop_assert!(!fits),
                        Err(LeaseError::TooMany(_)) => {
                            let own = sold.iter().filter(|other| other.org_id == new.org_id);
                            prop_assert!(own.count() >= 16);
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                Deed::Notice { which, operator } => {
                    let Some(lease) = sold.get_mut(which) else { continue };
                    let by = if operator { Party::Operator } else { Party::Holder };
                    let expected = lease.give_notice(by, now * HOUR_MS + 1);
                    let told = leases.give_notice(&lease.id, by, now * HOUR_MS + 1);
                    prop_assert_eq!(told.is_ok(), expected.is_ok());
                    prop_assert!(lease.end_ms > now * HOUR_MS || expected.is_err());
                }
                Deed::Wait { hours } => now += hours,
            }
            prop_assert!((now..now + 60).all(|hour| held_in(&sold, hour) <= UNITS));
        }
    }

    /// Of each hour all that was offered was used, resold or idle; no token was resold twice, and what came back is what
    /// the hours say.
    #[test]
    fn what_is_offered_is_accounted_for(
        units in proptest::collection::vec((1_u32..4, 0_u64..3, 1_u64..4), 1..4),
        served in proptest::collection::vec((0_usize..5, 0_u64..6, 0_u32..60_000), 0..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let (leases, ledger) = (leases(dir.path(), 12), ledger(dir.path(), 0));
            pay_in(&ledger, 100, 0).await;
            for (n, (units, start, hours)) in units.iter().enumerate() {
                let new = lease(&leases, &format!("l{n}"), &[(1 + start, *units)], 1 + start + hours, 0);
                leases.grant(&ledger, &payer(), new).await.unwrap();
            }
            let mut served = served;
            served.sort_by_key(|(_, hour, _)| *hour);
            let mut surplus = [0_u64; 6];
            for (n, (what, hour, output)) in served.into_iter().enumerate() {
                let at_ms = (1 + hour) * HOUR_MS + 20_000;
                leases.keep(&ledger, at_ms).await.unwrap();
                let (tier, of) = match what {
                    0 => ("flex", None),
                    1 => ("batch_7d", None),
                    n => ("reserved", Some(format!("l{}", n - 2))),
                };
                surplus[hour as usize] += if of.is_none() { u64::from(output) } else { 0 };
                let tokens = Tokens { output, ..Tokens::default() };
                serve(&ledger, format!("r{n}"), tier, of.as_deref(), tokens, at_ms).await;
            }
            leases.keep(&ledger, 20 * HOUR_MS).await.unwrap();
            let mut given = 0;
            for n in 0..units.len() {
                let (kept, sums) = leases.get(None, &format!("l{n}")).unwrap().unwrap();
                let hours = kept.lease.unit_hours(0, kept.lease.end_ms);
                prop_assert_eq!(sums.offered, hours * 36_000);
                prop_assert!(sums.used + sums.resold <= sums.offered);
                given += sums.rebate_picos;
            }
            for (hour, surplus) in surplus.into_iter().enumerate() {
                let resold = store::resold(&leases.lock(), "m", (1 + hour as u64) * HOUR_MS).unwrap();
                prop_assert!(resold <= surplus);
            }
            let credited = balance(dir.path(), "org_1").unwrap().credited.0;
            prop_assert_eq!(credited, 100_000_000_000_000 + given);
            ledger.close();
            prop_assert!(verify(dir.path()).unwrap().is_ok());
            Ok(())
        })?;
    }
}
