//! The guest's network cards, as the host wants them: found, named, addressed and up before any process starts.
//!
//! Addresses come with [`Setup`](hull_protocol::agent::Setup) and never from the network: no DHCP, no router
//! advertisements, no duplicate address detection to wait for. Owner: the thread that sets the guest up, once.
//! Invariant: when [`configure`] is done every address can be sent from at once.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use hull_protocol::agent::AgentError;
use hull_protocol::network::{Interface, InterfaceAddress, Mac};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use crate::kmsg::log;
use crate::netlink::{Link, Netlink};
use crate::setup::failed;

/// Kinds of requests, `linux/rtnetlink.h`.
const NEWLINK: u16 = 16;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
/// How often a card is looked for, and how long to wait in between: drivers may probe in the background.
const CARD_TRIES: u32 = 500;
const CARD_PAUSE: Duration = Duration::from_millis(2);
/// Likewise until a card that was switched on carries frames; one that does not is left alone.
const CARRIER_TRIES: u32 = 100;
/// The metric of the first card's default routes; those of later ones come after it.
const METRIC: u32 = 100;
/// Kernel settings of IPv6, for each card.
const IPV6: &str = "/proc/sys/net/ipv6/conf";
const IPV4: &str = "/proc/sys/net/ipv4/conf";

/// Sets all of these cards up.
///
/// # Errors
/// When a card is not there, or the kernel refuses a name, an address or a route.
pub fn configure(interfaces: &[Interface]) -> Result<(), AgentError> {
    if interfaces.is_empty() {
        return Ok(());
    }
    let mut netlink = Netlink::open().map_err(|error| failed("opening a netlink socket", error))?;
    let mut cards = Vec::new();
    for interface in interfaces {
        let card = find(&mut netlink, interface.mac);
        cards.push(card.map_err(|error| failed(&format!("the network card {}", interface.mac), error))?);
    }
    rename(&mut netlink, interfaces, &cards).map_err(|error| failed("naming the network cards", error))?;
    for ((interface, card), metric) in interfaces.iter().zip(&cards).zip(METRIC..) {
        set_up(&mut netlink, interface, card.index, metric)
            .map_err(|error| failed(&format!("the network card {}", interface.name), error))?;
    }
    Ok(())
}

/// Says which step it was that failed.
fn step<T>(what: impl std::fmt::Display, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{what}: {error}")))
}

fn find(netlink: &mut Netlink, mac: Mac) -> io::Result<Link> {
    for _ in 0..CARD_TRIES {
        let links = netlink.links()?;
        if let Some(link) = links.into_iter().find(|link| link.address == mac.0) {
            return Ok(link);
        }
        thread::sleep(CARD_PAUSE);
    }
    Err(io::Error::other(
        "it is not there: the guest's kernel has no driver for it (virtio_net): import it with its modules",
    ))
}

/// Gives every card its name. One may have the name that another one gets, so all step aside first.
fn rename(netlink: &mut Netlink, interfaces: &[Interface], cards: &[Link]) -> io::Result<()> {
    let misnamed: Vec<_> =
        interfaces.iter().zip(cards).filter(|(interface, card)| interface.name != card.name).collect();
    for (_, card) in &misnamed {
        change(netlink, card.index, vec![LinkAttribute::IfName(format!("card{}", card.index))])?;
    }
    for (interface, card) in &misnamed {
        let named = change(netlink, card.index, vec![LinkAttribute::IfName(interface.name.clone())]);
        step(&interface.name, named)?;
    }
    Ok(())
}

fn set_up(netlink: &mut Netlink, interface: &Interface, index: u32, metric: u32) -> io::Result<()> {
    let ipv6 = prepare(interface);
    let usable = |address: &IpAddr| address.is_ipv4() || ipv6;
    step("its MTU", change(netlink, index, vec![LinkAttribute::Mtu(u32::from(interface.mtu))]))?;
    for address in interface.addresses.iter().filter(|address| usable(&address.address)) {
        let added = netlink.request(NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &address_message(index, *address));
        step(format_args!("the address {}/{}", address.address, address.prefix), added)?;
    }
    step("switching it on", switch_on(netlink, index))?;
    for gateway in interface.gateways.iter().filter(|gateway| usable(gateway)) {
        let routed = netlink.request(NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &route(index, *gateway, metric));
        step(format_args!("the route through {gateway}"), routed)?;
    }
    Ok(())
}

/// Settings that have to be there before a card goes up; false when it is to have no IPv6.
fn prepare(interface: &Interface) -> bool {
    let setting = |family: &str, name: &str, value: &str| {
        let path = PathBuf::from(family).join(&interface.name).join(name);
        if let Err(error) = fs::write(&path, value) {
            log(&format!("{} stays as it is: {error}", path.display()));
        }
    };
    // Neighbours that knew the address's last owner hear of the new one.
    setting(IPV4, "arp_notify", "1");
    if !PathBuf::from(IPV6).join(&interface.name).exists() {
        if interface.addresses.iter().any(|address| address.address.is_ipv6()) {
            log(&format!("this kernel has no IPv6: {} does without", interface.name));
        }
        return false;
    }
    if !interface.addresses.iter().any(|address| address.address.is_ipv6()) {
        setting(IPV6, "disable_ipv6", "1");
        return false;
    }
    // The host has chosen the address: whatever else calls itself a router is not asked, and nobody has it already.
    for (name, value) in [
        ("disable_ipv6", "0"),
        ("accept_ra", "0"),
        ("autoconf", "0"),
        ("accept_redirects", "0"),
        ("accept_dad", "0"),
        ("dad_transmits", "0"),
        ("addr_gen_mode", "0"),
        ("use_tempaddr", "0"),
        ("ndisc_notify", "1"),
    ] {
        setting(IPV6, name, value);
    }
    true
}

/// Changes a link.
fn change(netlink: &mut Netlink, index: u32, attributes: Vec<LinkAttribute>) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    netlink.request(NEWLINK, 0, &message)
}

/// Switches a card on and waits a moment until it carries frames: the first ones would be lost.
fn switch_on(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    netlink.request(NEWLINK, 0, &message)?;
    let ready = LinkFlags::Up | LinkFlags::LowerUp;
    for _ in 0..CARRIER_TRIES {
        let links = netlink.links()?;
        if links.iter().any(|link| link.index == index && link.flags.contains(ready)) {
            return Ok(());
        }
        thread::sleep(CARD_PAUSE);
    }
    log("a network card has no link yet");
    Ok(())
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address_message(index: u32, given: InterfaceAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(given.address);
    message.header.prefix_len = given.prefix;
    message.header.index = index;
    message.attributes =
        vec![AddressAttribute::Local(given.address), AddressAttribute::Address(given.address)];
    match given.address {
        IpAddr::V4(address) => {
            message.attributes.extend(broadcast(address, given.prefix).map(AddressAttribute::Broadcast));
        }
        IpAddr::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    message
}

/// The address of all on a network; networks of two or less have none.
fn broadcast(address: Ipv4Addr, prefix: u8) -> Option<Ipv4Addr> {
    let hosts = u32::MAX.checked_shr(u32::from(prefix)).filter(|hosts| *hosts > 1)?;
    Some(Ipv4Addr::from(u32::from(address) | hosts))
}

/// A default route. The gateway is on the link whatever the address's prefix says.
fn route(index: u32, gateway: IpAddr, metric: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.header.flags = RouteFlags::Onlink;
    message.attributes = vec![
        RouteAttribute::Gateway(gateway.into()),
        RouteAttribute::Oif(index),
        RouteAttribute::Priority(metric),
    ];
    message
}

#[cfg(test)]
mod tests;
