//! How often the trials of faults are done, and with which seeds.

use std::env;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{name}={text:?}: {e}")))
}

/// So many trials, times `FAULT_TRIALS`.
pub(crate) fn trials(usual: u64) -> u64 {
    usual * number("FAULT_TRIALS").unwrap_or(1)
}

/// The seed of a series of trials, changed by `FAULT_SEED`. It is printed, and a failing test shows what it printed.
pub(crate) fn seed(usual: u64) -> u64 {
    let seed = usual ^ number("FAULT_SEED").unwrap_or(0);
    println!("seed {seed:#x}");
    seed
}
