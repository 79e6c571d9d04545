//! The nouns of `/v1/tenants`, `/v1/tokens` and `/v1/audit`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::trace::TraceId;

/// The tenant that is always there: the host's own. Its admins administer the host.
pub const HOST_TENANT: &str = "default";

pub(super) fn host_tenant() -> String {
    HOST_TENANT.into()
}

/// What a tenant can have so much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// MicroVMs that exist.
    Microvms,
    /// Virtual CPUs of microVMs that run.
    Cpus,
    /// Memory of guests that run, in bytes.
    Memory,
    /// The largest that the writable disks of microVMs and volumes may grow to, and images, in bytes.
    Disk,
    /// Networks that exist.
    Networks,
    /// Volumes that exist.
    Volumes,
    /// Published ports of microVMs that exist.
    Ports,
    /// Requests to the API in a second; twice as many may come at once.
    Requests,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Microvms => "microVMs",
            Self::Cpus => "running virtual CPUs",
            Self::Memory => "bytes of running guests' memory",
            Self::Disk => "bytes of disk",
            Self::Networks => "networks",
            Self::Volumes => "volumes",
            Self::Ports => "published ports",
            Self::Requests => "requests in a second",
        })
    }
}

/// So much of each; what is missing is not limited, or not used.
pub type Amounts = BTreeMap<Resource, u64>;

/// `POST /v1/tenants`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TenantSpec {
    /// Its name: up to 63 lower-case letters, digits and `-`, the first a letter or digit.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[a-z0-9][a-z0-9-]{0,62}$")))]
    pub name: String,
    /// The most it may have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("propertyNames" = {"$ref": "#/components/schemas/Resource"})))]
    pub quotas: Amounts,
    /// Users of the host who are this tenant's admins when they come over the unix socket.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uids: Vec<u32>,
}

/// `PATCH /v1/tenants/{name}`: what is missing stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TenantPatch {
    /// Quotas that are set, or, with null, taken away.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("propertyNames" = {"$ref": "#/components/schemas/Resource"})))]
    pub quotas: BTreeMap<Resource, Option<u64>>,
    /// All its users from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uids: Option<Vec<u32>>,
}

/// One tenant. Times are RFC 3339, UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// The most it may have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("propertyNames" = {"$ref": "#/components/schemas/Resource"})))]
    pub quotas: Amounts,
    /// Users of the host who are its admins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uids: Vec<u32>,
    /// When it was made; missing for the host's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// What it has now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "schema", schemars(extend("propertyNames" = {"$ref": "#/components/schemas/Resource"})))]
    pub used: Amounts,
}

/// What may be done; each of these includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Look at everything.
    Read,
    /// Make, change, reach into and remove microVMs, images and networks.
    Operate,
    /// Also the tenant's tokens; for the host's own tenant: everything.
    Admin,
}

/// The longest that a token is good for, in seconds: a century.
pub const LIFETIME_MAX: u64 = 100 * 365 * 24 * 60 * 60;

/// `POST /v1/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenSpec {
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(length(max = 128), regex(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$"))
    )]
    pub name: String,
    /// What it is good for.
    pub scope: Scope,
    /// How long, in seconds; without an end when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = LIFETIME_MAX)))]
    pub lifetime: Option<u64>,
}

/// One token, without what is secret of it. Times are RFC 3339, UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Token {
    /// 16 hexadecimal digits, which are part of the token itself.
    pub id: String,
    /// Whose it is.
    pub tenant: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What it is good for.
    pub scope: Scope,
    /// When it was made.
    pub created_at: String,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// When it was last used, to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
}

/// The answer to `POST /v1/tokens`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NewToken {
    /// The token itself, for `Authorization: Bearer`; it is shown this once.
    pub secret: String,
    /// What is remembered of it.
    #[serde(flatten)]
    pub token: Token,
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken").field("token", &self.token).finish_non_exhaustive()
    }
}

/// One line of the audit log: who did what to which object, when, with which result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuditEntry {
    /// Its number: later ones are higher.
    pub id: u64,
    /// When it was answered, RFC 3339, UTC.
    pub time: String,
    /// `uid:` and a user of the host, `token:` and its id, or `nobody`.
    pub who: String,
    /// The tenant for which it was asked; missing where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Where it came from: `unix`, or an address.
    pub from: String,
    /// The method, or `connect` where there was no request.
    pub action: String,
    /// What it was done to: the path, without the query.
    pub object: String,
    /// The path of what was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<String>,
    /// The status of the answer; 0 where there was none.
    pub status: u16,
    /// The request's trace, by which logs have more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceId>,
}
