//! `hull import`: makes an image of a file or a directory.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::list;
use super::transfer::Display;
use crate::client::{Body, Client, Host, escape};

/// Import an image from a tar file, a directory or standard input
#[derive(Debug, Args)]
#[command(after_help = "\
The file is an OCI archive, a Docker archive ('docker save') or a root file system, compressed or not.

Examples:
  hull import busybox.tar busybox:mine
  docker save busybox | hull import - busybox:mine
  hull import ./rootfs my-root --type rootfs")]
pub(super) struct Import {
    /// File or directory; - is standard input
    path: PathBuf,
    /// Name of the image
    name: String,
    /// What it is; told by its content when missing
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Option<Kind>,
    /// Do not say how far it is
    #[arg(short, long)]
    quiet: bool,
}

/// What is imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    OciArchive,
    DockerArchive,
    Rootfs,
}

impl Import {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let body = body(&self.path)?;
        let client = Client::connect(host).await?;
        let mut path = format!("/v1/images/import?name={}", escape(&self.name));
        if let Some(kind) = self.kind.and_then(|kind| kind.to_possible_value()) {
            path.push_str(&format!("&type={}", kind.get_name()));
        }
        let mut display = Display::new(self.quiet);
        let image = client.progress(&path, body, |progress| display.show(progress)).await?;
        drop(display);
        list::print(&format!("{}\n", image.digest))
    }
}

fn body(path: &Path) -> Result<Body> {
    if path.as_os_str() == "-" {
        return Ok(Body::stream(|out| copy(&mut io::stdin(), out, "standard input")));
    }
    let name = path.display().to_string();
    if path.is_dir() {
        let path = path.to_owned();
        return Ok(Body::stream(move |out| {
            hull_daemon::pack_directory(&path, out).with_context(|| format!("packing {name}"))
        }));
    }
    let mut file = File::open(path).with_context(|| format!("the file {name} cannot be opened"))?;
    Ok(Body::stream(move |out| copy(&mut file, out, &name)))
}

/// Copies to its end.
pub(super) fn copy(input: &mut dyn io::Read, out: &mut dyn Write, name: &str) -> Result<()> {
    io::copy(input, out).map(drop).with_context(|| format!("sending {name}"))
}
