//! `hull tenant`: who shares this host, and how much of it each may have.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use hull_protocol::api::{Amounts, Resource, Tenant as Record, TenantPatch, TenantSpec};
use hull_protocol::units::Bytes;

use super::for_each;
use super::list::{Format, Listing, print, print_json};
use crate::client::{Client, Host, escape};
use crate::table::{Table, ago};

/// Manage the tenants of this host
#[derive(Debug, Args)]
#[command(after_help = "\
A tenant sees its own microVMs, volumes, networks and images, and no sign of others. It comes with tokens ('hull token'), or as a
user of this host (--uid). With --tenant NAME before the verb, those who administer the host act for it.

Examples:
  hull tenant create acme --microvms 20 --cpus 40 --memory 64g --disk 500g
  hull tenant create build --uid 1002
  hull --tenant acme token create ci
  hull --tenant acme ps -a")]
pub(super) struct Tenant {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(Create),
    /// List tenants
    Ls(Listing),
    Inspect(Inspect),
    Update(Update),
    Rm(Rm),
}

/// How much a tenant may have.
#[derive(Debug, Args)]
struct Quotas {
    /// MicroVMs that exist
    #[arg(long, value_name = "N")]
    microvms: Option<String>,
    /// Virtual CPUs of microVMs that run
    #[arg(long, value_name = "N")]
    cpus: Option<String>,
    /// Memory of microVMs that run
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// What the disks of its microVMs and its volumes may grow to, and its images
    #[arg(long, value_name = "SIZE")]
    disk: Option<String>,
    /// Networks
    #[arg(long, value_name = "N")]
    networks: Option<String>,
    /// Volumes
    #[arg(long, value_name = "N")]
    volumes: Option<String>,
    /// Published ports
    #[arg(long, value_name = "N")]
    ports: Option<String>,
    /// Requests to the API in a second
    #[arg(long, value_name = "N")]
    requests: Option<String>,
}

impl Quotas {
    /// Those that were given; `none` takes one away.
    fn read(&self) -> Result<BTreeMap<Resource, Option<u64>>> {
        let given = [
            (Resource::Microvms, &self.microvms),
            (Resource::Cpus, &self.cpus),
            (Resource::Memory, &self.memory),
            (Resource::Disk, &self.disk),
            (Resource::Networks, &self.networks),
            (Resource::Volumes, &self.volumes),
            (Resource::Ports, &self.ports),
            (Resource::Requests, &self.requests),
        ];
        let given = given.into_iter().filter_map(|(resource, text)| Some((resource, text.as_deref()?)));
        given.map(|(resource, text)| Ok((resource, amount(resource, text)?))).collect()
    }
}

fn amount(resource: Resource, text: &str) -> Result<Option<u64>> {
    if text == "none" {
        return Ok(None);
    }
    if matches!(resource, Resource::Memory | Resource::Disk) {
        return Ok(Some(text.parse::<Bytes>()?.get()));
    }
    match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => bail!("'{text}' is no number of {resource}: write a whole number, or none for no limit"),
    }
}

/// Make a tenant
#[derive(Debug, Args)]
struct Create {
    #[command(flatten)]
    quotas: Quotas,
    /// User of this host who is the tenant's admin over the unix socket; may be repeated
    #[arg(long = "uid", value_name = "UID")]
    uids: Vec<u32>,
    /// Its name
    name: String,
}

/// Show everything about tenants, as JSON: quotas, and what they have
#[derive(Debug, Args)]
struct Inspect {
    /// How to print: it is JSON in any case
    #[arg(long, value_enum, default_value_t = Format::Json, hide = true)]
    format: Format,
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Change a tenant's quotas (none: no limit) and users
#[derive(Debug, Args)]
struct Update {
    #[command(flatten)]
    quotas: Quotas,
    /// User of this host who is the tenant's admin; may be repeated, and replaces those it had
    #[arg(long = "uid", value_name = "UID", conflicts_with = "no_uids")]
    uids: Vec<u32>,
    /// No users from now on
    #[arg(long)]
    no_uids: bool,
    /// Its name
    name: String,
}

/// Remove tenants that have no microVMs, networks and volumes any more, with their tokens
#[derive(Debug, Args)]
struct Rm {
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

fn path(name: &str) -> String {
    format!("/v1/tenants/{}", escape(name))
}

impl Tenant {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        match self.verb {
            Verb::Create(create) => {
                let quotas =
                    create.quotas.read()?.into_iter().filter_map(|(of, most)| Some((of, most?))).collect();
                let spec = TenantSpec { name: create.name, quotas, uids: create.uids };
                let made: Record = Client::connect(host).await?.post("/v1/tenants", &spec).await?;
                print(&format!("{}\n", made.name))
            }
            Verb::Ls(listing) => {
                let tenants: Vec<Record> = Client::connect(host).await?.get("/v1/tenants").await?;
                listing.print(&tenants, |tenant| tenant.name.clone(), table)
            }
            Verb::Inspect(Inspect { names, format: _ }) => {
                let client = Client::connect(host).await?;
                let mut found: Vec<Record> = Vec::new();
                for name in names {
                    found.push(client.get(&path(&name)).await?);
                }
                print_json(&found)
            }
            Verb::Update(update) => {
                let uids = (update.no_uids || !update.uids.is_empty()).then_some(update.uids);
                let patch = TenantPatch { quotas: update.quotas.read()?, uids };
                let changed: Record = Client::connect(host).await?.patch(&path(&update.name), &patch).await?;
                print(&format!("{}\n", changed.name))
            }
            Verb::Rm(rm) => {
                let client = Client::connect(host).await?;
                for_each(&rm.names, async |name| {
                    client.delete(&path(&name)).await?;
                    Ok(name)
                })
                .await
            }
        }
    }
}

fn table(tenants: &[Record]) -> Table {
    let mut table = Table::new(&[
        "NAME", "MICROVMS", "CPUS", "MEMORY", "DISK", "NETWORKS", "VOLUMES", "PORTS", "CREATED",
    ]);
    for tenant in tenants {
        let mut row = vec![tenant.name.clone()];
        for resource in [
            Resource::Microvms,
            Resource::Cpus,
            Resource::Memory,
            Resource::Disk,
            Resource::Networks,
            Resource::Volumes,
            Resource::Ports,
        ] {
            row.push(cell(tenant, resource));
        }
        row.push(tenant.created_at.as_deref().map(ago).unwrap_or_default());
        table.row(row);
    }
    table
}

/// What it has, of what it may have.
fn cell(tenant: &Record, resource: Resource) -> String {
    let of = |amounts: &Amounts| amounts.get(&resource).copied();
    let show = |amount: u64| match resource {
        Resource::Memory | Resource::Disk => Bytes(amount).to_string(),
        _ => amount.to_string(),
    };
    let used = show(of(&tenant.used).unwrap_or(0));
    of(&tenant.quotas).map_or_else(|| used.clone(), |most| format!("{used} / {}", show(most)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]
    use super::*;

    #[test]
    fn amounts_are_numbers_sizes_or_none() {
        assert_eq!(amount(Resource::Cpus, "4").unwrap(), Some(4));
        assert_eq!(amount(Resource::Memory, "2g").unwrap(), Some(2 << 30));
        assert_eq!(amount(Resource::Disk, "none").unwrap(), None);
        assert!(amount(Resource::Ports, "2g").is_err() && amount(Resource::Memory, "much").is_err());
    }

    #[test]
    fn a_table_shows_what_there_is_of_what_may_be() {
        let tenant =
            r#"{"name":"acme","quotas":{"cpus":4,"memory":1073741824},"used":{"cpus":1,"memory":536870912}}"#;
        let text = table(&[serde_json::from_str(tenant).unwrap()]).render();
        assert!(text.contains("1 / 4") && text.contains("512 MiB / 1 GiB"), "{text}");
    }
}
