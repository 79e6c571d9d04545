//! `hull ps`: which microVMs there are.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hull_protocol::api::{Microvm, State};
use hull_protocol::health::HealthStatus;

use super::list::{Format, print, print_json, print_lines};
use super::port;
use crate::client::{Client, Host};
use crate::table::{Table, ago, cut, lasting, short};

const COMMAND_MAX: usize = 24;

/// List microVMs
#[derive(Debug, Args)]
pub(super) struct Ps {
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Ps {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let mut microvms: Vec<Microvm> = client.get("/v1/microvms").await?;
        microvms.retain(|microvm| self.all || is_alive(microvm.state));
        // RFC 3339 in UTC sorts as text.
        microvms.sort_by(|a, b| b.created_at.cmp(&a.created_at));
        match self.format {
            Format::Json => print_json(&microvms),
            Format::Table if self.quiet => {
                print_lines(microvms.iter().map(|microvm| short(&microvm.id, self.no_trunc)))
            }
            Format::Table => print(&self.table(&microvms).render()),
        }
    }

    fn table(&self, microvms: &[Microvm]) -> Table {
        let mut table =
            Table::new(&["MICROVM ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]);
        for microvm in microvms {
            table.row(vec![
                short(&microvm.id, self.no_trunc),
                microvm.spec.container.image.clone(),
                format!("\"{}\"", cut(&microvm.command.join(" "), COMMAND_MAX, self.no_trunc)),
                ago(&microvm.created_at),
                status(microvm),
                microvm.ports.iter().map(port::shown).collect::<Vec<_>>().join(", "),
                microvm.name.clone(),
            ]);
        }
        table
    }
}

fn is_alive(state: State) -> bool {
    matches!(state, State::Starting | State::Running | State::Paused | State::Stopping | State::Restarting)
}

/// Docker's words for what the health checks say.
fn health(microvm: &Microvm) -> &'static str {
    match microvm.health.as_ref().map(|health| health.status) {
        None => "",
        Some(HealthStatus::Starting) => " (health: starting)",
        Some(HealthStatus::Healthy) => " (healthy)",
        Some(HealthStatus::Unhealthy) => " (unhealthy)",
    }
}

/// Docker's words for a state.
fn status(microvm: &Microvm) -> String {
    let up = || microvm.started_at.as_deref().map_or_else(String::new, |time| format!(" {}", lasting(time)));
    let since = || microvm.finished_at.as_deref().map_or_else(String::new, |time| format!(" {}", ago(time)));
    let code = || microvm.exit.as_ref().map_or_else(String::new, |exit| format!(" ({})", exit.status));
    match microvm.state {
        State::Created => "Created".into(),
        State::Starting => "Starting".into(),
        State::Running => format!("Up{}{}", up(), health(microvm)),
        State::Paused => format!("Up{} (Paused)", up()),
        State::Stopping => format!("Up{} (Stopping)", up()),
        State::Restarting => format!("Restarting{}{}", code(), since()),
        State::Stopped => format!("Exited{}{}", code(), since()),
        State::Failed => format!("Failed{}{}", code(), since()),
    }
}
