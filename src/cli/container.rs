//! The flags of `run` and `create`, and the specification they make.

mod limits;
mod mounts;
mod networking;
mod secrets;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::{ArgAction, Args, ValueEnum};
use hull_protocol::api::{Microvm, Problem};
use hull_protocol::life::RestartPolicy;
use hull_protocol::plan::CpuModel;
use hull_protocol::spec::{ContainerSpec, MicrovmSpec};
use hull_protocol::units::Bytes;

pub(super) use self::networking::Egress;
pub(super) use self::secrets::Secrets;
use super::health::HealthFlags;
use super::{complain, pull};
use crate::client::{Client, microvm_path};
use crate::terminal;

/// The problem type of an image that is not in the store.
const NO_SUCH_IMAGE: &str = "/problems/no-such-image";

/// When the image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum When {
    /// Even if it is in the store
    Always,
    /// If it is not in the store
    Missing,
    /// Not at all
    Never,
}

/// A microVM and its container, as flags.
#[derive(Debug, Args)]
pub(super) struct Container {
    /// Name; made up when missing
    #[arg(long)]
    name: Option<String>,
    /// Number of virtual CPUs [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory, such as 256m or 2g [default: 512m]
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<Bytes>,
    /// Size of the writable layer, such as 20g [default: 10g]
    #[arg(long, value_name = "SIZE")]
    disk_size: Option<Bytes>,
    /// Processor model: host, x86-64-v2, x86-64-v3 or x86-64-v4
    #[arg(long, value_name = "MODEL", default_value = "host", hide_default_value = true)]
    cpu: CpuModel,
    /// Kernel bundle ('hull kernel ls'); the default one when missing
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Remove the microVM and its disk when it has stopped
    #[arg(long)]
    pub(super) rm: bool,
    /// Keep standard input open, and pass it on
    #[arg(short, long)]
    pub(super) interactive: bool,
    /// Give the process a terminal
    #[arg(short, long)]
    pub(super) tty: bool,
    /// Environment: NAME=value, or NAME to pass yours on; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Environment from a file of such lines; may be repeated
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// User: name or uid, with :group or :gid if wanted
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Program to run instead of the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Host name
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Make the root read-only
    #[arg(long)]
    read_only: bool,
    /// Give its root a capability within the guest, such as NET_ADMIN, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability from its root, or ALL
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    #[command(flatten)]
    health: HealthFlags,
    /// When to start it again: no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY", default_value = "no", hide_default_value = true)]
    restart: RestartPolicy,
    #[command(flatten)]
    limits: limits::Limits,
    /// Label: KEY=value; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    #[command(flatten)]
    mounts: mounts::Mounts,
    #[command(flatten)]
    secrets: Secrets,
    #[command(flatten)]
    networking: networking::Networking,
    /// When to pull the image
    #[arg(long, value_enum, value_name = "WHEN", default_value = "missing")]
    pull: When,
    #[command(flatten)]
    registry: pull::Registry,
    /// Do not say how far the pull is
    #[arg(short, long)]
    quiet: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// The image, and what to run in it instead of its own command: everything after it belongs to the command
    #[arg(value_name = "IMAGE [COMMAND] [ARG]...", required = true, trailing_var_arg = true)]
    image: Vec<String>,
}

impl Container {
    /// Makes the microVM, and gives it its secrets; pulls its image first where that is wanted.
    pub(super) async fn create(&self, client: &Client) -> Result<Microvm> {
        let spec = self.spec()?;
        // Before anything is made: one that cannot be read is no reason to make the rest.
        let secrets = self.secrets.read(self.interactive)?;
        let image = &spec.container.image;
        if self.pull == When::Always {
            pull::pull(client, image, &self.registry, self.quiet).await?;
        }
        let made: Result<Microvm> = match client.post("/v1/microvms", &spec).await {
            Err(error) if self.pull == When::Missing && is_missing_image(&error) => {
                // Only what is written as a reference can be pulled.
                pull::pull(client, image, &self.registry, self.quiet).await.with_context(|| {
                    format!("the image '{image}' is not in the store, and could not be pulled")
                })?;
                client.post("/v1/microvms", &spec).await
            }
            answer => answer,
        };
        let made = made?;
        for notice in &made.notices {
            complain(&anyhow!("{notice}"));
        }
        if let Err(error) = secrets.give(client, &made.id).await {
            let _of_no_use = client.delete(&microvm_path(&made.id, "")).await;
            return Err(error);
        }
        Ok(made)
    }

    fn spec(&self) -> Result<MicrovmSpec> {
        if self.rm && self.restart != RestartPolicy::No {
            bail!(
                "--rm and --restart={} do not go together: one removes what the other starts",
                self.restart
            );
        }
        let Some((image, command)) = self.image.split_first() else { bail!("no image: name one") };
        let env = environment(&self.env_file, &self.env)?;
        let entrypoint = self.entrypoint.as_ref().map(|program| match program.as_str() {
            "" => Vec::new(),
            program => vec![program.to_owned()],
        });
        let container = ContainerSpec {
            image: image.clone(),
            command: command.to_vec(),
            entrypoint,
            env,
            workdir: self.workdir.clone(),
            user: self.user.clone(),
            hostname: self.hostname.clone(),
            terminal: self.tty.then(|| terminal::size().unwrap_or(terminal::DEFAULT_SIZE)),
            stdin: self.interactive,
            read_only: self.read_only,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            disk_size: self.disk_size,
            mounts: self.mounts.spec()?,
            secrets: self.secrets.spec()?,
            health: self.health.spec(),
        };
        Ok(MicrovmSpec {
            name: self.name.clone(),
            cpus: self.cpus,
            memory: self.memory,
            cpu: self.cpu,
            kernel: self.kernel.clone(),
            auto_remove: self.rm,
            restart: self.restart,
            limits: self.limits.spec()?,
            labels: labels(&self.label)?,
            networking: self.networking.spec()?,
            container,
        })
    }
}

fn is_missing_image(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Problem>().is_some_and(|problem| problem.kind == NO_SUCH_IMAGE)
}

/// The environment that files and flags ask for, in this order.
pub(super) fn environment(files: &[PathBuf], entries: &[String]) -> Result<Vec<String>> {
    let lookup = |name: &str| std::env::var(name).ok();
    let mut env = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("the file {} cannot be read", path.display()))?;
        env.extend(env_file(&text, path, lookup)?);
    }
    for entry in entries {
        env.extend(env_entry(entry, lookup)?);
    }
    Ok(env)
}

/// `NAME=value` as it is; `NAME` with the user's value, or nothing where the user has none.
fn env_entry(entry: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<Option<String>> {
    match entry.split_once('=') {
        Some(("", _)) => bail!("'{entry}' is no environment variable: write NAME=value"),
        Some(_) => Ok(Some(entry.to_owned())),
        None if entry.is_empty() => bail!("an environment variable has no name: write NAME=value"),
        None => Ok(lookup(entry).map(|value| format!("{entry}={value}"))),
    }
}

/// Entries, one a line; empty lines and those that begin with `#` are none.
fn env_file(text: &str, path: &Path, lookup: impl Fn(&str) -> Option<String>) -> Result<Vec<String>> {
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = || format!("{}, line {}", path.display(), number + 1);
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if name.contains(char::is_whitespace) {
            bail!("{}: the name '{name}' has a space in it", place());
        }
        entries.extend(env_entry(line, &lookup).with_context(place)?);
    }
    Ok(entries)
}

pub(super) fn labels(given: &[String]) -> Result<BTreeMap<String, String>> {
    let split = |label: &String| match label.split_once('=').unwrap_or((label, "")) {
        ("", _) => bail!("'{label}' is no label: write KEY=value"),
        (key, value) => Ok((key.to_owned(), value.to_owned())),
    };
    given.iter().map(split).collect()
}

#[cfg(test)]
mod tests;
