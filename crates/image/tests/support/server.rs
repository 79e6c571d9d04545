//! An HTTP server that the test plays: each connection is one request, which is kept and answered by a closure.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use hull_image::Digest;
use serde_json::json;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    fn read(stream: &mut TcpStream) -> Option<Self> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).ok()?;
        let mut lines = head.lines();
        let mut first = lines.next()?.split(' ').map(str::to_owned);
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut request = Self { method: first.next()?, path: first.next()?, headers, body: String::new() };
        let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        request.body = String::from_utf8(body).ok()?;
        Some(request)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A field of the form in the body, or of the query.
    pub fn field(&self, name: &str) -> Option<String> {
        let query = self.path.split_once('?').map_or("", |(_, query)| query);
        let form = if self.method == "POST" { &self.body } else { query };
        let value = form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",").replace('+', " "))
    }

    /// Where a `Range` begins.
    pub fn from(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// The server, and what it was asked; its threads end with the process.
pub struct Server {
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(
        answer: impl Fn(&Request, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let request = Request::read(&mut stream).unwrap_or_default();
                    seen.lock().unwrap().push(request.clone());
                    // The client may have had enough.
                    let _ = answer(&request, &mut stream);
                });
            }
        });
        Self { address, requests }
    }

    /// What was asked so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests were like this.
    pub fn count(&self, like: impl Fn(&Request) -> bool) -> usize {
        self.requests().iter().filter(|request| like(request)).count()
    }
}

/// Answers with a status line, header lines and a body.
pub fn answer(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n")?;
    stream.write_all(body)
}

/// Sends a client elsewhere.
pub fn redirect(stream: &mut TcpStream, status: &str, to: &str) -> io::Result<()> {
    answer(stream, status, &format!("location: {to}\r\n"), b"")
}

/// An image of plain tar layers, in memory.
#[derive(Clone)]
pub struct Image {
    pub manifest: String,
    blobs: Vec<Vec<u8>>,
}

impl Image {
    pub fn new(layers: &[Vec<u8>]) -> Self {
        Self::claiming(layers, &layers.iter().map(|layer| Digest::of(layer)).collect::<Vec<_>>())
    }

    /// The same, whose configuration says something of its own about what is in the layers.
    pub fn claiming(layers: &[Vec<u8>], diff_ids: &[Digest]) -> Self {
        let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string();
        let entries: Vec<_> = layers
            .iter()
            .map(|layer| json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": Digest::of(layer), "size": layer.len() }))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(config.as_bytes()), "size": config.len() },
            "layers": entries,
        })
        .to_string();
        let mut blobs = layers.to_vec();
        blobs.push(config.into_bytes());
        Self { manifest, blobs }
    }

    /// The blob that a request is for.
    pub fn blob(&self, request: &Request) -> Option<&[u8]> {
        let found = self.blobs.iter().find(|blob| request.path.ends_with(Digest::of(blob).hex()));
        found.map(Vec::as_slice)
    }

    /// Answers as a good registry does.
    pub fn serve(&self, request: &Request, stream: &mut TcpStream) -> io::Result<()> {
        match (self.blob(request), request.from()) {
            _ if request.path.contains("/manifests/") => {
                answer(stream, "200 OK", "", self.manifest.as_bytes())
            }
            (Some(blob), Some(from)) => answer(stream, "206 Partial Content", "", &blob[from..]),
            (Some(blob), None) => answer(stream, "200 OK", "", blob),
            (None, _) => answer(stream, "200 OK", "", b"{}"),
        }
    }
}
