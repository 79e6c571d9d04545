//! Trace ids: what belongs to one request, found by one number in every log.

use std::fmt;
use std::num::NonZeroU128;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The header with which a client names its request's trace: W3C Trace Context.
pub const TRACEPARENT: &str = "traceparent";
/// The header of the answer that names it.
pub const TRACE_HEADER: &str = "hull-trace-id";

/// The id of a trace: 32 lower-case hexadecimal digits, not all zero, as W3C Trace Context has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceId(NonZeroU128);

/// How many digits there are.
const DIGITS: usize = 32;

impl TraceId {
    /// The id that these bytes are; none where all are zero.
    pub fn of_bytes(bytes: [u8; 16]) -> Option<Self> {
        NonZeroU128::new(u128::from_be_bytes(bytes)).map(Self)
    }

    /// The trace that a `traceparent` header names; none where it is malformed, which W3C has ignored.
    pub fn of_traceparent(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        // Later versions may have more to say.
        let whole = version != "00" || parts.next().is_none();
        let known = is_hex(version, 2) && version != "ff" && is_hex(parent, 16) && is_hex(flags, 2);
        let somebody = parent.bytes().any(|digit| digit != b'0');
        (whole && known && somebody).then(|| trace.parse().ok()).flatten()
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0DIGITS$x}", self.0)
    }
}

/// Why a text is not the id of a trace.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a trace id is {DIGITS} lower-case hexadecimal digits, not all zero")]
pub struct ParseTraceError;

impl FromStr for TraceId {
    type Err = ParseTraceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = is_hex(text, DIGITS).then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.and_then(NonZeroU128::new).map(Self).ok_or(ParseTraceError)
    }
}

impl TryFrom<String> for TraceId {
    type Error = ParseTraceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TraceId> for String {
    fn from(trace: TraceId) -> Self {
        trace.to_string()
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for TraceId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TraceId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[0-9a-f]{32}$"})
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what it expects")]

    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_traceparent_is_read_as_w3c_has_it() {
        let of = |text: &str| TraceId::of_traceparent(text).map(|trace| trace.to_string());
        assert_eq!(of(&format!("00-{ID}-00f067aa0ba902b7-01")).as_deref(), Some(ID));
        assert_eq!(of(&format!("cc-{ID}-00f067aa0ba902b7-01-more-to-say")).as_deref(), Some(ID));
        for bad in [
            String::new(),
            ID.into(),
            format!("00-{ID}-00f067aa0ba902b7"),
            format!("00-{ID}-00f067aa0ba902b7-01-more"),
            format!("ff-{ID}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", ID.to_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{ID}-0000000000000000-01"),
            format!("00-{ID}-00f067aa0ba902b7-1"),
            format!("00-{ID}0-00f067aa0ba902b7-01"),
            format!("00-+{}-00f067aa0ba902b7-01", &ID[1..]),
            format!("00-{ID}-00f067aa0ba902b\n-01"),
        ] {
            assert_eq!(of(&bad), None, "{bad}");
        }
    }

    #[test]
    fn it_survives_the_wire_and_nothing_else_does() {
        let trace: TraceId = ID.parse().unwrap();
        assert_eq!(serde_json::to_string(&trace).unwrap(), format!("\"{ID}\""));
        assert_eq!(serde_json::from_str::<TraceId>(&format!("\"{ID}\"")).unwrap(), trace);
        let small = TraceId::of_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap();
        assert_eq!(small.to_string(), format!("{}1", "0".repeat(31)));
        assert_eq!(TraceId::of_bytes([0; 16]), None);
        for bad in ["", "12", &"0".repeat(32), &"x".repeat(32), &"1".repeat(33), &ID.to_uppercase()] {
            assert!(serde_json::from_value::<TraceId>((*bad).into()).is_err(), "{bad}");
        }
    }
}
