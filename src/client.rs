//! The client's side of the REST API: HTTP/1.1 over a unix socket or TLS, one connection a request.
//!
//! RFC 9112 (HTTP/1.1), RFC 9457 (problem details). Owner: the verb that is being done, on its one thread.
//! Invariant: an answer that is no success is an error that carries the daemon's own words; no answer is
//! read into memory beyond [`ANSWER_MAX`].

mod body;
mod download;
mod endpoint;
mod host;
mod on_demand;

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, BodyStream, Limited};
use hull_daemon::paths::Paths;
use hull_protocol::api::{Microvm, Problem, Progress, System};
use hull_protocol::stream::UPGRADE;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE as UPGRADE_HEADER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use body::Body;
use download::Download;
use endpoint::Endpoint;
pub(crate) use host::Host;
pub(crate) use on_demand::bind;

use crate::stream::{Attached, Frames};

/// The most bytes of a JSON answer.
const ANSWER_MAX: usize = 64 << 20;
/// The most bytes of one line of progress.
const LINE_MAX: usize = 1 << 20;
/// How often a daemon that leaves or does not come is tried.
const TRIES: u32 = 3;
/// How much longer than before the next try waits.
const PAUSE: Duration = Duration::from_millis(200);

/// A daemon that has answered.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    endpoint: Endpoint,
    /// What every request has besides.
    headers: Vec<(&'static str, String)>,
}

impl Client {
    /// Connects to the daemon at `host`; without one, to the user's own, which is started where it does not run.
    pub(crate) async fn connect(host: &Host) -> Result<Self> {
        let endpoint = host.endpoint()?;
        let headers = host.headers(endpoint.is_some())?;
        if let Some(endpoint) = endpoint {
            let client = Self { endpoint, headers };
            return match client.system().await {
                Ok(_) => Ok(client),
                Err(error) if error.is::<Problem>() => Err(error),
                Err(error) => Err(error.context(format!(
                    "no daemon answers on {}: is 'hull serve' running there?",
                    client.endpoint
                ))),
            };
        }
        let paths = Paths::of_user();
        let client = Self { endpoint: Endpoint::Unix(paths.socket()), headers };
        let mut last = None;
        for attempt in 0..TRIES {
            // An idle daemon may leave between the connection and the request: the next try starts another, which
            // needs the data directory that the old one is about to let go.
            tokio::time::sleep(PAUSE * attempt).await;
            let started = on_demand::ensure(&paths)?;
            match client.system().await {
                Ok(_) => return Ok(client),
                Err(error) if error.is::<Problem>() => return Err(error),
                Err(error) => last = Some((error, started)),
            }
        }
        let (error, started) = last.unwrap_or_else(|| (anyhow!("it was not tried"), None));
        Err(on_demand::complaint(&paths, &error, started))
    }

    /// Who the daemon is.
    pub(crate) async fn system(&self) -> Result<System> {
        self.get("/v1/system").await
    }

    /// `GET`, with a JSON answer.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        json(self.send(Method::GET, path, Body::empty()).await?).await
    }

    /// `POST` of JSON, with a JSON answer.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        json(self.send(Method::POST, path, Body::json(body)?).await?).await
    }

    /// `PATCH` with JSON, with a JSON answer.
    pub(crate) async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        json(self.send(Method::PATCH, path, Body::json(body)?).await?).await
    }

    /// `GET` whose answer is a sequence of lines.
    pub(crate) async fn lines(&self, path: &str) -> Result<Lines> {
        let response = self.send(Method::GET, path, Body::empty()).await?;
        Ok(Lines { body: BodyStream::new(response.into_body()), pending: Vec::new() })
    }

    /// `POST` of a stream of bytes, with a JSON answer.
    pub(crate) async fn upload<T: DeserializeOwned>(&self, path: &str, body: Body) -> Result<T> {
        json(self.send(Method::POST, path, body).await?).await
    }

    /// `POST` without a body, with a JSON answer.
    pub(crate) async fn act<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        json(self.send(Method::POST, path, Body::empty()).await?).await
    }

    /// `POST` whose answer is empty.
    pub(crate) async fn tell(&self, path: &str, body: Body) -> Result<()> {
        self.send(Method::POST, path, body).await.map(drop)
    }

    /// `PUT` of a stream of bytes, whose answer is empty.
    pub(crate) async fn put(&self, path: &str, body: Body) -> Result<()> {
        self.send(Method::PUT, path, body).await.map(drop)
    }

    /// `GET` whose answer is a stream of bytes, to be read by another thread than this one.
    pub(crate) async fn download(&self, path: &str) -> Result<Download> {
        Ok(Download::new(self.send(Method::GET, path, Body::empty()).await?.into_body()))
    }

    /// `DELETE`.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        self.send(Method::DELETE, path, Body::empty()).await.map(drop)
    }

    /// The microVM of this id, name or beginning of an id.
    pub(crate) async fn microvm(&self, name: &str) -> Result<Microvm> {
        self.get(&microvm_path(name, "")).await
    }

    /// `POST` whose answer is a sequence of progress reports; gives each to `report`, the last one too.
    pub(crate) async fn progress(
        &self,
        path: &str,
        body: Body,
        mut report: impl FnMut(&Progress),
    ) -> Result<hull_protocol::api::Image> {
        let response = self.send(Method::POST, path, body).await?;
        let mut body = BodyStream::new(response.into_body());
        let mut pending = Vec::new();
        while let Some(frame) = body.next().await {
            let Ok(data) = frame.context("the daemon went away")?.into_data() else { continue };
            pending.extend_from_slice(&data);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let progress =
                    serde_json::from_slice(&line).context("the daemon's report is not understood")?;
                report(&progress);
                match progress {
                    Progress::Done(image) => return Ok(*image),
                    Progress::Failed(problem) => return Err(problem.into()),
                    Progress::Blob { .. } | Progress::Step(_) => {}
                }
            }
            if pending.len() > LINE_MAX {
                bail!("the daemon's report has a line of more than {LINE_MAX} bytes");
            }
        }
        bail!("the daemon went away before it was done: its log says why")
    }

    /// `GET` whose answer is a sequence of stream frames.
    pub(crate) async fn frames(&self, path: &str) -> Result<Frames> {
        let response = self.send(Method::GET, path, Body::empty()).await?;
        Ok(Frames::of_body(response.into_body()))
    }

    /// `POST` that makes the connection a stream of frames, both ways.
    pub(crate) async fn attach(&self, path: &str) -> Result<Attached> {
        let mut request = self.request(Method::POST, path, Body::empty())?;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, "Upgrade".parse()?);
        headers.insert(UPGRADE_HEADER, UPGRADE.parse()?);
        let response = checked(self.exchange(request).await?).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            bail!("the daemon does not speak {UPGRADE}: it answered {}", response.status());
        }
        let upgraded = hyper::upgrade::on(response).await.context("the daemon went away")?;
        Ok(Attached::new(TokioIo::new(upgraded)))
    }

    async fn send(&self, method: Method, path: &str, body: Body) -> Result<Response<Incoming>> {
        checked(self.exchange(self.request(method, path, body)?).await?).await
    }

    fn request(&self, method: Method, path: &str, body: Body) -> Result<Request<Body>> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, "hull");
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if let Some(kind) = body.content_type() {
            request = request.header(CONTENT_TYPE, kind);
        }
        request.body(body).context("the request cannot be written")
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        let stream = self.endpoint.connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .context("the daemon went away")?;
        // Ends with the connection, at the latest with the program.
        tokio::spawn(connection.with_upgrades());
        let failure = request.body().failure();
        match sender.send_request(request).await {
            Ok(response) => Ok(response),
            // A body that could not be read is the cause, the broken connection only its effect.
            Err(error) => match failure.take() {
                Some(cause) => Err(cause),
                None => Err(anyhow::Error::new(error).context("the daemon went away")),
            },
        }
    }
}

/// An answer that comes line by line.
pub(crate) struct Lines {
    body: BodyStream<Incoming>,
    pending: Vec<u8>,
}

impl Lines {
    /// The next line, without its end; none when there are no more.
    pub(crate) async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                return Ok(Some(String::from_utf8_lossy(line).into_owned()));
            }
            if self.pending.len() > ANSWER_MAX {
                bail!("the daemon's answer has a line of more than {ANSWER_MAX} bytes");
            }
            let Some(frame) = self.body.next().await else { return Ok(None) };
            if let Ok(data) = frame.context("the daemon went away")?.into_data() {
                self.pending.extend_from_slice(&data);
            }
        }
    }
}

/// The path of a microVM, or of something below it.
pub(crate) fn microvm_path(name: &str, below: &str) -> String {
    format!("/v1/microvms/{}{below}", escape(name))
}

/// Escapes what is not unreserved (RFC 3986, section 2.3), slashes too: one segment or one value.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

async fn checked(response: Response<Incoming>) -> Result<Response<Incoming>> {
    let status = response.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let body = collect(response).await?;
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Err(problem.into()),
        Err(_) => bail!("the daemon answered {status}: {}", String::from_utf8_lossy(&body).trim()),
    }
}

async fn json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T> {
    let body = collect(response).await?;
    serde_json::from_slice(&body).context("the daemon's answer is not understood: are both of one version?")
}

async fn collect(response: Response<Incoming>) -> Result<Bytes> {
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| anyhow!("the daemon's answer cannot be read: {error}"))
}

#[cfg(test)]
mod tests;
