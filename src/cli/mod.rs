//! What the user types: one file for each verb.
//!
//! Owner: the main thread. Invariant: standard output holds what was asked for and nothing else; what went wrong
//! and how far things are is on standard error. Only verbs that speak to a daemon start a runtime.

mod attach;
mod audit;
mod boot;
mod bounded_log;
mod completion;
mod console;
mod container;
mod cp;
mod create;
mod doctor;
mod events;
mod exec;
mod health;
mod images;
mod import;
mod inspect;
mod kernel;
mod keys;
mod kill;
mod list;
mod logs;
mod network;
mod pause;
mod port;
mod ps;
mod pull;
mod rename;
mod restart;
mod rm;
mod rmi;
mod run;
mod serve;
mod serve_log;
mod start;
mod stats;
mod stop;
mod system;
mod tenant;
mod token;
mod top;
mod transfer;
mod update;
mod volume;
mod wait;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::client::Host;

/// The status of a run that Hull itself failed, and of a command line that is not understood, as Docker's.
const STATUS_HULL: u8 = 125;

/// Runs each container image in a microVM of its own.
#[derive(Debug, Parser)]
#[command(name = "hull", version, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    host: Host,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Run),
    Create(create::Create),
    Start(start::Start),
    Exec(exec::Exec),
    Attach(attach::Attach),
    Cp(cp::Cp),
    Ps(ps::Ps),
    Top(top::Top),
    Logs(logs::Logs),
    Console(console::Console),
    Inspect(inspect::Inspect),
    Wait(wait::Wait),
    Stop(stop::Stop),
    Kill(kill::Kill),
    Pause(pause::Pause),
    Unpause(pause::Unpause),
    Restart(restart::Restart),
    Rename(rename::Rename),
    Update(update::Update),
    Stats(stats::Stats),
    Events(events::Events),
    Rm(rm::Rm),
    Images(images::Images),
    Pull(pull::Pull),
    Import(import::Import),
    Rmi(rmi::Rmi),
    Kernel(kernel::Kernel),
    Network(network::Network),
    Volume(volume::Volume),
    Port(port::Port),
    Boot(boot::Boot),
    Serve(serve::Serve),
    System(system::System),
    Tenant(tenant::Tenant),
    Token(token::Token),
    Audit(audit::Audit),
    Doctor(doctor::Doctor),
    Completion(completion::Completion),
    #[command(hide = true)]
    Manual(completion::Manual),
    /// Print the version
    Version,
}

/// The command line of `hull boot` by itself: describing every other verb would be a good part of its start.
#[derive(Debug, Parser)]
#[command(name = "hull", version, disable_help_subcommand = true)]
struct BootAlone {
    #[command(subcommand)]
    verb: BootVerb,
}

#[derive(Debug, Subcommand)]
enum BootVerb {
    Boot(boot::Boot),
}

impl Cli {
    fn read(line: &[OsString]) -> Result<Self, clap::Error> {
        if line.get(1).is_some_and(|verb| verb == "boot") {
            let BootAlone { verb: BootVerb::Boot(boot) } = BootAlone::try_parse_from(line)?;
            return Ok(Self { host: Host::default(), verb: Verb::Boot(boot) });
        }
        Self::try_parse_from(line)
    }
}

impl Verb {
    /// The exit status when Hull could not do it.
    fn failure(&self) -> u8 {
        match self {
            Self::Run(_) | Self::Boot(_) | Self::Exec(_) => STATUS_HULL,
            _ => 1,
        }
    }

    fn run(self, host: &Host) -> Result<ExitCode> {
        match self {
            Self::Boot(boot) => boot.run(host),
            Self::Doctor(doctor) => doctor.run(),
            Self::Serve(serve) => serve.run(),
            Self::Completion(verb) => verb.run(),
            Self::Manual(verb) => verb.run(),
            Self::Version => list::print(&format!("hull {}\n", env!("CARGO_PKG_VERSION"))),
            Self::Run(verb) => block_on(verb.run(host)),
            Self::Create(verb) => block_on(verb.run(host)),
            Self::Start(verb) => block_on(verb.run(host)),
            Self::Exec(verb) => block_on(verb.run(host)),
            Self::Attach(verb) => block_on(verb.run(host)),
            Self::Cp(verb) => block_on(verb.run(host)),
            Self::Top(verb) => block_on(verb.run(host)),
            Self::Ps(verb) => block_on(verb.run(host)),
            Self::Logs(verb) => block_on(verb.run(host)),
            Self::Console(verb) => block_on(verb.run(host)),
            Self::Inspect(verb) => block_on(verb.run(host)),
            Self::Wait(verb) => block_on(verb.run(host)),
            Self::Stop(verb) => block_on(verb.run(host)),
            Self::Kill(verb) => block_on(verb.run(host)),
            Self::Pause(verb) => block_on(verb.run(host)),
            Self::Unpause(verb) => block_on(verb.run(host)),
            Self::Restart(verb) => block_on(verb.run(host)),
            Self::Rename(verb) => block_on(verb.run(host)),
            Self::Update(verb) => block_on(verb.run(host)),
            Self::Stats(verb) => block_on(verb.run(host)),
            Self::Events(verb) => block_on(verb.run(host)),
            Self::System(verb) => block_on(verb.run(host)),
            Self::Rm(verb) => block_on(verb.run(host)),
            Self::Images(verb) => block_on(verb.run(host)),
            Self::Pull(verb) => block_on(verb.run(host)),
            Self::Import(verb) => block_on(verb.run(host)),
            Self::Rmi(verb) => block_on(verb.run(host)),
            Self::Kernel(verb) => block_on(verb.run(host)),
            Self::Network(verb) => block_on(verb.run(host)),
            Self::Volume(verb) => block_on(verb.run(host)),
            Self::Tenant(verb) => block_on(verb.run(host)),
            Self::Token(verb) => block_on(verb.run(host)),
            Self::Audit(verb) => block_on(verb.run(host)),
            Self::Port(verb) => block_on(verb.run(host)),
        }
    }
}

/// Does what the command line says; returns the process's exit status.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::read(&std::env::args_os().collect::<Vec<_>>()) {
        Ok(cli) => cli,
        Err(error) => {
            let _nobody_reads = error.print();
            return if error.use_stderr() { ExitCode::from(STATUS_HULL) } else { ExitCode::SUCCESS };
        }
    };
    let failure = cli.verb.failure();
    cli.verb.run(&cli.host).unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(failure)
    })
}

/// Says on standard error what went wrong, with its causes. Nobody may be there to read it.
fn complain(error: &anyhow::Error) {
    use std::io::Write;
    let _nobody_reads = writeln!(std::io::stderr(), "hull: {error:#}");
}

/// Runs a verb that speaks to a daemon. Threads that wait for standard input end with the program.
fn block_on(verb: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the runtime")?;
    let outcome = runtime.block_on(verb);
    runtime.shutdown_background();
    outcome
}

/// Does the same for each name, as far as it goes: says what was done, and which could not be.
async fn for_each<F: Future<Output = Result<String>>>(
    names: &[String],
    mut act: impl FnMut(String) -> F,
) -> Result<ExitCode> {
    let mut status = ExitCode::SUCCESS;
    for name in names {
        match act(name.clone()).await {
            Ok(done) => {
                list::print(&format!("{done}\n"))?;
            }
            Err(error) => {
                complain(&error);
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}

/// Prints what is found of each name, in one array of JSON: says which could not be found.
async fn show_each<T: Serialize, F: Future<Output = Result<T>>>(
    names: &[String],
    mut look: impl FnMut(String) -> F,
) -> Result<ExitCode> {
    let (mut found, mut status) = (Vec::new(), ExitCode::SUCCESS);
    for name in names {
        match look(name.clone()).await {
            Ok(record) => found.push(record),
            Err(error) => {
                complain(&error);
                status = ExitCode::FAILURE;
            }
        }
    }
    list::print_json(&found)?;
    Ok(status)
}

#[cfg(test)]
mod tests;
