#![allow(clippy::unwrap_used, reason = "a test says what it expects")]

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::thread::{JoinHandle, spawn};

use hull_protocol::stream::{Kind, header};

use super::*;

/// A daemon that answers each connection with the next of `answers` and tells what it was asked.
struct FakeDaemon {
    directory: tempfile::TempDir,
    requests: JoinHandle<Vec<String>>,
}

impl FakeDaemon {
    fn new(answers: Vec<Vec<u8>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let answer = move |answer: Vec<u8>| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !is_whole(&request) {
                let mut bytes = [0; 4096];
                let length = stream.read(&mut bytes).unwrap();
                assert!(length > 0, "the request is cut short");
                request.extend(&bytes[..length]);
            }
            stream.write_all(&answer).unwrap();
            String::from_utf8_lossy(&request).into_owned()
        };
        Self { directory, requests: spawn(move || answers.into_iter().map(answer).collect()) }
    }

    fn client(&self) -> Client {
        Client { endpoint: Endpoint::Unix(self.directory.path().join("s")), headers: Vec::new() }
    }

    fn requests(self) -> Vec<String> {
        self.requests.join().unwrap()
    }
}

/// Whether head and body have arrived.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()).map(str::parse);
    match length {
        Some(length) => body.len() >= length.unwrap(),
        None => !head.contains("chunked") || body.ends_with("0\r\n\r\n"),
    }
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

const PROBLEM: &str = r#"{"type":"/problems/no-such-image","title":"t","status":404,"detail":"pull it"}"#;

#[test]
fn names_are_one_segment() {
    assert_eq!(escape("docker.io/a b:1@x"), "docker.io%2Fa%20b%3A1%40x");
    assert_eq!(microvm_path("../x?y", "/stop"), "/v1/microvms/..%2Fx%3Fy/stop");
}

#[test]
fn problems_are_the_daemons_own_words() {
    let daemon = FakeDaemon::new(vec![answer("404 Not Found", PROBLEM), answer("502 Bad Gateway", "what?")]);
    let client = daemon.client();
    block_on(async {
        let error = client.microvm("a/b").await.unwrap_err();
        let problem = error.downcast_ref::<Problem>().unwrap();
        assert_eq!(
            (problem.kind.as_str(), error.to_string().as_str()),
            ("/problems/no-such-image", "pull it")
        );
        let error = client.delete("/v1/x").await.unwrap_err();
        assert!(error.to_string().contains("502") && error.to_string().contains("what?"), "{error}");
    });
    let requests = daemon.requests();
    assert!(requests[0].starts_with("GET /v1/microvms/a%2Fb HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[1].starts_with("DELETE /v1/x HTTP/1.1\r\n"), "{}", requests[1]);
}

#[test]
fn progress_is_reported_line_by_line_to_its_end() {
    let image = r#"{"digest":"sha256:0","names":[],"size":1,"created_at":"","platform":"linux/amd64"}"#;
    let done = format!("{{\"step\":\"one\"}}\n{{\"done\":{image}}}\n");
    let failed = format!("{{\"failed\":{PROBLEM}}}\n");
    let daemon = FakeDaemon::new(vec![
        answer("200 OK", &done),
        answer("200 OK", &failed),
        answer("200 OK", "{\"step\":\"one\"}\n"),
    ]);
    let client = daemon.client();
    let mut reports = 0;
    block_on(async {
        let image = client.progress("/p", Body::empty(), |_| reports += 1).await;
        assert_eq!(image.unwrap().digest, "sha256:0");
        let failed = client.progress("/p", Body::empty(), |_| {}).await.unwrap_err();
        assert!(failed.is::<Problem>());
        let cut = client.progress("/p", Body::empty(), |_| {}).await.unwrap_err();
        assert!(cut.to_string().contains("before it was done"), "{cut}");
    });
    assert_eq!(reports, 2);
}

#[test]
fn an_upload_is_streamed_and_its_failure_is_what_is_told() {
    let daemon = FakeDaemon::new(vec![answer("200 OK", "{}")]);
    let client = daemon.client();
    block_on(async {
        let body = Body::stream(|out| Ok(out.write_all(&[b'x'; 600 << 10])?));
        client.upload::<serde_json::Value>("/u", body).await.unwrap();
        assert_eq!(daemon.requests().remove(0).matches('x').count(), 600 << 10);
    });
    let directory = tempfile::tempdir().unwrap();
    let _deaf = UnixListener::bind(directory.path().join("s")).unwrap();
    let client = Client { endpoint: Endpoint::Unix(directory.path().join("s")), headers: Vec::new() };
    let body = Body::stream(|_| bail!("the disk is gone"));
    let error = block_on(client.upload::<serde_json::Value>("/u", body)).unwrap_err();
    assert_eq!(error.to_string(), "the disk is gone");
}

#[test]
fn an_attached_stream_carries_frames() {
    let mut wire =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: hull-stream\r\n\r\n".to_vec();
    for (kind, payload) in [(Kind::Stdout, &b"hello"[..]), (Kind::Exit, b"{\"status\":3}")] {
        wire.extend(header(kind, payload.len()).unwrap());
        wire.extend(payload);
    }
    let daemon = FakeDaemon::new(vec![wire, answer("409 Conflict", PROBLEM), answer("200 OK", "")]);
    let client = daemon.client();
    block_on(async {
        let mut attached = client.attach("/a").await.unwrap();
        let frame = attached.frames.next().await.unwrap().unwrap();
        assert_eq!((frame.0, &frame.1[..]), (Kind::Stdout, &b"hello"[..]));
        assert_eq!(attached.frames.next().await.unwrap().unwrap().0, Kind::Exit);
        assert!(attached.frames.next().await.unwrap().is_none());
        assert!(client.attach("/a").await.err().unwrap().is::<Problem>());
        assert!(client.attach("/a").await.err().unwrap().to_string().contains("hull-stream"));
    });
    assert!(daemon.requests()[0].to_ascii_lowercase().contains("\r\nupgrade: hull-stream\r\n"));
}
