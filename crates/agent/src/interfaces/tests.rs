//! Cards of a network namespace that the calling thread made for itself, looked at with iproute2.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(unsafe_code, reason = "unshare(2) may change the table of descriptors; not with these flags")]

use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::Value;

use super::*;

/// Gives the calling thread, and the commands it starts, a network and a `/sys` of their own.
fn own_network() {
    // SAFETY: neither flag touches memory or descriptors; the working directory is this thread's alone from now on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWNS) }.expect("these tests need root");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).unwrap();
    ip("link set lo up");
}

fn ip(args: &str) {
    let done = Command::new("ip").args(args.split(' ')).status().expect("these tests need iproute2");
    assert!(done.success(), "ip {args}");
}

/// A card, with a link to something.
fn plug_in(name: &str, mac: &str) {
    ip(&format!("link add {name} address {mac} type veth peer name far-{name}"));
    ip(&format!("link set far-{name} up"));
}

fn shown(args: &str) -> Value {
    let output = Command::new("ip").args(["-j", "-d"]).args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The addresses of a card as `address/prefix flags`, in order.
fn addresses(name: &str) -> Vec<String> {
    let shown = shown(&format!("addr show dev {name}"));
    let mut found: Vec<String> = shown[0]["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let tentative =
                if one["tentative"] == true || one["dadfailed"] == true { " tentative" } else { "" };
            format!("{}/{}{tentative}", one["local"].as_str().unwrap(), one["prefixlen"])
        })
        .collect();
    found.sort();
    found
}

fn address(text: &str) -> InterfaceAddress {
    let (address, prefix) = text.split_once('/').unwrap();
    InterfaceAddress { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() }
}

fn card(name: &str, mac: &str, addresses: &[&str], gateways: &[&str]) -> Interface {
    Interface {
        mac: mac.parse().unwrap(),
        name: name.into(),
        mtu: 1400,
        addresses: addresses.iter().map(|text| address(text)).collect(),
        gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

#[test]
fn a_card_is_named_addressed_and_routed() {
    own_network();
    plug_in("wrong", "02:00:00:00:00:01");
    let wanted =
        card("eth0", "02:00:00:00:00:01", &["10.88.0.2/16", "fd00:88::2/64"], &["10.88.0.1", "fd00:88::1"]);
    configure(&[wanted]).unwrap();
    let link = &shown("link show dev eth0")[0];
    assert_eq!((&link["mtu"], &link["address"]), (&1400.into(), &"02:00:00:00:00:01".into()), "{link}");
    assert!(link["flags"].as_array().unwrap().contains(&"LOWER_UP".into()), "{link}");
    // Usable at once: nothing is tentative. The third is the link's own, from the card's address.
    assert_eq!(addresses("eth0"), ["10.88.0.2/16", "fd00:88::2/64", "fe80::ff:fe00:1/64"]);
    let broadcast = &shown("-4 addr show dev eth0")[0]["addr_info"][0]["broadcast"];
    assert_eq!(broadcast, "10.88.255.255");
    for (family, gateway) in [("-4", "10.88.0.1"), ("-6", "fd00:88::1")] {
        let routes = shown(&format!("{family} route show default"));
        let [route] = routes.as_array().unwrap().as_slice() else { panic!("{routes}") };
        assert_eq!((&route["gateway"], &route["dev"]), (&gateway.into(), &"eth0".into()), "{routes}");
    }
    for setting in ["accept_ra", "autoconf", "accept_redirects"] {
        let value = fs::read_to_string(format!("{IPV6}/eth0/{setting}")).unwrap();
        assert_eq!(value.trim(), "0", "{setting}");
    }
}

#[test]
fn cards_that_have_each_others_names_change_them() {
    own_network();
    plug_in("eth0", "02:00:00:00:00:0b");
    plug_in("eth1", "02:00:00:00:00:0a");
    configure(&[
        card("eth0", "02:00:00:00:00:0a", &["10.1.0.2/24"], &["10.1.0.1"]),
        card("eth1", "02:00:00:00:00:0b", &["10.2.0.2/24"], &["10.2.0.1"]),
    ])
    .unwrap();
    assert_eq!(shown("link show dev eth0")[0]["address"], "02:00:00:00:00:0a");
    assert_eq!(addresses("eth0"), ["10.1.0.2/24"]);
    assert_eq!(addresses("eth1"), ["10.2.0.2/24"]);
    // Of two ways out the first card's is taken.
    let routes = shown("-4 route get 192.0.2.1");
    assert_eq!(routes[0]["gateway"], "10.1.0.1", "{routes}");
}

#[test]
fn a_card_without_ipv6_addresses_has_no_ipv6() {
    own_network();
    plug_in("eth0", "02:00:00:00:00:0c");
    configure(&[card("eth0", "02:00:00:00:00:0c", &["10.3.0.2/32"], &["169.254.1.1"])]).unwrap();
    assert_eq!(addresses("eth0"), ["10.3.0.2/32"]);
    // The gateway is on the link though no prefix says so.
    assert_eq!(shown("-4 route show default")[0]["gateway"], "169.254.1.1");
}

#[test]
fn what_cannot_be_had_is_said() {
    own_network();
    let missing = configure(&[card("eth0", "02:00:00:00:00:0d", &[], &[])]).unwrap_err();
    assert!(missing.message.contains("02:00:00:00:00:0d: it is not there"), "{missing}");
    plug_in("eth0", "02:00:00:00:00:0e");
    let refused = configure(&[card("eth0", "02:00:00:00:00:0e", &["10.4.0.2/33"], &[])]).unwrap_err();
    assert!(refused.message.contains("eth0: the address 10.4.0.2/33: "), "{refused}");
    let refused = configure(&[card("a-name-that-is-too-long", "02:00:00:00:00:0e", &[], &[])]).unwrap_err();
    assert!(refused.message.contains("a-name-that-is-too-long"), "{refused}");
}

#[test]
fn broadcast_addresses_end_their_networks() {
    let of = |text: &str| {
        let given = address(text);
        let IpAddr::V4(address) = given.address else { panic!() };
        broadcast(address, given.prefix).map(|address| address.to_string())
    };
    assert_eq!(of("10.88.0.2/16").as_deref(), Some("10.88.255.255"));
    assert_eq!(of("192.0.2.9/30").as_deref(), Some("192.0.2.11"));
    assert_eq!(of("192.0.2.9/0").as_deref(), Some("255.255.255.255"));
    for none in ["192.0.2.9/31", "192.0.2.9/32", "192.0.2.9/200"] {
        assert_eq!(of(none), None);
    }
}
