//! `hull audit`: who did what to which object, when, with which result.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hull_protocol::api::AuditEntry;

use super::list::{Format, print, print_json};
use crate::client::{Client, Host, escape};
use crate::table::Table;

/// Show who changed what, and who was refused, on this host
#[derive(Debug, Args)]
pub(super) struct Audit {
    /// How many entries from the end
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    tail: usize,
    /// Only those of this tenant
    #[arg(long = "of", value_name = "TENANT")]
    tenant: Option<String>,
    /// Only those by this one, such as uid:1000 or token:ID
    #[arg(long, value_name = "WHO")]
    who: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Audit {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let mut path = format!("/v1/audit?limit={}", self.tail);
        for (name, value) in [("tenant", &self.tenant), ("who", &self.who)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", escape(value)));
            }
        }
        let entries: Vec<AuditEntry> = Client::connect(host).await?.get(&path).await?;
        match self.format {
            Format::Json => print_json(&entries),
            Format::Table => print(&table(&entries)),
        }
    }
}

fn table(entries: &[AuditEntry]) -> String {
    let mut table = Table::new(&["TIME", "WHO", "TENANT", "FROM", "STATUS", "WHAT"]);
    for entry in entries {
        let made = entry.made.as_deref().map(|made| format!(" -> {made}")).unwrap_or_default();
        table.row(vec![
            entry.time.clone(),
            entry.who.clone(),
            entry.tenant.clone().unwrap_or_default(),
            entry.from.clone(),
            entry.status.to_string(),
            format!("{} {}{made}", entry.action, entry.object),
        ]);
    }
    table.render()
}
