//! `hull inspect`: everything that is known of microVMs and images.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hull_protocol::api::Problem;
use serde_json::Value;

use super::list::Format;
use super::{rmi::image_path, show_each};
use crate::client::{Client, Host};

/// Show everything about microVMs or images, as JSON
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// How to print: it is JSON in any case
    #[arg(long, value_enum, default_value_t = Format::Json, hide = true)]
    format: Format,
    /// Ids, names or beginnings of ids
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

impl Inspect {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        show_each(&self.names, async |name: String| look(&client, &name).await).await
    }
}

/// A microVM of this name, else an image.
async fn look(client: &Client, name: &str) -> Result<Value> {
    match client.microvm(name).await {
        Ok(microvm) => Ok(serde_json::to_value(microvm)?),
        Err(error) if is_missing(&error) => match client.get::<Value>(&image_path(name)).await {
            Ok(image) => Ok(image),
            Err(other) if is_missing(&other) => Err(anyhow::anyhow!("no microVM or image '{name}'")),
            Err(other) => Err(other),
        },
        Err(error) => Err(error),
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Problem>().is_some_and(|problem| problem.status == 404)
}
