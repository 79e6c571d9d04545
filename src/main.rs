//! `hull`: runs microVMs.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("hull: {error:#}");
            ExitCode::from(125)
        }
    }
}
