//! The resolver on loopback: clients, strangers, and a server of the host's that the test plays.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is a failed test"
)]

mod played;

use std::sync::atomic::{AtomicU32, Ordering};

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::{sleep, timeout};

use super::*;
use played::*;

#[tokio::test]
async fn names_are_those_of_the_clients_own_network() {
    let upstream = Upstream::start(obliging).await;
    let served = serve(&upstream);
    let found = |text: &str| Ok(vec![text.to_owned()]);
    assert_eq!(served.lookup(FIRST.1, "WEB.", RecordType::A).await, found("127.81.0.2"));
    assert_eq!(served.lookup(FIRST.1, "web.", RecordType::AAAA).await, Ok(Vec::new()));
    assert_eq!(served.lookup(SECOND.1, "secret.", RecordType::A).await, found("127.82.0.2"));
    assert_eq!(served.lookup(FIRST.1, "2.0.81.127.in-addr.arpa.", RecordType::PTR).await, found("web."));
    for (client, name) in [(FIRST.1, "secret."), (SECOND.1, "web."), (SECOND.1, "db.")] {
        assert_eq!(served.lookup(client, name, RecordType::A).await, Err(ResponseCode::NXDomain), "{name}");
    }
    // New names are there at once, and old ones gone.
    served.resolver.set_names("first", &[container("new", "127.81.0.4")]);
    assert_eq!(served.lookup(FIRST.1, "new.", RecordType::A).await, found("127.81.0.4"));
    assert_eq!(served.lookup(FIRST.1, "web.", RecordType::A).await, Err(ResponseCode::NXDomain));
    assert!(upstream.asked().is_empty(), "{:?}", upstream.asked());
    assert!(!served.resolver.set_names("third", &[]));
}

#[tokio::test]
async fn who_is_on_several_networks_knows_the_names_of_all() {
    let served = serve(&Upstream::start(obliging).await);
    let both = Container { others: vec!["second".into(), "gone".into()], ..container("both", FIRST.1) };
    served.resolver.set_names("first", &[both, container("web", "127.81.0.2")]);
    let neighbour = "127.81.0.10";
    for (client, name, found) in [
        (FIRST.1, "secret.", Ok(vec!["127.82.0.2".to_owned()])),
        (FIRST.1, "2.0.82.127.in-addr.arpa.", Ok(vec!["secret.".to_owned()])),
        (FIRST.1, "web.", Ok(vec!["127.81.0.2".to_owned()])),
        (neighbour, "both.", Ok(vec![FIRST.1.to_owned()])),
        (neighbour, "secret.", Err(ResponseCode::NXDomain)),
        (SECOND.1, "both.", Err(ResponseCode::NXDomain)),
    ] {
        let kind = if name.contains("arpa") { RecordType::PTR } else { RecordType::A };
        assert_eq!(served.lookup(client, name, kind).await, found, "{client} {name}");
    }
    // What is gone is known to nobody.
    served.resolver.remove_network("second");
    assert_eq!(served.lookup(FIRST.1, "secret.", RecordType::A).await, Err(ResponseCode::NXDomain));
}

#[tokio::test]
async fn other_names_are_the_hosts() {
    let upstream = Upstream::start(obliging).await;
    let served = serve(&upstream);
    let mut query = question("www.example.org.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_dnssec_ok(true);
    query.edns = Some(edns);
    let answer = served.ask(FIRST.1, &query).await;
    assert_eq!(data(&answer), Ok(vec!["192.0.2.7".to_owned()]));
    assert!(answer.metadata.recursion_available && !answer.metadata.authoritative && answer.edns.is_some());
    assert_eq!(answer.answers[0].ttl, 60);
    let asked = upstream.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].edns.as_ref().unwrap().flags().dnssec_ok);
    // The client's number is not the one used outside: this fails once in 65,536 times, and then not again.
    let numbers_differ = asked[0].metadata.id != query.metadata.id || {
        served.ask(FIRST.1, &query).await;
        upstream.asked()[1].metadata.id != query.metadata.id
    };
    assert!(numbers_differ);
    // Over TCP, several on one connection.
    let mut stream = served.connect(FIRST.1).await;
    for text in ["a.example.org.", "web.", "b.example.org."] {
        let answer = over_tcp(&mut stream, &question(text, RecordType::A)).await;
        assert_eq!(answer.answers.len(), 1, "{text}");
    }
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let forge = |query: &Message, _: bool| {
        let lie = host("www.example.org.", 66, 60);
        let mut number = answer(query, vec![lie.clone()]);
        number.metadata.id = number.metadata.id.wrapping_add(1);
        let mut other = answer(query, vec![lie.clone()]);
        other.queries = question("www.example.com.", RecordType::A).queries;
        let no_answer = query.to_vec().unwrap();
        let forged = vec![number.to_vec().unwrap(), other.to_vec().unwrap(), no_answer, vec![0xff; 300]];
        forged.into_iter().chain(obliging(query, false)).collect()
    };
    let served = serve(&Upstream::start(forge).await);
    assert_eq!(served.lookup(FIRST.1, "www.example.org.", RecordType::A).await, Ok(vec!["192.0.2.7".into()]));
}

#[tokio::test]
async fn long_answers_come_over_tcp() {
    let long = |query: &Message, over_tcp: bool| {
        let records = (0..200).map(|last| host("long.example.org.", last, 60)).collect();
        let full = answer(query, records);
        let sent = if over_tcp { full } else { full.truncate() };
        vec![sent.to_vec().unwrap()]
    };
    let served = serve(&Upstream::start(long).await);
    let query = question("long.example.org.", RecordType::A);
    let cut = served.ask(FIRST.1, &query).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let mut stream = served.connect(FIRST.1).await;
    assert_eq!(over_tcp(&mut stream, &query).await.answers.len(), 200);
}

#[tokio::test]
async fn a_server_that_is_down_or_fails_is_not_the_only_one() {
    let (bad, good) = (Upstream::start(failing).await, Upstream::start(obliging).await);
    let silent = Upstream::start(|_, _| Vec::new()).await;
    let nobody: SocketAddr = format!("127.0.0.1:{}", own_port()).parse().unwrap();
    let served = serve_with(&[nobody, silent.address, bad.address, good.address], Limits::default(), None);
    let found = Ok(vec!["192.0.2.7".to_owned()]);
    assert_eq!(served.lookup(FIRST.1, "a.example.org.", RecordType::A).await, found);
    // The one that works is asked first from now on.
    let before = silent.asked().len();
    assert_eq!(served.lookup(FIRST.1, "b.example.org.", RecordType::A).await, found);
    assert_eq!(silent.asked().len(), before);
    let served = serve_with(&[bad.address], Limits::default(), None);
    let failure = served.lookup(FIRST.1, "a.example.org.", RecordType::A).await;
    assert_eq!(failure, Err(ResponseCode::ServFail));
    let served = serve_with(&[nobody], Limits::default(), None);
    assert_eq!(served.lookup(FIRST.1, "a.example.org.", RecordType::A).await, failure);
}

#[tokio::test]
async fn a_server_that_knows_no_edns_is_asked_without() {
    let old = |query: &Message, tcp: bool| {
        if query.edns.is_none() {
            return obliging(query, tcp);
        }
        vec![Message::error_msg(query.metadata.id, OpCode::Query, ResponseCode::FormErr).to_vec().unwrap()]
    };
    let polite = move |query: &Message, tcp: bool| {
        let mut refusal = answer(query, Vec::new());
        refusal.metadata.response_code = ResponseCode::FormErr;
        if query.edns.is_some() { vec![refusal.to_vec().unwrap()] } else { obliging(query, tcp) }
    };
    for upstream in [Upstream::start(old).await, Upstream::start(polite).await] {
        let served = serve(&upstream);
        let found = served.lookup(FIRST.1, "a.example.org.", RecordType::A).await;
        assert_eq!(found, Ok(vec!["192.0.2.7".into()]));
    }
}

#[tokio::test]
async fn strangers_are_not_answered() {
    let upstream = Upstream::start(obliging).await;
    let served = serve(&upstream);
    for stranger in [STRANGER, SECOND.1] {
        let socket = UdpSocket::bind((stranger, 0)).await.unwrap();
        let server = served.server(FIRST.1);
        for text in ["web.", "www.example.org."] {
            socket.send_to(&question(text, RecordType::A).to_vec().unwrap(), server).await.unwrap();
        }
        let mut room = [0; 512];
        assert!(timeout(SILENCE, socket.recv(&mut room)).await.is_err(), "{stranger} got an answer");
        let connecting = TcpSocket::new_v4().unwrap();
        connecting.bind(SocketAddr::new(stranger.parse().unwrap(), 0)).unwrap();
        let mut stream = connecting.connect(server).await.unwrap();
        assert_eq!(stream.read(&mut room).await.unwrap_or(0), 0, "{stranger} is spoken to");
    }
    assert!(upstream.asked().is_empty());
}

#[tokio::test]
async fn what_a_client_may_not_ask_stays_here() {
    let upstream = Upstream::start(obliging).await;
    let served = serve(&upstream);
    for (client, name) in [(FIRST.1, "NOT.example.org."), (SECOND.1, "first.example.org.")] {
        let refused = served.lookup(client, name, RecordType::A).await;
        assert_eq!(refused, Err(ResponseCode::Refused), "{name}");
    }
    assert!(upstream.asked().is_empty());
    assert!(served.lookup(FIRST.1, "first.example.org.", RecordType::A).await.is_ok());
}

#[tokio::test]
async fn the_watcher_is_done_before_the_client_has_the_answer() {
    let script = |query: &Message, _: bool| {
        let alias = RData::CNAME(CNAME(name("cdn.example.net.")));
        let records = vec![
            Record::from_rdata(query.queries[0].name().clone(), 90, alias),
            host("cdn.example.net.", 1, 30),
            host("another.example.net.", 2, 30),
        ];
        vec![answer(query, records).to_vec().unwrap()]
    };
    let (heard, done) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU32::new(0)));
    let (theirs, count) = (heard.clone(), done.clone());
    let watcher: Watcher = Arc::new(move |answer: Answer| {
        let (theirs, count) = (theirs.clone(), count.clone());
        Box::pin(async move {
            sleep(Duration::from_millis(300)).await;
            let good = answer.name != "www.bad.example";
            theirs.lock().unwrap().push(answer);
            count.fetch_add(1, Ordering::SeqCst);
            good
        })
    });
    let upstream = Upstream::start(script).await;
    let served = serve_with(&[upstream.address], Limits::default(), Some(watcher));
    let answer = served.ask(SECOND.1, &question("WWW.example.org.", RecordType::A)).await;
    assert_eq!(done.load(Ordering::SeqCst), 1);
    assert_eq!(answer.answers.len(), 3);
    let expected = Answer {
        network: "second".into(),
        client: SECOND.1.parse().unwrap(),
        name: "www.example.org".into(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        lifetime: Duration::from_secs(30),
    };
    assert_eq!(*heard.lock().unwrap(), [expected]);
    // Names of the network are no answers from outside.
    served.lookup(SECOND.1, "secret.", RecordType::A).await.unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 1);
    // An answer whose way could not be opened is kept back.
    let kept = served.lookup(SECOND.1, "www.bad.example.", RecordType::A).await;
    assert_eq!((kept, done.load(Ordering::SeqCst)), (Err(ResponseCode::ServFail), 2));
}

#[tokio::test]
async fn one_client_cannot_use_up_what_others_need() {
    let silent = Upstream::start(|_, _| Vec::new()).await;
    let limits = Limits { client_queries: 20, client_rate: 200, client_connections: 3, ..Limits::default() };
    let served = serve_with(&[silent.address], limits, None);
    let socket = served.socket(FIRST.1).await;
    for number in 0..1000 {
        let query = question(&format!("n{number}.example.org."), RecordType::A);
        socket.send(&query.to_vec().unwrap()).await.unwrap();
    }
    sleep(SILENCE).await;
    let asked = silent.asked().len();
    assert!((1..=20).contains(&asked), "{asked} questions of one client went out");
    // Its neighbour is served all the same.
    let neighbour = "127.81.0.10";
    assert_eq!(served.lookup(neighbour, "web.", RecordType::A).await, Ok(vec!["127.81.0.2".into()]));
    // Nor connections without number: one too many is closed.
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(served.connect(neighbour).await);
    }
    let mut last = served.connect(neighbour).await;
    assert_eq!(timeout(PATIENCE, last.read(&mut [0; 9])).await.unwrap().unwrap_or(0), 0);
    let answer = over_tcp(&mut kept[0], &question("web.", RecordType::A)).await;
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn noise_does_no_harm() {
    let upstream = Upstream::start(obliging).await;
    let served = serve(&upstream);
    let socket = served.socket(FIRST.1).await;
    let mut state = 7_u32;
    for length in 0..300 {
        let noise: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        socket.send(&noise).await.unwrap();
    }
    let mut stream = served.connect(FIRST.1).await;
    stream.write_all(&[0xff; 900]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 9]).await.unwrap_or(0), 0, "a query of 65,535 bytes is read");
    assert_eq!(served.lookup("127.81.0.10", "web.", RecordType::A).await, Ok(vec!["127.81.0.2".into()]));
}

#[tokio::test]
async fn a_network_comes_and_goes() {
    let served = serve(&Upstream::start(obliging).await);
    let again = served.resolver.add_network("first", &[], None);
    assert!(matches!(again, Err(ResolverError::Taken(id)) if id == "first"));
    assert!(matches!(
        served.resolver.add_network("third", &[address(FIRST.0)], None),
        Err(ResolverError::Listen { .. })
    ));
    let mut open = served.connect(FIRST.1).await;
    assert!(served.resolver.remove_network("first") && !served.resolver.remove_network("first"));
    // Its connections end with it, and its addresses are free again.
    assert_eq!(timeout(PATIENCE, open.read(&mut [0; 9])).await.unwrap().unwrap_or(0), 0);
    served.resolver.add_network("first", &[address(FIRST.0), address("::1/128")], None).unwrap();
    assert_eq!(served.lookup(FIRST.1, "web.", RecordType::A).await, Err(ResponseCode::NXDomain));
    served.resolver.set_names("first", &[container("six", "fd00::6")]);
    let socket = UdpSocket::bind("[::1]:0").await.unwrap();
    let query = question("six.", RecordType::AAAA);
    socket.send_to(&query.to_vec().unwrap(), ("::1", served.port)).await.unwrap();
    let mut room = [0; 512];
    let length = timeout(PATIENCE, socket.recv(&mut room)).await.expect("no answer").unwrap();
    assert_eq!(data(&Message::from_vec(&room[..length]).unwrap()), Ok(vec!["fd00::6".into()]));
}

#[test]
fn prefixes_tell_networks_apart() {
    for (own, other, same) in [
        ("10.88.0.1/16", "10.88.255.9", true),
        ("10.88.0.1/16", "10.89.0.1", false),
        ("10.88.0.1/32", "10.88.0.1", true),
        ("10.88.0.1/32", "10.88.0.0", false),
        ("10.88.0.1/0", "192.0.2.1", true),
        ("10.88.0.1/0", "::1", false),
        ("fd00:1::1/64", "fd00:1::ffff:1", true),
        ("fd00:1::1/64", "fd00:1:0:1::1", false),
        ("fd00:1::1/0", "2001:db8::1", true),
        ("fd00:1::1/128", "fd00:1::2", false),
    ] {
        assert_eq!(same_network(address(own), other.parse().unwrap()), same, "{own} {other}");
    }
}
