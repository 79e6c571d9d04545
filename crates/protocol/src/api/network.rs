//! The nouns of `/v1/networks`, and what a microVM's record says of its own networks.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::network::{EgressPolicy, Mac};

/// `POST /v1/networks`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its name, unique within its tenant.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")))]
    pub name: String,
    /// Its IPv4 subnet, such as `10.20.0.0/24`; one that is free when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[0-9.]{7,15}/([89]|1[0-9]|2[0-9])$")))]
    pub subnet: Option<String>,
    /// Its IPv6 subnet, such as `fd00:20::/64`; a random one of the unique local ones when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(
        feature = "schema",
        schemars(regex(pattern = r"^[0-9a-fA-F:.]{2,45}/(1[6-9]|[2-9][0-9]|1[01][0-9]|120)$"))
    )]
    pub subnet6: Option<String>,
    /// The largest packet in bytes; 1500 when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1280)))]
    pub mtu: Option<u16>,
    /// No way out, and none in from outside.
    #[serde(default)]
    pub internal: bool,
    /// What may leave it.
    #[serde(default)]
    pub egress: EgressPolicy,
    /// Labels of the user's choice.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// One network, as `GET /v1/networks/{name}` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Network {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub tenant: String,
    /// The host's bridge.
    pub bridge: String,
    /// Its IPv4 subnet.
    pub subnet: String,
    /// The bridge's address there.
    pub gateway: Ipv4Addr,
    /// Its IPv6 subnet.
    pub subnet6: String,
    /// The bridge's address there.
    pub gateway6: Ipv6Addr,
    /// The largest packet in bytes.
    pub mtu: u16,
    /// No way out, and none in from outside.
    pub internal: bool,
    /// What may leave it.
    pub egress: EgressPolicy,
    /// Labels of the user's choice.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Who has addresses of it; not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Member>,
    /// Cards of plain VMs on it; not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plain: Vec<Card>,
    /// What was refused since the host's rules were last made; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// What keeps it from working as it should, and what to do about it; not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// A microVM on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Member {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its card there.
    pub card: Card,
}

/// One network card of a microVM: its lease on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Card {
    /// The network's id.
    pub network_id: String,
    /// The network's name.
    pub network: String,
    /// The card's Ethernet address.
    pub mac: Mac,
    /// Its IPv4 address.
    pub ip: Ipv4Addr,
    /// Its IPv6 address.
    pub ip6: Ipv6Addr,
    /// The host's end of it, there while the microVM runs.
    pub tap: String,
    /// More names it goes by on that network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// What it was refused since it was started; where a single microVM is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// Frames with addresses of others, refused since it was started; where a single microVM is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forged: Option<Refused>,
}

/// `POST /v1/networks/{name}/cards`: a card for a plain VM, which its user boots beside the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PlainCardSpec {
    /// An IPv4 address of that network; a free one when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    /// An IPv6 address of that network; a free one when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<Ipv6Addr>,
    /// The Ethernet address; one of its own when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
}

/// A plain VM's card: its tap waits for a minute to be opened, and the card is given back when nobody has it open any
/// more, or by `DELETE /v1/networks/{name}/cards/{tap}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlainCard {
    /// The lease.
    pub card: Card,
    /// Its network.
    pub network: Network,
}

/// What was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Refused {
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}
