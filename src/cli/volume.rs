//! `hull volume`: disks that outlive microVMs.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use hull_protocol::api::{PrunedVolumes, Volume as Record, VolumePatch, VolumeSpec};
use hull_protocol::units::Bytes;

use super::container::labels;
use super::list::{Format, Listing, print, print_json};
use super::{for_each, show_each};
use crate::client::{Client, Host, escape};
use crate::table::{Table, ago};

/// Manage volumes: disks that outlive the microVMs they are attached to
#[derive(Debug, Args)]
#[command(after_help = "\
A volume that one running microVM may write to is attached to no other; any number may read one that all of them
attach read-only. Attach it with 'hull run -v NAME:PATH[:ro]'.

Examples:
  hull volume create --size 20g data
  hull run -d --name db -v data:/var/lib/postgresql/data postgres
  hull volume resize data 40g")]
pub(super) struct Volume {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(Create),
    /// List volumes
    Ls(Listing),
    Inspect(Inspect),
    Resize(Resize),
    Rm(Rm),
    Prune(Prune),
}

/// Make a volume
#[derive(Debug, Args)]
struct Create {
    /// The most it holds, its file system's own data included; the file on the host is sparse [default: 10g]
    #[arg(short, long, value_name = "SIZE")]
    size: Option<Bytes>,
    /// Label: KEY=value; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Its name; made up when missing
    name: Option<String>,
}

/// Show everything about volumes, as JSON: who uses them, and what they take of the host's disk
#[derive(Debug, Args)]
struct Inspect {
    /// How to print: it is JSON in any case
    #[arg(long, value_enum, default_value_t = Format::Json, hide = true)]
    format: Format,
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Make a volume larger, also while a microVM uses it; it never shrinks
#[derive(Debug, Args)]
struct Resize {
    name: String,
    /// Its new size, such as 40g
    size: Bytes,
}

/// Remove volumes that no microVM was made with, and all that is in them
#[derive(Debug, Args)]
struct Rm {
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Remove every volume that no microVM was made with, and all that is in them
#[derive(Debug, Args)]
struct Prune {
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Volume {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        match self.verb {
            Verb::Create(create) => create.run(&client).await,
            Verb::Ls(listing) => {
                let volumes: Vec<Record> = client.get("/v1/volumes").await?;
                listing.print(&volumes, |volume| volume.name.clone(), table)
            }
            Verb::Inspect(Inspect { names, format: _ }) => {
                show_each(&names, async |name: String| client.get::<Record>(&path(&name)).await).await
            }
            Verb::Resize(Resize { name, size }) => {
                let grown: Record = client.patch(&path(&name), &VolumePatch { size }).await?;
                print(&format!("{}\n", grown.name))
            }
            Verb::Rm(Rm { names }) => {
                for_each(&names, async |name: String| client.delete(&path(&name)).await.map(|()| name)).await
            }
            Verb::Prune(Prune { format }) => {
                let pruned: PrunedVolumes = client.act("/v1/volumes/prune").await?;
                if format == Format::Json {
                    return print_json(&pruned);
                }
                let gone: String = pruned.volumes.iter().map(|name| format!("volume {name}\n")).collect();
                print(&format!("{gone}{} freed\n", pruned.freed))
            }
        }
    }
}

impl Create {
    async fn run(self, client: &Client) -> Result<ExitCode> {
        let spec = VolumeSpec { name: self.name, size: self.size, labels: labels(&self.label)? };
        let volume: Record = client.post("/v1/volumes", &spec).await?;
        print(&format!("{}\n", volume.name))
    }
}

fn path(name: &str) -> String {
    format!("/v1/volumes/{}", escape(name))
}

fn table(volumes: &[Record]) -> Table {
    let mut table = Table::new(&["NAME", "SIZE", "USED", "CREATED"]);
    for volume in volumes {
        table.row(vec![
            volume.name.clone(),
            volume.size.to_string(),
            volume.used.map_or_else(String::new, |used| used.to_string()),
            ago(&volume.created_at),
        ]);
    }
    table
}
