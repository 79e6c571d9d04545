//! Networks: what the user asks for, what a VMM gets, what a guest is told.
//!
//! Pure data. Addresses with a prefix are written `10.88.0.2/16`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::plan::Slot;

/// The network that a microVM is on when its user names none.
pub const DEFAULT_NETWORK: &str = "default";
/// Instead of a network's name: none at all.
pub const NO_NETWORK: &str = "none";
/// Instead of a network's name: one without a way to the host or beyond it.
pub const HOST_LESS_NETWORK: &str = "host-less";
/// The most network devices one microVM can have.
pub const NETS_MAX: usize = 8;
/// The most addresses one network device can have.
pub const ADDRESSES_MAX: usize = 64;
/// The smallest largest packet, in bytes: what every IPv4 host takes.
pub const MTU_MIN: u16 = 68;

/// An Ethernet address, as `02:00:5e:10:00:01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(extend("pattern" = r"^[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}$")))]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

/// A text that is no Ethernet address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "'{0}' is no address of one network card: write six bytes such as 02:00:5e:10:00:01, the first of them even"
)]
pub struct BadMac(String);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part =
                parts.next().filter(|part| part.len() == 2 && !part.starts_with('+')).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        // An odd first byte means a group of cards, zeroes mean none.
        let [first, ..] = bytes;
        if parts.next().is_some() || first & 1 == 1 || bytes == [0; 6] { Err(bad()) } else { Ok(Self(bytes)) }
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = BadMac;

    fn try_from(text: String) -> Result<Self, BadMac> {
        text.parse()
    }
}

/// One virtio network device over a tap, in a [`crate::plan::BootPlan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetPlan {
    /// The tap: opened non-blocking with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`, its name claimed already.
    pub tap: Slot,
    /// The guest's Ethernet address.
    pub mac: Mac,
    /// The largest packet in bytes, without the Ethernet header: 68 to 65,535.
    pub mtu: u16,
    /// The addresses that the guest may send from, besides the unspecified ones and the link-local one of its
    /// [`Mac`]. None: any, from any card (a plain VM on a tap of the user's own).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Vec<IpAddr>>,
    /// Limits on what the guest receives.
    #[serde(default)]
    pub receive: RateLimit,
    /// Limits on what the guest sends.
    #[serde(default)]
    pub transmit: RateLimit,
}

/// Limits in one direction; a missing one limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Bytes of Ethernet frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Rate>,
    /// Frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<Rate>,
}

/// A token bucket: so many a second, and so many at once after silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Tokens a second, at least 1.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub per_second: u64,
    /// The bucket's size, at least 1; `per_second` when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub burst: Option<u64>,
}

impl Rate {
    /// Whether nothing would ever pass.
    pub fn is_zero(&self) -> bool {
        self.per_second == 0 || self.burst == Some(0)
    }
}

/// A network card as the agent sets it up, in [`crate::agent::Setup`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Which card it is.
    pub mac: Mac,
    /// What the container sees it as, such as `eth0`.
    pub name: String,
    /// The largest packet in bytes.
    pub mtu: u16,
    /// Its addresses.
    pub addresses: Vec<InterfaceAddress>,
    /// Default gateways, at most one of each family; they are on the link.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
}

/// An address and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// Bits of the prefix: at most 32 or 128.
    pub prefix: u8,
}

/// One network that a microVM is on, as the user asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The network's name.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")))]
    pub network: String,
    /// An IPv4 address of that network; a free one when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    /// An IPv6 address of that network; a free one when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<Ipv6Addr>,
    /// The Ethernet address; one of its own when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// More names it goes by on that network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(inner(
            regex(pattern = r"^[A-Za-z0-9_-]{1,63}([.][A-Za-z0-9_-]{1,63})*[.]?$"),
            length(max = 253)
        ))
    )]
    pub aliases: Vec<String>,
}

/// The protocol of a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to a port of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// The host's address; every address of the host when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The host's port; a free one when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub host_port: Option<u16>,
    /// The container's port.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub port: u16,
    /// TCP or UDP.
    #[serde(default)]
    pub transport: Transport,
}

/// What a microVM asks of networks, in [`crate::spec::MicrovmSpec`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NetworkingSpec {
    /// The networks it is on. None given: [`DEFAULT_NETWORK`]. An empty list: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = NETS_MAX)))]
    pub networks: Option<Vec<Attachment>>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 1024)))]
    pub publish: Vec<PublishedPort>,
    /// Name servers instead of the network's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 16)))]
    pub dns: Vec<IpAddr>,
    /// Domains in which short names are looked up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(max = 16),
            inner(regex(pattern = r"^[A-Za-z0-9_-]{1,63}([.][A-Za-z0-9_-]{1,63})*[.]?$"), length(max = 253))
        )
    )]
    pub dns_search: Vec<String>,
    /// More lines of `/etc/hosts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 1024)))]
    pub add_host: Vec<HostEntry>,
    /// What it may reach outside, where that differs from its networks' policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<EgressPolicy>,
    /// Limits on what each of its cards receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive: Option<RateLimit>,
    /// Limits on what each of its cards sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transmit: Option<RateLimit>,
}

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct HostEntry {
    /// The name.
    #[cfg_attr(
        feature = "schema",
        schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,63}([.][A-Za-z0-9_-]{1,63})*[.]?$"), length(max = 253))
    )]
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

/// What happens to traffic that no rule of an [`EgressPolicy`] names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes.
    #[default]
    Allow,
    /// It is refused and counted.
    Deny,
}

/// What may leave a network or a microVM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EgressPolicy {
    /// For all that no rule names.
    #[serde(default)]
    pub default: Verdict,
    /// Exceptions: with `default` allow these are refused, with deny these pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 256)))]
    pub rules: Vec<EgressRule>,
}

/// One exception. What is missing matches everything; a name needs the network's own resolver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EgressRule {
    /// A network in CIDR notation, such as `192.0.2.0/24`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[0-9a-fA-F:.]{2,45}(/[0-9]{1,3})?$")))]
    pub cidr: Option<String>,
    /// A name, such as `deb.example.org`, or `*.example.org` for every name below one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(
            regex(pattern = r"^([*][.])?[A-Za-z0-9_-]{1,63}([.][A-Za-z0-9_-]{1,63})*[.]*$"),
            length(max = 253)
        )
    )]
    pub name: Option<String>,
    /// The port there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// TCP or UDP; both when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    #[test]
    fn a_card_has_an_address_of_its_own() {
        assert_eq!("02:00:5E:10:00:01".parse::<Mac>().unwrap().to_string(), "02:00:5e:10:00:01");
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "03:00:5e:10:00:01",
            "0:0:0:0:0:1",
            "+2:00:5e:10:00:01",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
