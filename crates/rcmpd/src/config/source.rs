//! Reads the sections of a file, as [`toml::from_str`] does, with less code.
//!
//! serde makes the code of each section anew for each type of table that it is read from. The parser's own
//! source has four, and with some hundred sections that was two MiB of the program. Here is one: a table, a
//! value with its place in the file ([`toml::Spanned`]) and a date are all lists of entries.

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use std::fmt;
use std::ops::Range;
use std::vec;
use toml::Spanned;
use toml::de::{DeFloat, DeInteger, DeString, DeTable, DeValue};

/// Key of the text of a date, as [`toml::value::Datetime`] expects it.
const DATE: &str = "$__toml_private_datetime";

/// Reads a whole file.
pub(super) fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, SourceError> {
    let table = DeTable::parse(text)?;
    let span = table.span();
    T::deserialize(Node { part: Part::Value(DeValue::Table(table.into_inner())), span })
}

/// What is wrong with a file, and where.
#[derive(Debug)]
pub(super) struct SourceError {
    pub(super) message: String,
    /// Bytes of the file.
    pub(super) span: Option<Range<usize>>,
}

impl SourceError {
    /// The innermost place counts.
    fn within(self, span: &Range<usize>) -> Self {
        Self { span: self.span.or_else(|| Some(span.clone())), ..self }
    }
}

impl From<toml::de::Error> for SourceError {
    fn from(error: toml::de::Error) -> Self {
        Self { message: error.message().to_owned(), span: error.span() }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SourceError {}

impl de::Error for SourceError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { message: message.to_string(), span: None }
    }
}

/// A value with its place.
struct Node<'de> {
    part: Part<'de>,
    span: Range<usize>,
}

enum Part<'de> {
    Value(DeValue<'de>),
    /// The same with its place as values: the names of start, end and value, then the value.
    Placed(&'static [&'static str], DeValue<'de>),
    Offset(usize),
    Date(String),
}

/// A key and its value.
type Entry<'de> = (Node<'de>, Node<'de>);

impl<'de> Node<'de> {
    fn new(value: Spanned<DeValue<'de>>) -> Self {
        let span = value.span();
        Self { part: Part::Value(value.into_inner()), span }
    }

    fn of_key(key: Spanned<DeString<'de>>) -> Self {
        let span = key.span();
        Self { part: Part::Value(DeValue::String(key.into_inner())), span }
    }

    /// What a visitor is shown. The code of sections is made anew for each of them, and this is not.
    fn open(self) -> Result<Shown<'de>, SourceError> {
        let Self { part, span } = self;
        let node = |part| Node { part, span: span.clone() };
        let entry = |name: &'static str, part| (node(Part::Value(DeValue::String(name.into()))), node(part));
        let entries: Vec<Entry<'de>> = match part {
            Part::Offset(offset) => return Ok(Shown::Unsigned(offset as u64)),
            Part::Date(text) => return Ok(Shown::Text(text.into())),
            Part::Value(DeValue::String(text)) => return Ok(Shown::Text(text)),
            Part::Value(DeValue::Boolean(truth)) => return Ok(Shown::Truth(truth)),
            Part::Value(DeValue::Float(number)) => return float(&number).map(Shown::Float),
            Part::Value(DeValue::Integer(number)) => {
                return integer(&number)
                    .map(Shown::Signed)
                    .or_else(|_| integer(&number).map(Shown::Unsigned));
            }
            Part::Value(DeValue::Array(array)) => {
                let items: Vec<_> = array.into_iter().map(Node::new).collect();
                return Ok(Shown::List(Items(items.into_iter())));
            }
            Part::Value(DeValue::Table(table)) => {
                table.into_iter().map(|(key, value)| (Node::of_key(key), Node::new(value))).collect()
            }
            Part::Value(DeValue::Datetime(date)) => vec![entry(DATE, Part::Date(date.to_string()))],
            Part::Placed(names, value) => {
                let parts = [Part::Offset(span.start), Part::Offset(span.end), Part::Value(value)];
                names.iter().zip(parts).map(|(name, part)| entry(name, part)).collect()
            }
        };
        Ok(Shown::Table(Entries { rest: entries.into_iter(), value: None }))
    }
}

enum Shown<'de> {
    Text(DeString<'de>),
    Truth(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    List(Items<'de>),
    Table(Entries<'de>),
}

fn integer<T: TryFrom<i128>>(number: &DeInteger<'_>) -> Result<T, SourceError> {
    let read = i128::from_str_radix(number.as_str(), number.radix()).ok();
    read.and_then(|read| read.try_into().ok()).ok_or_else(|| de::Error::custom("integer number overflowed"))
}

fn float(number: &DeFloat<'_>) -> Result<f64, SourceError> {
    number.as_str().parse().map_err(|_| de::Error::custom("floating-point number overflowed"))
}

impl<'de> Deserializer<'de> for Node<'de> {
    type Error = SourceError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SourceError> {
        let span = self.span.clone();
        let read = self.open().and_then(|shown| match shown {
            Shown::Text(DeString::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Shown::Text(DeString::Owned(text)) => visitor.visit_string(text),
            Shown::Truth(truth) => visitor.visit_bool(truth),
            Shown::Signed(number) => visitor.visit_i64(number),
            Shown::Unsigned(number) => visitor.visit_u64(number),
            Shown::Float(number) => visitor.visit_f64(number),
            Shown::List(items) => visitor.visit_seq(items),
            Shown::Table(entries) => visitor.visit_map(entries),
        });
        read.map_err(|error| error.within(&span))
    }

    /// A key that is there has a value.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SourceError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, SourceError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SourceError> {
        let part = match self.part {
            Part::Value(value) if name.starts_with("$__serde_spanned") => Part::Placed(fields, value),
            part => part,
        };
        Self { part, ..self }.deserialize_any(visitor)
    }

    /// An enum is written as the name of one of its values.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, SourceError> {
        let read = match &self.part {
            Part::Value(DeValue::String(name)) => {
                visitor.visit_enum(IntoDeserializer::<SourceError>::into_deserializer(&**name))
            }
            _ => Err(de::Error::custom("wanted string")),
        };
        read.map_err(|error| error.within(&self.span))
    }

    forward_to_deserialize_any! {
        bool u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64 char str string seq bytes byte_buf map unit
        ignored_any unit_struct tuple_struct tuple identifier
    }
}

struct Items<'de>(vec::IntoIter<Node<'de>>);

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = SourceError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, SourceError> {
        self.0.next().map(|node| seed.deserialize(node)).transpose()
    }
}

struct Entries<'de> {
    rest: vec::IntoIter<Entry<'de>>,
    /// The one whose key was read.
    value: Option<Node<'de>>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = SourceError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, SourceError> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, SourceError> {
        let value =
            self.value.take().ok_or_else(|| <SourceError as de::Error>::custom("a value without a key"))?;
        seed.deserialize(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Every kind of value, deserialized by the parser itself and here.
    #[test]
    fn a_file_is_read_as_the_parser_reads_it() {
        let text = "a = 1\nb = [true, -2.5, \"x\\ty\", 'z']\nc = { d = 1979-05-27T07:32:00Z, e = 0xff }\n\
                    \"f g\" = 1_000\n[[h.i]]\nj = 07:32:00\n[[h.i]]\n";
        let ours: toml::Table = read(text).expect("it is good");
        assert_eq!(ours, toml::from_str(text).expect("it is good"));
        type Places = BTreeMap<Spanned<String>, Spanned<toml::Value>>;
        let (ours, theirs): (Places, Places) =
            (read(text).expect("good"), toml::from_str(text).expect("good"));
        let spans = |all: &Places| all.iter().map(|(k, v)| (k.span(), v.span())).collect::<Vec<_>>();
        assert_eq!(spans(&ours), spans(&theirs));
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read and not used")]
    struct Section {
        number: Spanned<u16>,
        list: Option<Spanned<Vec<Spanned<String>>>>,
        inner: Option<Box<Section>>,
    }

    /// The message and the place of each mistake are those of the parser.
    #[test]
    fn mistakes_are_reported_as_the_parser_reports_them() {
        for text in [
            "",
            "number = ",
            "number = 1\nnumber = 2",
            "number = \"1\"",
            "number = 65536",
            "number = -1",
            "number = 18446744073709551615",
            "number = 1.5",
            "number = 1979-05-27",
            "number = [1]",
            "number = { a = 1 }",
            "number = 1\nlist = 1",
            "number = 1\nlist = [\"a\", 2]",
            "number = 1\nlsit = []",
            "number = 1\ninner = 3",
            "number = 1\n[inner]\nlist = []",
            "number = 1\n[inner]\nnumber = 2\nother = true",
            "number = 1\n\"un\\u006bnown\" = 1",
        ] {
            let ours = read::<Section>(text).expect_err(text);
            let theirs = toml::from_str::<Section>(text).expect_err(text);
            assert_eq!((ours.message.as_str(), ours.span), (theirs.message(), theirs.span()), "{text}");
        }
    }
}
