//! `--net` of `hull boot`: a network card on a tap that is there, or on a network of the daemon's.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use hull_daemon::launch::Descriptors;
use hull_protocol::api::{PlainCard, PlainCardSpec};
use hull_protocol::network::{ADDRESSES_MAX, MTU_MIN, Mac, NetPlan, Rate, RateLimit};
use hull_protocol::units::Bytes;

const FORM: &str = "write network=NAME or tap=NAME[,mtu=BYTES], then [,mac=MAC][,ip=ADDRESS...][,rx-rate=SIZE][,tx-rate=SIZE]";

/// The largest packet on a tap whose user did not say, in bytes.
const MTU: u16 = 1500;

/// Where a card is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On a tap of the user's own.
    Tap(String),
    /// On a network of the daemon's.
    Network(String),
}

/// A network card as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Net {
    place: Place,
    mac: Option<Mac>,
    mtu: Option<u16>,
    guard: Option<Vec<IpAddr>>,
    receive: RateLimit,
    transmit: RateLimit,
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut places, mut mac, mut mtu, mut guard) = (Vec::new(), None, None, None::<Vec<IpAddr>>);
        let (mut receive, mut transmit) = (RateLimit::default(), RateLimit::default());
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("'{part}' is unknown: {FORM}"))?;
            match key {
                "tap" => places.push(Place::Tap(value.to_owned())),
                "network" => places.push(Place::Network(value.to_owned())),
                "mac" => mac = Some(value.parse().map_err(|error| format!("{error}"))?),
                "mtu" => mtu = Some(largest(value)?),
                "ip" => guard.get_or_insert_default().push(address(value)?),
                "rx-rate" => receive.bytes = Some(rate(value)?),
                "tx-rate" => transmit.bytes = Some(rate(value)?),
                _ => return Err(format!("'{key}' is unknown: {FORM}")),
            }
        }
        let [place] = <[Place; 1]>::try_from(places)
            .map_err(|_| format!("a card is on one tap or on one network: {FORM}"))?;
        match &place {
            Place::Tap(name) | Place::Network(name) if name.is_empty() => {
                return Err(format!("the name is missing: {FORM}"));
            }
            Place::Network(_) if mtu.is_some() => {
                return Err("the largest packet is the network's: leave out mtu".into());
            }
            Place::Network(_) if guard.as_ref().is_some_and(|guard| !is_a_lease(guard)) => {
                return Err("on a network a card has one address of each family".into());
            }
            Place::Tap(_) if guard.as_ref().is_some_and(|guard| guard.len() > ADDRESSES_MAX) => {
                return Err(format!("a network card has at most {ADDRESSES_MAX} addresses"));
            }
            Place::Tap(_) | Place::Network(_) => {}
        }
        Ok(Self { place, mac, mtu, guard, receive, transmit })
    }
}

/// At most one address of each family.
fn is_a_lease(addresses: &[IpAddr]) -> bool {
    addresses.iter().filter(|address| address.is_ipv4()).count() <= 1
        && addresses.iter().filter(|address| address.is_ipv6()).count() <= 1
}

fn largest(value: &str) -> Result<u16, String> {
    let mtu = value.parse().ok().filter(|mtu| *mtu >= MTU_MIN);
    mtu.ok_or_else(|| format!("'{value}' is no largest packet: use {MTU_MIN} to {} bytes", u16::MAX))
}

fn address(value: &str) -> Result<IpAddr, String> {
    value.parse().map_err(|_| format!("'{value}' is no address: write it as 192.0.2.7 or 2001:db8::7"))
}

/// Bytes a second, with a burst of a tenth of a second, but no less than one frame of the longest.
fn rate(value: &str) -> Result<Rate, String> {
    let per_second = value.parse::<Bytes>().map_err(|error| error.to_string())?.get();
    if per_second == 0 {
        return Err("a rate of zero: leave it out for none, or use '--net' not at all".into());
    }
    Ok(Rate { per_second, burst: Some((per_second / 10).max(1 << 16)) })
}

impl Net {
    /// What is asked of the daemon: a network, and a card on it.
    pub(super) fn wish(&self) -> Option<(&str, PlainCardSpec)> {
        let Place::Network(name) = &self.place else { return None };
        let addresses = || self.guard.iter().flatten();
        let ip = addresses().find_map(|address| if let IpAddr::V4(ip) = address { Some(*ip) } else { None });
        let ip6 =
            addresses().find_map(|address| if let IpAddr::V6(ip6) = address { Some(*ip6) } else { None });
        Some((name, PlainCardSpec { ip, ip6, mac: self.mac }))
    }

    /// Opens the tap: the one that the daemon has lent, or the user's.
    pub(super) fn plan(&self, lent: Option<&PlainCard>, descriptors: &mut Descriptors) -> Result<NetPlan> {
        let (receive, transmit) = (self.receive, self.transmit);
        match (&self.place, lent) {
            (Place::Tap(name), _) => Ok(NetPlan {
                tap: descriptors.add(hull_tap::attach(name, false)?),
                mac: self.mac.map_or_else(random_mac, Ok)?,
                mtu: self.mtu.unwrap_or(MTU),
                guard: self.guard.clone(),
                receive,
                transmit,
            }),
            (Place::Network(name), None) => bail!("the network {name} has lent no card"),
            (Place::Network(_), Some(PlainCard { card, network })) => {
                let tap = hull_tap::attach(&card.tap, false)?;
                // It goes with its VMM from now on, however that ends.
                hull_tap::set_persistent(tap.as_fd(), false).context("the tap that was lent stays")?;
                let guard = Some(vec![card.ip.into(), card.ip6.into()]);
                let tap = descriptors.add(tap);
                Ok(NetPlan { tap, mac: card.mac, mtu: network.mtu, guard, receive, transmit })
            }
        }
    }
}

/// An address of no maker's.
fn random_mac() -> Result<Mac> {
    let mut mac = [0; 6];
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::rand::getrandom(&mut mac[..], flags).context("the host has no random numbers")?;
    let [first, ..] = &mut mac;
    // Locally administered, and of one card.
    *first = (*first & 0xfc) | 2;
    Ok(Mac(mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_what_is_written() {
        let net = "tap=tap0,mac=02:00:5e:10:00:01,mtu=9000,ip=10.0.0.2,ip=fd00::2,tx-rate=10m".parse::<Net>();
        let expected = Net {
            place: Place::Tap("tap0".into()),
            mac: Some(Mac([2, 0, 0x5e, 0x10, 0, 1])),
            mtu: Some(9000),
            guard: Some(vec![[10, 0, 0, 2].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 2].into()]),
            receive: RateLimit::default(),
            transmit: RateLimit {
                bytes: Some(Rate { per_second: 10 << 20, burst: Some(1 << 20) }),
                packets: None,
            },
        };
        assert_eq!(net, Ok(expected));
        assert_eq!("tap=x,rx-rate=1k".parse::<Net>().map(|net| net.receive.bytes), {
            Ok(Some(Rate { per_second: 1024, burst: Some(1 << 16) }))
        });
    }

    #[test]
    fn a_network_is_asked_for_what_is_written() {
        let net = "network=default,ip=fd00::2,ip=10.0.0.2,mac=02:00:5e:10:00:01".parse::<Net>();
        let wish = net.as_ref().ok().and_then(Net::wish);
        let expected = PlainCardSpec {
            ip: Some([10, 0, 0, 2].into()),
            ip6: Some([0xfd00, 0, 0, 0, 0, 0, 0, 2].into()),
            mac: Some(Mac([2, 0, 0x5e, 0x10, 0, 1])),
        };
        assert_eq!(wish, Some(("default", expected)));
        assert_eq!("tap=tap0".parse::<Net>().map(|net| net.wish().is_some()), Ok(false));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (bad, hint) in [
            ("", "unknown"),
            ("tap0", "unknown"),
            ("mac=02:00:5e:10:00:01", "one tap or on one network"),
            ("tap=", "name is missing"),
            ("network=", "name is missing"),
            ("tap=tap0,network=default", "one tap or on one network"),
            ("network=default,mtu=1400", "the network's"),
            ("network=default,ip=10.0.0.2,ip=10.0.0.3", "one address of each family"),
            ("tap=tap0,mac=1", "six bytes"),
            ("tap=tap0,mtu=67", "68 to 65535"),
            ("tap=tap0,mtu=65536", "68 to 65535"),
            ("tap=tap0,ip=10.0.0", "no address"),
            ("tap=tap0,rx-rate=0", "zero"),
            ("tap=tap0,rx-rate=fast", "fast"),
            ("tap=tap0,speed=1", "speed"),
        ] {
            let error = bad.parse::<Net>();
            assert!(error.as_ref().is_err_and(|text| text.contains(hint)), "{bad}: {error:?}");
        }
    }

    #[test]
    fn an_address_of_its_own_is_one_cards() {
        for _ in 0..100 {
            let mac = random_mac().ok().filter(|mac| mac.to_string().parse() == Ok(*mac));
            assert!(mac.is_some_and(|Mac([first, ..])| first & 3 == 2));
        }
    }
}
