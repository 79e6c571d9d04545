//! `hull completion` and the manual: what other programs want to know of the command line.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// Print a script that makes a shell complete hull's command lines
#[derive(Debug, Args)]
#[command(after_help = "Put it where your shell looks, for example:
  hull completion bash > /usr/share/bash-completion/completions/hull
  hull completion zsh > /usr/share/zsh/vendor-completions/_hull
  hull completion fish > ~/.config/fish/completions/hull.fish")]
pub(crate) struct Completion {
    shell: Shell,
}

impl Completion {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "hull", &mut script);
        std::io::stdout().write_all(&script).context("standard output")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Write the manual: a page for each verb
#[derive(Debug, Args)]
pub(crate) struct Manual {
    /// The directory that the pages go into
    directory: PathBuf,
}

impl Manual {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let place = self.directory.display();
        std::fs::create_dir_all(&self.directory)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), &self.directory))
            .with_context(|| format!("writing the manual to {place}"))?;
        Ok(ExitCode::SUCCESS)
    }
}
