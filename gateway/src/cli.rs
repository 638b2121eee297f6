//! The command line.

mod admin_keys;
mod calibrate;
mod credits;
mod fetch;
mod keys;
mod ledger;
mod orgs;
mod place;
mod reports;
mod serve;

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Config;
// The text is shown to the operator as it is.
use crate::node::Failure;

/// Sells AI compute that would otherwise run idle: an OpenAI-compatible API with keys, limits and exact bills.
#[derive(Debug, Parser)]
#[command(name = "spillway", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Directory of accounts, ledger and models [default: .spillway, or data.dir of the configuration]
    #[arg(long, global = true, env = "SPILLWAY_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// What to log on standard error, as JSON lines: a level, or a list of target=level
    #[arg(long, global = true, env = "SPILLWAY_LOG", default_value = "warn", value_name = "FILTER")]
    log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch the demo model, create a key and serve
    Demo(ServeArgs),
    /// Serve
    Serve(ServeArgs),
    /// Measure what this machine can serve, for /v1/capacity; while nothing else runs on it
    Calibrate {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Fetch a model by its card's name, or take over a local GGUF file
    Pull {
        /// Name of a built-in card, or path of a file
        model: String,
    },
    /// API keys
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Keys of the operator, for the admin listener
    #[command(subcommand)]
    AdminKeys(admin_keys::AdminKeysCommand),
    /// Organisations: who pays
    #[command(subcommand)]
    Orgs(orgs::OrgsCommand),
    /// Credit of organisations
    #[command(subcommand)]
    Credits(credits::CreditsCommand),
    /// Tokens and cost by organisation, project, key and model
    Usage(reports::UsageArgs),
    /// Write the bill, by request or by the hour
    Export(reports::ExportArgs),
    /// Write the monthly statement of an organisation, as a page to read and to print
    Statement(reports::StatementArgs),
    /// The ledger's store
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Recompute everything from the ledger and say whether it balances
    Verify(reports::VerifyArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where customers connect; port 0 takes any free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where health and metrics are
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<SocketAddr>,
}

/// Runs the command that the program's arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever closed the pipe, like `head`, wants to hear no more.
            if !is_broken_pipe(&*error) {
                eprintln!("spillway: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// A line on standard output; unlike `println!` it fails where nobody reads.
fn print(line: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
    })
}

fn run(cli: Cli) -> Result<(), Failure> {
    crate::telemetry::start(&cli.log)?;
    match cli.command {
        Command::Demo(args) => serve::run(configured(&args, cli.data)?, true),
        Command::Serve(args) => serve::run(configured(&args, cli.data)?, false),
        Command::Calibrate { config } => calibrate::run(&with_file(config.as_deref(), cli.data)?),
        Command::Pull { model } => fetch::pull(&model, &defaults(cli.data)?),
        Command::Keys(command) => keys::run(command, &defaults(cli.data)?.data.dir),
        Command::AdminKeys(command) => admin_keys::run(command, &defaults(cli.data)?.data.dir),
        Command::Orgs(command) => orgs::run(command, &defaults(cli.data)?.data.dir),
        Command::Credits(command) => credits::run(command, &defaults(cli.data)?.data.dir),
        Command::Usage(args) => reports::usage(&args, &defaults(cli.data)?.data.dir),
        Command::Export(args) => {
            let config = with_file(args.config.as_deref(), cli.data)?;
            reports::export(&args, &config)
        }
        Command::Statement(args) => {
            let config = with_file(args.config.as_deref(), cli.data)?;
            reports::statement(&args, &config)
        }
        Command::Ledger(command) => ledger::run(&command),
        Command::Verify(args) => reports::verify(&args, &defaults(cli.data)?.data.dir),
    }
}

/// The configuration of commands that take no file.
fn defaults(data: Option<PathBuf>) -> Result<Config, Failure> {
    with_file(None, data)
}

/// File, if any, and environment.
fn with_file(file: Option<&std::path::Path>, data: Option<PathBuf>) -> Result<Config, Failure> {
    let mut config = Config::load(file, std::env::vars())?;
    config.data.dir = data.unwrap_or(config.data.dir);
    Ok(config)
}

/// File and environment, then flags.
fn configured(args: &ServeArgs, data: Option<PathBuf>) -> Result<Config, Failure> {
    let mut config = Config::load(args.config.as_deref(), std::env::vars())?;
    config.data.dir = data.unwrap_or(config.data.dir);
    if let Some(listen) = args.listen {
        config.server.listen = listen;
        if listen.port() == 0 {
            // Whoever takes any port for one listener does not want a fixed one for the other.
            config.server.admin_listen.set_port(0);
        }
    }
    config.server.admin_listen = args.admin_listen.unwrap_or(config.server.admin_listen);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_win_over_defaults() {
        let cli = Cli::parse_from(["spillway", "serve", "--listen", "127.0.0.1:0", "--data", "/tmp/x"]);
        let Command::Serve(args) = cli.command else { panic!("not serve") };
        let config = configured(&args, cli.data).unwrap();
        assert_eq!(config.server.listen.port(), 0);
        assert_eq!(config.server.admin_listen.port(), 0);
        assert_eq!(config.data.dir, PathBuf::from("/tmp/x"));
    }
}
