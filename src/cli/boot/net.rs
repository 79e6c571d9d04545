//! `--net` of `hull boot`: a network card on a tap that is there.

use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Context, Result};
use hull_daemon::launch::Descriptors;
use hull_protocol::network::{ADDRESSES_MAX, MTU_MIN, Mac, NetPlan, Rate, RateLimit};
use hull_protocol::units::Bytes;

const FORM: &str = "write tap=NAME[,mac=MAC][,mtu=BYTES][,ip=ADDRESS...][,rx-rate=SIZE][,tx-rate=SIZE]";

/// A network card as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Net {
    tap: String,
    mac: Option<Mac>,
    mtu: u16,
    guard: Option<Vec<IpAddr>>,
    receive: RateLimit,
    transmit: RateLimit,
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut net = Self {
            tap: String::new(),
            mac: None,
            mtu: 1500,
            guard: None,
            receive: RateLimit::default(),
            transmit: RateLimit::default(),
        };
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("'{part}' is unknown: {FORM}"))?;
            match key {
                "tap" => value.clone_into(&mut net.tap),
                "mac" => net.mac = Some(value.parse().map_err(|error| format!("{error}"))?),
                "mtu" => net.mtu = mtu(value)?,
                "ip" => net.guard.get_or_insert_default().push(address(value)?),
                "rx-rate" => net.receive.bytes = Some(rate(value)?),
                "tx-rate" => net.transmit.bytes = Some(rate(value)?),
                _ => return Err(format!("'{key}' is unknown: {FORM}")),
            }
        }
        if net.tap.is_empty() {
            return Err(format!("the tap is missing: {FORM}"));
        }
        if net.guard.as_ref().is_some_and(|guard| guard.len() > ADDRESSES_MAX) {
            return Err(format!("a network card has at most {ADDRESSES_MAX} addresses"));
        }
        Ok(net)
    }
}

fn mtu(value: &str) -> Result<u16, String> {
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
    /// Opens the tap.
    pub(super) fn plan(&self, descriptors: &mut Descriptors) -> Result<NetPlan> {
        let tap = hull_tap::attach(&self.tap, false)?;
        Ok(NetPlan {
            tap: descriptors.add(tap),
            mac: self.mac.map_or_else(random_mac, Ok)?,
            mtu: self.mtu,
            guard: self.guard.clone(),
            receive: self.receive,
            transmit: self.transmit,
        })
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
            tap: "tap0".into(),
            mac: Some(Mac([2, 0, 0x5e, 0x10, 0, 1])),
            mtu: 9000,
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
    fn what_is_wrong_is_said() {
        for (bad, hint) in [
            ("", "unknown"),
            ("tap0", "unknown"),
            ("mac=02:00:5e:10:00:01", "tap is missing"),
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
