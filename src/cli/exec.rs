//! `hull exec`: runs a further command in a running microVM's container.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hull_protocol::exec::{Exec as Record, ExecSpec};

use super::attach::{check_terminal, exit_code};
use super::container::environment;
use super::list;
use crate::client::{Client, Host, microvm_path};
use crate::session::{DetachKeys, Session};
use crate::terminal;

/// Run a further command in a running microVM
#[derive(Debug, Args)]
#[command(
    override_usage = "hull exec [OPTIONS] MICROVM COMMAND [ARG]...",
    after_help = "\
The exit status is the command's; 126 when it cannot be executed, 127 when it is not there. The detach keys leave a
terminal (-it) and let the command run on; a terminal that is closed hangs it up.

Examples:
  hull exec web cat /etc/hostname
  hull exec -it web sh
  tar c . | hull exec -i web tar x -C /srv"
)]
pub(super) struct Exec {
    /// Run in the background, and print the exec's id
    #[arg(short, long)]
    detach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
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
    /// Keys that leave a terminal
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    /// Id, name or beginning of an id
    microvm: String,
    /// The command, and everything after it
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let stdin = self.interactive && !self.detach;
        check_terminal(stdin, self.tty && !self.detach)?;
        let spec = ExecSpec {
            command: self.command.clone(),
            env: environment(&self.env_file, &self.env)?,
            workdir: self.workdir.clone(),
            user: self.user.clone(),
            terminal: self.tty.then(|| terminal::size().unwrap_or(terminal::DEFAULT_SIZE)),
            stdin,
        };
        let client = Client::connect(host).await?;
        let exec: Record = client.post(&microvm_path(&self.microvm, "/exec"), &spec).await?;
        let path = format!("/v1/exec/{}", exec.id);
        if self.detach {
            let started: Record = client.act(&format!("{path}/start?detach=true")).await?;
            return list::print(&format!("{}\n", started.id));
        }
        let session = Session {
            client: client.clone(),
            path: path.clone(),
            stdin,
            terminal: self.tty,
            signals: true,
            keys: self.detach_keys.clone(),
        };
        let attached = client.attach(&format!("{path}/start")).await?;
        exit_code(session.run(attached, async { Ok(()) }).await?)
    }
}
