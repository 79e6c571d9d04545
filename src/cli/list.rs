//! What every verb that lists or shows has in common: where it prints, and as what.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::table::Table;

/// How a verb prints what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Table,
    /// The API's objects, in an array
    Json,
}

/// How a verb prints what it lists by name.
#[derive(Debug, Args)]
pub(super) struct Listing {
    /// Names only
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(super) format: Format,
}

impl Listing {
    /// Prints them as objects, as names, or as a table.
    pub(super) fn print<T: Serialize>(
        &self,
        found: &[T],
        name: impl Fn(&T) -> String,
        table: impl FnOnce(&[T]) -> Table,
    ) -> Result<ExitCode> {
        match self.format {
            Format::Json => print_json(&found),
            Format::Table if self.quiet => print_lines(found.iter().map(name)),
            Format::Table => print(&table(found).render()),
        }
    }
}

/// Prints on standard output. A reader that has left wants no more, which is no failure.
pub(super) fn print(text: &str) -> Result<ExitCode> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints as JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<ExitCode> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Prints each on a line.
pub(super) fn print_lines(lines: impl Iterator<Item = String>) -> Result<ExitCode> {
    print(&lines.map(|line| line + "\n").collect::<String>())
}
