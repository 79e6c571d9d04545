//! `hull system`: the daemon, its disk space, and getting that back.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use hull_protocol::api::System as Info;
use hull_protocol::life::{DiskUsage, PruneRequest, Pruned};

use super::list::{Format, print, print_json};
use crate::client::{Client, Host};
use crate::table::Table;

/// Look at the daemon and its disk space
#[derive(Debug, Args)]
pub(super) struct System {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say which daemon this is, and what its microVMs were promised
    Info {
        /// How to print
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Say what takes how much of the disk
    Df {
        /// How to print
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Remove microVMs that do not run, with their disks, and images without a name that none uses
    Prune {
        /// Images with a name, too
        #[arg(short, long)]
        all: bool,
        /// Leave the microVMs
        #[arg(long)]
        keep_microvms: bool,
        /// Volumes that no microVM was made with, too, and all that is in them
        #[arg(long)]
        volumes: bool,
        /// How to print
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

impl System {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        match self.verb {
            Verb::Info { format } => info(&client.system().await?, format),
            Verb::Df { format } => usage(&client.get("/v1/system/df").await?, format),
            Verb::Prune { all, keep_microvms, volumes, format } => {
                let request = PruneRequest { all_images: all, keep_microvms, volumes };
                pruned(&client.post("/v1/system/prune", &request).await?, format)
            }
        }
    }
}

fn info(system: &Info, format: Format) -> Result<ExitCode> {
    if format == Format::Json {
        return print_json(system);
    }
    let capacity = &system.capacity;
    let lines = [
        ("version", system.version.clone()),
        ("process", system.pid.to_string()),
        ("leaves when idle", if system.on_demand { "yes" } else { "no" }.into()),
        ("data", system.data_dir.clone()),
        ("microVMs", format!("{}, {} of them running", system.microvms, system.running)),
        ("memory promised", format!("{} of {}", capacity.memory, capacity.memory_limit)),
        ("CPUs promised", format!("{} of {}", capacity.cpus, capacity.cpus_limit)),
        ("control groups", system.cgroups.clone()),
    ];
    print(&lines.iter().map(|(name, value)| format!("{name:<18}{value}\n")).collect::<String>())
}

fn usage(usage: &DiskUsage, format: Format) -> Result<ExitCode> {
    if format == Format::Json {
        return print_json(usage);
    }
    let mut table = Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    for kind in &usage.kinds {
        table.row(vec![
            kind.kind.clone(),
            kind.count.to_string(),
            kind.active.to_string(),
            kind.size.to_string(),
            kind.reclaimable.to_string(),
        ]);
    }
    print(&format!("{}\n{} free\n", table.render(), usage.free))
}

fn pruned(pruned: &Pruned, format: Format) -> Result<ExitCode> {
    if format == Format::Json {
        return print_json(pruned);
    }
    let gone = pruned.microvms.iter().map(|id| format!("microVM {id}\n"));
    let gone = gone.chain(pruned.volumes.iter().map(|volume| format!("volume {volume}\n")));
    let gone = gone.chain(pruned.images.iter().map(|image| format!("image {image}\n")));
    print(&format!("{}{} freed\n", gone.collect::<String>(), pruned.freed))
}
