//! `hull cp`: files between a running microVM and here, with what `docker cp` means by its paths.
//!
//! Owner: the main thread; archives are packed and unpacked by a thread. Invariant: what a guest sends is written only
//! below the name that the user asked for.

mod here;
mod place;

use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use hull_protocol::api::Problem;
use hull_protocol::transfer::{FileKind, FileStat};

use self::here::{pack_here, stat_here, unpack_here};
use self::place::{Place, Target, split, target};
use super::import::copy;
use crate::client::{Body, Client, Host, escape, microvm_path};

/// Copy files between a running microVM and here
#[derive(Debug, Args)]
#[command(
    override_usage = "hull cp [OPTIONS] MICROVM:SRC_PATH DEST_PATH|-\n       hull cp [OPTIONS] SRC_PATH|- MICROVM:DEST_PATH",
    after_help = "\
A directory goes into one that is there, and becomes one that is not; with /. at its end, what is in it goes. - is a
tar archive on standard input or output. Files in the microVM belong to its root, those here to you, unless -a is
given. A path here with a colon in it begins with / or ./.

Examples:
  hull cp web:/etc/nginx ./nginx
  hull cp page.html web:/srv/
  hull cp web:/var/log - | tar t"
)]
pub(super) struct Cp {
    /// Keep users and groups
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link at the source leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// MICROVM:PATH, a path here, or -
    source: String,
    /// The same
    destination: String,
}

impl Cp {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        match (split(&self.source), split(&self.destination)) {
            (Place::There(microvm, path), to @ (Place::Here(_) | Place::Stream)) => {
                let client = Client::connect(host).await?;
                self.fetch(&There { client, microvm }, &path, to).await?;
            }
            (from @ (Place::Here(_) | Place::Stream), Place::There(microvm, path)) => {
                let client = Client::connect(host).await?;
                self.bring(&There { client, microvm }, from, &path).await?;
            }
            (Place::There(..), Place::There(..)) => {
                bail!(
                    "both are in microVMs: copy to a place here first, or pipe 'hull cp A:PATH -' into 'hull cp - B:PATH'"
                )
            }
            _ => bail!("neither is in a microVM: write one as MICROVM:PATH"),
        }
        Ok(ExitCode::SUCCESS)
    }

    /// From a microVM.
    async fn fetch(&self, there: &There, path: &str, to: Place) -> Result<()> {
        let Place::Here(to) = to else {
            let mut archive = there.get(path, self.follow_link, None).await?;
            return tokio::task::spawn_blocking(move || copy(&mut archive, &mut io::stdout(), "the archive"))
                .await?;
        };
        let source = there.stat(path, self.follow_link).await?.with_context(|| missing(path))?;
        let found = stat_here(&to)?;
        let Target { directory, name } = target((path, source.kind), (&to, found))?;
        let archive = there.get(path, self.follow_link, Some(&name)).await?;
        let keep_owner = self.archive;
        tokio::task::spawn_blocking(move || unpack_here(&directory, &name, keep_owner, archive)).await?
    }

    /// Into a microVM.
    async fn bring(&self, there: &There, from: Place, path: &str) -> Result<()> {
        let found = there.stat(path, true).await?;
        let to = found.as_ref().map_or_else(|| path.to_owned(), |found| place::keep_end(&found.path, path));
        let Place::Here(from) = from else {
            if found.is_none_or(|found| found.kind != FileKind::Directory) {
                bail!("'{path}' is no directory in the microVM: an archive needs one to go into");
            }
            let body = Body::stream(|out| copy(&mut io::stdin(), out, "standard input"));
            return there.put(&to, self.archive, body).await;
        };
        let (opened, kind) = pack_here(&from, self.follow_link)?;
        let Target { directory, name } = target((&from, kind), (&to, found.map(|found| found.kind)))?;
        let body = Body::stream(move |out| {
            hull_archive::pack(&opened, name.as_bytes(), out).with_context(|| format!("packing {from}"))
        });
        there.put(&directory, self.archive, body).await
    }
}

fn missing(path: &str) -> String {
    format!("there is no file or directory '{path}' in the microVM")
}

/// One side of a copy: a microVM.
struct There {
    client: Client,
    microvm: String,
}

impl There {
    /// What is at a path; none where there is nothing.
    async fn stat(&self, path: &str, follow: bool) -> Result<Option<FileStat>> {
        let query = format!("/files/stat?path={}&follow={follow}", escape(path));
        match self.client.get(&microvm_path(&self.microvm, &query)).await {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if is_no_file(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn get(
        &self,
        path: &str,
        follow: bool,
        name: Option<&str>,
    ) -> Result<impl io::Read + Send + use<>> {
        let name = name.map_or_else(String::new, |name| format!("&name={}", escape(name)));
        let query = format!("/files?path={}&follow={follow}{name}", escape(path));
        self.client.download(&microvm_path(&self.microvm, &query)).await
    }

    async fn put(&self, path: &str, keep_owner: bool, body: Body) -> Result<()> {
        let query = format!("/files?path={}&keep_owner={keep_owner}", escape(path));
        self.client.put(&microvm_path(&self.microvm, &query), body).await
    }
}

fn is_no_file(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Problem>().is_some_and(|problem| problem.kind == "/problems/no-such-file")
}
