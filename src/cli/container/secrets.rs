//! The flag for secrets: what each is, and where its value comes from.
//!
//! Invariant: a value is read once, goes into one request, and into nothing that is printed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use hull_protocol::secret::{SECRET_MAX, SECRETS_PLACE, SecretSpec, SecretValue};
use hull_protocol::units::Bytes;

use super::mounts::octal;
use crate::client::{Body, Client, escape, microvm_path};

/// A container's secrets, as flags.
#[derive(Debug, Args)]
#[command(next_help_heading = "Secrets")]
pub(in crate::cli) struct Secrets {
    /// Secret, a file in the container's memory: id=NAME,src=FILE or id=NAME,env=VARIABLE, and, if wanted,
    /// [,target=PATH][,mode=0444][,uid=N][,gid=N]; it is /run/secrets/NAME when there is no target; src=- is standard
    /// input; may be repeated
    #[arg(long, value_name = "id=NAME,...")]
    secret: Vec<String>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    Variable(String),
    Stdin,
}

/// Secrets that have been read.
pub(in crate::cli) struct Values(Vec<(String, SecretValue)>);

impl Secrets {
    /// What is said of them to everybody.
    pub(super) fn spec(&self) -> Result<Vec<SecretSpec>> {
        Ok(self.parsed()?.into_iter().map(|(spec, _)| spec).collect())
    }

    /// Their values; `stdin`: standard input is the container's own.
    pub(in crate::cli) fn read(&self, stdin: bool) -> Result<Values> {
        let all = self.parsed()?;
        let from_stdin = all.iter().filter(|(_, source)| *source == Source::Stdin).count();
        if from_stdin > usize::from(!stdin) {
            bail!("standard input can be one thing only: use src=- once, and without -i");
        }
        let values = all.into_iter().map(|(spec, source)| {
            let value = read(&source, |name| std::env::var_os(name));
            let value = value.with_context(|| format!("the secret {}", spec.name))?;
            Ok((spec.name, value))
        });
        Ok(Values(values.collect::<Result<_>>()?))
    }

    /// Values alone, for a microVM that has been made.
    pub(in crate::cli) fn read_again(&self, stdin: bool) -> Result<Values> {
        for (spec, _) in self.parsed()? {
            if spec != (SecretSpec { name: spec.name.clone(), ..SecretSpec::default() }) {
                bail!(
                    "where the secret {} is found was said when the microVM was made: leave all but id and src or env out",
                    spec.name
                );
            }
        }
        self.read(stdin)
    }

    fn parsed(&self) -> Result<Vec<(SecretSpec, Source)>> {
        let parse = |text: &String| secret(text).with_context(|| format!("--secret {text}"));
        let all: Vec<_> = self.secret.iter().map(parse).collect::<Result<_>>()?;
        let names: BTreeSet<&str> = all.iter().map(|(spec, _)| spec.name.as_str()).collect();
        if names.len() < all.len() {
            bail!("two secrets have the same id: leave one out");
        }
        Ok(all)
    }
}

impl Values {
    /// Gives them to a microVM.
    pub(in crate::cli) async fn give(&self, client: &Client, microvm: &str) -> Result<()> {
        for (name, value) in &self.0 {
            let path = microvm_path(microvm, &format!("/secrets/{}", escape(name)));
            client
                .put(&path, Body::bytes(value.reveal().to_vec()))
                .await
                .with_context(|| format!("the secret {name} cannot be given"))?;
        }
        Ok(())
    }
}

/// `id=NAME,src=FILE,...`, as Docker's builds and services have it.
fn secret(text: &str) -> Result<(SecretSpec, Source)> {
    let (mut spec, mut id, mut sources) = (SecretSpec::default(), None, Vec::new());
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        if value.is_empty() {
            bail!("{key} needs a value: write {key}=VALUE");
        }
        match key {
            "id" => id = Some(value.to_owned()),
            "src" | "source" if value == "-" => sources.push(Source::Stdin),
            "src" | "source" => sources.push(Source::File(value.into())),
            "env" => sources.push(Source::Variable(value.to_owned())),
            "target" | "dst" | "destination" => spec.target = Some(placed(value)),
            "mode" => spec.mode = Some(octal(value)?),
            "uid" => spec.uid = Some(number(key, value)?),
            "gid" => spec.gid = Some(number(key, value)?),
            other => bail!("there is no key '{other}': use id, src, env, target, mode, uid and gid"),
        }
    }
    spec.name = id.context("it has no name: write id=NAME")?;
    match (sources.pop(), sources.is_empty()) {
        (Some(source), true) => Ok((spec, source)),
        (Some(_), false) => bail!("its value can come from one place only: write src=FILE or env=VARIABLE"),
        (None, _) => bail!("where its value comes from is missing: write src=FILE or env=VARIABLE"),
    }
}

/// As for Docker's services: what does not begin at the root is below the place of secrets.
fn placed(target: &str) -> String {
    if target.starts_with('/') { target.to_owned() } else { format!("{SECRETS_PLACE}/{target}") }
}

fn number(key: &str, value: &str) -> Result<u32> {
    value.parse().ok().with_context(|| format!("{key} is a number, not '{value}'"))
}

fn read(source: &Source, lookup: impl Fn(&str) -> Option<OsString>) -> Result<SecretValue> {
    let bytes = match source {
        Source::File(path) => {
            let read = File::open(path).and_then(bounded);
            read.with_context(|| format!("the file {} cannot be read", path.display()))?
        }
        Source::Stdin => bounded(io::stdin()).context("standard input cannot be read")?,
        Source::Variable(name) => {
            lookup(name).with_context(|| format!("there is no environment variable {name}"))?.into_vec()
        }
    };
    let most = Bytes(SECRET_MAX as u64);
    SecretValue::new(bytes).with_context(|| format!("it is too long: a secret has {most} at most"))
}

/// As much as a secret can have, and a byte more, to be refused.
fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(SECRET_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    fn named(name: &str) -> SecretSpec {
        SecretSpec { name: name.into(), ..SecretSpec::default() }
    }

    #[test]
    fn secrets_are_read_key_by_key() {
        let file = Source::File("f=1".into());
        let at = |target: &str| SecretSpec { target: Some(target.into()), ..named("db") };
        for (text, expected) in [
            ("id=db,src=f=1", (named("db"), file.clone())),
            ("source=-,id=db", (named("db"), Source::Stdin)),
            ("id=db,env=PASSWORD", (named("db"), Source::Variable("PASSWORD".into()))),
            ("id=db,src=f=1,target=/etc/key", (at("/etc/key"), file.clone())),
            ("id=db,src=f=1,dst=key", (at("/run/secrets/key"), file.clone())),
            (
                "id=db,src=f=1,mode=0400,uid=33,gid=34",
                (SecretSpec { mode: Some(0o400), uid: Some(33), gid: Some(34), ..named("db") }, file.clone()),
            ),
        ] {
            assert_eq!(secret(text).unwrap(), expected, "{text}");
        }
        for bad in [
            "",
            "db",
            "id=db",
            "id=,src=f",
            "src=f",
            "id=db,src=f,env=A",
            "id=db,src=-,src=f",
            "id=db,src=f,mode=9",
            "id=db,src=f,uid=root",
            "id=db,src=f,colour=red",
        ] {
            assert!(secret(bad).is_err(), "{bad}");
        }
        let twice = Secrets { secret: vec!["id=a,env=A".into(), "id=a,env=B".into()] };
        assert!(twice.spec().unwrap_err().to_string().contains("same id"));
        let again = Secrets { secret: vec!["id=a,env=PATH,uid=1".into()] };
        assert!(again.read_again(false).is_err() && again.read(false).is_ok());
    }

    #[test]
    fn values_are_read_up_to_their_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let none = |_: &str| None;
        let of = |size: usize| {
            std::fs::write(&path, vec![b'x'; size]).unwrap();
            read(&Source::File(path.clone()), none)
        };
        assert_eq!(of(SECRET_MAX).unwrap().reveal().len(), SECRET_MAX);
        assert!(of(SECRET_MAX + 1).unwrap_err().to_string().contains("512 KiB at most"));
        let lookup = |name: &str| (name == "A").then(|| "b\n".into());
        assert_eq!(read(&Source::Variable("A".into()), lookup).unwrap().reveal(), b"b\n");
        assert!(read(&Source::Variable("B".into()), lookup).is_err());
        assert!(read(&Source::File(dir.path().join("none")), none).is_err());
        let two = Secrets { secret: vec!["id=a,src=-".into(), "id=b,src=-".into()] };
        assert!(two.read(false).is_err());
        let one = Secrets { secret: vec!["id=a,src=-".into()] };
        assert!(one.read(true).err().unwrap().to_string().contains("without -i"));
    }
}
