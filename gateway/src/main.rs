//! The `spillway` program; everything it does is in [`gateway::cli`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    gateway::cli::main()
}
