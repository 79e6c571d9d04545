//! Which daemon is meant, and what it is told about who asks: flags, then the environment, then the user's own daemon.
//!
//! Owner: the command line. Invariant: a token goes nowhere but to the daemon that the user has named, over TLS or within
//! this host.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::endpoint::{Endpoint, Tls};

/// The longest token that is read, in bytes.
const TOKEN_MAX: u64 = 4096;

/// The daemon and who asks it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Host {
    /// The daemon: unix:///run/hull/hull.sock or https://HOST:PORT; else HULL_HOST, else your own daemon, which is
    /// started when it does not run
    #[arg(short = 'H', long, value_name = "HOST")]
    host: Option<String>,
    /// A file with the token to come with; else HULL_TOKEN_FILE
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificates to trust, in PEM; else ca.pem in HULL_CERT_PATH, else the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Your own certificate, in PEM; else cert.pem in HULL_CERT_PATH
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key, in PEM; else key.pem in HULL_CERT_PATH
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The tenant to act for, if you administer the host; else HULL_TENANT
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Host {
    /// Where the daemon is that the user has named; none: the user's own.
    pub(super) fn endpoint(&self) -> Result<Option<Endpoint>> {
        let host = self.host.clone().filter(|host| !host.is_empty()).or_else(|| variable("HULL_HOST"));
        host.map(|host| self.parse(&host)).transpose()
    }

    fn parse(&self, host: &str) -> Result<Endpoint> {
        if let Some(path) = host.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Ok(Endpoint::Unix(path.into()));
        }
        let (tls, rest) = match host.split_once("://") {
            Some(("https" | "tcp", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => bail!(
                "the host '{host}' is not understood: write unix:///path/to/hull.sock or https://HOST:PORT"
            ),
        };
        let authority = rest.trim_end_matches('/');
        let (name, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
        let port: u16 = port
            .parse()
            .with_context(|| format!("the host '{host}' has no port: write https://HOST:PORT"))?;
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        if name.is_empty() || name.contains(['/', '@', '?', '#']) {
            bail!("the host '{host}' is not understood: write https://HOST:PORT");
        }
        if tls {
            return Ok(Endpoint::Tcp { name, port, tls: Some(self.tls()?) });
        }
        let local =
            name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        if !local {
            bail!("without TLS only this host can be spoken to: write https://{authority}");
        }
        Ok(Endpoint::Tcp { name, port, tls: None })
    }

    fn tls(&self) -> Result<Tls> {
        let directory = variable("HULL_CERT_PATH").map(PathBuf::from);
        let there = |name: &str| directory.as_ref().map(|dir| dir.join(name)).filter(|path| path.exists());
        let ca = self.ca.clone().or_else(|| there("ca.pem"));
        let own = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            _ => there("cert.pem").zip(there("key.pem")),
        };
        Tls::new(ca.as_deref(), own.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path())))
    }

    /// What every request has besides. The environment's token is for a daemon that is `named`.
    pub(super) fn headers(&self, named: bool) -> Result<Vec<(&'static str, String)>> {
        let mut headers = Vec::new();
        let variable_file = || variable("HULL_TOKEN_FILE").filter(|_| named).map(PathBuf::from);
        let file = self.token_file.clone().or_else(variable_file);
        if let Some(file) = file {
            headers.push(("authorization", format!("Bearer {}", token(&file)?)));
        }
        headers.extend(
            self.tenant.clone().or_else(|| variable("HULL_TENANT")).map(|name| ("hull-tenant", name)),
        );
        Ok(headers)
    }
}

fn token(file: &Path) -> Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(TOKEN_MAX).read_to_string(&mut text));
    read.with_context(|| format!("the token in {} cannot be read", file.display()))?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("there is no token in {}", file.display());
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]
    use super::*;

    #[test]
    fn hosts_are_unix_sockets_or_speak_tls() {
        let parse = |host: &str| Host::default().parse(host);
        assert!(
            matches!(parse("unix:///run/x.sock").unwrap(), Endpoint::Unix(path) if path == Path::new("/run/x.sock"))
        );
        for local in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1/"] {
            assert!(matches!(parse(local).unwrap(), Endpoint::Tcp { tls: None, port: 1, .. }), "{local}");
        }
        for bad in [
            "http://192.0.2.1:1",
            "http://example.org:1",
            "https://example.org",
            "https://:1",
            "https://a@b:1",
            "unix://",
            "unix://relative",
            "/run/x.sock",
            "ssh://host:1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_is_one_word() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "hull_12\n").unwrap();
        assert_eq!(token(&file).unwrap(), "hull_12");
        for bad in ["", "\n", "a b", "a\r\nX: y"] {
            std::fs::write(&file, bad).unwrap();
            assert!(token(&file).is_err(), "{bad:?}");
        }
    }
}
