//! `hull kernel`: the kernels that microVMs boot.

mod pack;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use hull_protocol::api;

use super::for_each;
use super::list::{Listing, print};
use crate::client::{Client, Host, escape};
use crate::table::{Table, ago};

/// Manage the kernels that microVMs boot
#[derive(Debug, Args)]
pub(super) struct Kernel {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Import(Import),
    /// List kernels
    Ls(Listing),
    Rm(Rm),
}

/// Import a kernel with its modules
#[derive(Debug, Args)]
#[command(after_help = "\
Without a file it is the kernel this host runs.

Examples:
  hull kernel import
  hull kernel import /boot/vmlinuz-6.1.0-40-cloud-amd64 --default
  hull kernel import --deb linux-image-6.1.0-40-cloud-amd64.deb --name cloud")]
struct Import {
    #[command(flatten)]
    source: pack::Source,
    /// Name; the kernel's release when missing
    #[arg(long)]
    name: Option<String>,
    /// Boot it where no kernel is named
    #[arg(long)]
    default: bool,
}

/// Remove kernels
#[derive(Debug, Args)]
struct Rm {
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

impl Kernel {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        match self.verb {
            Verb::Import(import) => import.run(host).await,
            Verb::Ls(listing) => {
                let kernels: Vec<api::Kernel> = Client::connect(host).await?.get("/v1/kernels").await?;
                listing.print(&kernels, |kernel| kernel.name.clone(), table)
            }
            Verb::Rm(rm) => rm.run(host).await,
        }
    }
}

impl Import {
    async fn run(self, host: &Host) -> Result<ExitCode> {
        let (kind, body) = self.source.open()?;
        let client = Client::connect(host).await?;
        let mut path = format!("/v1/kernels?kind={kind}&default={}", self.default);
        if let Some(name) = &self.name {
            path.push_str(&format!("&name={}", escape(name)));
        }
        let kernel: api::Kernel = client.upload(&path, body).await?;
        print(&format!("{}\n", kernel.name))
    }
}

impl Rm {
    async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        for_each(&self.names, async |name: String| {
            client.delete(&format!("/v1/kernels/{}", escape(&name))).await.map(|()| name)
        })
        .await
    }
}

fn table(kernels: &[api::Kernel]) -> Table {
    let mut table = Table::new(&["NAME", "RELEASE", "MODULES", "CREATED", "SIZE", "DEFAULT"]);
    for kernel in kernels {
        table.row(vec![
            kernel.name.clone(),
            kernel.release.clone(),
            kernel.modules.len().to_string(),
            ago(&kernel.created_at),
            kernel.size.to_string(),
            if kernel.default { "yes".into() } else { String::new() },
        ]);
    }
    table
}
