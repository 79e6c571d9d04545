//! Credentials, tokens and redirects: with a real registry that wants tokens, and with servers that are up to no good.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use hull_image::{BlobError, ImageRecord, Limits, PullError, RequestError, Store};
use hull_protocol::api::{Credentials, PullRequest};
use support::server::{Image, Request, Server, answer, redirect};
use support::{Layout, Registry, Signer, layer, noise, unpack};

/// `Authorization` of alice, whose password is secret.
const ALICE: &str = "Basic YWxpY2U6c2VjcmV0";

fn credentials(username: &str, password: &str) -> Option<Credentials> {
    Some(Credentials { username: username.to_owned(), password: password.to_owned() })
}

fn identity(token: &str) -> Option<Credentials> {
    credentials("<token>", token)
}

fn plain(address: &str, credentials: Option<Credentials>) -> PullRequest {
    let reference = format!("{address}/group/app:one");
    PullRequest { reference, credentials, plain_http: true, ..PullRequest::default() }
}

/// Pulls into a store of its own.
async fn pull(request: &PullRequest, limits: Limits) -> Result<(tempfile::TempDir, ImageRecord), PullError> {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path(), limits).unwrap();
    let image = store.pull(request, |_| ()).await?;
    Ok((unpack(&store, &image), image))
}

/// A failure with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn challenge(stream: &mut TcpStream, realm: &str) -> std::io::Result<()> {
    let header = format!("www-authenticate: Bearer realm=\"{realm}\",service=\"hull-test\"\r\n");
    answer(stream, "401 Unauthorized", &header, b"{}")
}

/// A token server: user and password with GET, a refresh token with POST.
fn token_server(signer: Signer) -> Server {
    Server::start(move |request, stream| {
        let known = match request.method.as_str() {
            "POST" => {
                request.field("grant_type").as_deref() == Some("refresh_token")
                    && request.field("client_id").as_deref() == Some("hull")
                    && request.field("refresh_token").as_deref() == Some("for-ever")
            }
            _ => request.header("authorization") == Some(ALICE),
        };
        if !known || request.field("service").as_deref() != Some("hull-test") {
            let status = if request.method == "POST" { "400 Bad Request" } else { "401 Unauthorized" };
            return answer(stream, status, "", br#"{"error":"invalid_grant"}"#);
        }
        let token = signer.token(&request.field("scope").unwrap_or_default());
        let name = if request.method == "POST" { "access_token" } else { "token" };
        answer(stream, "200 OK", "", serde_json::json!({ name: token }).to_string().as_bytes())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_tokens_and_passwords_are_exchanged_for_tokens() {
    let temp = tempfile::tempdir().unwrap();
    let signer = Signer::new(temp.path());
    let certificate = signer.certificate();
    let server = token_server(signer);
    let registry = Registry::with_tokens(&format!("http://{}/token", server.address), &certificate);
    let mut layout = Layout::new(&temp.path().join("layout"));
    let digest = layout.image(&[layer(&[("file", b"content")])], "gzip -n", "amd64", "one");
    registry.push(&layout, "one", "group/app:one");
    let pushes = server.requests().len();

    let ask = |credentials| pull_digest(plain(&registry.address, credentials));
    assert_eq!(ask(identity("for-ever")).await.unwrap(), digest);
    assert_eq!(ask(credentials("alice", "secret")).await.unwrap(), digest);
    for stranger in [identity("stolen"), credentials("alice", "wrong"), None] {
        let error = ask(stranger.clone()).await.unwrap_err();
        assert!(matches!(error, PullError::Unauthorized(_)), "{stranger:?}: {error:?}");
    }
    let asked = server.requests().split_off(pushes);
    // One token serves a whole pull, and is for nothing but pulling this repository.
    assert_eq!(asked.len(), 5, "{asked:?}");
    assert!(asked.iter().all(|request| request.field("scope").unwrap() == "repository:group/app:pull"));
    let posts: Vec<&Request> = asked.iter().filter(|request| request.method == "POST").collect();
    assert_eq!(posts.len(), 2);
    assert!(posts.iter().all(|post| post.header("authorization").is_none() && post.path == "/token"));
}

async fn pull_digest(request: PullRequest) -> Result<hull_image::Digest, PullError> {
    pull(&request, Limits::default()).await.map(|(_, image)| image.digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_no_password() {
    let server = Server::start(|_, stream| {
        answer(stream, "401 Unauthorized", "www-authenticate: Basic realm=\"test\"\r\n", b"")
    });
    let error = pull_digest(plain(&server.address, identity("for-ever"))).await.unwrap_err();
    assert!(matches!(error, PullError::IdentityToken), "{error:?}");
    assert_eq!(server.count(|request| request.header("authorization").is_some()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_neither_over_plain_http_nor_where_a_token_server_points() {
    let temp = tempfile::tempdir().unwrap();
    let signer = Signer::new(temp.path());
    let certificate = signer.certificate();
    let server = token_server(signer);
    let registry = Registry::with_tls_and_tokens(&format!("http://{}/token", server.address), &certificate);
    for credentials in [identity("for-ever"), credentials("alice", "secret"), None] {
        let request = PullRequest {
            plain_http: false,
            ca_pem: Some(registry.ca()),
            ..plain(&registry.address, credentials)
        };
        let error = pull_digest(request).await.unwrap_err();
        assert!(matches!(error, PullError::Registry { source: RequestError::Token { .. }, .. }), "{error:?}");
        assert!(chain(&error).contains(&format!("leads to http://{}, which is not HTTPS", server.address)));
    }
    assert_eq!(server.requests().len(), 0);

    let thief = Server::start(|_, stream| answer(stream, "200 OK", "", br#"{"token":"t"}"#));
    let there = format!("http://{}/", thief.address);
    let registry = Server::start(move |request, stream| match request.path.starts_with("/token") {
        true => redirect(stream, "307 Temporary Redirect", &there),
        false => challenge(stream, &format!("http://{}/token", request.header("host").unwrap())),
    });
    let error = pull_digest(plain(&registry.address, identity("for-ever"))).await.unwrap_err();
    assert!(chain(&error).contains("it answered 307"), "{}", chain(&error));
    assert_eq!(thief.requests().len(), 0);
    pull_digest(plain(&registry.address, credentials("alice", "secret"))).await.unwrap_err();
    // The thief's token is not good, so a second one is asked for.
    assert_eq!(registry.count(|request| request.header("authorization") == Some(ALICE)), 2);
    assert_eq!(thief.requests().len(), 2);
    assert_eq!(thief.count(|request| request.header("authorization").is_some()), 0);
}

/// A registry whose tokens are `t1`, `t2` and so on, of which just the newest is good; `spoil` says whether an authorized
/// request is the last one with this token, and what is answered before the connection breaks: if nothing, it is refused.
fn expiring(image: Image, spoil: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static) -> Server {
    let newest = AtomicUsize::new(0);
    let good = AtomicUsize::new(0);
    Server::start(move |request, stream| {
        let realm = format!("http://{}/token", request.header("host").unwrap_or_default());
        if request.path.starts_with("/token") {
            let token = newest.fetch_add(1, SeqCst) + 1;
            good.store(token, SeqCst);
            let reply = serde_json::json!({ "access_token": format!("t{token}"), "expires_in": 60 });
            return answer(stream, "200 OK", "", reply.to_string().as_bytes());
        }
        let wanted = format!("Bearer t{}", good.load(SeqCst));
        if request.header("authorization") != Some(wanted.as_str()) {
            return challenge(stream, &realm);
        }
        if let Some(last) = spoil(request) {
            // Before the client hears of it, which comes back at once.
            good.store(usize::MAX, SeqCst);
            if last.is_empty() {
                return challenge(stream, &realm);
            }
            stream.write_all(&last)?;
            return stream.shutdown(std::net::Shutdown::Both);
        }
        image.serve(request, stream)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_during_a_pull_is_renewed_once_for_all() {
    let layers: Vec<_> = (0..4u64).map(|n| layer(&[(&format!("file{n}"), &noise(n + 1, 100_000))])).collect();
    let blobs = AtomicUsize::new(0);
    let server = expiring(Image::new(&layers), move |request| {
        // The first transfers run at a time: all their tokens are bad at once.
        (request.path.contains("/blobs/") && blobs.fetch_add(1, SeqCst) == 0).then(Vec::new)
    });
    let (tree, _) = pull(&plain(&server.address, identity("for-ever")), Limits::default()).await.unwrap();
    for n in 0..4u64 {
        assert_eq!(fs::read(tree.path().join(format!("tree/file{n}"))).unwrap(), noise(n + 1, 100_000));
    }
    assert_eq!(server.count(|request| request.path.starts_with("/token")), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_where_it_broke_off_with_the_next_token() {
    let content = layer(&[("file", &noise(9, 500_000))]);
    let half = content.len() / 2;
    let image = Image::new(std::slice::from_ref(&content));
    let (broken, known, others) = (AtomicUsize::new(0), image.clone(), AtomicUsize::new(0));
    let server = expiring(image, move |request| {
        let Some(blob) = known.blob(request).filter(|blob| blob.len() > half) else {
            others.fetch_add(usize::from(request.path.contains("/blobs/")), SeqCst);
            return None;
        };
        if request.from().is_some() || broken.fetch_add(1, SeqCst) > 0 {
            return None;
        }
        // The configuration is on its way too; later, it would be the one to find the token expired.
        let deadline = Instant::now() + Duration::from_secs(60);
        while others.load(SeqCst) == 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", blob.len());
        Some([head.as_bytes(), &blob[..half]].concat())
    });
    let (tree, _) = pull(&plain(&server.address, None), Limits::default()).await.unwrap();
    assert_eq!(fs::read(tree.path().join("tree/file")).unwrap(), noise(9, 500_000));
    assert_eq!(server.count(|request| request.path.starts_with("/token")), 2);
    let resumed: Vec<_> = server.requests().iter().filter_map(Request::from).collect();
    assert!(resumed.len() == 2 && resumed[0] == resumed[1] && resumed[0] <= half, "{resumed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_elsewhere_is_fetched_without_credentials() {
    let content = layer(&[("file", &noise(5, 400_000))]);
    let image = Image::new(std::slice::from_ref(&content));
    let (elsewhere, tries) = (image.clone(), AtomicUsize::new(0));
    let storage = Server::start(move |request, stream| {
        let blob = elsewhere.blob(request).unwrap();
        match (blob.len() > 100_000, tries.fetch_add(usize::from(blob.len() > 100_000), SeqCst)) {
            // Asks for what is none of its business, then breaks off, then is good.
            (true, 0) => answer(stream, "401 Unauthorized", "www-authenticate: Basic realm=\"x\"\r\n", b""),
            (true, 1) => {
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", blob.len())?;
                stream.write_all(&blob[..blob.len() / 2])
            }
            _ => elsewhere.serve(request, stream),
        }
    });
    let there = storage.address.clone();
    let registry = Server::start(move |request, stream| {
        if request.header("authorization") != Some(ALICE) {
            answer(stream, "401 Unauthorized", "www-authenticate: Basic realm=\"test\"\r\n", b"")
        } else if request.path.contains("/blobs/") {
            redirect(
                stream,
                "307 Temporary Redirect",
                &format!("http://{there}{}", request.path.replace("blobs", "far")),
            )
        } else {
            image.serve(request, stream)
        }
    });
    let (tree, _) =
        pull(&plain(&registry.address, credentials("alice", "secret")), Limits::default()).await.unwrap();
    assert_eq!(fs::read(tree.path().join("tree/file")).unwrap(), noise(5, 400_000));
    let asked = storage.requests();
    assert_eq!(asked.len(), 4, "{asked:?}");
    for request in &asked {
        assert!(
            request.header("authorization").is_none() && request.header("referer").is_none(),
            "{request:?}"
        );
    }
    assert_eq!(asked.iter().filter(|request| request.from().is_some()).count(), 1);
}

/// What has no end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endless {
    Manifest,
    Token,
    ManifestError,
    TokenError,
    BlobError,
    Headers,
    Redirects,
}

/// A registry of which one answer never ends; counts what of it was taken.
fn endless(what: Endless, taken: Arc<AtomicU64>) -> Server {
    let image = Image::new(&[layer(&[("file", b"content")])]);
    Server::start(move |request, stream| {
        let token = request.path.starts_with("/token");
        let status = match what {
            Endless::Manifest if request.path.contains("/manifests/") => "200 OK",
            Endless::ManifestError if request.path.contains("/manifests/") => "500 Internal Server Error",
            Endless::BlobError if request.path.contains("/blobs/") => "503 Service Unavailable",
            Endless::Token if token => "200 OK",
            Endless::TokenError if token => "502 Bad Gateway",
            Endless::Headers => "200 OK\r\nx: y",
            Endless::Redirects => return redirect(stream, "302 Found", "/v2/"),
            _ if token => return answer(stream, "200 OK", "", br#"{"token":"t"}"#),
            _ if request.header("authorization").is_none() => {
                return challenge(stream, &format!("http://{}/token", request.header("host").unwrap()));
            }
            _ => return image.serve(request, stream),
        };
        let (head, more) = if what == Endless::Headers {
            (format!("HTTP/1.1 {status}"), "y".repeat(1 << 16))
        } else {
            (format!("HTTP/1.1 {status}\r\n\r\n{{\"errors\":[{{\"code\":\""), " ".repeat(1 << 16))
        };
        stream.write_all(head.as_bytes())?;
        loop {
            stream.write_all(more.as_bytes())?;
            taken.fetch_add(1 << 16, SeqCst);
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_not_read_on() {
    let limits = Limits { max_manifest_bytes: 100_000, ..Limits::default() };
    let cases = [
        (Endless::Manifest, "has more than 100000 bytes; raise max_manifest_bytes"),
        (Endless::Token, "its answer has more than 65536 bytes"),
        (Endless::ManifestError, "it answered 500"),
        (Endless::TokenError, "it answered 502"),
        (Endless::BlobError, "it answered 503"),
        (Endless::Headers, "no whole answer came"),
        (Endless::Redirects, "it redirects more than 10 times"),
    ];
    for (what, words) in cases {
        let taken = Arc::new(AtomicU64::new(0));
        let server = endless(what, Arc::clone(&taken));
        let begun = Instant::now();
        let error = pull(&plain(&server.address, None), limits.clone()).await.unwrap_err();
        assert!(chain(&error).contains(words), "{what:?}: {}", chain(&error));
        let right = matches!(error, PullError::Blob(BlobError::TooLarge { .. }));
        assert_eq!(right, what == Endless::Manifest, "{what:?}: {error:?}");
        // What is taken and not read is in the two sockets' buffers, of some megabytes for each connection.
        assert!(taken.load(SeqCst) < 64 << 20, "{what:?}: {taken:?} bytes were taken");
        assert!(begun.elapsed() < Duration::from_secs(30), "{what:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_says_is_shown_on_one_line() {
    let reply = serde_json::json!({ "errors": [{ "code": "TOOMANYREQUESTS", "message": format!("slow\u{1b}[2J\ndown{}", "!".repeat(5000)) }] });
    let server = Server::start(move |request, stream| match request.path.contains("/manifests/") {
        true => answer(stream, "429 Too Many Requests", "", reply.to_string().as_bytes()),
        false => answer(stream, "200 OK", "", b"{}"),
    });
    let text = chain(&pull_digest(plain(&server.address, None)).await.unwrap_err());
    assert!(
        text.contains("429 Too Many Requests: slow [2J down!!!") && text.contains("(TOOMANYREQUESTS)"),
        "{text}"
    );
    assert!(text.len() < 1000 && !text.contains(char::is_control), "{text:?}");
}
