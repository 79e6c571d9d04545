//! Credentials, and the tokens a registry wants for them (distribution specification, "Token Authentication" and
//! "OAuth2 Token Authentication"; RFC 9110, section 11).
//!
//! Owned by one pull, shared by its transfers. Invariants: only the registry itself is answered when it asks for
//! credentials, not where it redirects to; a token is asked for to pull this one repository, whatever the registry
//! proposes; of many transfers that find the token expired, one gets the next.

use std::sync::Arc;

use hull_protocol::api::Credentials;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::http::{Authorization, Http, MAX_REPLY, RequestError, body, origin, refusal};

/// The user whose password is an identity token, as Docker's credential helpers have it.
const IDENTITY: &str = "<token>";

/// What a registry asks for before it gives anything.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    /// User and password, with each request.
    Basic,
    /// A token of the server at this realm.
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// Reads the headers; of several ways the one with a token.
    fn read(headers: &HeaderMap) -> Result<Option<Self>, RequestError> {
        let mut basic = None;
        let mut asked = false;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            asked = true;
            let Ok(challenges) = http_auth::parse_challenges(value.to_str().unwrap_or_default()) else {
                continue;
            };
            for challenge in challenges {
                let parameter = |name: &str| {
                    let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = parameter("realm")
                {
                    return Ok(Some(Self::Bearer { realm, service: parameter("service") }));
                } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        if asked && basic.is_none() { Err(RequestError::Challenge) } else { Ok(basic) }
    }
}

/// What this client may show to one registry, and what it shows at present.
#[derive(Debug)]
pub(super) struct Pass {
    credentials: Option<Credentials>,
    scope: String,
    current: Mutex<Option<Arc<Authorization>>>,
}

impl Pass {
    /// For pulling from a repository.
    pub(super) fn new(credentials: Option<Credentials>, repository: &str) -> Self {
        Self { credentials, scope: format!("repository:{repository}:pull"), current: Mutex::new(None) }
    }

    /// What to show, after asking the registry, whose `/v2/` is `base`, what it wants.
    pub(super) async fn show(&self, http: &Http, base: &Url) -> Result<Arc<Authorization>, RequestError> {
        let mut current = self.current.lock().await;
        if let Some(known) = &*current {
            return Ok(Arc::clone(known));
        }
        let response = http.get(base.clone(), &Authorization::Anonymous, &HeaderMap::new()).await?;
        let own = response.url().origin() == base.origin();
        let challenge = if own { Challenge::read(response.headers())? } else { None };
        let answer = match challenge {
            Some(challenge) => self.answer(http, &challenge).await?,
            None => Authorization::Anonymous,
        };
        Ok(Arc::clone(current.insert(Arc::new(answer))))
    }

    /// What to show instead, after `shown` was refused; `None` if there is nothing better.
    pub(super) async fn renew(
        &self,
        http: &Http,
        base: &Url,
        refused: &Response,
        shown: &Arc<Authorization>,
    ) -> Result<Option<Arc<Authorization>>, RequestError> {
        if refused.status() != StatusCode::UNAUTHORIZED || refused.url().origin() != base.origin() {
            return Ok(None);
        }
        let mut current = self.current.lock().await;
        if let Some(known) = &*current
            && !Arc::ptr_eq(known, shown)
        {
            return Ok(Some(Arc::clone(known)));
        }
        let Some(challenge) = Challenge::read(refused.headers())? else { return Ok(None) };
        let answer = self.answer(http, &challenge).await?;
        if answer == **shown {
            return Ok(None);
        }
        Ok(Some(Arc::clone(current.insert(Arc::new(answer)))))
    }

    async fn answer(&self, http: &Http, challenge: &Challenge) -> Result<Authorization, RequestError> {
        match challenge {
            Challenge::Basic if self.identity().is_some() => Err(RequestError::IdentityToken),
            Challenge::Basic => Ok(self.basic()),
            Challenge::Bearer { realm, service } => {
                let realm = Url::parse(realm).map_err(|_| RequestError::Challenge)?;
                let server = origin(&realm);
                let token = self.token(http, realm, service.as_deref()).await;
                token
                    .map(Authorization::Bearer)
                    .map_err(|source| RequestError::Token { server, source: Box::new(source) })
            }
        }
    }

    /// Gets a token: with an identity token by exchanging that, else with user and password or with nothing.
    async fn token(&self, http: &Http, realm: Url, service: Option<&str>) -> Result<String, RequestError> {
        let response = if let Some(refresh) = self.identity() {
            let form = [
                ("grant_type", "refresh_token"),
                ("service", service.unwrap_or_default()),
                ("client_id", "hull"),
                ("scope", self.scope.as_str()),
                ("refresh_token", refresh),
            ];
            http.post(realm, &form).await?
        } else {
            let mut url = realm;
            url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service)));
            url.query_pairs_mut().append_pair("scope", &self.scope);
            http.get(url, &self.basic(), &HeaderMap::new()).await?
        };
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        read_token(&body(response, MAX_REPLY).await?)
    }

    fn identity(&self) -> Option<&str> {
        let credentials = self.credentials.as_ref().filter(|credentials| credentials.username == IDENTITY)?;
        Some(&credentials.password)
    }

    fn basic(&self) -> Authorization {
        match &self.credentials {
            Some(Credentials { username, password }) => {
                Authorization::Basic { username: username.clone(), password: password.clone() }
            }
            None => Authorization::Anonymous,
        }
    }
}

/// The token in a token server's answer, which has it under either name or both.
fn read_token(reply: &[u8]) -> Result<String, RequestError> {
    #[derive(Deserialize)]
    struct Reply {
        #[serde(default)]
        token: Option<String>,
        #[serde(default)]
        access_token: Option<String>,
    }
    let reply: Reply = serde_json::from_slice(reply).map_err(|_| RequestError::NoToken)?;
    [reply.access_token, reply.token]
        .into_iter()
        .flatten()
        .find(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or(RequestError::NoToken)
}

#[cfg(test)]
mod tests;
