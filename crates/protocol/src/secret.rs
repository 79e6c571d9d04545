//! Secrets of a container: what is said of them, and their values, which are said to nobody else.
//!
//! Invariant: a value is in no text that is made for people; [`SecretValue`] shows its length alone.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most secrets of one container.
pub const SECRETS_MAX: usize = 64;
/// The longest value, in bytes: one message to the agent bears it.
pub const SECRET_MAX: usize = 512 << 10;
/// The longest that all values of a container may be together, in bytes.
pub const SECRETS_TOGETHER_MAX: usize = 1 << 20;
/// The longest name, in bytes.
pub const SECRET_NAME_MAX: usize = 64;
/// The permissions of a secret's file where nobody says others, as Docker's.
pub const SECRET_MODE: u32 = 0o444;
/// The directory of those secrets that are wanted nowhere else.
pub const SECRETS_PLACE: &str = "/run/secrets";
/// The highest number of a user or group.
pub const USER_MAX: u32 = i32::MAX.cast_unsigned();

/// A secret as the user asks for it, without its value, which is given by itself once the microVM is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SecretSpec {
    /// Its name.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")))]
    pub name: String,
    /// The file that the container finds it in: an absolute path; `/run/secrets/NAME` when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^/[^\x00]")))]
    pub target: Option<String>,
    /// Permissions of the file; 0o444 when missing. Nobody can write to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(max = 0o777)))]
    pub mode: Option<u32>,
    /// The number of the user it belongs to; root when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(max = USER_MAX)))]
    pub uid: Option<u32>,
    /// The number of the group it belongs to; root's when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(max = USER_MAX)))]
    pub gid: Option<u32>,
}

/// Whether a secret can have this name.
pub fn is_secret_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.len() <= SECRET_NAME_MAX
        && name.starts_with(letter)
        && name.chars().all(|c| letter(c) || matches!(c, '.' | '-'))
}

/// A secret's value. On the wire it is base64; for people it is a number of bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// These bytes; none when they are more than [`SECRET_MAX`].
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() <= SECRET_MAX).then_some(Self(bytes))
    }

    /// The value itself.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretValue({} bytes)", self.0.len())
    }
}

impl Serialize for SecretValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Reader)
    }
}

/// Reads a value. What it says of one that is none is the same for all.
struct Reader;

impl Visitor<'_> for Reader {
    type Value = SecretValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "up to {SECRET_MAX} bytes in base64")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<SecretValue, E> {
        let bytes = STANDARD.decode(text).map_err(|_| E::custom("a secret is no base64"))?;
        SecretValue::new(bytes).ok_or_else(|| E::custom(format!("a secret has more than {SECRET_MAX} bytes")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;
    use crate::agent::{Command, Request, Secret};
    use crate::frame;

    #[test]
    fn a_value_is_in_no_text_but_its_own() {
        let value = SecretValue::new(b"hunter2-hunter2".to_vec()).unwrap();
        let secret = Secret { number: 0, mode: SECRET_MODE, uid: 0, gid: 0, value };
        let request = Request { seq: 1, command: Command::Secret(Box::new(secret)) };
        let said = format!("{request:?} {request:#?}");
        assert!(said.contains("SecretValue(15 bytes)") && !said.contains("hunter"), "{said}");
        assert!(!said.contains("104, 117"), "{said}");
        for bad in [r#""hunter2!""#, "[104,117]", "null", "{}"] {
            let error = serde_json::from_str::<SecretValue>(bad).unwrap_err().to_string();
            assert!(!error.contains("hunter") && !error.contains("104"), "{error}");
        }
    }

    #[test]
    fn the_longest_value_fits_into_a_message_and_a_longer_one_is_none() {
        let longest = vec![0xff; SECRET_MAX];
        let value = SecretValue::new(longest.clone()).unwrap();
        let secret = Secret { number: u32::MAX, mode: 0o777, uid: USER_MAX, gid: USER_MAX, value };
        let request = Request { seq: u64::MAX, command: Command::Secret(Box::new(secret)) };
        let text = serde_json::to_vec(&request).unwrap();
        frame::prefix(text.len()).unwrap();
        assert_eq!(serde_json::from_slice::<Request>(&text).unwrap(), request);
        assert!(SecretValue::new([longest, vec![0]].concat()).is_none());
        let text = format!("\"{}\"", STANDARD.encode(vec![0; SECRET_MAX + 1]));
        assert!(serde_json::from_str::<SecretValue>(&text).is_err());
    }

    #[test]
    fn names_are_names_of_files() {
        for good in ["db", "_", "0", "tls.key", "a-b_c.D", &"x".repeat(64)] {
            assert!(is_secret_name(good), "{good}");
        }
        for bad in ["", ".", "..", ".a", "-a", "a/b", "a b", "a\0", "\u{e9}", &"x".repeat(65)] {
            assert!(!is_secret_name(bad), "{bad}");
        }
    }
}
