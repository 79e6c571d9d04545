//! `hull events`: what happens, as it happens.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use hull_protocol::life::Event;

use super::list::{Format, print};
use crate::client::{Client, Host, escape};
use crate::moment::moment;

/// Show what happens to microVMs, images and kernels, as it happens
#[derive(Debug, Args)]
#[command(after_help = "\
Filters are subject=microvm, image, kernel or volume, action=ACTION and of=NAME or ID; values may be several, with commas between.

Examples:
  hull events --filter action=die,oom
  hull events --since 10m --until now --format json")]
pub(super) struct Events {
    /// From this time on: a time, seconds since 1970, or how long ago, such as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Until this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Those after the event of this number
    #[arg(long, value_name = "ID", conflicts_with = "since")]
    after: Option<u64>,
    /// Only those: KEY=value; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// How to print: json is one object a line
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Events {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let mut lines = client.lines(&self.path()?).await?;
        while let Some(line) = lines.next().await? {
            let Some(data) = line.strip_prefix("data: ") else {
                if line == "event: lost" {
                    eprintln!("hull: some events are not kept any more");
                }
                continue;
            };
            let Ok(event) = serde_json::from_str::<Event>(data) else { continue };
            match self.format {
                Format::Json => print(&format!("{data}\n"))?,
                Format::Table => print(&format!("{}\n", show(&event)))?,
            };
        }
        Ok(ExitCode::SUCCESS)
    }

    fn path(&self) -> Result<String> {
        let mut path = "/v1/events?follow=true".to_owned();
        for (key, time) in [("since", &self.since), ("until", &self.until)] {
            if let Some(time) = time {
                path.push_str(&format!("&{key}={}", escape(&moment(time)?)));
            }
        }
        if let Some(after) = self.after {
            path.push_str(&format!("&after={after}"));
        }
        for filter in &self.filter {
            let (key, value) = filter.split_once('=').context("write a filter as KEY=value")?;
            if !["subject", "action", "of"].contains(&key) {
                bail!("there is no filter '{key}': use subject, action or of");
            }
            path.push_str(&format!("&{key}={}", escape(value)));
        }
        Ok(path)
    }
}

/// One line, as Docker's: time, subject, action, id, and more in brackets.
fn show(event: &Event) -> String {
    let subject = serde_json::to_value(event.subject).unwrap_or_default();
    let mut more = vec![format!("name={}", event.name)];
    more.extend(event.attributes.iter().map(|(key, value)| format!("{key}={value}")));
    let line = format!(
        "{} {} {} {} ({})",
        event.time,
        subject.as_str().unwrap_or_default(),
        event.action,
        event.of,
        more.join(", ")
    );
    line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
