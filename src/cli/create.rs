//! `hull create`: makes a microVM and leaves it at that.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::container::Container;
use super::list;
use crate::client::{Client, Host};

/// Make a microVM without starting it
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "hull create [OPTIONS] IMAGE [COMMAND] [ARG]...",
    after_help = "\
Example:
  hull create --name job busybox echo hello && hull start -a job"
)]
pub(super) struct Create {
    #[command(flatten)]
    container: Container,
}

impl Create {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let microvm = self.container.create(&client).await?;
        list::print(&format!("{}\n", microvm.id))
    }
}
