//! `hull run`: makes a microVM, starts it and stays with it until it ends.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use hull_protocol::api::Microvm;

use super::attach::{check_terminal, exit_code};
use super::container::Container;
use super::list;
use crate::client::{Client, Host, microvm_path};
use crate::session::{DetachKeys, Session};

/// Run a command in a new microVM
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "hull run [OPTIONS] IMAGE [COMMAND] [ARG]...",
    after_help = "\
The exit status is the command's; 125 when the microVM failed, 126 when the command cannot be executed, 127 when
it is not there. Ctrl-P Ctrl-Q leaves a terminal (-it) and lets the microVM run on.

Examples:
  hull run --rm busybox echo hello
  hull run -it --rm debian bash
  hull run -d --name web --memory 256m --cpus 2 nginx"
)]
pub(super) struct Run {
    /// Run in the background, and print the microVM's id
    #[arg(short, long)]
    detach: bool,
    /// Pass signals on to the process
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// Keys that leave a terminal
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    #[command(flatten)]
    container: Container,
}

impl Run {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        if !self.detach {
            check_terminal(self.container.interactive, self.container.tty)?;
        }
        let client = Client::connect(host).await?;
        let microvm = self.container.create(&client).await?;
        let outcome = match self.detach {
            true => start_detached(&client, &microvm).await,
            false => self.stay(&client, &microvm).await,
        };
        if outcome.is_err() && self.container.rm {
            // What never ran does not remove itself.
            let _gone_or_in_use = client.delete(&microvm_path(&microvm.id, "")).await;
        }
        outcome
    }

    async fn stay(&self, client: &Client, microvm: &Microvm) -> Result<ExitCode> {
        let session = Session {
            client: client.clone(),
            path: microvm_path(&microvm.id, ""),
            stdin: self.container.interactive,
            terminal: self.container.tty,
            signals: self.sig_proxy,
            keys: self.detach_keys.clone(),
        };
        // Before the start, so that nothing of the output is missed.
        let attached = session.attach().await?;
        let path = microvm_path(&microvm.id, "/start");
        let start = async { client.act::<Microvm>(&path).await.map(drop) };
        exit_code(session.run(attached, start).await?)
    }
}

async fn start_detached(client: &Client, microvm: &Microvm) -> Result<ExitCode> {
    let started: Microvm = client.act(&microvm_path(&microvm.id, "/start")).await?;
    if let Some(exit) = &started.exit
        && let Some(error) = &exit.error
    {
        super::complain(&anyhow::anyhow!("{error}"));
        return Ok(ExitCode::from(u8::try_from(exit.status).unwrap_or(super::STATUS_HULL)));
    }
    if started.state == hull_protocol::api::State::Failed {
        bail!(
            "the microVM {} could not be started: 'hull logs' and 'hull inspect' may say why",
            started.name
        );
    }
    list::print(&format!("{}\n", started.id))
}
