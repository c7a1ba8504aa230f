//! JSON that says each thing once.
//!
//! Readers differ in what they make of an object that names a member twice: some take the first, some the
//! last. A line that says two things must not be verified as one of them.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use std::collections::HashSet;
use std::fmt;

/// Why bytes are not one JSON value without duplicate members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The start of a JSON value.
    Part,
    /// Not JSON, or bytes after it.
    NotJson,
    /// An object has two members of the same name.
    Twice,
}

/// Checks that bytes are one JSON value in which no object names a member twice.
pub(super) fn check(bytes: &[u8]) -> Result<(), Flaw> {
    serde_json::from_slice::<Strict>(bytes).map(drop).map_err(|error| match error.classify() {
        Category::Eof => Flaw::Part,
        // `Strict` takes every type, so this is the only thing that it refuses.
        Category::Data => Flaw::Twice,
        Category::Syntax | Category::Io => Flaw::NotJson,
    })
}

/// Any value; nothing of it is kept.
struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without duplicate members")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("a member is there twice"));
            }
            members.next_value::<Self>()?;
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_names_no_member_twice() {
        for good in [r#"{"a":1,"b":{"a":[-2,3.5,null,true,"x"]}}"#, "[]", "1"] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good}");
        }
        // RFC 8259 section 4: names within an object SHOULD be unique. An escaped name is the same name.
        for twice in [r#"{"a":1,"a":1}"#, r#"{"b":[{"a":1,"\u0061":2}]}"#] {
            assert_eq!(check(twice.as_bytes()), Err(Flaw::Twice), "{twice}");
        }
        assert_eq!(check(b"{\"a\":1"), Err(Flaw::Part));
        assert_eq!(check(b""), Err(Flaw::Part));
        for other in [&b"{\"a\":1}\0"[..], b"{\"a\":1}{}", b"{\"a\":\"\0\"}", b"\xff"] {
            assert_eq!(check(other), Err(Flaw::NotJson), "{other:?}");
        }
    }
}
