//! What the tests play: a server of the host's, clients, and a resolver of two networks between them.

use std::sync::atomic::{AtomicU16, Ordering};

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::super::*;

/// How long an answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// How long silence is listened to.
pub(super) const SILENCE: Duration = Duration::from_millis(400);
/// Two networks, and a client of each.
pub(super) const FIRST: (&str, &str) = ("127.81.0.1/24", "127.81.0.9");
pub(super) const SECOND: (&str, &str) = ("127.82.0.1/24", "127.82.0.9");
pub(super) const STRANGER: &str = "127.83.0.9";

pub(super) fn address(text: &str) -> InterfaceAddress {
    let (address, prefix) = text.split_once('/').unwrap();
    InterfaceAddress { address: address.parse().unwrap(), prefix: prefix.parse().unwrap() }
}

pub(super) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub(super) fn question(text: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.queries = vec![Query::query(name(text), kind)];
    message
}

/// What the played server sends back for a query: datagrams, or one message over TCP.
pub(super) type Script = Arc<dyn Fn(&Message, bool) -> Vec<Vec<u8>> + Send + Sync>;

/// A server of the host's.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    asked: Arc<Mutex<Vec<Message>>>,
}

impl Upstream {
    pub(super) async fn start(
        script: impl Fn(&Message, bool) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let script: Script = Arc::new(script);
        let listener = TcpListener::bind(("127.0.0.1", own_port())).await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(address).await.unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (theirs, spoken) = (asked.clone(), script.clone());
        tokio::spawn(async move {
            let mut room = [0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut room).await.unwrap();
                let query = Message::from_vec(&room[..length]).unwrap();
                theirs.lock().unwrap().push(query.clone());
                for answer in spoken(&query, false) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut query).await.unwrap();
                let answer = script(&Message::from_vec(&query).unwrap(), true).concat();
                stream.write_u16(answer.len() as u16).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        Self { address, asked }
    }

    pub(super) fn asked(&self) -> Vec<Message> {
        self.asked.lock().unwrap().clone()
    }
}

pub(super) fn answer(query: &Message, records: Vec<Record>) -> Message {
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.queries = query.queries.clone();
    answer.answers = records;
    answer
}

pub(super) fn host(owner: &str, last: u8, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A::new(192, 0, 2, last)))
}

/// A server that knows one address for every name.
pub(super) fn obliging(query: &Message, _: bool) -> Vec<Vec<u8>> {
    let owner = query.queries[0].name().to_ascii();
    vec![answer(query, vec![host(&owner, 7, 60)]).to_vec().unwrap()]
}

pub(super) fn failing(query: &Message, _: bool) -> Vec<Vec<u8>> {
    let mut failure = answer(query, Vec::new());
    failure.metadata.response_code = ResponseCode::ServFail;
    vec![failure.to_vec().unwrap()]
}

/// A resolver of both networks.
pub(super) struct Served {
    pub(super) resolver: Resolver,
    pub(super) port: u16,
    _list: tempfile::NamedTempFile,
}

/// A port that nobody else in this process is given, below those that the kernel picks.
pub(super) fn own_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let of_this_process = std::process::id() % 1000 * 20;
    10_000 + of_this_process as u16 + NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(super) fn serve_with(upstreams: &[SocketAddr], limits: Limits, watcher: Option<Watcher>) -> Served {
    let list = tempfile::NamedTempFile::new().unwrap();
    let lines = upstreams.iter().map(|server| format!("nameserver [{}]:{}\n", server.ip(), server.port()));
    std::fs::write(list.path(), lines.collect::<String>()).unwrap();
    let port = own_port();
    // Names that begin with `not` are for nobody, those with `first` for one client.
    let permit: Permit = Arc::new(|network, client, name| {
        let own = network == "first" && client.to_string() == FIRST.1;
        !name.starts_with("not.") && (own || !name.starts_with("first."))
    });
    let options = Options { resolv_conf: list.path().into(), port, permit: Some(permit), watcher, limits };
    let resolver = Resolver::new(options);
    for (id, (own, _)) in [("first", FIRST), ("second", SECOND)] {
        resolver.add_network(id, &[address(own)], Some("lo")).unwrap();
    }
    assert!(resolver.set_names("first", &[container("web", "127.81.0.2"), container("db", "127.81.0.3")]));
    assert!(resolver.set_names("second", &[container("secret", "127.82.0.2")]));
    Served { resolver, port, _list: list }
}

pub(super) fn container(name: &str, address: &str) -> Container {
    let (names, addresses) = (vec![name.to_owned()], vec![address.parse().unwrap()]);
    Container { names, addresses, others: Vec::new() }
}

pub(super) fn serve(upstream: &Upstream) -> Served {
    serve_with(&[upstream.address], Limits::default(), None)
}

impl Served {
    pub(super) fn server(&self, client: &str) -> SocketAddr {
        let own = if client.starts_with("127.82.") { SECOND.0 } else { FIRST.0 };
        SocketAddr::new(address(own).address, self.port)
    }

    pub(super) async fn socket(&self, client: &str) -> UdpSocket {
        let socket = UdpSocket::bind((client, 0)).await.unwrap();
        socket.connect(self.server(client)).await.unwrap();
        socket
    }

    pub(super) async fn ask(&self, client: &str, query: &Message) -> Message {
        let socket = self.socket(client).await;
        socket.send(&query.to_vec().unwrap()).await.unwrap();
        let mut room = [0; 4096];
        let length = timeout(PATIENCE, socket.recv(&mut room)).await.expect("no answer").unwrap();
        let answer = Message::from_vec(&room[..length]).unwrap();
        assert_eq!((answer.metadata.id, &answer.queries), (query.metadata.id, &query.queries));
        answer
    }

    pub(super) async fn connect(&self, client: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(client.parse().unwrap(), 0)).unwrap();
        socket.connect(self.server(client)).await.unwrap()
    }

    /// The data of the answers, or the code.
    pub(super) async fn lookup(
        &self,
        client: &str,
        text: &str,
        kind: RecordType,
    ) -> Result<Vec<String>, ResponseCode> {
        data(&self.ask(client, &question(text, kind)).await)
    }
}

pub(super) fn data(answer: &Message) -> Result<Vec<String>, ResponseCode> {
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(answer.answers.iter().map(|record| record.data.to_string()).collect()),
        code => Err(code),
    }
}

pub(super) async fn over_tcp(stream: &mut TcpStream, query: &Message) -> Message {
    let bytes = query.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}
