//! `hull pause` and `hull unpause`: stop microVMs in place, and let them go on.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hull_protocol::api::Microvm;

use super::for_each;
use crate::client::{Client, Host, microvm_path};

/// Stop microVMs in place: they keep their memory and use no processor
#[derive(Debug, Args)]
pub(super) struct Pause {
    /// Ids, names or beginnings of ids
    #[arg(value_name = "MICROVM", required = true)]
    microvms: Vec<String>,
}

/// Let paused microVMs go on
#[derive(Debug, Args)]
pub(super) struct Unpause {
    /// Ids, names or beginnings of ids
    #[arg(value_name = "MICROVM", required = true)]
    microvms: Vec<String>,
}

impl Pause {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        each(host, &self.microvms, "/pause").await
    }
}

impl Unpause {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        each(host, &self.microvms, "/unpause").await
    }
}

async fn each(host: &Host, microvms: &[String], verb: &str) -> Result<ExitCode> {
    let client = Client::connect(host).await?;
    for_each(microvms, async |name: String| {
        client.act::<Microvm>(&microvm_path(&name, verb)).await.map(|_| name)
    })
    .await
}
