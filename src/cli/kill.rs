//! `hull kill`: sends a signal to microVMs' processes.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::for_each;
use crate::client::{Body, Client, Host, escape, microvm_path};

/// Send a signal to microVMs' processes
#[derive(Debug, Args)]
pub(super) struct Kill {
    /// Signal, such as TERM, SIGTERM or 15
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// Ids, names or beginnings of ids
    #[arg(value_name = "MICROVM", required = true)]
    microvms: Vec<String>,
}

impl Kill {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let query = format!("/kill?signal={}", escape(&self.signal));
        for_each(&self.microvms, async |name: String| {
            client.tell(&microvm_path(&name, &query), Body::empty()).await.map(|()| name)
        })
        .await
    }
}
