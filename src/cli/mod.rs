//! What the user types: one file for each verb.

mod boot;
mod doctor;
mod terminal;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Runs microVMs.
#[derive(Debug, Parser)]
#[command(name = "hull", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Boot a plain VM with its console on this terminal
    Boot(boot::Boot),
    /// Say what this host can run, and what to change
    Doctor(doctor::Doctor),
    /// Print the version
    Version,
}

/// Does what the command line says; returns the process's exit status.
///
/// # Errors
/// When it could not be done.
pub(crate) fn run() -> Result<ExitCode> {
    match Cli::parse().verb {
        Verb::Boot(boot) => boot.run(),
        Verb::Doctor(doctor) => doctor.run(),
        Verb::Version => {
            println!("hull {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_nobody_knows_are_refused() {
        assert!(Cli::try_parse_from(["hull", "boot", "--kernel", "k", "--bogus"]).is_err());
        assert!(Cli::try_parse_from(["hull", "boot", "--kernel", "k", "--cpu", "pentium"]).is_err());
        assert!(Cli::try_parse_from(["hull", "boot", "--kernel", "k", "--memory", "lots"]).is_err());
        assert!(Cli::try_parse_from(["hull", "boot"]).is_err());
    }
}
