//! What a guest and its VMM are told of its networks.
//!
//! Pure. Owner: the run of a microVM. Invariant: a guest is told nothing that the host's rules would refuse it.

use std::net::IpAddr;

use hull_protocol::api::{Card, Network};
use hull_protocol::network::{HOST_LESS_NETWORK, Interface, InterfaceAddress, NetPlan, NetworkingSpec};
use hull_protocol::plan::Slot;
use ipnet::IpNet;

/// The cards as the agent sets them up. The first network with a way out is the way out.
pub fn interfaces(cards: &[Card], networks: &[Network]) -> Vec<Interface> {
    let out = networks.iter().find(|network| !network.internal).map(|network| &network.id);
    let both = cards.iter().zip(networks).enumerate();
    both.map(|(number, (card, network))| {
        let gateways = [IpAddr::V4(network.gateway), IpAddr::V6(network.gateway6)];
        Interface {
            mac: card.mac,
            name: format!("eth{number}"),
            mtu: network.mtu,
            addresses: vec![
                InterfaceAddress { address: card.ip.into(), prefix: prefix(&network.subnet, 32) },
                InterfaceAddress { address: card.ip6.into(), prefix: prefix(&network.subnet6, 128) },
            ],
            gateways: if out == Some(&network.id) { gateways.to_vec() } else { Vec::new() },
        }
    })
    .collect()
}

fn prefix(subnet: &str, otherwise: u8) -> u8 {
    subnet.parse().map_or(otherwise, |net: IpNet| net.prefix_len())
}

/// A card as the VMM guards it.
pub fn plan(card: &Card, network: &Network, tap: Slot, spec: &NetworkingSpec) -> NetPlan {
    NetPlan {
        tap,
        mac: card.mac,
        mtu: network.mtu,
        guard: Some(vec![card.ip.into(), card.ip6.into()]),
        receive: spec.receive.unwrap_or_default(),
        transmit: spec.transmit.unwrap_or_default(),
    }
}

/// The lines of `/etc/hosts`: itself, and what its user added.
pub fn hosts(hostname: &str, cards: &[Card], spec: &NetworkingSpec) -> Vec<(String, String)> {
    let own = cards.iter().take(1).flat_map(|card| [card.ip.to_string(), card.ip6.to_string()]);
    let own = own.map(|address| (address, hostname.to_owned()));
    let added = spec.add_host.iter().map(|entry| (entry.address.to_string(), entry.name.clone()));
    own.chain(added).collect()
}

/// The lines of `/etc/resolv.conf`: the bridge of the first network, or what its user chose.
pub fn resolv_conf(networks: &[Network], spec: &NetworkingSpec) -> Vec<String> {
    let mut lines = Vec::new();
    if spec.dns.is_empty() {
        let resolving = networks.iter().find(|network| network.name != HOST_LESS_NETWORK);
        lines.extend(resolving.map(|network| format!("nameserver {}", network.gateway)));
    } else {
        lines.extend(spec.dns.iter().map(|address| format!("nameserver {address}")));
    }
    if !spec.dns_search.is_empty() {
        lines.push(format!("search {}", spec.dns_search.join(" ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use hull_protocol::network::HostEntry;

    use super::*;

    fn network(name: &str, internal: bool) -> Network {
        Network {
            id: name.into(),
            name: name.into(),
            tenant: "default".into(),
            bridge: format!("hull-{name}"),
            subnet: "10.1.0.0/24".into(),
            gateway: [10, 1, 0, 1].into(),
            subnet6: "fd00::/64".into(),
            gateway6: "fd00::1".parse().unwrap(),
            mtu: 1400,
            internal,
            egress: Default::default(),
            labels: Default::default(),
            created_at: String::new(),
            members: Vec::new(),
            plain: Vec::new(),
            refused: None,
            notices: Vec::new(),
        }
    }

    fn card(network: &str) -> Card {
        Card {
            network_id: network.into(),
            network: network.into(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            ip: [10, 1, 0, 2].into(),
            ip6: "fd00::2".parse().unwrap(),
            tap: "hull-t1".into(),
            aliases: Vec::new(),
            refused: None,
            forged: None,
        }
    }

    #[test]
    fn the_first_network_with_a_way_out_is_the_way_out() {
        let networks = [network("a", true), network("b", false), network("c", false)];
        let interfaces = interfaces(&[card("a"), card("b"), card("c")], &networks);
        let names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names, ["eth0", "eth1", "eth2"]);
        let ways: Vec<usize> = interfaces.iter().map(|interface| interface.gateways.len()).collect();
        assert_eq!(ways, [0, 2, 0]);
        assert_eq!(
            (interfaces[1].mtu, interfaces[1].addresses[0].prefix, interfaces[1].addresses[1].prefix),
            (1400, 24, 64)
        );
    }

    #[test]
    fn names_are_asked_of_the_bridge_unless_the_user_chose() {
        let networks = [network(HOST_LESS_NETWORK, true), network("b", false)];
        let mut spec =
            NetworkingSpec { dns_search: vec!["example.org".into(), "b".into()], ..Default::default() };
        assert_eq!(resolv_conf(&networks, &spec), ["nameserver 10.1.0.1", "search example.org b"]);
        assert_eq!(resolv_conf(&networks[..1], &NetworkingSpec::default()), Vec::<String>::new());
        spec.dns = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(resolv_conf(&networks, &spec)[..2], ["nameserver 192.0.2.1", "nameserver 2001:db8::1"]);
        spec.add_host = vec![HostEntry { name: "db".into(), address: [192, 0, 2, 9].into() }];
        let hosts = hosts("web", &[card("b")], &spec);
        let line = |address: &str, name: &str| (address.to_owned(), name.to_owned());
        assert_eq!(hosts, [line("10.1.0.2", "web"), line("fd00::2", "web"), line("192.0.2.9", "db")]);
    }
}
