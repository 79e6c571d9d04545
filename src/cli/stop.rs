//! `hull stop`: asks microVMs to end.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hull_protocol::api::Microvm;

use super::for_each;
use crate::client::{Client, Host, microvm_path};

/// Stop microVMs: ask the process to end, and make it end after a while
#[derive(Debug, Args)]
pub(super) struct Stop {
    /// Seconds between asking and ending
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

impl Stop {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        for_each(&self.microvms, async |name: String| {
            let path = microvm_path(&name, &format!("/stop?grace={}", self.timeout));
            client.act::<Microvm>(&path).await.map(|_| name)
        })
        .await
    }
}
