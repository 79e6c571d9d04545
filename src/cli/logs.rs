//! `hull logs`: what a microVM's process has written.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use hull_protocol::stream::Kind;

use crate::client::{Client, Host, escape, microvm_path};
use crate::moment::moment;

/// Show what a microVM's process has written
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Go on with what it writes from now on
    #[arg(short, long)]
    follow: bool,
    /// So many lines from the end, or all
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = tail)]
    tail: Tail,
    /// Those since this time: a time, seconds since 1970, or how long ago, such as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Those before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Put its time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// Id, name or beginning of an id
    microvm: String,
}

/// How many lines; none is all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail(pub(super) Option<u64>);

pub(super) fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        text => text.parse().map(|lines| Tail(Some(lines))).map_err(|_| "write a number, or all".into()),
    }
}

impl Logs {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let mut query = format!("/logs?follow={}&timestamps={}", self.follow, self.timestamps);
        for (key, time) in [("since", &self.since), ("until", &self.until)] {
            if let Some(time) = time {
                query.push_str(&format!("&{key}={}", escape(&moment(time)?)));
            }
        }
        if let Tail(Some(lines)) = self.tail {
            query.push_str(&format!("&tail={lines}"));
        }
        let mut frames = client.frames(&microvm_path(&self.microvm, &query)).await?;
        while let Some((kind, payload)) = frames.next().await? {
            // Nothing else goes on meanwhile: a write may block.
            let written = match kind {
                Kind::Stdout => write(&mut io::stdout(), &payload),
                Kind::Stderr => write(&mut io::stderr(), &payload),
                Kind::Exit => break,
                Kind::Stdin | Kind::Resize | Kind::Signal | Kind::Detach => Ok(()),
            };
            match written {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                other => other.context("the log cannot be written")?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn write(target: &mut dyn Write, payload: &[u8]) -> io::Result<()> {
    target.write_all(payload)?;
    target.flush()
}
