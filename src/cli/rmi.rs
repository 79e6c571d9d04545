//! `hull rmi`: removes images.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::for_each;
use crate::client::{Client, Host, escape};

/// Remove images
#[derive(Debug, Args)]
pub(super) struct Rmi {
    /// Even if microVMs were made from it
    #[arg(short, long)]
    force: bool,
    /// Names or digests
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

impl Rmi {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        for_each(&self.images, async |name: String| {
            client.delete(&format!("{}?force={}", image_path(&name), self.force)).await.map(|()| name)
        })
        .await
    }
}

/// An image's path: its name is one segment, slashes and all.
pub(super) fn image_path(name: &str) -> String {
    format!("/v1/images/{}", escape(name))
}
