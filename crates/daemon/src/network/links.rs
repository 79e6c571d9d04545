//! The host's bridges, and taps in them, by rtnetlink(7).
//!
//! Owner: [`super::host::HostNetworks`], behind its lock; the connection is a task of the runtime. Invariant: only links whose
//! name begins with [`PREFIX`] are made, changed or removed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use hull_protocol::api::Network;
use hull_protocol::network::Mac;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use netlink_packet_route::link::{BridgeStpState, LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, RouteMessageBuilder};

use super::NetworkError;
use super::forwarding;
use super::subnet::Taken;

/// How the names of Hull's links begin.
pub const PREFIX: &str = "hull-";
/// How the names of its taps begin.
pub const TAP_PREFIX: &str = "hull-t";
/// The error number of what is there already.
const EXISTS: i32 = 17;

/// A link of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is the loopback.
    pub loopback: bool,
}

/// A connection to the kernel.
#[derive(Clone)]
pub struct Links(Handle);

fn failed(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let what = what.into();
    move |error| NetworkError::Link(what, error)
}

/// Success, too, when it is so already.
fn or_there(done: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match done {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -EXISTS => Ok(()),
        done => done,
    }
}

impl Links {
    /// Connects. Needs the runtime.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn connect() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Netlink)?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// Every link.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn list(&self) -> Result<Vec<Link>, NetworkError> {
        let found: Vec<LinkMessage> =
            self.0.link().get().execute().try_collect().await.map_err(failed("list the links"))?;
        Ok(found.iter().filter_map(link).collect())
    }

    /// The link of this name.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn find(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        Ok(self.list().await?.into_iter().find(|link| link.name == name))
    }

    /// Makes a network's bridge as it is to be, whatever of it is there.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn bridge(&self, network: &Network) -> Result<(), NetworkError> {
        let name = network.bridge.as_str();
        let step = |what: &str| failed(format!("{what} the bridge {name}"));
        // An address of its own: else it takes its ports', and changes with them under its guests' feet.
        let made = LinkBridge::new(name)
            .stp_state(BridgeStpState::Disabled)
            .mcast_snooping(false)
            .address(bridge_mac(&network.id).0.to_vec())
            .mtu(network.mtu.into());
        or_there(self.0.link().add(made.build()).execute().await).map_err(step("make"))?;
        let Some(link) = self.find(name).await? else {
            return Err(NetworkError::Gone(name.to_owned()));
        };
        forwarding::quiet(name)?;
        for (address, subnet) in
            [(IpAddr::V4(network.gateway), &network.subnet), (IpAddr::V6(network.gateway6), &network.subnet6)]
        {
            let prefix = subnet.parse::<IpNet>().map_or(32, |net| net.prefix_len());
            let mut request = self.0.address().add(link.index, address, prefix);
            let message = request.message_mut();
            // At once: there is nobody else who could have it.
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            or_there(request.execute().await).map_err(step("give an address to"))?;
        }
        self.0
            .link()
            .set(LinkUnspec::new_with_index(link.index).up().build())
            .execute()
            .await
            .map_err(step("start"))
    }

    /// Puts a tap into a network's bridge.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn port(&self, tap: &str, network: &Network) -> Result<(), NetworkError> {
        let Some(bridge) = self.find(&network.bridge).await? else {
            return Err(NetworkError::Gone(network.bridge.clone()));
        };
        let Some(link) = self.find(tap).await? else {
            return Err(NetworkError::Gone(tap.to_owned()));
        };
        // The host says nothing of its own on it.
        forwarding::set(&format!("net/ipv6/conf/{tap}/disable_ipv6"), "1")?;
        let set =
            LinkUnspec::new_with_index(link.index).mtu(network.mtu.into()).controller(bridge.index).up();
        self.0
            .link()
            .set(set.build())
            .execute()
            .await
            .map_err(failed(format!("put the tap {tap} into its bridge")))
    }

    /// Removes a link of Hull's; it may have gone.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn remove(&self, name: &str) -> Result<(), NetworkError> {
        if !name.starts_with(PREFIX) {
            return Ok(());
        }
        let Some(link) = self.find(name).await? else { return Ok(()) };
        self.0.link().del(link.index).execute().await.map_err(failed(format!("remove the link {name}")))
    }

    /// What the host has a route to, Hull's own bridges aside.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn routes(&self) -> Result<Vec<Taken>, NetworkError> {
        let links = self.list().await?;
        let name = |index: u32| links.iter().find(|link| link.index == index).map_or("?", |link| &link.name);
        let mut taken = Vec::new();
        let families =
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for family in families {
            let found: Vec<RouteMessage> = self
                .0
                .route()
                .get(family)
                .execute()
                .try_collect()
                .await
                .map_err(failed("list the routes"))?;
            for (subnet, output) in found.iter().filter_map(route) {
                let output = output.map_or("?", name);
                if !output.starts_with(PREFIX) {
                    taken.push(Taken { subnet, by: format!("the host's route over {output}") });
                }
            }
        }
        Ok(taken)
    }
}

/// An Ethernet address for a network's bridge: its own for good.
fn bridge_mac(id: &str) -> Mac {
    let byte = |at: usize| id.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or(0);
    Mac([2, byte(0), byte(2), byte(4), byte(6), byte(8)])
}

fn link(message: &LinkMessage) -> Option<Link> {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let loopback = message.header.flags.contains(LinkFlags::Loopback);
    Some(Link { index: message.header.index, name, loopback })
}

/// The destination of a route to somewhere, and its link. A default route takes nothing; neither do those that every
/// link has.
fn route(message: &RouteMessage) -> Option<(IpNet, Option<u32>)> {
    if !matches!(
        message.header.kind,
        RouteType::Unicast | RouteType::Local | RouteType::BlackHole | RouteType::Unreachable
    ) {
        return None;
    }
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    let output = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let everywhere = match destination {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_multicast() || address.is_unicast_link_local(),
    };
    let subnet = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    (!everywhere && subnet.prefix_len() > 0).then_some((subnet, output))
}
