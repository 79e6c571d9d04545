//! `hull rm`: removes microVMs.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::for_each;
use crate::client::{Client, Host, microvm_path};

/// Remove microVMs with their disks
#[derive(Debug, Args)]
pub(super) struct Rm {
    /// Even if they run
    #[arg(short, long)]
    force: bool,
    /// Ids, names or beginnings of ids
    #[arg(value_name = "MICROVM", required = true)]
    microvms: Vec<String>,
}

impl Rm {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let query = format!("?force={}", self.force);
        for_each(&self.microvms, async |name: String| {
            client.delete(&microvm_path(&name, &query)).await.map(|()| name)
        })
        .await
    }
}
