//! `hull wait`: waits for microVMs to end.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hull_protocol::api::ExitStatus;

use super::for_each;
use crate::client::{Client, Host, microvm_path};

/// Wait until microVMs have stopped, and print their exit statuses
#[derive(Debug, Args)]
pub(super) struct Wait {
    /// Ids, names or beginnings of ids
    #[arg(value_name = "MICROVM", required = true)]
    microvms: Vec<String>,
}

impl Wait {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        for_each(&self.microvms, async |name: String| {
            let exit: ExitStatus = client.get(&microvm_path(&name, "/wait")).await?;
            Ok(exit.status.to_string())
        })
        .await
    }
}
