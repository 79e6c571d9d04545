//! `hull attach`: ties this terminal to a process that runs already.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use hull_protocol::api::{ExitStatus, State};

use crate::client::{Client, Host, microvm_path};
use crate::session::{DetachKeys, End, Session, set_size};
use crate::terminal;

/// Attach to a running microVM's process
#[derive(Debug, Args)]
#[command(after_help = "\
Ctrl-P Ctrl-Q leaves a process with a terminal and lets it run on. The exit status is the process's.")]
pub(super) struct Attach {
    /// Do not pass standard input on
    #[arg(long)]
    no_stdin: bool,
    /// Pass signals on to the process
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// Keys that leave a terminal
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    /// Id, name or beginning of an id
    microvm: String,
}

impl Attach {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let microvm = client.microvm(&self.microvm).await?;
        if !matches!(microvm.state, State::Running | State::Starting | State::Stopping) {
            bail!("the microVM {} is {}: start it with 'hull start -a'", microvm.name, microvm.state.name());
        }
        let container = &microvm.spec.container;
        let (stdin, terminal) = (container.stdin && !self.no_stdin, container.terminal.is_some());
        check_terminal(stdin, terminal)?;
        let session = Session {
            client: client.clone(),
            path: microvm_path(&microvm.id, ""),
            stdin,
            terminal,
            signals: self.sig_proxy,
            keys: self.detach_keys.clone(),
        };
        let attached = session.attach().await?;
        if let Some(size) = terminal::size().filter(|_| terminal) {
            // It may have ended just now, which the session tells.
            let _no_terminal_any_more = set_size(&client, &session.path, size).await;
        }
        exit_code(session.run(attached, async { Ok(()) }).await?)
    }
}

/// A terminal cannot be driven by a pipe.
pub(super) fn check_terminal(stdin: bool, terminal: bool) -> Result<()> {
    if stdin && terminal && !io::stdin().is_terminal() {
        bail!("the input device is not a terminal: leave out -t, or -i");
    }
    Ok(())
}

/// The exit status of this program for the end of a session.
pub(super) fn exit_code(end: End) -> Result<ExitCode> {
    match end {
        End::Detached => Ok(ExitCode::SUCCESS),
        End::Interrupted(signal) => Ok(byte(128 + signal)),
        End::Exit(ExitStatus { status, error, oom_killed, .. }) => {
            if let Some(error) = error {
                super::complain(&anyhow::anyhow!("{error}"));
            } else if oom_killed {
                super::complain(&anyhow::anyhow!("the guest ran out of memory: give it more with --memory"));
            }
            Ok(byte(status))
        }
    }
}

fn byte(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status & 0xff).unwrap_or(super::STATUS_HULL))
}
