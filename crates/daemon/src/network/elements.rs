//! What networks, microVMs and published ports put into the sets and maps of [`super::ruleset`].
//!
//! Pure. Owner: [`super::host::HostNetworks`]. Invariant: what is taken out is exactly what was put in, for both are made from
//! the same list.

use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr};

use hull_protocol::api::{Card, Network};
use hull_protocol::network::{EgressPolicy, HOST_LESS_NETWORK, Mac, PublishedPort, Transport, Verdict};
use serde_json::{Value, json};

use super::NetworkError;
use super::egress::{self, Range};
use super::ruleset::TABLE;

/// One element of a set or a map, or a counter.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    family: &'static str,
    /// The set's name; none for a counter of its own.
    set: Option<String>,
    what: Value,
}

impl Element {
    fn new(family: &'static str, set: impl Into<String>, what: Value) -> Self {
        Self { family, set: Some(set.into()), what }
    }

    fn inet(set: impl Into<String>, what: Value) -> Self {
        Self::new("inet", set, what)
    }

    fn counter(family: &'static str, name: String) -> Self {
        Self { family, set: None, what: name.into() }
    }

    fn object(&self) -> Value {
        match &self.set {
            Some(set) => {
                json!({ "element": { "family": self.family, "table": TABLE, "name": set, "elem": [self.what] } })
            }
            None => json!({ "counter": { "family": self.family, "table": TABLE, "name": self.what } }),
        }
    }
}

/// The commands that put elements in; counters come before what points to them.
pub fn put(elements: &[Element]) -> Vec<Value> {
    let counters = elements.iter().filter(|element| element.set.is_none());
    let others = elements.iter().filter(|element| element.set.is_some());
    counters.chain(others).map(|element| json!({ "add": element.object() })).collect()
}

/// The commands that take them out, the other way round.
pub fn take(elements: &[Element]) -> Vec<Value> {
    let counters = elements.iter().filter(|element| element.set.is_none());
    let others = elements.iter().filter(|element| element.set.is_some());
    others.chain(counters).map(|element| json!({ "delete": element.object() })).collect()
}

fn concat(parts: &[Value]) -> Value {
    json!({ "concat": parts })
}

fn pair(one: impl Display, other: impl Display) -> Value {
    concat(&[one.to_string().into(), other.to_string().into()])
}

fn prefix(subnet: &str) -> Value {
    let (address, length) = subnet.split_once('/').unwrap_or((subnet, "0"));
    json!({ "prefix": { "addr": address, "len": length.parse::<u8>().unwrap_or(0) } })
}

/// A range, or the only value of one, which nft does not take as a range.
fn range(from: impl Into<Value>, to: impl Into<Value>) -> Value {
    let (from, to) = (from.into(), to.into());
    if from == to { from } else { json!({ "range": [from, to] }) }
}

/// The name of a network's counter of what was refused.
pub fn network_counter(id: &str) -> String {
    format!("net-{}", id.get(..12).unwrap_or(id))
}

/// The name of a card's counters.
pub fn card_counter(card: &Card) -> String {
    format!("card-{}", card.tap)
}

/// What a network is in the rules.
///
/// # Errors
/// When its policy cannot be.
pub fn of_network(network: &Network) -> Result<Vec<Element>, NetworkError> {
    let bridge = network.bridge.as_str();
    let counter = network_counter(&network.id);
    let mut elements = vec![
        Element::counter("inet", counter.clone()),
        Element::inet("refused_net", json!([bridge, counter])),
        Element::inet("bridges", bridge.into()),
        Element::inet("within", pair(bridge, bridge)),
        Element::inet("subnets4", concat(&[bridge.into(), prefix(&network.subnet)])),
        Element::inet("subnets6", concat(&[bridge.into(), prefix(&network.subnet6)])),
    ];
    if network.name != HOST_LESS_NETWORK {
        elements.push(Element::inet("resolvers4", pair(bridge, network.gateway)));
        elements.push(Element::inet("resolvers6", pair(bridge, network.gateway6)));
    }
    if network.internal {
        elements.push(Element::inet("internal", bridge.into()));
        return Ok(elements);
    }
    elements.push(Element::inet("masqueraded4", prefix(&network.subnet)));
    elements.push(Element::inet("masqueraded6", prefix(&network.subnet6)));
    if let Some(chain) = chain(&network.egress, "net") {
        elements.push(Element::inet("net_policy", json!([bridge, { "goto": { "target": chain } }])));
        let sources = [prefix(&network.subnet), prefix(&network.subnet6)];
        elements.extend(exceptions("net_rules", sources, &network.egress)?);
    }
    Ok(elements)
}

/// The chain of a policy; none where it says nothing.
fn chain(policy: &EgressPolicy, whose: &str) -> Option<String> {
    match policy.default {
        Verdict::Allow if policy.rules.is_empty() => None,
        Verdict::Allow => Some(format!("allow_{whose}")),
        Verdict::Deny => Some(format!("deny_{whose}")),
    }
}

fn exceptions(set: &str, sources: [Value; 2], policy: &EgressPolicy) -> Result<Vec<Element>, NetworkError> {
    let ranges = egress::ranges(policy)?;
    let [source4, source6] = sources;
    let rest = |range: &Range| {
        [self::range(range.protocols.0, range.protocols.1), self::range(range.ports.0, range.ports.1)]
    };
    let of4 = ranges.v4.iter().map(|one| {
        let addresses = egress::addresses4(one);
        let [protocols, ports] = rest(one);
        let parts = [
            source4.clone(),
            range(addresses.start().to_string(), addresses.end().to_string()),
            protocols,
            ports,
        ];
        Element::inet(format!("{set}4"), concat(&parts))
    });
    let of6 = ranges.v6.iter().map(|one| {
        let addresses = egress::addresses6(one);
        let [protocols, ports] = rest(one);
        let parts = [
            source6.clone(),
            range(addresses.start().to_string(), addresses.end().to_string()),
            protocols,
            ports,
        ];
        Element::inet(format!("{set}6"), concat(&parts))
    });
    Ok(of4.chain(of6).collect())
}

/// The link-local address that a card gives itself, RFC 4291, appendix A.
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    let low = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits((0xfe80 << 112) | u128::from(low))
}

/// What a running microVM's card is in the rules.
///
/// # Errors
/// When its policy cannot be.
pub fn of_card(card: &Card, policy: Option<&EgressPolicy>) -> Result<Vec<Element>, NetworkError> {
    let (tap, counter, local) = (card.tap.as_str(), card_counter(card), link_local(card.mac));
    let bridge = |set: &str, what| Element::new("bridge", set, what);
    // The bytes of the packet, as this machine reads a mark.
    let target = |address: Ipv6Addr| {
        let [.., a, b, c, d] = address.octets();
        bridge("targets", concat(&[tap.into(), u32::from_ne_bytes([a, b, c, d]).into()]))
    };
    let mut elements = vec![
        Element::counter("inet", counter.clone()),
        Element::counter("bridge", counter.clone()),
        Element::inet("refused_vm4", json!([card.ip, counter])),
        Element::inet("refused_vm6", json!([card.ip6, counter])),
        bridge("forged", json!([tap, counter])),
        bridge("ports", tap.into()),
        bridge("cards", pair(tap, card.mac)),
        bridge("addresses4", pair(tap, card.ip)),
        bridge("addresses6", pair(tap, card.ip6)),
        bridge("addresses6", pair(tap, local)),
        target(card.ip6),
        target(local),
    ];
    let Some(policy) = policy else { return Ok(elements) };
    // A policy of its own that says nothing still stands instead of its network's.
    let chain = chain(policy, "vm").unwrap_or_else(|| "allowed".into());
    elements.push(Element::inet("vm_policy4", json!([card.ip, { "goto": { "target": chain } }])));
    elements.push(Element::inet("vm_policy6", json!([card.ip6, { "goto": { "target": chain } }])));
    elements.extend(exceptions(
        "vm_rules",
        [card.ip.to_string().into(), card.ip6.to_string().into()],
        policy,
    )?);
    Ok(elements)
}

/// What a published port is in the rules; nothing where only the host's loopback has it.
pub fn of_port(port: &PublishedPort, card: &Card) -> Vec<Element> {
    let Some(host_port) = port.host_port else { return Vec::new() };
    let protocol = match port.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    let (name, at4, at6) = match port.host_ip {
        Some(address) if address.is_loopback() => return Vec::new(),
        Some(address) if !address.is_unspecified() => {
            let at = concat(&[address.to_string().into(), protocol.into(), host_port.into()]);
            match address {
                IpAddr::V4(_) => ("one", Some(at), None),
                IpAddr::V6(_) => ("one", None, Some(at)),
            }
        }
        any => {
            let at = concat(&[protocol.into(), host_port.into()]);
            let has = |family: fn(&IpAddr) -> bool| any.as_ref().is_none_or(family).then(|| at.clone());
            ("any", has(IpAddr::is_ipv4), has(IpAddr::is_ipv6))
        }
    };
    let both = |digit: char, at: Option<Value>, address: String| {
        at.into_iter().flat_map(move |at| {
            [
                Element::inet(format!("{name}_address{digit}"), json!([at, address])),
                Element::inet(format!("{name}_port{digit}"), json!([at, port.port])),
            ]
        })
    };
    both('4', at4, card.ip.to_string()).chain(both('6', at6, card.ip6.to_string())).collect()
}

/// A destination that a name in a policy has come to mean, for so many seconds.
pub fn of_name(
    source: IpAddr,
    address: IpAddr,
    port: Option<(Option<Transport>, u16)>,
    seconds: u32,
) -> Vec<(Element, Element)> {
    let digit = if source.is_ipv4() { '4' } else { '6' };
    let ends = [source.to_string().into(), address.to_string().into()];
    let lasting = |set: String, key: Value| {
        let element = json!({ "elem": { "val": key, "timeout": seconds } });
        (Element::inet(set.clone(), key), Element::inet(set, element))
    };
    match port {
        None => vec![lasting(format!("names{digit}"), concat(&ends))],
        Some((transport, port)) => {
            let protocols = transport.map_or(vec![Transport::Tcp, Transport::Udp], |one| vec![one]);
            let flow = |one| [ends.as_slice(), &[egress::number(one).into(), port.into()]].concat();
            protocols
                .into_iter()
                .map(|one| lasting(format!("name_ports{digit}"), concat(&flow(one))))
                .collect()
        }
    }
}

/// A link that forwards only because Hull lets it.
pub fn of_opened(link: &str) -> Element {
    Element::inet("opened", link.into())
}
