//! An egress policy as ranges of addresses, protocols and ports that do not overlap, which is what a set of the
//! kernel's takes.
//!
//! Pure. Owner: whoever makes the host's rules. Invariant: the ranges cover what the policy's rules cover, no more and
//! no less, and no two of them meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use hull_protocol::network::{EgressPolicy, EgressRule, Transport};
use ipnet::IpNet;

use super::NetworkError;

/// The most rules of one policy.
pub const RULES_MAX: usize = 256;
/// The most ranges that a policy may come to, where its rules overlap.
const BOXES_MAX: usize = 4096;
/// The longest name in a rule.
const NAME_MAX: usize = 253;

/// The number of a protocol in IP.
pub fn number(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    }
}

/// Destinations: a range of addresses, of protocols and of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Addresses, as numbers of their family.
    pub addresses: (u128, u128),
    /// Protocols of IP.
    pub protocols: (u8, u8),
    /// Ports; all of them for protocols that have none.
    pub ports: (u16, u16),
}

/// What the rules with a network in them cover, by family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// IPv4.
    pub v4: Vec<Range>,
    /// IPv6.
    pub v6: Vec<Range>,
}

/// What the rules of a policy cover, those with names aside.
///
/// # Errors
/// When a rule cannot be, or there are too many.
pub fn ranges(policy: &EgressPolicy) -> Result<Ranges, NetworkError> {
    if policy.rules.len() > RULES_MAX {
        return Err(NetworkError::Egress(format!("a policy has at most {RULES_MAX} rules")));
    }
    let mut ranges = Ranges::default();
    for rule in &policy.rules {
        match (&rule.cidr, &rule.name) {
            (Some(_), Some(name)) => {
                return Err(NetworkError::Egress(format!(
                    "the rule for {name} has an address, too: make it two rules"
                )));
            }
            (None, Some(name)) => check_name(name)?,
            (Some(cidr), None) => match parse(cidr)? {
                IpNet::V4(net) => {
                    let addresses = (net.network().to_bits().into(), net.broadcast().to_bits().into());
                    add(&mut ranges.v4, addresses, rule)?;
                }
                IpNet::V6(net) => {
                    add(&mut ranges.v6, (net.network().to_bits(), net.broadcast().to_bits()), rule)?;
                }
            },
            (None, None) => {
                add(&mut ranges.v4, (0, u32::MAX.into()), rule)?;
                add(&mut ranges.v6, (0, u128::MAX), rule)?;
            }
        }
    }
    Ok(ranges)
}

/// A network, or a single address.
fn parse(cidr: &str) -> Result<IpNet, NetworkError> {
    let net = cidr.parse().or_else(|_| cidr.parse::<IpAddr>().map(IpNet::from));
    net.map_err(|_| NetworkError::Egress(format!("'{cidr}' is no network: write it like 192.0.2.0/24")))
}

fn check_name(name: &str) -> Result<(), NetworkError> {
    let labels = name.strip_prefix("*.").unwrap_or(name).trim_end_matches('.');
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if name.len() <= NAME_MAX && labels.split('.').all(label) {
        return Ok(());
    }
    Err(NetworkError::Egress(format!("'{name}' is no name: write one like deb.example.org or *.example.org")))
}

fn add(known: &mut Vec<Range>, addresses: (u128, u128), rule: &EgressRule) -> Result<(), NetworkError> {
    let ports = rule.port.map_or((0, u16::MAX), |port| (port, port));
    let protocols: Vec<(u8, u8)> = match (rule.transport, rule.port) {
        (Some(transport), _) => vec![(number(transport), number(transport))],
        (None, Some(_)) => [Transport::Tcp, Transport::Udp].map(|one| (number(one), number(one))).to_vec(),
        (None, None) => vec![(0, u8::MAX)],
    };
    for protocols in protocols {
        let mut left = vec![Range { addresses, protocols, ports }];
        for known in known.iter() {
            left = left.into_iter().flat_map(|range| range.without(known)).collect();
        }
        known.extend(left);
        if known.len() > BOXES_MAX {
            return Err(NetworkError::Egress(
                "its rules overlap in too many ways: leave out those that others contain".into(),
            ));
        }
    }
    Ok(())
}

impl Range {
    /// What is left of it without another.
    fn without(self, other: &Self) -> Vec<Self> {
        let Some(((a, z), (p, q), (s, t))) = self.common(other) else { return vec![self] };
        let mut left = Vec::new();
        for addresses in beside(self.addresses, (a, z), |n| n.checked_sub(1), |n| n.checked_add(1)) {
            left.push(Self { addresses, ..self.clone() });
        }
        for protocols in beside(self.protocols, (p, q), |n| n.checked_sub(1), |n| n.checked_add(1)) {
            left.push(Self { addresses: (a, z), protocols, ports: self.ports });
        }
        for ports in beside(self.ports, (s, t), |n| n.checked_sub(1), |n| n.checked_add(1)) {
            left.push(Self { addresses: (a, z), protocols: (p, q), ports });
        }
        left
    }

    #[expect(clippy::type_complexity, reason = "the three sides of a range")]
    fn common(&self, other: &Self) -> Option<((u128, u128), (u8, u8), (u16, u16))> {
        Some((
            meet(self.addresses, other.addresses)?,
            meet(self.protocols, other.protocols)?,
            meet(self.ports, other.ports)?,
        ))
    }
}

fn meet<T: Ord>(one: (T, T), other: (T, T)) -> Option<(T, T)> {
    let both = (one.0.max(other.0), one.1.min(other.1));
    (both.0 <= both.1).then_some(both)
}

/// What of `whole` is before and after its part `inner`.
fn beside<T: Ord + Copy>(
    whole: (T, T),
    inner: (T, T),
    before: impl Fn(T) -> Option<T>,
    after: impl Fn(T) -> Option<T>,
) -> impl Iterator<Item = (T, T)> {
    let ends = |pair: &(T, T)| pair.0 <= pair.1;
    let first = before(inner.0).map(|end| (whole.0, end)).filter(ends);
    let second = after(inner.1).map(|start| (start, whole.1)).filter(ends);
    first.into_iter().chain(second)
}

/// The addresses of a range, as nft writes them.
pub fn addresses4(range: &Range) -> RangeInclusive<Ipv4Addr> {
    let address = |bits: u128| Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX));
    address(range.addresses.0)..=address(range.addresses.1)
}

/// The same for IPv6.
pub fn addresses6(range: &Range) -> RangeInclusive<Ipv6Addr> {
    Ipv6Addr::from_bits(range.addresses.0)..=Ipv6Addr::from_bits(range.addresses.1)
}

#[cfg(test)]
mod tests;
