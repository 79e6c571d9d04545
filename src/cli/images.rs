//! `hull images`: which images there are.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use hull_protocol::api::Image;

use super::list::{Format, print, print_json, print_lines};
use crate::client::{Client, Host};
use crate::table::{Table, ago, short};

const NONE: &str = "<none>";

/// List images
#[derive(Debug, Args)]
pub(super) struct Images {
    /// Digests only
    #[arg(short, long)]
    quiet: bool,
    /// Whole digests
    #[arg(long)]
    no_trunc: bool,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Images {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let mut images: Vec<Image> = client.get("/v1/images").await?;
        images.sort_by(|a, b| b.created_at.cmp(&a.created_at));
        match self.format {
            Format::Json => print_json(&images),
            Format::Table if self.quiet => {
                print_lines(images.iter().map(|image| short(&image.digest, self.no_trunc)))
            }
            Format::Table => print(&self.table(&images).render()),
        }
    }

    fn table(&self, images: &[Image]) -> Table {
        let mut table = Table::new(&["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
        let nameless = [NONE.to_owned()];
        for image in images {
            let names: &[String] = if image.names.is_empty() { &nameless } else { &image.names };
            for name in names {
                let (repository, tag) = split(name);
                table.row(vec![
                    repository.to_owned(),
                    tag.to_owned(),
                    short(&image.digest, self.no_trunc),
                    ago(&image.created_at),
                    image.size.to_string(),
                ]);
            }
        }
        table
    }
}

/// Repository and tag of a name, without what Docker leaves out, too.
fn split(name: &str) -> (&str, &str) {
    let name =
        name.strip_prefix("docker.io/").map_or(name, |rest| rest.strip_prefix("library/").unwrap_or(rest));
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        // Behind the colon of a registry's port there is a slash.
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_as_dockers_are() {
        for (name, repository, tag) in [
            ("docker.io/library/busybox:1.36", "busybox", "1.36"),
            ("docker.io/me/tool:latest", "me/tool", "latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b", "c"),
            ("localhost:5000/a/b", "localhost:5000/a/b", NONE),
            ("x/y@sha256:0123", "x/y", NONE),
            ("rootfs", "rootfs", NONE),
        ] {
            assert_eq!(split(name), (repository, tag), "{name}");
        }
    }
}
