//! JSON bodies in which an object is an object.
//!
//! What is derived for a type reads its fields from an array, too, by their order: an order that is no part of the API, and
//! would be one if anybody relied on it. Owner: the handlers. Invariant: what is refused here has no other fault.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

/// A value of JSON. An error names the field and the place.
///
/// # Errors
/// When it is none, or none of this type.
pub(super) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let value = serde_json::from_slice(bytes)?;
    // The same again, for what the first reader overlooks. It says where, the other does not.
    T::deserialize(Strict(serde_json::from_slice(bytes)?))?;
    Ok(value)
}

struct Strict(Value);

impl<'de> Deserializer<'de> for Strict {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(fields) => {
                visitor.visit_map(MapDeserializer::new(fields.into_iter().map(|(name, it)| (name, Self(it)))))
            }
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Self))),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if self.0.is_array() {
            return Err(Error::invalid_type(Unexpected::Seq, &"an object"));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

impl IntoDeserializer<'_, Error> for Strict {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use hull_protocol::api::TenantSpec;
    use hull_protocol::spec::MicrovmSpec;

    use super::from_slice;

    #[test]
    fn an_array_is_no_object_at_any_depth() {
        let whole = r#"{"container":{"image":"a","command":["b"],"terminal":{"rows":1,"cols":2},
            "health":{"test":{"command":["c"]}},"mounts":[{"type":"tmpfs","target":"/t","size":1}]},
            "memory":134217728,"restart":"on-failure:3","labels":{"a":"b"},"limits":{"cpu_shares":2},
            "networking":{"networks":[{"network":"n","mac":"02:00:00:00:00:01"}],"publish":[{"port":1}]}}"#;
        let read: MicrovmSpec = from_slice(whole.as_bytes()).unwrap_or_default();
        assert_eq!(read.container.command, ["b"]);
        for (part, array) in [
            (r#"{"rows":1,"cols":2}"#, "[1,2]"),
            (r#"{"cpu_shares":2}"#, "[]"),
            (r#"{"port":1}"#, "[null,null,1]"),
            (r#""limits":{"cpu_shares":2}"#, r#""limits":[2]"#),
        ] {
            assert!(whole.contains(part));
            let bad = whole.replace(part, array);
            assert!(serde_json::from_str::<MicrovmSpec>(&bad).is_ok(), "{bad}");
            let said = from_slice::<MicrovmSpec>(bad.as_bytes()).map_err(|error| error.to_string());
            assert_eq!(said, Err("invalid type: sequence, expected an object".into()), "{bad}");
        }
        let quotas: Result<TenantSpec, _> = from_slice(br#"{"name":"a","quotas":{"memory":5}}"#);
        assert!(quotas.is_ok_and(|spec| spec.quotas.len() == 1));
        let said = from_slice::<TenantSpec>(b"{\"name\":\n1}").map_err(|error| error.to_string());
        assert!(said.is_err_and(|said| said.contains("line 2")));
    }
}
