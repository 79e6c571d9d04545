//! Who there is: tenants with their quotas, the tokens they come with, the users of the host that they are.
//!
//! Shared by the API's door, the fleet and all actors. Invariants: a change is in the state before it counts; a token is
//! known by a digest only; what a quota allows is judged and counted under one lock, so that no two requests share
//! what is left for one.

pub mod principal;
pub mod quota;
pub mod rate;
pub mod token;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hull_protocol::api::{
    Amounts, HOST_TENANT, LIFETIME_MAX, NewToken, Resource, Scope, Tenant, TenantPatch, TenantSpec, Token,
    TokenSpec,
};

use self::principal::{Principal, Unknown, Who};
use self::quota::{OverQuota, fits};
use self::rate::Bucket;
use crate::clock::{self, rfc3339};
use crate::state::{State, StateError};

/// The longest name of a tenant, in bytes.
const NAME_MAX: usize = 63;
/// The most users of one tenant.
const UIDS_MAX: usize = 1024;
/// The most tokens of one tenant.
const TOKENS_MAX: usize = 1000;
/// The longest description of a token, in bytes.
const TOKEN_NAME_MAX: usize = 128;
/// How often the time of a token's last use is written down, in nanoseconds.
const USE_NOTED: u64 = 60_000_000_000;
/// The user that the kernel shows for one that it cannot name here (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65_534;

/// Why a tenant or a token could not be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// There is none.
    #[error("there is no tenant '{0}': 'hull tenant ls' lists all")]
    NotFound(String),
    /// There is no such token.
    #[error("there is no token '{0}': 'hull token ls' lists all")]
    NoToken(String),
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    /// It is in somebody's way.
    #[error("{0}")]
    Conflict(String),
    /// It could not be remembered.
    #[error(transparent)]
    State(#[from] StateError),
}

/// All tenants.
pub struct Tenants {
    /// The user that this daemon runs as.
    own: u32,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    tenants: BTreeMap<String, Known>,
    tokens: BTreeMap<String, (Token, token::Digest)>,
    uids: HashMap<u32, String>,
    /// What runs, by the number of its tally.
    running: HashMap<u64, (String, Amounts)>,
    last: u64,
}

struct Known {
    tenant: Tenant,
    requests: Bucket,
}

impl Known {
    fn new(tenant: Tenant) -> Self {
        Self { requests: Bucket::new(tenant.quotas.get(&Resource::Requests).copied()), tenant }
    }
}

/// What a running microVM counts against its tenant's quotas; given back when it is dropped.
pub struct Tally {
    number: u64,
    tenants: Arc<Tenants>,
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.tenants.lock().running.remove(&self.number);
    }
}

impl Inner {
    fn known(&self, name: &str) -> Result<&Known, TenantError> {
        self.tenants.get(name).ok_or_else(|| TenantError::NotFound(name.to_owned()))
    }

    fn of_tenant<'a>(&'a self, tenant: &'a str) -> impl Iterator<Item = &'a Amounts> {
        self.running.values().filter(move |(of, _)| of == tenant).map(|(_, amounts)| amounts)
    }

    fn put(&mut self, tenant: Tenant) {
        self.uids.retain(|_, of| *of != tenant.name);
        self.uids.extend(tenant.uids.iter().map(|uid| (*uid, tenant.name.clone())));
        self.tenants.insert(tenant.name.clone(), Known::new(tenant));
    }

    fn count(&mut self, tenant: &str, amounts: Amounts) -> u64 {
        self.last = self.last.saturating_add(1);
        self.running.insert(self.last, (tenant.to_owned(), amounts));
        self.last
    }
}

impl Tenants {
    /// Those that the state knows.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn load(state: &State) -> Result<Self, StateError> {
        let mut inner = Inner::default();
        state.tenants()?.into_iter().for_each(|tenant| inner.put(tenant));
        for (token, digest) in state.tokens()? {
            match token::Digest::parse(&digest) {
                Some(digest) => drop(inner.tokens.insert(token.id.clone(), (token, digest))),
                None => tracing::error!("the token {} in the state has no digest: it is not taken", token.id),
            }
        }
        Ok(Self { own: rustix::process::geteuid().as_raw(), inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every tenant, by name.
    pub fn list(&self) -> Vec<Tenant> {
        self.lock().tenants.values().map(|known| known.tenant.clone()).collect()
    }

    /// One tenant.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, name: &str) -> Result<Tenant, TenantError> {
        Ok(self.lock().known(name)?.tenant.clone())
    }

    /// Whether users other than the daemon's own may come over the unix socket.
    pub fn have_users(&self) -> bool {
        !self.lock().uids.is_empty()
    }

    /// Makes a tenant.
    ///
    /// # Errors
    /// When it cannot be, or there is one.
    pub fn create(&self, state: &State, spec: TenantSpec) -> Result<Tenant, TenantError> {
        check_name(&spec.name)?;
        let mut inner = self.lock();
        if inner.tenants.contains_key(&spec.name) {
            return Err(TenantError::Conflict(format!("there is a tenant {} already", spec.name)));
        }
        let tenant = Tenant {
            uids: self.users(&inner, &spec.name, spec.uids)?,
            name: spec.name,
            quotas: spec.quotas,
            created_at: Some(rfc3339(SystemTime::now())),
            used: Amounts::new(),
        };
        state.write_tenant(&tenant)?;
        inner.put(tenant.clone());
        Ok(tenant)
    }

    /// Changes a tenant. Quotas below what it has take nothing away: it gets no more.
    ///
    /// # Errors
    /// When it is not there, or cannot be so.
    pub fn update(&self, state: &State, name: &str, patch: TenantPatch) -> Result<Tenant, TenantError> {
        let mut inner = self.lock();
        let mut tenant = inner.known(name)?.tenant.clone();
        for (resource, amount) in patch.quotas {
            match amount {
                Some(amount) => tenant.quotas.insert(resource, amount),
                None => tenant.quotas.remove(&resource),
            };
        }
        if let Some(uids) = patch.uids {
            tenant.uids = self.users(&inner, name, uids)?;
        }
        state.write_tenant(&tenant)?;
        inner.put(tenant.clone());
        Ok(tenant)
    }

    /// Removes a tenant that has nothing any more, and its tokens.
    ///
    /// # Errors
    /// When it has, or is not there.
    pub fn remove(&self, state: &State, name: &str) -> Result<(), TenantError> {
        let mut inner = self.lock();
        inner.known(name)?;
        if name == HOST_TENANT {
            return Err(TenantError::Conflict("the tenant default is the host's own: it stays".into()));
        }
        if let Err((microvms, networks, volumes)) = state.remove_tenant(name)? {
            return Err(TenantError::Conflict(format!(
                "the tenant {name} has {microvms} microVMs, {networks} networks and {volumes} volumes: remove those first \
                 ('hull --tenant {name} ps -a', '... network ls', '... volume ls')"
            )));
        }
        inner.tenants.remove(name);
        inner.tokens.retain(|_, (token, _)| token.tenant != name);
        inner.uids.retain(|_, of| of != name);
        Ok(())
    }

    /// Users as they are to be a tenant's, checked.
    fn users(&self, inner: &Inner, name: &str, mut uids: Vec<u32>) -> Result<Vec<u32>, TenantError> {
        uids.sort_unstable();
        uids.dedup();
        if uids.len() > UIDS_MAX {
            return Err(TenantError::Invalid(format!("a tenant can have {UIDS_MAX} users at most")));
        }
        for uid in &uids {
            if [0, self.own, NOBODY, u32::MAX].contains(uid) {
                return Err(TenantError::Invalid(format!(
                    "the user {uid} cannot be a tenant's: root and the daemon's own user are the host's, {NOBODY} is nobody"
                )));
            }
            if let Some(of) = inner.uids.get(uid).filter(|of| *of != name) {
                return Err(TenantError::Conflict(format!("the user {uid} is the tenant {of}'s already")));
            }
        }
        Ok(uids)
    }

    /// Makes a token.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn create_token(
        &self,
        state: &State,
        tenant: &str,
        spec: TokenSpec,
    ) -> Result<NewToken, TenantError> {
        if spec.name.chars().count() > TOKEN_NAME_MAX || spec.name.chars().any(char::is_control) {
            return Err(TenantError::Invalid(format!(
                "a token's name has {TOKEN_NAME_MAX} characters at most, and no control characters"
            )));
        }
        let now = clock::unix_ns();
        let end = |seconds: u64| {
            let fits = (1..=LIFETIME_MAX).contains(&seconds);
            let end = seconds.checked_mul(1_000_000_000).and_then(|ns| now.checked_add(ns)).filter(|_| fits);
            end.ok_or_else(|| TenantError::Invalid("a token's lifetime is 1 second to a century".into()))
        };
        let end = spec.lifetime.map(end).transpose()?;
        let mut inner = self.lock();
        inner.known(tenant)?;
        if inner.tokens.values().filter(|(token, _)| token.tenant == tenant).count() >= TOKENS_MAX {
            return Err(TenantError::Conflict(format!(
                "a tenant can have {TOKENS_MAX} tokens at most: remove some"
            )));
        }
        let (id, secret, digest) = token::make();
        let token = Token {
            id: id.clone(),
            tenant: tenant.to_owned(),
            name: spec.name,
            scope: spec.scope,
            created_at: rfc3339(SystemTime::now()),
            expires_at: end.map(clock::rfc3339_nanos),
            last_used_at: None,
        };
        state.write_token(&token, &digest.to_string())?;
        inner.tokens.insert(id, (token.clone(), digest));
        Ok(NewToken { secret, token })
    }

    /// A tenant's tokens, by id.
    pub fn tokens(&self, tenant: &str) -> Vec<Token> {
        let inner = self.lock();
        inner
            .tokens
            .values()
            .map(|(token, _)| token)
            .filter(|token| token.tenant == tenant)
            .cloned()
            .collect()
    }

    /// Removes a tenant's token.
    ///
    /// # Errors
    /// When it has none with this id.
    pub fn remove_token(&self, state: &State, tenant: &str, id: &str) -> Result<(), TenantError> {
        let mut inner = self.lock();
        if inner.tokens.get(id).is_none_or(|(token, _)| token.tenant != tenant) {
            return Err(TenantError::NoToken(id.to_owned()));
        }
        state.remove_token(id)?;
        inner.tokens.remove(id);
        Ok(())
    }

    /// Whom a user of the host is.
    pub fn of_user(&self, uid: u32) -> Result<Principal, Unknown> {
        let tenant = if uid == 0 || uid == self.own {
            HOST_TENANT.to_owned()
        } else {
            self.lock().uids.get(&uid).cloned().ok_or(Unknown::User(uid))?
        };
        Ok(Principal::new(&tenant, Scope::Admin, Who::User(uid)))
    }

    /// Whose a token is.
    pub fn of_token(&self, state: &State, text: &str) -> Result<Principal, Unknown> {
        let (id, secret) = token::split(text).ok_or(Unknown::Token)?;
        let now = clock::unix_ns();
        let mut inner = self.lock();
        let (token, digest) = inner.tokens.get_mut(id).ok_or(Unknown::Token)?;
        if !digest.is_of(secret) {
            return Err(Unknown::Token);
        }
        if ended(token, now) {
            return Err(Unknown::Expired(token.id.clone()));
        }
        let used = token.last_used_at.as_deref().and_then(clock::parse).unwrap_or(0);
        if now.saturating_sub(used) >= USE_NOTED {
            token.last_used_at = Some(rfc3339(SystemTime::now()));
            // It is good all the same.
            if let Err(error) = state.write_token(token, &digest.to_string()) {
                tracing::warn!("the use of the token {} is not noted: {error}", token.id);
            }
        }
        Ok(Principal::new(&token.tenant, token.scope, Who::Token(token.id.clone())))
    }

    /// Whether somebody still is who they were.
    pub fn still_hold(&self, principal: &Principal) -> bool {
        let now = match &principal.who {
            Who::User(uid) => self.of_user(*uid).ok(),
            Who::Token(id) => self.lock().tokens.get(id).and_then(|(token, _)| {
                let good = !ended(token, clock::unix_ns());
                good.then(|| Principal::new(&token.tenant, token.scope, principal.who.clone()))
            }),
        };
        now.is_some_and(|now| now.administers || now.tenant == principal.tenant)
    }

    /// Lets a request of a tenant's pass, or says how long it is to wait.
    pub fn request(&self, tenant: &str) -> Result<(), Duration> {
        match self.lock().tenants.get_mut(tenant) {
            Some(known) => known.requests.take(Instant::now()),
            None => Ok(()),
        }
    }

    /// Judges what a tenant wants to have, of what it has.
    ///
    /// # Errors
    /// What would be too much.
    pub fn admit(&self, tenant: &str, used: &Amounts, wanted: &Amounts) -> Result<(), OverQuota> {
        match self.lock().tenants.get(tenant) {
            Some(known) => fits(&known.tenant.quotas, used, wanted),
            None => Ok(()),
        }
    }

    /// Judges what a tenant wants to run, and counts it until it is dropped.
    ///
    /// # Errors
    /// What would be too much.
    pub fn start(self: &Arc<Self>, tenant: &str, wanted: Amounts) -> Result<Tally, OverQuota> {
        let mut inner = self.lock();
        let used = quota::sum(inner.of_tenant(tenant));
        if let Some(known) = inner.tenants.get(tenant) {
            fits(&known.tenant.quotas, &used, &wanted)?;
        }
        let number = inner.count(tenant, wanted);
        Ok(Tally { number, tenants: self.clone() })
    }

    /// Counts what runs already, whatever the quotas say.
    pub fn runs(self: &Arc<Self>, tenant: &str, amounts: Amounts) -> Tally {
        Tally { number: self.lock().count(tenant, amounts), tenants: self.clone() }
    }

    /// What of a tenant runs.
    pub fn running(&self, tenant: &str) -> Amounts {
        quota::sum(self.lock().of_tenant(tenant))
    }
}

fn ended(token: &Token, now: u64) -> bool {
    // One whose end is not understood has ended.
    token.expires_at.as_deref().is_some_and(|end| clock::parse(end).is_none_or(|end| now >= end))
}

fn check_name(name: &str) -> Result<(), TenantError> {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| letter(byte) || byte == b'-')
        && name.bytes().next().is_some_and(letter);
    if fits {
        return Ok(());
    }
    Err(TenantError::Invalid(format!(
        "'{name}' is no name of a tenant: use up to {NAME_MAX} lower-case letters, digits and '-', the first a letter or digit"
    )))
}

#[cfg(test)]
mod tests;
