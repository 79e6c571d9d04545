//! `hull pull`: gets an image from a registry.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use hull_protocol::api::{Image, PullRequest};

use super::list;
use super::transfer::Display;
use crate::client::{Body, Client, Host};

/// Pull an image from a registry
#[derive(Debug, Args)]
#[command(after_help = "\
Credentials are those of 'docker login': ~/.docker/config.json and the helpers it names.

Examples:
  hull pull busybox
  hull pull --plain-http localhost:5000/me/tool:1.2")]
pub(super) struct Pull {
    #[command(flatten)]
    registry: Registry,
    /// Do not say how far it is
    #[arg(short, long)]
    quiet: bool,
    /// Name, with :TAG or @DIGEST if wanted
    image: String,
}

/// How an image is found and its registry spoken to.
#[derive(Debug, Args)]
pub(super) struct Registry {
    /// Platform, such as linux/amd64; the host's when missing
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Speak HTTP without TLS to the registry
    #[arg(long)]
    plain_http: bool,
    /// Certificates (PEM) to trust besides the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl Pull {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        pull(&client, &self.image, &self.registry, self.quiet).await?;
        list::print(&format!("{}\n", self.image))
    }
}

/// Pulls, and says on standard error how far it is.
pub(super) async fn pull(client: &Client, image: &str, registry: &Registry, quiet: bool) -> Result<Image> {
    let certificates = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("the file {} cannot be read", path.display()))
    };
    let request = PullRequest {
        reference: image.to_owned(),
        platform: registry.platform.clone(),
        credentials: hull_daemon::credentials_for(image)?,
        ca_pem: registry.ca_file.as_ref().map(certificates).transpose()?,
        plain_http: registry.plain_http,
    };
    let mut display = Display::new(quiet);
    client.progress("/v1/images/pull", Body::json(&request)?, |progress| display.show(progress)).await
}
