//! Hull's build, test, lab and demo commands: `cargo xtask VERB`.

mod arrows;
mod bench;
mod check;
mod demo;
mod emulator;
mod fixtures;
mod fuzz;
mod images;
mod lab;
mod openapi;
mod programs;
mod shell;
mod test;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask VERB

  demo                    set up, build, and boot a microVM
  test                    set up, and run every test
  soak [NAME...]          run tests at their full length: kill, flood, real-kill, real-many, network
  check                   formatting, lints, dependency law, sizes
  fuzz [--minutes N] [--part K/N] [TARGET...]
                          fuzz each target for so long (10 minutes), all of them or a part
  bench boot [--json] [--peer NAME=PATH]
                          measure a boot beside others', in the lab on a clock that counts instructions
  bench net [--json] [--peer NAME=PATH]
                          measure a network card beside QEMU's, in the same lab
  bench jail              measure what a VMM's jail costs at its start, on this host
  lab [--emulate | --count] -- CMD
                          run CMD where KVM can boot Linux: here, or in the lab
  openapi                 write resources/openapi.json anew, from the handlers
  api-test [--examples N] [--seed N]
                          ask a daemon whatever its API document allows and forbids
  fixtures                make what the tests need besides the programs
  manual                  write the manual's pages and the shells' completions
  programs                build hull, hull-vmm and the static hull-agent";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let outcome = match args.first().map(String::as_str) {
        Some("demo") => demo::run(),
        Some("test") => test::run(),
        Some("soak") => test::soak::run(rest),
        Some("check") => check::run(),
        Some("bench") => bench::run(rest),
        Some("openapi") => openapi::renew(),
        Some("api-test") => openapi::test(rest),
        Some("fuzz") => fuzz::run(rest),
        Some("lab") => return lab::command(rest),
        Some("fixtures") => fixtures::guest()
            .and_then(|_| fixtures::bare())
            .and_then(|_| images::tools())
            .and_then(|_| images::images())
            .map(drop),
        Some("manual") => programs::manual(),
        Some("programs") => programs::build().map(drop),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
