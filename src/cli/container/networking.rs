//! The network flags of `run` and `create`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use clap::Args;
use hull_protocol::network::{
    Attachment, DEFAULT_NETWORK, EgressPolicy, EgressRule, HostEntry, Mac, NO_NETWORK, NetworkingSpec,
    RateLimit, Transport, Verdict,
};

use super::limits::rate;
use crate::cli::port;

/// A microVM's networks, as flags.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub(super) struct Networking {
    /// Network: a name, 'none', or 'host-less' for one without a way to the host or beyond; may be repeated. With more
    /// to say: name=NAME,ip=ADDRESS,ip6=ADDRESS,mac=ADDRESS,alias=NAME [default: default]
    #[arg(long, value_name = "NAME", alias = "net")]
    network: Vec<String>,
    /// IPv4 address on the first network
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// IPv6 address on the first network
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,
    /// Ethernet address on the first network
    #[arg(long, value_name = "ADDRESS", alias = "mac-address")]
    mac: Option<Mac>,
    /// One more name on every network; may be repeated
    #[arg(long, value_name = "NAME")]
    network_alias: Vec<String>,
    /// Publish a port: [[ADDRESS:]PORT:]CONTAINER-PORT[/udp], or ranges of them; may be repeated
    #[arg(short, long, value_name = "PORTS")]
    publish: Vec<String>,
    /// Name server instead of the network's own; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
    /// Domain in which short names are looked up; may be repeated
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Line of /etc/hosts: NAME:ADDRESS; may be repeated
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    #[command(flatten)]
    egress: Egress,
    /// Limit on what each card receives: bits a second such as 100mbit, or bytes a second such as 12mb (steps of 1000)
    #[arg(long, value_name = "RATE")]
    net_rx: Option<String>,
    /// Limit on what each card sends, written likewise
    #[arg(long, value_name = "RATE")]
    net_tx: Option<String>,
}

/// An egress policy, as flags.
#[derive(Debug, Args)]
pub(in crate::cli) struct Egress {
    /// What may be reached outside that no other flag names: allow or deny [default: allow; with --egress-allow: deny]
    #[arg(long, value_name = "VERDICT", value_parser = verdict)]
    egress: Option<Verdict>,
    /// May be reached: a network, address or name, with :PORT and /tcp or /udp if wanted; may be repeated
    #[arg(long, value_name = "DESTINATION", conflicts_with = "egress_deny")]
    egress_allow: Vec<String>,
    /// May not be reached, written likewise; may be repeated
    #[arg(long, value_name = "DESTINATION")]
    egress_deny: Vec<String>,
}

impl Networking {
    pub(super) fn spec(&self) -> Result<NetworkingSpec> {
        let mut publish = Vec::new();
        for ports in &self.publish {
            publish.extend(port::published(ports)?);
        }
        let add_host: Result<Vec<HostEntry>> = self.add_host.iter().map(|line| host_entry(line)).collect();
        let limit = |text: &Option<String>| -> Result<Option<RateLimit>> {
            let bytes = text.as_deref().map(rate).transpose()?;
            Ok(bytes.is_some().then_some(RateLimit { bytes, packets: None }))
        };
        Ok(NetworkingSpec {
            networks: self.networks()?,
            publish,
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            add_host: add_host?,
            egress: self.egress.policy()?,
            receive: limit(&self.net_rx)?,
            transmit: limit(&self.net_tx)?,
        })
    }

    /// None where nothing was said of networks.
    fn networks(&self) -> Result<Option<Vec<Attachment>>> {
        let details = self.ip.is_some() || self.ip6.is_some() || self.mac.is_some();
        if self.network.is_empty() && !details && self.network_alias.is_empty() {
            return Ok(None);
        }
        let mut networks: Vec<Attachment> =
            self.network.iter().map(|network| attachment(network)).collect::<Result<_>>()?;
        if let [Attachment { network, .. }] = networks.as_slice()
            && network == NO_NETWORK
        {
            if details {
                bail!(
                    "without a network there are no addresses: leave out --ip, --ip6 and --mac, or --network none"
                );
            }
            return Ok(Some(Vec::new()));
        }
        if networks.is_empty() {
            networks.push(Attachment { network: DEFAULT_NETWORK.into(), ..Attachment::default() });
        }
        if let Some(first) = networks.first_mut() {
            first.ip = self.ip.or(first.ip);
            first.ip6 = self.ip6.or(first.ip6);
            first.mac = self.mac.or(first.mac);
        }
        for network in &mut networks {
            network.aliases.extend(self.network_alias.iter().cloned());
        }
        Ok(Some(networks))
    }
}

impl Egress {
    /// None where nothing was said.
    pub(in crate::cli) fn policy(&self) -> Result<Option<EgressPolicy>> {
        let default = match (self.egress, self.egress_allow.is_empty(), self.egress_deny.is_empty()) {
            (None, true, true) => return Ok(None),
            (Some(Verdict::Allow), false, _) => {
                bail!("--egress allow lets all pass: leave out --egress-allow")
            }
            (Some(Verdict::Deny), _, false) => bail!("--egress deny refuses all: leave out --egress-deny"),
            (Some(verdict), ..) => verdict,
            (None, false, _) => Verdict::Deny,
            (None, true, false) => Verdict::Allow,
        };
        let rules = self.egress_allow.iter().chain(&self.egress_deny).map(|text| destination(text));
        Ok(Some(EgressPolicy { default, rules: rules.collect::<Result<_>>()? }))
    }
}

fn verdict(text: &str) -> Result<Verdict, String> {
    match text {
        "allow" => Ok(Verdict::Allow),
        "deny" => Ok(Verdict::Deny),
        _ => Err("write allow or deny".into()),
    }
}

/// A name, or `key=value` after `key=value`.
fn attachment(text: &str) -> Result<Attachment> {
    if !text.contains('=') {
        return Ok(Attachment { network: text.into(), ..Attachment::default() });
    }
    let mut attachment = Attachment::default();
    for part in text.split(',') {
        let (key, value) =
            part.split_once('=').with_context(|| format!("'{part}' of --network is no KEY=VALUE"))?;
        match key {
            "name" => attachment.network = value.into(),
            "ip" => {
                attachment.ip = Some(value.parse().with_context(|| format!("'{value}' is no IPv4 address"))?)
            }
            "ip6" => {
                attachment.ip6 = Some(value.parse().with_context(|| format!("'{value}' is no IPv6 address"))?)
            }
            "mac" => attachment.mac = Some(value.parse()?),
            "alias" => attachment.aliases.push(value.into()),
            _ => bail!("--network knows no '{key}': use name, ip, ip6, mac and alias"),
        }
    }
    if attachment.network.is_empty() {
        bail!("--network {text} names no network: add name=NAME");
    }
    Ok(attachment)
}

fn host_entry(line: &str) -> Result<HostEntry> {
    let split = line.split_once(':').filter(|(name, _)| !name.is_empty());
    let (name, address) =
        split.with_context(|| format!("'{line}' is no line of /etc/hosts: write NAME:ADDRESS"))?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse().with_context(|| format!("'{address}' is no address"))?;
    Ok(HostEntry { name: name.into(), address })
}

/// `NETWORK`, `ADDRESS` or `NAME`, with `:PORT` and `/tcp` or `/udp`; IPv6 with a port in brackets.
fn destination(text: &str) -> Result<EgressRule> {
    let (rest, transport) = match text.rsplit_once('/') {
        Some((rest, "tcp")) => (rest, Some(Transport::Tcp)),
        Some((rest, "udp")) => (rest, Some(Transport::Udp)),
        _ => (text, None),
    };
    let (place, port) = if let Some(inner) = rest.strip_prefix('[') {
        let (place, port) = inner.split_once(']').with_context(|| format!("'{text}' lacks a ]"))?;
        (place, port.strip_prefix(':'))
    } else if is_network(rest) {
        (rest, None)
    } else {
        rest.rsplit_once(':').map_or((rest, None), |(place, port)| (place, Some(port)))
    };
    let port = port
        .map(|port| port.parse().with_context(|| format!("'{port}' of '{text}' is no port")))
        .transpose()?;
    let place = Some(place.to_owned()).filter(|place| !place.is_empty() && place != "*");
    let (cidr, name) = match place {
        Some(place) if is_network(&place) => (Some(place), None),
        place => (None, place),
    };
    if cidr.is_none() && name.is_none() && port.is_none() {
        bail!("'{text}' is no destination: write a network, an address or a name");
    }
    Ok(EgressRule { cidr, name, port, transport })
}

fn is_network(text: &str) -> bool {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "0"));
    address.parse::<IpAddr>().is_ok() && prefix.parse::<u8>().is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn shown(text: &str) -> String {
        let rule = destination(text).unwrap();
        format!("{:?} {:?} {:?} {:?}", rule.cidr, rule.name, rule.port, rule.transport)
    }

    #[test]
    fn destinations_are_networks_addresses_or_names() {
        assert_eq!(shown("192.0.2.0/24:443/tcp"), r#"Some("192.0.2.0/24") None Some(443) Some(Tcp)"#);
        assert_eq!(shown("192.0.2.7"), r#"Some("192.0.2.7") None None None"#);
        assert_eq!(shown("fd00::/8"), r#"Some("fd00::/8") None None None"#);
        assert_eq!(shown("[fd00::/8]:53/udp"), r#"Some("fd00::/8") None Some(53) Some(Udp)"#);
        assert_eq!(shown("*.example.org:443"), r#"None Some("*.example.org") Some(443) None"#);
        assert_eq!(shown(":53"), "None None Some(53) None");
        for bad in ["", "a:b", "a:65536", "[fd00::/8:1", "*"] {
            assert!(destination(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_can_be_said_more_of() {
        let one = attachment("name=a,ip=10.0.0.2,ip6=fd00::2,mac=02:00:00:00:00:01,alias=x,alias=y").unwrap();
        assert_eq!((one.network.as_str(), one.aliases.len()), ("a", 2));
        assert_eq!(attachment("a").unwrap().network, "a");
        for bad in ["ip=10.0.0.2", "name=a,ip=x", "name=a,b=c", "name=a,b"] {
            assert!(attachment(bad).is_err(), "{bad}");
        }
        assert_eq!(host_entry("db:fd00::1").unwrap().address, "fd00::1".parse::<IpAddr>().unwrap());
        assert!(host_entry("db").is_err() && host_entry(":1.2.3.4").is_err());
    }
}
