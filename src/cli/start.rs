//! `hull start`: starts what was made before.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use hull_protocol::api::{Microvm, State};

use super::attach::{check_terminal, exit_code};
use super::container::Secrets;
use super::for_each;
use crate::client::{Client, Host, microvm_path};
use crate::session::{DetachKeys, Session};

/// Start microVMs that were made or have stopped
#[derive(Debug, Args)]
pub(super) struct Start {
    /// Stay with it until it ends; the exit status is then the process's
    #[arg(short, long)]
    attach: bool,
    /// Pass standard input on, which attaches, too
    #[arg(short, long)]
    interactive: bool,
    #[command(flatten)]
    secrets: Secrets,
    /// Ids, names or beginnings of ids
    #[arg(value_name = "MICROVM", required = true)]
    microvms: Vec<String>,
}

impl Start {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let secrets = self.secrets.read_again(self.interactive)?;
        for microvm in &self.microvms {
            secrets.give(&client, microvm).await?;
        }
        match self.microvms.as_slice() {
            [name] if self.attach || self.interactive => self.stay(&client, name).await,
            _ if self.attach || self.interactive => {
                bail!("only one microVM can be attached to: start them one by one")
            }
            names => for_each(names, |name| start(&client, name)).await,
        }
    }

    async fn stay(&self, client: &Client, name: &str) -> Result<ExitCode> {
        let microvm = client.microvm(name).await?;
        let container = &microvm.spec.container;
        let (stdin, terminal) = (self.interactive && container.stdin, container.terminal.is_some());
        check_terminal(stdin, terminal)?;
        let session = Session {
            client: client.clone(),
            path: microvm_path(&microvm.id, ""),
            stdin,
            terminal,
            signals: true,
            keys: DetachKeys::default(),
        };
        let attached = session.attach().await?;
        let path = microvm_path(&microvm.id, "/start");
        let start = async { client.act::<Microvm>(&path).await.map(drop) };
        exit_code(session.run(attached, start).await?)
    }
}

async fn start(client: &Client, name: String) -> Result<String> {
    let microvm: Microvm = client.act(&microvm_path(&name, "/start")).await?;
    if microvm.state == State::Failed {
        let error = microvm.exit.and_then(|exit| exit.error).unwrap_or_else(|| "it failed".into());
        bail!("{name}: {error}");
    }
    Ok(name)
}
