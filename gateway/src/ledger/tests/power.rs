//! Power loss: of what was written since the last sync, each sector may be there, be there in part, or be lost.
//!
//! The files of a real ledger are copied after each acknowledged call, when all of them is synced. A loss of power before
//! the next acknowledgement leaves the earlier files with any part of the later writes, in any order. Then what was
//! acknowledged must be there, and the books must balance.

use std::collections::BTreeMap;

use super::*;

/// What a disk writes whole, at best.
const SECTOR: usize = 512;
const CALLS: u32 = 60;

/// Numbers from a seed (SplitMix64).
struct Rng(u64);

impl Rng {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }
}

/// The files of a ledger.
#[derive(Clone, Default)]
struct Files {
    database: Vec<u8>,
    log: Vec<u8>,
}

impl Files {
    fn read(dir: &Path) -> Self {
        let read = |name: &str| std::fs::read(dir.join(name)).unwrap_or_default();
        Self { database: read("ledger.db"), log: read("ledger.db-wal") }
    }

    fn write(&self, dir: &Path) {
        std::fs::write(dir.join("ledger.db"), &self.database).unwrap();
        std::fs::write(dir.join("ledger.db-wal"), &self.log).unwrap();
    }
}

/// `before` with a random part of the sectors that `after` changed.
fn torn(before: &[u8], after: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut found = before.to_vec();
    // From nothing over about half to all of it.
    let share = rng.below(5);
    for (at, sector) in after.chunks(SECTOR).enumerate() {
        let start = at * SECTOR;
        let end = start + sector.len();
        if before.get(start..end) == Some(sector) || rng.below(4) >= share {
            continue;
        }
        let kept = if rng.below(6) == 0 { rng.below(sector.len() as u64) as usize } else { sector.len() };
        if found.len() < start + kept {
            found.resize(start + kept, 0);
        }
        found[start..start + kept].copy_from_slice(&sector[..kept]);
    }
    found
}

/// The ledger's files and the settlements acknowledged so far, after each call; and the files after the end.
async fn history() -> (Vec<(Files, BTreeMap<String, Settled>)>, Files) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    let (mut states, mut acked) = (Vec::new(), BTreeMap::new());
    for call in 0..CALLS {
        let id = format!("r{}", call / 3);
        match call % 3 {
            0 => ledger.hold(request(&id, 9_000)).await.unwrap(),
            1 => ledger.checkpoint(&id, tokens(10, 0, 1 + call % 5), 1_500).await.unwrap(),
            _ => {
                let settled = ledger.settle(settlement(&id, tokens(10, 0, 2 + call % 7))).await.unwrap();
                acked.insert(id, settled);
            }
        }
        states.push((Files::read(dir.path()), acked.clone()));
    }
    // A clean end folds the log into the file.
    ledger.close();
    drop(ledger);
    (states, Files::read(dir.path()))
}

async fn check(files: &Files, acked: &BTreeMap<String, Settled>, about: &str) {
    let dir = tempfile::tempdir().unwrap();
    files.write(dir.path());
    let options = LedgerSection::default();
    let ledger = Ledger::open(dir.path(), &options, 5_000).unwrap_or_else(|error| panic!("{about}: {error}"));
    for (id, settled) in acked {
        let again = ledger.settle(settlement(id, tokens(0, 0, 0))).await;
        assert_eq!(again.as_ref().ok(), Some(settled), "{about}: {id} {again:?}");
    }
    ledger.close();
    let report = verify::verify(dir.path()).unwrap();
    assert!(report.is_ok() && report.open == 0, "{about}: {report}");
}

#[tokio::test]
async fn a_loss_of_power_loses_nothing_acknowledged() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = 0x0FF ^ number("FAULT_SEED").unwrap_or(0);
    println!("seed {seed:#x}");
    let mut rng = Rng(seed);
    let (states, folded) = history().await;
    assert!(
        folded.log.is_empty() && folded.database.len() > states[0].0.database.len(),
        "the log was folded in"
    );
    let mut changed = 0;
    for trial in 0..400 * number("FAULT_TRIALS").unwrap_or(1) {
        let at = rng.below(states.len() as u64) as usize;
        let (before, acked) = &states[at];
        let files = match states.get(at + 1) {
            Some((after, _)) => {
                let log = torn(&before.log, &after.log, &mut rng);
                Files { log, database: torn(&before.database, &after.database, &mut rng) }
            }
            // The log stays until the file that it is folded into is synced.
            None => Files {
                log: before.log.clone(),
                database: torn(&before.database, &folded.database, &mut rng),
            },
        };
        changed += u64::from(files.log != before.log || files.database != before.database);
        check(&files, acked, &format!("seed {seed:#x}, trial {trial}, after call {at}")).await;
    }
    assert!(changed > 200, "only {changed} trials lost a part of something");
}
