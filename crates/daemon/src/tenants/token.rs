//! Tokens: an id by which one is found, and a secret that nobody keeps.
//!
//! Pure but for the randomness. A token is `hull_`, 16 and 64 hexadecimal digits: the secret has 256 bits, so that one
//! round of SHA-256 hides it as well as many would. Invariant: secrets are compared by their digests, in a time that
//! does not depend on them.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use crate::fleet::new_id;

const PREFIX: &str = "hull_";
const ID_LEN: usize = 16;
const SECRET_LEN: usize = 64;

/// What is kept of a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// Whether it is this secret's.
    pub fn is_of(&self, secret: &str) -> bool {
        self.0.ct_eq(&Self::of(secret).0).into()
    }

    /// Reads what was written by [`fmt::Display`].
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest")
    }
}

/// A new token: its id, the token itself, and what to keep.
pub fn make() -> (String, String, Digest) {
    let id: String = new_id().chars().take(ID_LEN).collect();
    let secret = new_id() + &new_id();
    let digest = Digest::of(&secret);
    let token = format!("{PREFIX}{id}{secret}");
    (id, token, digest)
}

/// The id and the secret of a text that may be a token.
pub fn split(text: &str) -> Option<(&str, &str)> {
    let digits = text.strip_prefix(PREFIX)?;
    let plain = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (plain && digits.len() == ID_LEN + SECRET_LEN).then(|| digits.split_at_checked(ID_LEN))?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    #[test]
    fn a_token_is_known_by_its_digest_alone() {
        let (id, token, digest) = make();
        let (found, secret) = split(&token).unwrap();
        assert_eq!((found, secret.len()), (id.as_str(), 64));
        assert!(digest.is_of(secret) && !digest.is_of(&secret.replace(['0', '1', '2', '3'], "4")));
        assert!(!digest.to_string().contains(secret) && !format!("{digest:?}").contains(&digest.to_string()));
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
        assert_ne!(make().1, token);
    }

    #[test]
    fn what_is_no_token_is_none() {
        let (_, token, _) = make();
        for cut in 0..token.len() {
            assert_eq!(split(&token[..cut]), None, "{cut}");
        }
        for bad in
            [format!("{token}0"), token.to_uppercase(), format!(" {token}"), token.replace("hull_", "hull-")]
        {
            assert_eq!(split(&bad), None, "{bad}");
        }
        assert_eq!(Digest::parse("é"), None);
        assert_eq!(Digest::parse(&"+1".repeat(32)), None);
    }
}
