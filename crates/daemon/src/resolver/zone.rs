//! The names of one network, and what its resolver knows without asking anybody.
//!
//! Pure. Invariant: a name of a container hides the same name outside; an address of the network, a name of one
//! word and `localhost` are answered here and never asked for outside, whether they exist or not.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::Container;

/// How long a client may remember an answer, in seconds: the next container of the name has another address.
const LIFETIME: u32 = 5;
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The names of a network.
#[derive(Debug, Default)]
pub(super) struct Zone {
    /// By name in lower case, without the last dot.
    addresses: HashMap<String, Vec<IpAddr>>,
    names: HashMap<IpAddr, Name>,
    /// The other networks of the container that has the address.
    others: HashMap<IpAddr, Vec<String>>,
}

/// What is known here about a question.
#[derive(Debug, PartialEq)]
pub(super) enum Known {
    /// The answer: records, or none when the name has none of the type asked for.
    Records(Vec<Record>),
    /// An error that is the answer.
    Code(ResponseCode),
    /// It has to be asked for outside.
    Nothing,
}

/// A name as it is looked up: lower case, no last dot, what is no letter, digit, `-` or `_` escaped.
pub(super) fn spelled(name: &Name) -> String {
    let mut text = name.to_lowercase().to_ascii();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

impl Zone {
    /// A zone of containers. A name of several of them leads to all.
    pub(super) fn new(containers: &[Container]) -> Self {
        let mut zone = Self::default();
        for Container { names, addresses, others } in containers {
            if !others.is_empty() {
                zone.others.extend(addresses.iter().map(|address| (*address, others.clone())));
            }
            // What is no name in DNS cannot be asked for either.
            let names = names.iter().filter_map(|name| Name::from_ascii(name).ok());
            let mut names = names.filter(|name| !spelled(name).is_empty()).peekable();
            if let Some(first) = names.peek() {
                let mut first = first.clone();
                first.set_fqdn(true);
                zone.names.extend(addresses.iter().map(|address| (*address, first.clone())));
            }
            for name in names {
                let known = zone.addresses.entry(spelled(&name)).or_default();
                for address in addresses {
                    if !known.contains(address) {
                        known.push(*address);
                    }
                }
            }
        }
        zone
    }

    /// The other networks of a client.
    pub(super) fn others_of(&self, client: IpAddr) -> &[String] {
        self.others.get(&client).map(Vec::as_slice).unwrap_or_default()
    }

    /// What a container's name or address has to do with a question; None when no container has it. `turn` is any
    /// number, so that the first of several addresses is another one each time.
    pub(super) fn find(&self, question: &Query, turn: u16) -> Option<Known> {
        if let Some(addresses) = self.addresses.get(&spelled(question.name())) {
            return Some(records(question, addresses, turn));
        }
        let name = self.names.get(&address_of_pointer(question.name())?)?;
        if question.query_type() != RecordType::PTR {
            return Some(Known::Records(Vec::new()));
        }
        let data = RData::PTR(PTR(name.clone()));
        Some(Known::Records(vec![Record::from_rdata(question.name().clone(), LIFETIME, data)]))
    }
}

/// What is known about a question that no container has to do with. `is_own` tells addresses of the network.
pub(super) fn otherwise(question: &Query, is_own: impl Fn(IpAddr) -> bool) -> Known {
    let name = question.name();
    let spelled = spelled(name);
    if spelled == "localhost" || spelled.ends_with(".localhost") {
        return records(question, &LOOPBACK, 0);
    }
    let of_one_word =
        name.num_labels() == 1 && matches!(question.query_type(), RecordType::A | RecordType::AAAA);
    if of_one_word || address_of_pointer(name).is_some_and(is_own) {
        return Known::Code(ResponseCode::NXDomain);
    }
    Known::Nothing
}

fn records(question: &Query, addresses: &[IpAddr], turn: u16) -> Known {
    let data = addresses.iter().filter_map(|address| match (question.query_type(), address) {
        (RecordType::A, IpAddr::V4(address)) => Some(RData::A(A(*address))),
        (RecordType::AAAA, IpAddr::V6(address)) => Some(RData::AAAA(AAAA(*address))),
        _ => None,
    });
    let mut records: Vec<Record> =
        data.map(|data| Record::from_rdata(question.name().clone(), LIFETIME, data)).collect();
    if let Some(turn) = usize::from(turn).checked_rem(records.len()) {
        records.rotate_left(turn);
    }
    Known::Records(records)
}

/// The address that a name of the reverse trees stands for.
fn address_of_pointer(name: &Name) -> Option<IpAddr> {
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

#[cfg(test)]
mod tests;
