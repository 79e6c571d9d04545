//! `hull`: runs microVMs.
#![forbid(unsafe_code)]

mod cli;
mod client;
mod moment;
mod session;
mod stream;
mod table;
mod terminal;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
