//! `hull network`: the networks that microVMs are on.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use hull_protocol::api::{Network as Record, NetworkSpec};

use super::container::{Egress, labels};
use super::list::{Format, Listing, print};
use super::{for_each, show_each};
use crate::client::{Client, Host, escape};
use crate::table::{Table, ago, short};

/// Manage the networks that microVMs are on
#[derive(Debug, Args)]
pub(super) struct Network {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(Create),
    /// List networks
    Ls(Listing),
    Inspect(Inspect),
    Rm(Rm),
}

/// Make a network
#[derive(Debug, Args)]
#[command(after_help = "\
Containers of a network reach each other, and the outside under the host's address. Nothing passes from one network to
another.

Examples:
  hull network create backend
  hull network create --internal --subnet 10.20.0.0/24 db
  hull network create --egress-allow deb.example.org:443 --egress-allow 192.0.2.0/24 build")]
struct Create {
    /// IPv4 subnet, such as 10.20.0.0/24; one that is free when missing
    #[arg(long, value_name = "CIDR")]
    subnet: Option<String>,
    /// IPv6 subnet, such as fd00:20::/64; a random one of the unique local ones when missing
    #[arg(long, value_name = "CIDR")]
    subnet6: Option<String>,
    /// Largest packet in bytes [default: 1500]
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// No way out, and none in
    #[arg(long)]
    internal: bool,
    #[command(flatten)]
    egress: Egress,
    /// Label: KEY=value; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Its name
    name: String,
}

/// Show everything about networks, as JSON: who is on them, and what was refused
#[derive(Debug, Args)]
struct Inspect {
    /// How to print: it is JSON in any case
    #[arg(long, value_enum, default_value_t = Format::Json, hide = true)]
    format: Format,
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Remove networks that nobody is on
#[derive(Debug, Args)]
struct Rm {
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

impl Network {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        match self.verb {
            Verb::Create(create) => create.run(host).await,
            Verb::Ls(listing) => {
                let networks: Vec<Record> = Client::connect(host).await?.get("/v1/networks").await?;
                listing.print(&networks, |network| network.name.clone(), table)
            }
            Verb::Inspect(inspect) => inspect.run(host).await,
            Verb::Rm(rm) => rm.run(host).await,
        }
    }
}

impl Create {
    async fn run(self, host: &Host) -> Result<ExitCode> {
        let labels: BTreeMap<String, String> = labels(&self.label)?;
        let spec = NetworkSpec {
            name: self.name,
            subnet: self.subnet,
            subnet6: self.subnet6,
            mtu: self.mtu,
            internal: self.internal,
            egress: self.egress.policy()?.unwrap_or_default(),
            labels,
        };
        let client = Client::connect(host).await?;
        let network: Record = client.post("/v1/networks", &spec).await?;
        print(&format!("{}\n", network.name))
    }
}

impl Inspect {
    async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        show_each(&self.names, async |name: String| client.get::<Record>(&network_path(&name)).await).await
    }
}

impl Rm {
    async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        for_each(&self.names, async |name: String| client.delete(&network_path(&name)).await.map(|()| name))
            .await
    }
}

fn network_path(name: &str) -> String {
    format!("/v1/networks/{}", escape(name))
}

fn table(networks: &[Record]) -> Table {
    let mut table =
        Table::new(&["NETWORK ID", "NAME", "SUBNET", "IPV6 SUBNET", "BRIDGE", "CREATED", "INTERNAL"]);
    for network in networks {
        table.row(vec![
            short(&network.id, false),
            network.name.clone(),
            network.subnet.clone(),
            network.subnet6.clone(),
            network.bridge.clone(),
            ago(&network.created_at),
            if network.internal { "yes".into() } else { String::new() },
        ]);
    }
    table
}
