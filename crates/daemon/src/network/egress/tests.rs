//! Policies that overlap in every way, against what their rules say one by one.
#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use proptest::prelude::*;

use super::*;

fn rule(cidr: Option<&str>, port: Option<u16>, transport: Option<Transport>) -> EgressRule {
    EgressRule { cidr: cidr.map(Into::into), name: None, port, transport }
}

fn policy(rules: Vec<EgressRule>) -> EgressPolicy {
    EgressPolicy { rules, ..EgressPolicy::default() }
}

fn covers(ranges: &[Range], address: u128, protocol: u8, port: u16) -> usize {
    let within = |range: &&Range| {
        (range.addresses.0..=range.addresses.1).contains(&address)
            && (range.protocols.0..=range.protocols.1).contains(&protocol)
            && (range.ports.0..=range.ports.1).contains(&port)
    };
    ranges.iter().filter(within).count()
}

fn says(rule: &EgressRule, address: Ipv4Addr, protocol: u8, port: u16) -> bool {
    let net: Option<ipnet::Ipv4Net> = rule.cidr.as_ref().map(|cidr| cidr.parse().unwrap());
    let has_ports = [6, 17].contains(&protocol);
    net.is_none_or(|net| net.contains(&address))
        && rule.transport.is_none_or(|transport| number(transport) == protocol)
        && rule.port.is_none_or(|wanted| wanted == port && has_ports)
}

#[test]
fn a_rule_says_what_it_covers() {
    let ranges = ranges(&policy(vec![rule(Some("192.0.2.0/24"), Some(443), Some(Transport::Tcp))])).unwrap();
    assert_eq!(ranges.v6, []);
    let [only] = ranges.v4.as_slice() else { panic!("{ranges:?}") };
    assert_eq!(addresses4(only), Ipv4Addr::new(192, 0, 2, 0)..=Ipv4Addr::new(192, 0, 2, 255));
    assert_eq!((only.protocols, only.ports), ((6, 6), (443, 443)));
}

#[test]
fn an_address_alone_is_a_network_and_a_port_alone_is_everywhere() {
    let both = ranges(&policy(vec![rule(Some("fd00::7"), None, None), rule(None, Some(53), None)])).unwrap();
    assert_eq!(both.v4.len(), 2, "{both:?}");
    assert_eq!(covers(&both.v6, Ipv6Addr::from_bits(7 | 0xfd << 120).to_bits(), 58, 0), 1);
    assert_eq!(covers(&both.v6, 0, 17, 53), 1);
    assert_eq!(covers(&both.v6, 0, 58, 53), 0);
}

#[test]
fn rules_that_cannot_be_are_refused() {
    for cidr in ["", "192.0.2.0/33", "example.org", "192.0.2"] {
        assert!(ranges(&policy(vec![rule(Some(cidr), None, None)])).is_err(), "{cidr}");
    }
    let named = |name: &str| policy(vec![EgressRule { name: Some(name.into()), ..EgressRule::default() }]);
    for good in ["deb.example.org", "*.example.org", "a", "example.org."] {
        assert_eq!(ranges(&named(good)).unwrap(), Ranges::default(), "{good}");
    }
    for bad in ["", "*", "a..b", "*.*.org", "a b", &"a.".repeat(200)] {
        assert!(ranges(&named(bad)).is_err(), "{bad}");
    }
    let many = policy(vec![rule(None, None, None); RULES_MAX + 1]);
    assert!(ranges(&many).is_err());
}

fn rules() -> impl Strategy<Value = EgressRule> {
    let cidr = prop::option::of((0_u8..4, 26_u8..=32).prop_map(|(part, prefix)| {
        let net = ipnet::Ipv4Net::new(Ipv4Addr::new(10, 0, 0, part * 16), prefix).unwrap().trunc();
        net.to_string()
    }));
    let port = prop::option::of(prop::sample::select(vec![0_u16, 80, 443, u16::MAX]));
    let transport = prop::option::of(prop::sample::select(vec![Transport::Tcp, Transport::Udp]));
    (cidr, port, transport).prop_map(|(cidr, port, transport)| EgressRule {
        cidr,
        name: None,
        port,
        transport,
    })
}

proptest! {
    #[test]
    fn ranges_cover_what_the_rules_say_exactly_once(
        rules in prop::collection::vec(rules(), 0..8),
        tries in prop::collection::vec((0_u8..80, prop::sample::select(vec![1_u8, 6, 17, 58]),
            prop::sample::select(vec![0_u16, 79, 80, 81, 443, u16::MAX])), 60),
    ) {
        let ranges = ranges(&policy(rules.clone())).unwrap();
        for (last, protocol, port) in tries {
            let address = Ipv4Addr::new(10, 0, 0, last);
            let said = rules.iter().any(|rule| says(rule, address, protocol, port));
            let found = covers(&ranges.v4, address.to_bits().into(), protocol, port);
            prop_assert_eq!(found, usize::from(said), "{} {} {}", address, protocol, port);
        }
    }
}
