//! `hull rename`: gives a microVM another name.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hull_protocol::api::Microvm;
use hull_protocol::life::MicrovmPatch;

use crate::client::{Client, Host, microvm_path};

/// Give a microVM another name
#[derive(Debug, Args)]
pub(super) struct Rename {
    /// Id, name or beginning of an id
    microvm: String,
    /// The new name
    name: String,
}

impl Rename {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let patch = MicrovmPatch { name: Some(self.name), ..MicrovmPatch::default() };
        let _renamed: Microvm = client.patch(&microvm_path(&self.microvm, ""), &patch).await?;
        Ok(ExitCode::SUCCESS)
    }
}
