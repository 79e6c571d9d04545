//! What a microVM asks of networks, checked before anything is made.
//!
//! Pure. Owner: whoever makes a microVM. Invariant: what passes here can be told to a guest line by line, and to the
//! packet filter word by word.

use std::collections::HashSet;
use std::net::IpAddr;

use hull_protocol::api::NetworkSpec;
use hull_protocol::network::{
    Attachment, HOST_LESS_NETWORK, NETS_MAX, NO_NETWORK, NetworkingSpec, RateLimit,
};

use super::{NetworkError, egress};

/// The longest name of a network.
const NAME_MAX: usize = 63;
/// The most of each list.
const LIST_MAX: usize = 1024;
/// The most name servers that a guest's C library asks, and search domains.
const DNS_MAX: usize = 16;
/// The smallest MTU that IPv6 works with.
const MTU_MIN: u16 = 1280;

fn letter(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

/// A network's name.
///
/// # Errors
/// When none can have it.
pub fn name(name: &str) -> Result<(), NetworkError> {
    let plain = |c: char| letter(c) || matches!(c, '_' | '.' | '-');
    if name.is_empty() || name.len() > NAME_MAX || !name.starts_with(letter) || !name.chars().all(plain) {
        return Err(NetworkError::Name(name.to_owned()));
    }
    Ok(())
}

/// A new network.
///
/// # Errors
/// What cannot be.
pub fn network(spec: &NetworkSpec) -> Result<(), NetworkError> {
    name(&spec.name)?;
    if [NO_NETWORK, HOST_LESS_NETWORK].contains(&spec.name.as_str()) {
        return Err(NetworkError::Reserved(spec.name.clone()));
    }
    match spec.mtu {
        Some(mtu) if mtu < MTU_MIN => return Err(NetworkError::Mtu(mtu)),
        _ => {}
    }
    egress::ranges(&spec.egress).map(drop)
}

/// The networks that are asked for by name; none where the user left it open.
///
/// # Errors
/// What cannot be.
pub fn attachments(spec: &NetworkingSpec) -> Result<Option<Vec<Attachment>>, NetworkError> {
    let Some(wanted) = &spec.networks else { return Ok(None) };
    if let [Attachment { network, .. }] = wanted.as_slice()
        && network == NO_NETWORK
    {
        return Ok(Some(Vec::new()));
    }
    if wanted.len() > NETS_MAX {
        return Err(NetworkError::TooMany(wanted.len()));
    }
    let mut seen = HashSet::new();
    for attachment in wanted {
        if attachment.network == NO_NETWORK {
            return Err(NetworkError::Invalid(
                "a microVM without a network is on no other: leave one out".into(),
            ));
        }
        name(&attachment.network)?;
        if !seen.insert(&attachment.network) {
            return Err(NetworkError::Invalid(format!(
                "the network {} is asked for twice",
                attachment.network
            )));
        }
        for alias in &attachment.aliases {
            host_name(alias)?;
        }
    }
    Ok(Some(wanted.clone()))
}

/// All else that a microVM asks for.
///
/// # Errors
/// What cannot be.
pub fn networking(spec: &NetworkingSpec) -> Result<(), NetworkError> {
    let invalid = |text: String| Err(NetworkError::Invalid(text));
    let aliases = spec.networks.iter().flatten().map(|attachment| attachment.aliases.len()).sum();
    for (what, length, most) in [
        ("published ports", spec.publish.len(), LIST_MAX),
        ("lines of /etc/hosts", spec.add_host.len(), LIST_MAX),
        ("aliases", aliases, LIST_MAX),
        ("name servers", spec.dns.len(), DNS_MAX),
        ("search domains", spec.dns_search.len(), DNS_MAX),
    ] {
        if length > most {
            return invalid(format!("{length} {what} are too many: at most {most}"));
        }
    }
    for domain in spec.dns_search.iter().chain(spec.add_host.iter().map(|entry| &entry.name)) {
        host_name(domain)?;
    }
    let mut ports = HashSet::new();
    for port in &spec.publish {
        if port.port == 0 || port.host_port == Some(0) {
            return invalid(
                "the port 0 cannot be published: leave the host's port out for a free one".into(),
            );
        }
        if port.host_ip.is_some_and(|address| address.is_multicast() || is_link_local(address)) {
            return invalid("a port can be published only on an address of the host's own".into());
        }
        if port.host_port.is_some() && !ports.insert((port.host_ip, port.host_port, port.transport)) {
            return invalid(format!("the port {} is published twice", super::publish::describe(port)));
        }
    }
    for limit in [spec.receive, spec.transmit].into_iter().flatten() {
        rate(limit)?;
    }
    spec.egress.as_ref().map_or(Ok(()), |policy| egress::ranges(policy).map(drop))
}

/// These need the number of a link, which a port of the host has no place for.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn rate(limit: RateLimit) -> Result<(), NetworkError> {
    let zero = [limit.bytes, limit.packets].into_iter().flatten();
    if zero.into_iter().any(|rate| rate.is_zero()) {
        return Err(NetworkError::Invalid("a limit of 0 lets nothing through: use --network none".into()));
    }
    Ok(())
}

/// A name of a host, or of a domain, as it can stand in `/etc/hosts`.
fn host_name(name: &str) -> Result<(), NetworkError> {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.chars().all(|c| letter(c) || matches!(c, '-' | '_'))
    };
    if name.len() <= 253 && name.strip_suffix('.').unwrap_or(name).split('.').all(label) {
        return Ok(());
    }
    Err(NetworkError::Invalid(format!("'{name}' is no name of a host: use letters, digits, '-' and '.'")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use hull_protocol::network::{HostEntry, PublishedPort, Rate};

    use super::*;

    fn on(networks: &[&str]) -> NetworkingSpec {
        let attachment = |name: &&str| Attachment { network: (*name).into(), ..Default::default() };
        NetworkingSpec { networks: Some(networks.iter().map(attachment).collect()), ..Default::default() }
    }

    #[test]
    fn networks_are_asked_for_by_name() {
        assert_eq!(attachments(&NetworkingSpec::default()).unwrap(), None);
        assert_eq!(attachments(&on(&[])).unwrap(), Some(Vec::new()));
        assert_eq!(attachments(&on(&["none"])).unwrap(), Some(Vec::new()));
        assert_eq!(attachments(&on(&["a", "b"])).unwrap().unwrap().len(), 2);
        for bad in [&["none", "a"][..], &["a", "a"], &[""], &["a b"], &["-a"], &["a"; 9]] {
            assert!(attachments(&on(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn new_networks_have_names_of_their_own_and_room_for_ipv6() {
        let spec = |name: &str| NetworkSpec { name: name.into(), ..Default::default() };
        assert!(network(&spec("web_1.a-b")).is_ok() && network(&spec("default")).is_ok());
        for bad in ["", "none", "host-less", "a/b", ".a", "ä", &"a".repeat(64)] {
            assert!(network(&spec(bad)).is_err(), "{bad}");
        }
        assert!(network(&NetworkSpec { mtu: Some(1279), ..spec("a") }).is_err());
        assert!(network(&NetworkSpec { mtu: Some(9000), ..spec("a") }).is_ok());
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_made() {
        let bad = |change: &dyn Fn(&mut NetworkingSpec)| {
            let mut spec = NetworkingSpec::default();
            assert!(networking(&spec).is_ok());
            change(&mut spec);
            networking(&spec).unwrap_err().to_string()
        };
        let port =
            |host_port| PublishedPort { host_ip: None, host_port, port: 80, transport: Default::default() };
        assert!(bad(&|spec| spec.publish = vec![port(Some(0))]).contains("port 0"));
        assert!(
            bad(&|spec| spec.publish = vec![port(Some(8080)); 2]).contains("8080/tcp is published twice")
        );
        let everywhere = PublishedPort { host_ip: Some("ff02::1".parse().unwrap()), ..port(None) };
        assert!(bad(&|spec| spec.publish = vec![everywhere]).contains("address of the host's"));
        assert!(bad(&|spec| spec.dns_search = vec!["a\nnameserver 192.0.2.1".into()]).contains("no name"));
        let line = HostEntry { name: "a b".into(), address: [192, 0, 2, 1].into() };
        assert!(bad(&|spec| spec.add_host = vec![line.clone()]).contains("no name"));
        let nothing = RateLimit { bytes: Some(Rate { per_second: 0, burst: None }), packets: None };
        assert!(bad(&|spec| spec.receive = Some(nothing)).contains("limit of 0"));
        assert!(bad(&|spec| spec.dns = vec![[192, 0, 2, 1].into(); 17]).contains("too many"));
    }
}
