//! `hull port`, and how published ports are written.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use hull_protocol::network::{PublishedPort, Transport};

use super::list::{Format, print_json, print_lines};
use crate::client::{Client, Host};

/// The most ports that one flag stands for.
const RANGE_MAX: usize = 1024;

/// List the ports of the host that lead to a microVM
#[derive(Debug, Args)]
pub(super) struct Port {
    /// Id, name or beginning of an id
    #[arg(value_name = "MICROVM")]
    microvm: String,
    /// Only those that lead to this port of its: PORT[/tcp|/udp]
    #[arg(value_name = "PORT")]
    port: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Port {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let client = Client::connect(host).await?;
        let mut ports = client.microvm(&self.microvm).await?.ports;
        if let Some(wanted) = &self.port {
            let (number, transport) = transport(wanted)?;
            let number: u16 = number.parse().with_context(|| format!("'{wanted}' is no port"))?;
            ports.retain(|port| port.port == number && port.transport == transport);
            if ports.is_empty() {
                bail!("nothing leads to the port {wanted} of {}", self.microvm);
            }
        }
        match self.format {
            Format::Json => print_json(&ports),
            Format::Table if self.port.is_some() => print_lines(ports.iter().map(outside)),
            Format::Table => print_lines(
                ports
                    .iter()
                    .map(|port| format!("{}/{} -> {}", port.port, name(port.transport), outside(port))),
            ),
        }
    }
}

/// A published port, on one line.
pub(super) fn shown(port: &PublishedPort) -> String {
    format!("{}->{}/{}", outside(port), port.port, name(port.transport))
}

/// The host's end.
fn outside(port: &PublishedPort) -> String {
    let number = port.host_port.unwrap_or_default();
    match port.host_ip {
        Some(IpAddr::V6(address)) => format!("[{address}]:{number}"),
        Some(address) => format!("{address}:{number}"),
        None => format!("*:{number}"),
    }
}

fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

fn transport(text: &str) -> Result<(&str, Transport)> {
    match text.split_once('/') {
        None => Ok((text, Transport::Tcp)),
        Some((rest, "tcp")) => Ok((rest, Transport::Tcp)),
        Some((rest, "udp")) => Ok((rest, Transport::Udp)),
        Some((_, other)) => bail!("'{other}' of '{text}' is no protocol: write tcp or udp"),
    }
}

/// `[[ADDRESS:]PORT:]CONTAINER-PORT[/udp]`, where each port may be a range.
pub(super) fn published(text: &str) -> Result<Vec<PublishedPort>> {
    let (rest, transport) = transport(text)?;
    let (rest, inner) = rest.rsplit_once(':').map_or((None, rest), |(rest, inner)| (Some(rest), inner));
    let (address, outer) = match rest {
        None => (None, ""),
        Some(rest) => rest.rsplit_once(':').map_or((None, rest), |(address, outer)| (Some(address), outer)),
    };
    let address = match address {
        None => None,
        Some(address) => {
            let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
            let parsed: IpAddr = bare
                .parse()
                .with_context(|| format!("'{address}' of '{text}' is no address: write IPv6 as [::1]"))?;
            if parsed.is_ipv6() && bare == address {
                bail!("the address of '{text}' needs brackets: [{address}]");
            }
            Some(parsed)
        }
    };
    let inner = range(inner).with_context(|| format!("'{text}' is no port to publish"))?;
    let outer: Vec<Option<u16>> = if outer.is_empty() {
        vec![None; inner.len()]
    } else {
        range(outer)
            .with_context(|| format!("'{text}' is no port to publish"))?
            .into_iter()
            .map(Some)
            .collect()
    };
    if inner.len() != outer.len() {
        bail!("'{text}' has {} ports of the host for {} of the container", outer.len(), inner.len());
    }
    let port = |(host_port, port)| PublishedPort { host_ip: address, host_port, port, transport };
    Ok(outer.into_iter().zip(inner).map(port).collect())
}

/// A port, or `FIRST-LAST`.
fn range(text: &str) -> Result<Vec<u16>> {
    let number = |text: &str| {
        let port = text.parse::<u16>().ok().filter(|port| *port > 0 && !text.starts_with('+'));
        port.with_context(|| format!("'{text}' is no port: write 1 to 65535"))
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last || usize::from(last - first) >= RANGE_MAX {
        bail!("the range {text} is not one of 1 to {RANGE_MAX} ports");
    }
    Ok((first..=last).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn all(text: &str) -> Vec<String> {
        published(text).unwrap().iter().map(shown).collect()
    }

    #[test]
    fn ports_are_written_as_dockers() {
        assert_eq!(all("8080:80"), ["*:8080->80/tcp"]);
        assert_eq!(all("80"), ["*:0->80/tcp"]);
        assert_eq!(all("127.0.0.1:8080:80/udp"), ["127.0.0.1:8080->80/udp"]);
        assert_eq!(all("[::1]:8080:80"), ["[::1]:8080->80/tcp"]);
        assert_eq!(all("127.0.0.1::80"), ["127.0.0.1:0->80/tcp"]);
        assert_eq!(all("8000-8001:80-81"), ["*:8000->80/tcp", "*:8001->81/tcp"]);
        let bad = [
            "",
            ":",
            "0:80",
            "80:0",
            "8080:80/sctp",
            "70000:80",
            "a:80",
            "::1:8080:80",
            "1.2.3:1:2",
            "8000-8001:80",
            "2-1:2-1",
            "1-60000",
            "+1:80",
            "8080:80:90:100",
        ];
        for bad in bad {
            assert!(published(bad).is_err(), "{bad}");
        }
    }
}
