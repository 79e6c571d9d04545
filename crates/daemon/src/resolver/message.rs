//! Messages of the domain name system, between bytes and what they mean.
//!
//! RFC 1035 section 4, RFC 6891. Pure; every byte here comes from a guest or from the network. Invariant: what is
//! decoded was counted first, so that a small message cannot ask for much memory; what is encoded fits its limit.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

/// The largest query that is read.
pub(super) const QUERY_MAX: usize = 4096;
/// The largest answer over TCP.
pub(super) const STREAM_MAX: u16 = u16::MAX;
/// The largest datagram that is sent or asked for: it is never fragmented (DNS flag day 2020).
const DATAGRAM_MAX: u16 = 1232;
/// What a client that says nothing can take.
const DATAGRAM_MIN: u16 = 512;
const HEADER: usize = 12;
/// The shortest question and the shortest record.
const QUESTION_MIN: usize = 5;
const RECORD_MIN: usize = 11;
/// The most aliases that are followed.
const ALIASES_MAX: usize = 16;

/// A client's query.
#[derive(Debug)]
pub(super) struct Asked {
    id: u16,
    pub(super) question: Query,
    recursion_desired: bool,
    checking_disabled: bool,
    edns: Option<Edns>,
}

/// What a client's bytes are.
#[derive(Debug)]
pub(super) enum Received {
    /// A query to be answered.
    Query(Box<Asked>),
    /// One that is refused with this.
    Refused(Message),
    /// Nothing that is ever answered.
    Noise,
}

/// Reads what a client sent.
pub(super) fn receive(bytes: &[u8]) -> Received {
    let Some(header) = Header::read(bytes) else { return Received::Noise };
    if header.is_response {
        return Received::Noise;
    }
    let refusal = |code| Received::Refused(Message::error_msg(header.id, header.op_code, code));
    if header.op_code != OpCode::Query {
        return refusal(ResponseCode::NotImp);
    }
    let [questions, answers, authorities, additionals] = header.counts;
    if questions != 1 || answers != 0 || authorities != 0 || additionals > 2 || !header.fits(bytes.len()) {
        return refusal(ResponseCode::FormErr);
    }
    let Ok(message) = Message::from_vec(bytes) else { return refusal(ResponseCode::FormErr) };
    let [question] = message.queries.as_slice() else { return refusal(ResponseCode::FormErr) };
    let asked = Asked {
        id: header.id,
        question: question.clone(),
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        edns: message.edns,
    };
    if asked.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Received::Refused(asked.reply(ResponseCode::BADVERS));
    }
    let transfers = [RecordType::AXFR, RecordType::IXFR];
    if question.query_class() != DNSClass::IN || transfers.contains(&question.query_type()) {
        return Received::Refused(asked.reply(ResponseCode::Refused));
    }
    Received::Query(Box::new(asked))
}

impl Asked {
    /// Any number of this query's, for whose turn it is.
    pub(super) fn turn(&self) -> u16 {
        self.id
    }

    /// The largest answer it can have in a datagram.
    pub(super) fn datagram_limit(&self) -> u16 {
        self.edns.as_ref().map_or(DATAGRAM_MIN, |edns| edns.max_payload().clamp(DATAGRAM_MIN, DATAGRAM_MAX))
    }

    /// An answer that has only a code yet.
    pub(super) fn reply(&self, code: ResponseCode) -> Message {
        let mut reply = Message::error_msg(self.id, OpCode::Query, code);
        reply.metadata.recursion_desired = self.recursion_desired;
        reply.metadata.checking_disabled = self.checking_disabled;
        reply.metadata.recursion_available = true;
        reply.queries = vec![self.question.clone()];
        if let Some(theirs) = &self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_MAX);
            edns.set_dnssec_ok(theirs.flags().dnssec_ok);
            reply.edns = Some(edns);
        }
        reply
    }

    /// The same question to a server of the host's, under a number nobody can guess.
    pub(super) fn ask_outside(&self, with_edns: bool) -> Message {
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.metadata.checking_disabled = self.checking_disabled;
        query.queries = vec![self.question.clone()];
        if with_edns {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_MAX);
            edns.set_dnssec_ok(self.edns.as_ref().is_some_and(|theirs| theirs.flags().dnssec_ok));
            query.edns = Some(edns);
        }
        query
    }

    /// What a server outside said, as this query's answer.
    pub(super) fn relay(&self, outside: Message) -> Message {
        let mut reply = self.reply(outside.metadata.response_code);
        reply.metadata.authentic_data = outside.metadata.authentic_data;
        reply.answers = outside.answers;
        reply.authorities = outside.authorities;
        reply.additionals = outside.additionals;
        reply
    }
}

/// Reads the answer to `query`; None for anything else, whoever sent it.
pub(super) fn answer_to(query: &Message, bytes: &[u8]) -> Option<Message> {
    let header = Header::read(bytes)?;
    let expected = header.is_response && header.id == query.metadata.id && header.op_code == OpCode::Query;
    if !expected || !header.fits(bytes.len()) {
        return None;
    }
    match header.counts {
        [1, ..] => {}
        // A server that cannot read EDNS may have read nothing, and say just that.
        [0, 0, 0, 0] => {
            let refusal = Message::from_vec(bytes).ok()?;
            return (refusal.metadata.response_code == ResponseCode::FormErr).then_some(refusal);
        }
        _ => return None,
    }
    let answer = Message::from_vec(bytes).ok()?;
    // Names are compared without regard to case.
    (answer.metadata.message_type == MessageType::Response && answer.queries == query.queries)
        .then_some(answer)
}

/// The addresses that an answer gives its question's name, through aliases, and how long they are good for.
pub(super) fn addresses(answer: &Message) -> Option<(Vec<IpAddr>, Duration)> {
    let mut name: &Name = answer.queries.first()?.name();
    let mut lifetime = u32::MAX;
    for _ in 0..ALIASES_MAX {
        let alias = answer.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *name => Some((&target.0, record.ttl)),
            _ => None,
        });
        let Some((target, ttl)) = alias else { break };
        name = target;
        lifetime = lifetime.min(ttl);
    }
    let mut found = Vec::new();
    for record in answer.answers.iter().filter(|record| record.name == *name) {
        let address = match &record.data {
            RData::A(address) => IpAddr::V4(address.0),
            RData::AAAA(address) => IpAddr::V6(address.0),
            _ => continue,
        };
        lifetime = lifetime.min(record.ttl);
        found.push(address);
    }
    (!found.is_empty()).then(|| (found, Duration::from_secs(u64::from(lifetime))))
}

/// The bytes of a message, at most `limit` of them: what is too long is left out, and the answer says so.
pub(super) fn encode(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let bytes = encode_once(message, limit)?;
    if Header::read(&bytes)?.is_truncated && !message.metadata.truncation {
        return encode_once(&message.truncate(), limit);
    }
    Some(bytes)
}

fn encode_once(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::from(DATAGRAM_MIN));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    message.emit(&mut encoder).ok()?;
    (bytes.len() <= usize::from(limit)).then_some(bytes)
}

/// The first bytes of every message.
struct Header {
    id: u16,
    is_response: bool,
    is_truncated: bool,
    op_code: OpCode,
    /// Questions, answers, authorities, additional records.
    counts: [u16; 4],
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let words: [u8; HEADER] = *bytes.first_chunk()?;
        let [i, d, high, _, a, b, c, e, f, g, h, j] = words;
        Some(Self {
            id: u16::from_be_bytes([i, d]),
            is_response: high & 0x80 != 0,
            is_truncated: high & 0x02 != 0,
            op_code: OpCode::from_u8(high >> 3 & 0x0F),
            counts: [[a, b], [c, e], [f, g], [h, j]].map(u16::from_be_bytes),
        })
    }

    /// Whether so many records can be in a message of this length at all.
    fn fits(&self, length: usize) -> bool {
        let [questions, records @ ..] = self.counts.map(usize::from);
        let records: usize = records.iter().sum();
        let least = questions.saturating_mul(QUESTION_MIN).saturating_add(records.saturating_mul(RECORD_MIN));
        HEADER.saturating_add(least) <= length
    }
}

#[cfg(test)]
mod tests;
