//! `hull update`: changes limits, labels and the restart policy of microVMs.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use hull_protocol::api::Microvm;
use hull_protocol::life::{MicrovmPatch, RestartPolicy};

use super::container::labels;
use super::for_each;
use crate::client::{Client, Host, microvm_path};

/// Change limits, labels or the restart policy of microVMs, running or not
#[derive(Debug, Args)]
pub(super) struct Update {
    /// Weight when processors are scarce, 2 to 262144
    #[arg(short = 'c', long, value_name = "N")]
    cpu_shares: Option<u32>,
    /// Microseconds of processor time in each 100 ms
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<u64>,
    /// When to start it again: no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<RestartPolicy>,
    /// Label to set: KEY=value; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Label to take away; may be repeated
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Ids, names or beginnings of ids
    #[arg(value_name = "MICROVM", required = true)]
    microvms: Vec<String>,
}

impl Update {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let set = labels(&self.label)?.into_iter().map(|(key, value)| (key, Some(value)));
        let taken = self.label_rm.iter().map(|key| (key.clone(), None));
        let patch = MicrovmPatch {
            name: None,
            labels: set.chain(taken).collect(),
            restart: self.restart,
            cpu_shares: self.cpu_shares.map(TryInto::try_into).transpose()?,
            cpu_quota: self.cpu_quota.map(TryInto::try_into).transpose()?,
        };
        if patch == MicrovmPatch::default() {
            bail!("nothing to change: 'hull update --help' lists what can be");
        }
        let client = Client::connect(host).await?;
        for_each(&self.microvms, async |name: String| {
            client.patch::<Microvm>(&microvm_path(&name, ""), &patch).await.map(|_| name)
        })
        .await
    }
}
