//! On whose behalf a request is made. Plain data, made by the API's door alone.

use std::fmt;
use std::sync::Arc;

use hull_protocol::api::{HOST_TENANT, Scope};

/// Who somebody has shown to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A user of the host, as the kernel says (`SO_PEERCRED`).
    User(u32),
    /// Whoever has this token, by its id.
    Token(String),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(uid) => write!(f, "uid:{uid}"),
            Self::Token(id) => write!(f, "token:{id}"),
        }
    }
}

/// Who asks, for which tenant, and what that one may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The tenant whose things are asked for.
    pub tenant: Arc<str>,
    /// What may be done.
    pub scope: Scope,
    /// Who asks.
    pub who: Who,
    /// Whether the host itself may be administered.
    pub administers: bool,
}

impl Principal {
    /// One of this tenant's.
    pub fn new(tenant: &str, scope: Scope, who: Who) -> Self {
        let administers = tenant == HOST_TENANT && scope == Scope::Admin;
        Self { tenant: tenant.into(), scope, who, administers }
    }

    /// The same, acting for another tenant.
    pub fn acting_for(self, tenant: &str) -> Self {
        Self { tenant: tenant.into(), ..self }
    }
}

/// Why somebody is nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No tenant's user.
    #[error(
        "the user {0} is no tenant's: have root bind it to one ('hull tenant create NAME --uid {0}'), or come with a token"
    )]
    User(u32),
    /// Nobody's token.
    #[error("this token is nobody's: it is not written right, or it or its tenant has been removed")]
    Token,
    /// A token that has ended.
    #[error("the token {0} has expired: get another")]
    Expired(String),
    /// No token came.
    #[error("a token is needed: send it as 'Authorization: Bearer TOKEN' ('hull --token-file FILE')")]
    Missing,
    /// What came is no token.
    #[error("one header 'Authorization: Bearer TOKEN' is understood, and nothing else")]
    Malformed,
}
