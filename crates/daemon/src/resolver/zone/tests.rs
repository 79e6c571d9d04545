#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a panic is a failed test")]

use proptest::prelude::*;

use super::*;

fn zone() -> Zone {
    let container = |names: &[&str], addresses: &[&str]| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Container { names, addresses, others: Vec::new() }
    };
    Zone::new(&[
        container(&["Web", "web.internal", "front", "0123456789ab"], &["10.1.0.2", "fd00::2"]),
        container(&["front", "bad name", "x..y", ""], &["10.1.0.3"]),
    ])
}

fn ask(name: &str, kind: RecordType) -> Known {
    let own = |address: IpAddr| {
        address.to_string().starts_with("10.1.") || address.to_string().starts_with("fd00:")
    };
    let question = Query::query(Name::from_ascii(name).unwrap(), kind);
    zone().find(&question, 0).unwrap_or_else(|| otherwise(&question, own))
}

fn data(known: Known) -> Vec<String> {
    match known {
        Known::Records(records) => records.iter().map(|record| record.data.to_string()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_and_aliases_lead_to_addresses_in_any_case() {
    for name in ["web.", "WEB.", "web.INTERNAL.", "0123456789ab."] {
        assert_eq!(data(ask(name, RecordType::A)), ["10.1.0.2"], "{name}");
        assert_eq!(data(ask(name, RecordType::AAAA)), ["fd00::2"], "{name}");
        // It is there, and has none of these.
        assert_eq!(ask(name, RecordType::MX), Known::Records(Vec::new()));
    }
    assert_eq!(data(ask("front.", RecordType::A)), ["10.1.0.2", "10.1.0.3"]);
    assert_eq!(data(ask("localhost.", RecordType::A)), ["127.0.0.1"]);
    assert_eq!(data(ask("x.localhost.", RecordType::AAAA)), ["::1"]);
}

#[test]
fn the_first_of_several_changes_with_the_turn() {
    let question = Query::query(Name::from_ascii("front.").unwrap(), RecordType::A);
    let first = |turn| data(zone().find(&question, turn).unwrap())[0].clone();
    assert_eq!([first(0), first(1), first(2)], ["10.1.0.2", "10.1.0.3", "10.1.0.2"]);
}

#[test]
fn addresses_of_the_network_lead_back_and_never_outside() {
    assert_eq!(data(ask("2.0.1.10.in-addr.arpa.", RecordType::PTR)), ["Web."]);
    let six = format!("2.{}d.f.ip6.arpa.", "0.".repeat(29));
    assert_eq!(data(ask(&six, RecordType::PTR)), ["Web."], "{six}");
    assert_eq!(ask("9.0.1.10.in-addr.arpa.", RecordType::PTR), Known::Code(ResponseCode::NXDomain));
    assert_eq!(ask("1.2.0.192.in-addr.arpa.", RecordType::PTR), Known::Nothing);
    // A part of the reverse tree is no address.
    assert_eq!(ask("1.10.in-addr.arpa.", RecordType::PTR), Known::Nothing);
}

#[test]
fn only_names_of_more_than_one_word_are_asked_for_outside() {
    assert_eq!(ask("db.", RecordType::A), Known::Code(ResponseCode::NXDomain));
    assert_eq!(ask("db.", RecordType::AAAA), Known::Code(ResponseCode::NXDomain));
    assert_eq!(ask("com.", RecordType::NS), Known::Nothing);
    assert_eq!(ask("www.example.org.", RecordType::A), Known::Nothing);
    assert_eq!(ask("web.example.org.", RecordType::A), Known::Nothing);
    assert_eq!(ask(".", RecordType::NS), Known::Nothing);
}

proptest! {
    #[test]
    fn any_names_make_a_zone(names in prop::collection::vec(".{0,80}", 0..9), asked in "[ -~]{0,40}") {
        let zone = Zone::new(&[Container { names, addresses: vec!["10.1.0.2".parse().unwrap()], ..Container::default() }]);
        if let Ok(name) = Name::from_ascii(asked) {
            let question = Query::query(name, RecordType::A);
            let _any = (zone.find(&question, 7), otherwise(&question, |_| true));
        }
    }
}
