//! `hull-vmm`: one microVM, started by `hull` with its plan in descriptor 3.

use std::process::ExitCode;

fn main() -> ExitCode {
    hull_vmm::run()
}
