//! Which subnet a network has: what its user asks for, checked, or one that is free.
//!
//! Pure. RFC 1918 (private IPv4), RFC 4193 (unique local IPv6). Owner: whoever makes a network. Invariant: no network
//! overlaps another one, or what the host has a route to.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::NetworkError;

/// Where free subnets are looked for, in this order: where few others look.
const POOLS: [&str; 3] = ["10.144.0.0/12", "172.16.0.0/12", "192.168.128.0/17"];
/// Bits of a chosen subnet: room for a thousand.
const PREFIX: u8 = 22;
/// Bits of the default network's, where that is free: room for all.
const PREFIX_DEFAULT: u8 = 16;

/// A subnet that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What is taken.
    pub subnet: IpNet,
    /// By whom, for people.
    pub by: String,
}

/// Whether nobody has any of it.
///
/// # Errors
/// By whom it is taken.
pub fn check(wanted: IpNet, taken: &[Taken]) -> Result<(), NetworkError> {
    match taken.iter().find(|taken| overlap(wanted, taken.subnet)) {
        Some(Taken { subnet, by }) => Err(NetworkError::Overlap { wanted, taken: *subnet, by: by.clone() }),
        None => Ok(()),
    }
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// A subnet that nobody has.
///
/// # Errors
/// When there is none.
pub fn choose(default: bool, taken: &[Taken]) -> Result<Ipv4Net, NetworkError> {
    let free = |prefix: u8| {
        let pools = POOLS.iter().filter_map(|pool| pool.parse::<Ipv4Net>().ok());
        let mut subnets = pools.filter_map(|pool| pool.subnets(prefix).ok()).flatten();
        // The first /16 is kept for the default network.
        let kept = |subnet: &Ipv4Net| !default && subnet.network().octets().get(..2) == Some(&[10, 144]);
        subnets.find(|subnet| !kept(subnet) && check((*subnet).into(), taken).is_ok())
    };
    default.then(|| free(PREFIX_DEFAULT)).flatten().or_else(|| free(PREFIX)).ok_or(NetworkError::NoSubnet)
}

/// A unique local subnet from seven random bytes.
pub fn choose6(random: [u8; 7]) -> Ipv6Net {
    let [a, b, c, d, e, f, g] = random;
    let bits = u64::from_be_bytes([0xfd, a, b, c, d, e, f, g]);
    Ipv6Net::new_assert((u128::from(bits) << 64).into(), 64)
}

/// An IPv4 subnet as its user wrote it.
///
/// # Errors
/// When it is none that guests can have.
pub fn parse4(text: &str) -> Result<Ipv4Net, NetworkError> {
    let bad = |why| NetworkError::Subnet { subnet: text.to_owned(), why };
    let subnet: Ipv4Net = text.parse().map_err(|_| bad("it is not written like 10.20.0.0/24"))?;
    if subnet.addr() != subnet.network() {
        return Err(bad("its address has bits below its prefix"));
    }
    if !(8..=29).contains(&subnet.prefix_len()) {
        return Err(bad("its prefix is not between /8 and /29"));
    }
    let forbidden = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"];
    let forbidden = forbidden.iter().filter_map(|subnet| subnet.parse::<Ipv4Net>().ok());
    for net in forbidden {
        if overlap(net.into(), subnet.into()) {
            return Err(bad("no host can have such addresses"));
        }
    }
    Ok(subnet)
}

/// An IPv6 subnet as its user wrote it.
///
/// # Errors
/// When it is none that guests can have.
pub fn parse6(text: &str) -> Result<Ipv6Net, NetworkError> {
    let bad = |why| NetworkError::Subnet { subnet: text.to_owned(), why };
    let subnet: Ipv6Net = text.parse().map_err(|_| bad("it is not written like fd00:20::/64"))?;
    if subnet.addr() != subnet.network() {
        return Err(bad("its address has bits below its prefix"));
    }
    if !(16..=120).contains(&subnet.prefix_len()) {
        return Err(bad("its prefix is not between /16 and /120"));
    }
    let unicast = ["2000::/3", "fc00::/7"].iter().filter_map(|net| net.parse::<Ipv6Net>().ok());
    if !unicast.into_iter().any(|net| net.contains(&subnet)) {
        return Err(bad("it is neither of fc00::/7 (unique local) nor of 2000::/3 (global)"));
    }
    Ok(subnet)
}

/// Addresses at which clouds answer whoever asks with what is theirs alone.
pub const METADATA4: [Ipv4Addr; 2] = [Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::new(169, 254, 170, 2)];
/// The same in IPv6.
pub const METADATA6: [&str; 2] = ["fd00:ec2::254", "fd20:ce::254"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use proptest::prelude::*;

    use super::*;

    fn taken(subnet: &str) -> Taken {
        Taken { subnet: subnet.parse().unwrap(), by: format!("the route {subnet}") }
    }

    #[test]
    fn who_has_a_subnet_is_named() {
        let error = check("10.1.2.0/24".parse().unwrap(), &[taken("192.168.0.0/16"), taken("10.0.0.0/8")]);
        let text = error.unwrap_err().to_string();
        assert!(text.contains("10.1.2.0/24") && text.contains("the route 10.0.0.0/8"), "{text}");
        assert!(check("10.1.2.0/24".parse().unwrap(), &[taken("10.1.3.0/24")]).is_ok());
        assert!(check("fd00:1::/64".parse().unwrap(), &[taken("fd00::/8")]).is_err());
    }

    #[test]
    fn the_default_network_is_the_largest_and_others_leave_it_its_room() {
        assert_eq!(choose(true, &[]).unwrap().to_string(), "10.144.0.0/16");
        assert_eq!(choose(false, &[]).unwrap().to_string(), "10.145.0.0/22");
        assert_eq!(choose(true, &[taken("10.0.0.0/8")]).unwrap().to_string(), "172.16.0.0/16");
        let all = [taken("10.0.0.0/8"), taken("172.16.0.0/12"), taken("192.168.0.0/16")];
        assert!(choose(false, &all).unwrap_err().to_string().contains("--subnet"));
    }

    #[test]
    fn two_hundred_networks_find_room() {
        let mut all = vec![taken("10.0.0.0/16")];
        for _ in 0..200 {
            let subnet = choose(false, &all).unwrap();
            assert!(check(subnet.into(), &all).is_ok());
            all.push(Taken { subnet: subnet.into(), by: "a network".into() });
        }
    }

    #[test]
    fn subnets_that_cannot_be_are_refused() {
        assert_eq!(parse4("10.20.0.0/24").unwrap().to_string(), "10.20.0.0/24");
        for bad in [
            "",
            "10.20.0.0",
            "10.20.0.1/24",
            "10.0.0.0/7",
            "10.0.0.0/30",
            "127.0.0.0/8",
            "169.254.0.0/24",
            "224.0.0.0/8",
            "0.0.0.0/8",
            "fd00::/64",
            "10.0.0.0/33",
        ] {
            assert!(parse4(bad).is_err(), "{bad}");
        }
        assert_eq!(parse6("fd00:20::/64").unwrap().to_string(), "fd00:20::/64");
        for bad in
            ["", "fd00::1/64", "fd00::/127", "::/64", "fe80::/64", "ff00::/64", "10.0.0.0/24", "f000::/4"]
        {
            assert!(parse6(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_a_trap(text in ".{0,40}") {
            let _ = (parse4(&text), parse6(&text));
        }

        #[test]
        fn a_chosen_subnet_is_one_that_would_be_taken_from_a_user(random in any::<[u8; 7]>()) {
            let subnet = choose6(random);
            prop_assert_eq!(parse6(&subnet.to_string()).unwrap(), subnet);
        }
    }
}
