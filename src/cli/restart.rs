//! `hull restart`: stops microVMs and starts them again.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use hull_protocol::api::{Microvm, State};

use super::for_each;
use crate::client::{Client, Host, microvm_path};

/// Stop microVMs, where they run, and start them again
#[derive(Debug, Args)]
pub(super) struct Restart {
    /// Seconds between asking the process to end and ending it
    #[arg(
        short = 't',
        long = "timeout",
        visible_alias = "time",
        value_name = "SECONDS",
        default_value_t = 10
    )]
    timeout: u32,
    /// Ids, names or beginnings of ids
    #[arg(value_name = "MICROVM", required = true)]
    microvms: Vec<String>,
}

impl Restart {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        for_each(&self.microvms, async |name: String| {
            let path = microvm_path(&name, &format!("/restart?grace={}", self.timeout));
            let microvm: Microvm = client.act(&path).await?;
            if microvm.state == State::Failed {
                let error = microvm.exit.and_then(|exit| exit.error);
                bail!("{name}: {}", error.unwrap_or_else(|| "it failed".into()));
            }
            Ok(name)
        })
        .await
    }
}
