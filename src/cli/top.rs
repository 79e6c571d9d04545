//! `hull top`: the processes of a running microVM's container.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hull_protocol::exec::ContainerProcess;
use hull_protocol::units::Bytes;

use super::list::{Format, print, print_json};
use crate::client::{Client, Host, microvm_path};
use crate::table::{Table, cut};

const COMMAND_MAX: usize = 80;

/// List the processes of a running microVM
#[derive(Debug, Args)]
pub(super) struct Top {
    /// Whole commands
    #[arg(long)]
    no_trunc: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Id, name or beginning of an id
    microvm: String,
}

impl Top {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let processes: Vec<ContainerProcess> = client.get(&microvm_path(&self.microvm, "/processes")).await?;
        if matches!(self.format, Format::Json) {
            return print_json(&processes);
        }
        let mut table = Table::new(&["PID", "PPID", "USER", "TIME", "RSS", "COMMAND"]);
        for process in &processes {
            table.row(vec![
                process.pid.to_string(),
                process.ppid.to_string(),
                process.user.clone(),
                time(process.cpu_ms),
                Bytes(process.resident).to_string(),
                cut(&process.command, COMMAND_MAX, self.no_trunc),
            ]);
        }
        print(&table.render())
    }
}

/// Processor time as ps(1) has it.
fn time(ms: u64) -> String {
    let seconds = ms / 1000;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_hours_minutes_and_seconds() {
        assert_eq!(
            (time(999), time(61_000), time(360_000_000)),
            ("00:00:00".into(), "00:01:01".into(), "100:00:00".to_owned())
        );
    }
}
