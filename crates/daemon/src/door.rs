//! Who comes in: connections, whose a request is, and what is written down of it.
//!
//! | module | what it does |
//! |---|---|
//! | [`listen`] | takes connections, over the unix socket and over TCP, and leaves with the daemon |
//! | [`connection`] | reads requests within bounds |
//! | [`peers`] | no peer has more connections than its share |
//! | [`tls`] | certificates |
//! | [`whose`] | a stream ends with the right to it |
//!
//! Owner: the daemon; a task for each connection. Invariants: a request reaches a handler only with a principal, through
//! the view of that one's tenant; every request that changes something, and every refusal, is in the audit log, also
//! where its client does not wait for the answer; every answer is counted here, once.

mod connection;
mod listen;
mod peers;
mod tls;
mod whose;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, Method, Request, header};
use axum::response::{IntoResponse, Response};
use hull_protocol::api::AuditEntry;
use hull_protocol::trace::TRACE_HEADER;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

pub use self::listen::{Entrance, serve};
pub use self::peers::{Peer, Peers};
pub use self::tls::{Tls, TlsError, TlsFiles};
use crate::api::problem::ApiError;
use crate::api::{self, Api};
use crate::audit;
use crate::fleet::Fleet;
use crate::paths::Paths;
use crate::tenants::Tenants;
use crate::tenants::principal::{Principal, Unknown};
use crate::trace;
use crate::view::View;
use whose::{Connections, Whose};

/// Names the tenant that somebody who administers the host acts for.
const ACTING_FOR: &str = "hull-tenant";

/// The way in.
pub struct Door {
    fleet: Arc<Fleet>,
    on_demand: bool,
    /// The API of each tenant that has come so far.
    routers: Mutex<HashMap<Arc<str>, Router>>,
    /// What is for everybody.
    open: Router,
    connections: Connections,
}

/// Why a request goes no further.
enum Refused {
    Unknown(Unknown),
    Forbidden(String),
    NoTenant(String),
    TooOften(Duration),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Unknown(user @ Unknown::User(_)) => {
                ApiError::of("forbidden", user.to_string()).into_response()
            }
            Self::Unknown(unknown) => {
                let error = ApiError::of("unauthorized", unknown.to_string());
                ([(header::WWW_AUTHENTICATE, "Bearer")], error).into_response()
            }
            Self::Forbidden(why) => ApiError::of("forbidden", why).into_response(),
            Self::NoTenant(name) => {
                ApiError::of("not-found", format!("there is no tenant '{name}'")).into_response()
            }
            Self::TooOften(wait) => {
                let seconds = wait.as_secs().saturating_add(1);
                let why = format!("this tenant asks more often than it may: wait {seconds} s");
                let error = ApiError::of("too-many-requests", why);
                ([(header::RETRY_AFTER, seconds.to_string())], error).into_response()
            }
        }
    }
}

impl Door {
    /// The door to these.
    pub fn new(fleet: Arc<Fleet>, on_demand: bool) -> Self {
        let (routers, connections) = (Mutex::default(), Connections::default());
        Self { fleet, on_demand, routers, open: api::open_router(), connections }
    }

    /// Answers a request, in its trace.
    async fn answer<B>(&self, whose: &Whose, request: Request<B>) -> Response
    where
        B: axum::body::HttpBody<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let trace = trace::of_request(request.headers());
        let mut response = trace::within(trace, self.admit(whose, request)).await;
        if let Ok(value) = HeaderValue::try_from(trace.to_string()) {
            response.headers_mut().insert(TRACE_HEADER, value);
        }
        response
    }

    /// Lets a request in, or refuses it.
    async fn admit<B>(&self, whose: &Whose, request: Request<B>) -> Response
    where
        B: axum::body::HttpBody<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let method = request.method().clone();
        let mut line = Line::new(&self.fleet, &whose.peer, &request);
        let began = line.began;
        let response = self.lead(whose, request, &mut line).await;
        line.answered(&response);
        let (metrics, status) = (&self.fleet.host().metrics, response.status().as_u16());
        metrics.answered(&method, api::route_of(&response), status, began.elapsed());
        response
    }

    /// Leads a request to whoever answers it.
    async fn lead<B>(&self, whose: &Whose, mut request: Request<B>, line: &mut Line<'_>) -> Response
    where
        B: axum::body::HttpBody<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<axum::BoxError>,
    {
        if api::is_open(request.uri().path()) {
            return call(self.open.clone(), request).await;
        }
        match self.identify(&whose.peer, request.headers(), line) {
            Err(refused) => refused.into_response(),
            Ok(principal) => {
                whose.is_of(&principal);
                let router = self.router(&principal.tenant);
                request.extensions_mut().insert(principal);
                call(router, request).await
            }
        }
    }

    /// Whose a request is. A token counts before a user: who sends one is nobody else.
    fn identify(&self, peer: &Peer, headers: &HeaderMap, line: &mut Line<'_>) -> Result<Principal, Refused> {
        let host = self.fleet.host();
        let principal = match (bearer(headers).map_err(Refused::Unknown)?, peer) {
            (Some(token), _) => host.tenants.of_token(&host.state, token),
            (None, Peer::User(uid)) => host.tenants.of_user(*uid),
            (None, Peer::Address(_)) => Err(Unknown::Missing),
        };
        let principal = principal.map_err(Refused::Unknown)?;
        line.is_by(&principal);
        // Whoever sets the rates can set a wrong one right.
        if !principal.administers {
            host.tenants.request(&principal.tenant).map_err(Refused::TooOften)?;
        }
        let mut acting_for = headers.get_all(ACTING_FOR).iter();
        let Some(tenant) = acting_for.next() else { return Ok(principal) };
        let tenant = tenant.to_str().unwrap_or_default();
        if !principal.administers || acting_for.next().is_some() {
            return Err(Refused::Forbidden(
                "only who administers the host can act for a tenant, and for one: leave Hull-Tenant out"
                    .into(),
            ));
        }
        if host.tenants.get(tenant).is_err() {
            return Err(Refused::NoTenant(tenant.to_owned()));
        }
        let principal = principal.acting_for(tenant);
        line.is_by(&principal);
        Ok(principal)
    }

    /// A tenant's API: handlers of it reach what that tenant has.
    fn router(&self, tenant: &Arc<str>) -> Router {
        let mut routers = self.routers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(router) = routers.get(tenant) {
            return router.clone();
        }
        let host = self.fleet.host();
        // Those of tenants that are gone go, too.
        routers.retain(|name, _| host.tenants.get(name).is_ok());
        let view = View::new(self.fleet.clone(), tenant.clone());
        let router = api::router(Api { fleet: view, on_demand: self.on_demand });
        routers.insert(tenant.clone(), router.clone());
        router
    }

    /// Whether it is a user who administers the host: that one may have as many connections as it likes, and take its time.
    fn is_own(&self, peer: &Peer) -> bool {
        let Peer::User(uid) = peer else { return false };
        self.fleet.host().tenants.of_user(*uid).is_ok_and(|principal| principal.administers)
    }

    /// Counts and writes down what was no request.
    fn note_stranger(&self, peer: &Peer, status: u16, what: &str) {
        self.fleet.host().metrics.turned_away(status);
        let entry = AuditEntry {
            who: "nobody".into(),
            from: peer.to_string(),
            action: "connect".into(),
            object: what.to_owned(),
            status,
            ..AuditEntry::default()
        };
        self.fleet.host().audit.write(entry);
    }
}

async fn call<B>(router: Router, request: Request<B>) -> Response
where
    B: axum::body::HttpBody<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    match TowerToHyperService::new(router).call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The token of a request, if one came.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Unknown> {
    let mut found = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = found.next() else { return Ok(None) };
    if found.next().is_some() {
        return Err(Unknown::Malformed);
    }
    let (scheme, token) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Unknown::Malformed)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Unknown::Malformed);
    }
    Ok(Some(token.trim()))
}

/// The line of a request in the audit log, written at the latest when the request is given up; and in the daemon's own.
struct Line<'a> {
    fleet: &'a Fleet,
    began: Instant,
    entry: AuditEntry,
    changes: bool,
    done: bool,
}

impl<'a> Line<'a> {
    fn new<B>(fleet: &'a Fleet, peer: &Peer, request: &Request<B>) -> Self {
        let who = match peer {
            Peer::User(uid) => format!("uid:{uid}"),
            Peer::Address(_) => "nobody".into(),
        };
        let entry = AuditEntry {
            who,
            from: peer.to_string(),
            action: audit::cut(request.method().as_str()),
            object: audit::cut(request.uri().path()),
            trace: trace::current(),
            ..AuditEntry::default()
        };
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
        Self { fleet, began: Instant::now(), entry, changes, done: false }
    }

    fn is_by(&mut self, principal: &Principal) {
        self.entry.who = principal.who.to_string();
        self.entry.tenant = Some(principal.tenant.to_string());
    }

    fn answered(mut self, response: &Response) {
        self.entry.status = response.status().as_u16();
        let made = response.headers().get(header::LOCATION).and_then(|made| made.to_str().ok());
        self.entry.made = made.map(str::to_owned);
        self.write();
    }

    fn write(&mut self) {
        self.done = true;
        let AuditEntry { action, object, status, who, .. } = &self.entry;
        let took_ms = self.began.elapsed().as_millis();
        let said = if *status == 0 { "request given up" } else { "request answered" };
        // What the client wrote is shown as a quoted text.
        tracing::debug!(method = ?action, path = ?object, who, status, took_ms, "{said}");
        if self.changes || self.entry.status >= 400 {
            self.fleet.host().audit.write(std::mem::take(&mut self.entry));
        }
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.write();
        }
    }
}

/// Lets users other than the daemon's own reach its socket as long as some are tenants': the kernel says who they are.
pub fn open_for_users(paths: &Paths, tenants: &Tenants) {
    const OPEN: u32 = 0o666;
    let set = |path: &std::path::Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    let socket = paths.socket();
    let opened = if tenants.have_users() {
        // What is in the directory besides is for its owner alone.
        set(&paths.run, 0o711).and_then(|()| set(&socket, OPEN))
    } else {
        match fs::metadata(&socket) {
            Ok(found) if found.permissions().mode() & 0o777 == OPEN => set(&socket, 0o600),
            _ => Ok(()),
        }
    };
    if let Err(error) = opened {
        tracing::warn!("the socket {} cannot be opened for tenants' users: {error}", socket.display());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    #[test]
    fn one_token_is_understood_and_nothing_else() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(|token| token.map(str::to_owned))
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["Bearer abc"]), Ok(Some("abc".into())));
        assert_eq!(of(&["bearer  abc"]), Ok(Some("abc".into())));
        for bad in [&["Basic abc"][..], &["abc"], &[""], &["Bearer"], &["Bearer a", "Bearer a"]] {
            assert_eq!(of(bad), Err(Unknown::Malformed), "{bad:?}");
        }
    }
}
