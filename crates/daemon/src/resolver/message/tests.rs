#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is a failed test"
)]

use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::{A, CNAME, TXT};
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn query(text: &str) -> Message {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.queries = vec![Query::query(name(text), RecordType::A)];
    query
}

fn asked(message: &Message) -> Asked {
    match receive(&message.to_vec().unwrap()) {
        Received::Query(asked) => *asked,
        other => panic!("{other:?}"),
    }
}

fn refused(message: &Message) -> ResponseCode {
    match receive(&message.to_vec().unwrap()) {
        Received::Refused(refusal) => refusal.metadata.response_code,
        other => panic!("{other:?}"),
    }
}

fn answered(query: &Message, records: Vec<Record>) -> Message {
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.queries = query.queries.clone();
    answer.answers = records;
    answer
}

fn address(owner: &str, last: u8, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A::new(192, 0, 2, last)))
}

fn alias(owner: &str, target: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

#[test]
fn what_is_no_plain_question_is_refused() {
    let good = query("example.org.");
    assert_eq!(asked(&good).question.name(), &name("EXAMPLE.org."));
    let changed = |change: fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        message
    };
    let two = changed(|message| message.queries.extend(message.queries.clone()));
    assert_eq!(refused(&two), ResponseCode::FormErr);
    assert_eq!(refused(&changed(|message| message.queries.clear())), ResponseCode::FormErr);
    let answer = changed(|message| message.answers.push(address("x.", 1, 1)));
    assert_eq!(refused(&answer), ResponseCode::FormErr);
    let mut update = good.clone();
    update.metadata.op_code = OpCode::Update;
    assert_eq!(refused(&update), ResponseCode::NotImp);
    let mut transfer = good.clone();
    transfer.queries[0].set_query_type(RecordType::AXFR);
    assert_eq!(refused(&transfer), ResponseCode::Refused);
    let mut chaos = good.clone();
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(refused(&chaos), ResponseCode::Refused);
    let mut newer = good.clone();
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.edns = Some(edns);
    assert_eq!(refused(&newer), ResponseCode::BADVERS);
    // An answer is never answered: two servers would go on for ever.
    assert!(matches!(receive(&answered(&good, Vec::new()).to_vec().unwrap()), Received::Noise));
    assert!(matches!(receive(&[0; 11]), Received::Noise));
}

#[test]
fn a_header_that_promises_much_is_not_believed() {
    let mut lies = query("a.").to_vec().unwrap();
    for counts in [[0xff, 0xff, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 2], [0, 1, 0xff, 0xff, 0, 0, 0, 0]] {
        lies[4..12].copy_from_slice(&counts);
        assert!(matches!(receive(&lies), Received::Refused(_)), "{counts:?}");
        assert!(answer_to(&query("a."), &lies).is_none());
    }
}

#[test]
fn only_the_answer_to_the_question_is_taken() {
    let asked = query("example.org.");
    let good = answered(&asked, vec![address("example.org.", 1, 60)]);
    let taken = |message: &Message| answer_to(&asked, &message.to_vec().unwrap()).is_some();
    assert!(taken(&good));
    let mut other = good.clone();
    other.metadata.id ^= 1;
    assert!(!taken(&other));
    let mut elsewhere = good.clone();
    elsewhere.queries = query("example.net.").queries;
    assert!(!taken(&elsewhere));
    elsewhere.queries.clear();
    assert!(!taken(&elsewhere));
    assert!(!taken(&asked));
    let mut kind = good.clone();
    kind.queries[0].set_query_type(RecordType::AAAA);
    assert!(!taken(&kind));
}

#[test]
fn only_addresses_that_the_name_leads_to_count() {
    let asked = query("www.example.org.");
    let answer = answered(
        &asked,
        vec![
            alias("www.example.org.", "CDN.example.net.", 300),
            alias("cdn.example.net.", "a.example.net.", 30),
            address("a.example.net.", 1, 600),
            address("a.example.net.", 2, 500),
            address("unasked.example.org.", 3, 900),
        ],
    );
    let (found, lifetime) = addresses(&answer).unwrap();
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!((found, lifetime), (vec!["192.0.2.1".into(), "192.0.2.2".into()], Duration::from_secs(30)));
    let circle = vec![alias("www.example.org.", "b.", 9), alias("b.", "www.example.org.", 9)];
    assert_eq!(addresses(&answered(&asked, circle)), None);
    assert_eq!(addresses(&answered(&asked, Vec::new())), None);
}

#[test]
fn long_answers_are_cut_whole_and_say_so() {
    let asked = query("long.example.org.");
    let records = (0..200).map(|last| address("long.example.org.", last, 60)).collect();
    let answer = answered(&asked, records);
    assert_eq!(Message::from_vec(&encode(&answer, STREAM_MAX).unwrap()).unwrap().answers.len(), 200);
    let cut = encode(&answer, DATAGRAM_MIN).unwrap();
    let cut = Message::from_vec(&cut).unwrap();
    assert!(cut.metadata.truncation && cut.answers.is_empty() && cut.queries == asked.queries);
}

#[test]
fn a_client_without_edns_gets_none() {
    let plain = asked(&query("example.org."));
    assert_eq!((plain.datagram_limit(), plain.reply(ResponseCode::NoError).edns), (DATAGRAM_MIN, None));
    let mut with = query("example.org.");
    let mut edns = Edns::new();
    edns.set_max_payload(60_000).set_dnssec_ok(true);
    with.edns = Some(edns);
    let with = asked(&with);
    assert_eq!(with.datagram_limit(), DATAGRAM_MAX);
    assert!(with.reply(ResponseCode::NoError).edns.unwrap().flags().dnssec_ok);
    assert!(with.ask_outside(true).edns.unwrap().flags().dnssec_ok);
}

/// A message with parts that are right, and parts that are not.
fn nearly_right() -> impl Strategy<Value = Vec<u8>> {
    let text = TXT::new(vec!["x".repeat(200)]);
    let question = query("www.example.org.");
    let records = vec![
        alias("www.example.org.", "b.example.org.", 5),
        Record::from_rdata(name("b.example.org."), 5, RData::TXT(text)),
        address("b.example.org.", 1, 5),
    ];
    let bytes = answered(&question, records).to_vec().unwrap();
    (prop::collection::vec((0..bytes.len(), any::<u8>()), 0..12), any::<bool>(), 0..bytes.len()).prop_map(
        move |(changes, is_query, end)| {
            let mut bytes = bytes.clone();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if is_query {
                bytes[2] &= 0x7f;
                bytes[6..10].fill(0);
            }
            bytes.truncate(bytes.len().max(end));
            bytes
        },
    )
}

fn survive(bytes: &[u8]) {
    match receive(bytes) {
        Received::Query(asked) => {
            let limit = asked.datagram_limit();
            let reply = encode(&asked.reply(ResponseCode::NoError), limit).unwrap();
            assert!(reply.len() <= usize::from(limit));
            assert!(encode(&asked.ask_outside(true), STREAM_MAX).is_some());
        }
        Received::Refused(refusal) => assert!(encode(&refusal, DATAGRAM_MAX).unwrap().len() < 1232),
        Received::Noise => {}
    }
    let mut asked = query("www.example.org.");
    asked.metadata.id =
        u16::from_be_bytes([bytes.first().copied().unwrap_or(0), bytes.get(1).copied().unwrap_or(0)]);
    if let Some(answer) = answer_to(&asked, bytes) {
        let _any = addresses(&answer);
        for limit in [DATAGRAM_MIN, DATAGRAM_MAX] {
            assert!(encode(&answer, limit).is_none_or(|bytes| bytes.len() <= usize::from(limit)));
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        survive(&bytes);
    }

    #[test]
    fn nearly_right_messages_are_survived(bytes in nearly_right()) {
        survive(&bytes);
    }
}
