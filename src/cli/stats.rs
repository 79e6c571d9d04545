//! `hull stats`: what running microVMs use of their host.

use std::collections::HashMap;
use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use hull_protocol::life::Stats as Measured;

use super::list::{Format, print, print_json};
use crate::client::{Client, Host};
use crate::table::{Table, short};

/// Between the two measurements of which a processor's use is computed.
const BETWEEN: Duration = Duration::from_secs(1);
/// Puts the cursor into the corner and clears what is below.
const HOME: &str = "\u{1b}[H\u{1b}[J";

/// Show what running microVMs use: live, or once
#[derive(Debug, Args)]
pub(super) struct Stats {
    /// Measure once
    #[arg(long)]
    no_stream: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// How to print: json is one array a line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Ids, names or beginnings of ids; all that run when missing
    #[arg(value_name = "MICROVM")]
    microvms: Vec<String>,
}

impl Stats {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let mut wanted = Vec::new();
        for name in &self.microvms {
            wanted.push(client.microvm(name).await?.id);
        }
        let keep = |mut all: Vec<Measured>| {
            all.retain(|one| wanted.is_empty() || wanted.contains(&one.id));
            all
        };
        if self.no_stream {
            let first = keep(client.get("/v1/stats").await?);
            if self.format == Format::Json {
                return print_json(&first);
            }
            tokio::time::sleep(BETWEEN).await;
            return print(&self.table(&keep(client.get("/v1/stats").await?), &first).render());
        }
        let mut lines = client.lines("/v1/stats?stream=true").await?;
        let mut before = Vec::new();
        while let Some(line) = lines.next().await? {
            let now = keep(serde_json::from_str(&line)?);
            match self.format {
                Format::Json => print(&(serde_json::to_string(&now)? + "\n"))?,
                Format::Table => {
                    let home = if stdout().is_terminal() { HOME } else { "" };
                    print(&format!("{home}{}", self.table(&now, &before).render()))?
                }
            };
            before = now;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn table(&self, now: &[Measured], before: &[Measured]) -> Table {
        let mut table = Table::new(&[
            "MICROVM ID",
            "NAME",
            "CPU %",
            "MEM / LIMIT",
            "GUEST MEM",
            "NET I/O",
            "DISK READ / WRITTEN",
            "THREADS",
        ]);
        let before: HashMap<&str, &Measured> = before.iter().map(|one| (one.id.as_str(), one)).collect();
        for one in now {
            let limit = one.memory_limit.map_or_else(|| "-".into(), |limit| limit.to_string());
            table.row(vec![
                short(&one.id, self.no_trunc),
                one.name.clone(),
                percent(one, before.get(one.id.as_str()).copied()),
                format!("{} / {limit}", one.memory),
                one.guest_memory.to_string(),
                one.net.map_or_else(|| "-".into(), |net| format!("{} / {}", net.received, net.sent)),
                format!("{} / {}", one.disk_read, one.disk_written),
                one.threads.to_string(),
            ]);
        }
        table
    }
}

/// Of one processor: two busy ones are 200 %.
fn percent(now: &Measured, before: Option<&Measured>) -> String {
    let Some(before) = before else { return "-".into() };
    let passed = now.time_unix_ns.saturating_sub(before.time_unix_ns);
    let used = now.cpu_ns.saturating_sub(before.cpu_ns);
    if passed == 0 { "-".into() } else { format!("{:.1}", used as f64 * 100.0 / passed as f64) }
}
