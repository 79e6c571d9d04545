//! The image policy: which images a tenant may bring to this host, by where they are from and by who signed them.
//!
//! Read from a file when the daemon starts; nothing changes it. Invariant: an image comes into a tenant's hands only by
//! a pull or an import that was judged here. Without a policy anybody may bring anything.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use hull_image::{Key, KeyError, repository_of};
use serde::Deserialize;

/// The longest policy or key that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file cannot be read.
    #[error("reading {0}")]
    Read(PathBuf, #[source] io::Error),
    /// It is not what a policy looks like.
    #[error("{0} is no image policy")]
    Parse(PathBuf, #[source] serde_json::Error),
    /// A key in it is none.
    #[error("{0}")]
    Key(PathBuf, #[source] KeyError),
}

/// Why a tenant may not bring an image.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// No rule lets it.
    #[error(
        "the image policy of this host does not let tenant '{tenant}' bring {repository}: ask its administrator"
    )]
    Refused {
        /// Who.
        tenant: String,
        /// What, with its registry.
        repository: String,
    },
    /// It has to be pulled, because files carry no signature.
    #[error(
        "the image policy of this host wants {0} signed: pull it from its registry, or import it under another name"
    )]
    Imported(String),
}

/// The policy of a host.
#[derive(Debug)]
pub struct Policy {
    tenants: BTreeMap<String, Vec<Rule>>,
    others: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    images: String,
    accept: Accept,
}

#[derive(Debug)]
enum Accept {
    Any,
    Nothing,
    SignedBy(Vec<Key>),
}

/// What has to be true of an image that may be pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// Nothing.
    Anything,
    /// One of these keys signed it.
    SignedBy(&'a [Key]),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    #[serde(default)]
    tenants: BTreeMap<String, Vec<RuleFile>>,
    others: Vec<RuleFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    images: String,
    accept: AcceptFile,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum AcceptFile {
    Any,
    Nothing,
    SignedBy(Vec<PathBuf>),
}

impl Default for Policy {
    fn default() -> Self {
        Self { tenants: BTreeMap::new(), others: vec![Rule { images: "*".to_owned(), accept: Accept::Any }] }
    }
}

impl Policy {
    /// Reads a policy, and the keys that it names, with paths from where it is.
    ///
    /// # Errors
    /// A file cannot be read, or says something else.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let file: PolicyFile =
            serde_json::from_str(&read(path)?).map_err(|error| PolicyError::Parse(path.to_owned(), error))?;
        let directory = path.parent().unwrap_or(Path::new("."));
        let rules = |rules: Vec<RuleFile>| {
            rules.into_iter().map(|rule| rule.load(directory)).collect::<Result<_, _>>()
        };
        let tenants = file.tenants.into_iter().map(|(tenant, listed)| Ok((tenant, rules(listed)?)));
        Ok(Self { tenants: tenants.collect::<Result<_, PolicyError>>()?, others: rules(file.others)? })
    }

    /// What an image must be that this tenant wants to pull.
    ///
    /// # Errors
    /// It may not pull it at all.
    pub fn pull(&self, tenant: &str, reference: &str) -> Result<Wanted<'_>, Untrusted> {
        // A name that only an import can have stands for itself.
        let repository = repository_of(reference).unwrap_or_else(|| reference.to_owned());
        let rules = self.tenants.get(tenant).unwrap_or(&self.others);
        match rules.iter().find(|rule| rule.is_for(&repository)).map(|rule| &rule.accept) {
            Some(Accept::Any) => Ok(Wanted::Anything),
            Some(Accept::SignedBy(keys)) => Ok(Wanted::SignedBy(keys)),
            Some(Accept::Nothing) | None => Err(Untrusted::Refused { tenant: tenant.to_owned(), repository }),
        }
    }

    /// Whether this tenant may import an image under this name.
    ///
    /// # Errors
    /// It may not.
    pub fn import(&self, tenant: &str, name: &str) -> Result<(), Untrusted> {
        match self.pull(tenant, name)? {
            Wanted::Anything => Ok(()),
            Wanted::SignedBy(_) => Err(Untrusted::Imported(name.to_owned())),
        }
    }
}

impl RuleFile {
    fn load(self, directory: &Path) -> Result<Rule, PolicyError> {
        let key = |path: PathBuf| {
            let path = directory.join(path);
            Key::from_pem(&read(&path)?).map_err(|error| PolicyError::Key(path, error))
        };
        let accept = match self.accept {
            AcceptFile::Any => Accept::Any,
            AcceptFile::Nothing => Accept::Nothing,
            AcceptFile::SignedBy(keys) => {
                Accept::SignedBy(keys.into_iter().map(key).collect::<Result<_, _>>()?)
            }
        };
        Ok(Rule { images: self.images, accept })
    }
}

impl Rule {
    /// Whether it speaks of a repository: `*` is any, else it is the name or a beginning of it that ends at a slash.
    fn is_for(&self, repository: &str) -> bool {
        let rest = repository.strip_prefix(self.images.trim_end_matches('/'));
        self.images == "*" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn read(path: &Path) -> Result<String, PolicyError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
    read.map(|_| text).map_err(|error| PolicyError::Read(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use std::fs;

    use super::*;

    const KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEn7Op/8PDBYOFCjkjH1EyYus+UNY/
+Wn9t/uH8Xx05ja129/GeTWMLR72lFkL4oQ5u5EdJQ+Xg4lB06fm1AjOAQ==
-----END PUBLIC KEY-----
";

    fn policy(text: &str) -> Result<Policy, PolicyError> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("team.pub"), KEY).unwrap();
        fs::write(dir.path().join("policy.json"), text).unwrap();
        Policy::load(&dir.path().join("policy.json"))
    }

    /// `any`, `signed`, or `no`.
    fn verdict(policy: &Policy, tenant: &str, reference: &str) -> &'static str {
        match policy.pull(tenant, reference) {
            Ok(Wanted::Anything) => "any",
            Ok(Wanted::SignedBy(keys)) => {
                assert_eq!(keys, [Key::from_pem(KEY).unwrap()]);
                "signed"
            }
            Err(_) => "no",
        }
    }

    #[test]
    fn the_first_rule_that_speaks_of_an_image_decides() {
        let policy = policy(
            r#"{"tenants": {"acme": [
                    {"images": "docker.io/library/busybox", "accept": "any"},
                    {"images": "registry.test/acme/", "accept": {"signed_by": ["team.pub"]}},
                    {"images": "registry.test", "accept": "nothing"},
                    {"images": "registry.test/late", "accept": "any"}]},
                "others": [{"images": "*", "accept": {"signed_by": ["team.pub"]}}]}"#,
        )
        .unwrap();
        for (tenant, reference, expected) in [
            ("acme", "busybox", "any"),
            ("acme", "busybox:1.36", "any"),
            ("acme", "busybox-of-mine", "no"),
            ("acme", "library/busybox", "any"),
            ("acme", "registry.test/acme/app:1", "signed"),
            ("acme", "registry.test/acme", "signed"),
            ("acme", "registry.test/acmes/app", "no"),
            ("acme", "registry.test/late", "no"),
            ("acme", "debian", "no"),
            ("acme", "not a reference", "no"),
            ("other", "busybox", "signed"),
        ] {
            assert_eq!(verdict(&policy, tenant, reference), expected, "{tenant} {reference}");
        }
        assert!(policy.import("acme", "busybox").is_ok());
        assert!(matches!(policy.import("acme", "registry.test/acme/app"), Err(Untrusted::Imported(_))));
        assert!(matches!(policy.import("acme", "debian"), Err(Untrusted::Refused { .. })));
    }

    #[test]
    fn without_a_policy_anything_goes_and_with_an_empty_one_nothing() {
        assert_eq!(verdict(&Policy::default(), "acme", "busybox"), "any");
        assert_eq!(verdict(&policy(r#"{"others": []}"#).unwrap(), "acme", "busybox"), "no");
    }

    #[test]
    fn a_broken_policy_says_what_is_broken() {
        assert!(matches!(policy("{}"), Err(PolicyError::Parse(..))));
        let rule = |accept: &str| format!(r#"{{"others": [{{"images": "*", "accept": {accept}}}]}}"#);
        assert!(matches!(policy(&rule(r#""some""#)), Err(PolicyError::Parse(..))));
        assert!(matches!(policy(&rule(r#"{"signed_by": ["other.pub"]}"#)), Err(PolicyError::Read(..))));
        assert!(matches!(policy(&rule(r#"{"signed_by": ["policy.json"]}"#)), Err(PolicyError::Key(..))));
        assert!(matches!(Policy::load(Path::new("/nonexistent")), Err(PolicyError::Read(..))));
    }
}
