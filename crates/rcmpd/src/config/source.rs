//! Reads the sections of a file, as [`toml::from_str`] does, with less code.
//!
//! serde makes the code of each section anew for each type of table that it is read from. The parser's own
//! source has four, and with some hundred sections that was two MiB of the program. Here is one: a table, a
//! value with its place in the file ([`toml::Spanned`]) and a date are all lists of entries.
//!
//! The types of the sections implement only `Deserialize`. [`Asking`] finds their keys: it deserializes each
//! type from tables that offer every key the type names, and records the calls. A second list of keys could
//! differ from the parser.

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::rc::Rc;
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

/// What a type expects as the value of a key. A `usize` is an index into [`Asking::values`].
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Asked {
    Any,
    Text,
    Truth,
    /// A number from 0 to this one.
    Integer(u64),
    /// An array of values like this one.
    List(usize),
    /// A table whose keys the operator chooses, of values like this one.
    Map(usize),
    /// The keys of a table. The value of the first is this one, and the others follow it.
    Table(&'static [&'static str], usize),
    /// The same as behind another key, which is above this one.
    Same(String),
}

/// Records which keys and values a type expects, by deserializing it.
#[derive(Default)]
pub(super) struct Asking {
    /// What was recorded. The first element is the whole type.
    values: RefCell<Vec<Asked>>,
    /// Recursive types: the path of a key, and the path above it that has the same type.
    again: RefCell<Vec<(String, String)>>,
    /// The path of a key that is not offered, to find out whether it is required.
    left_out: RefCell<Option<String>>,
}

impl Asking {
    /// What a type expects; `None` if it cannot be deserialized without the key `left_out`.
    pub(super) fn keys_of<T: de::DeserializeOwned>(
        self: &Rc<Self>,
        left_out: Option<&str>,
    ) -> Option<Vec<Asked>> {
        self.left_out.replace(left_out.map(str::to_owned));
        loop {
            self.values.replace(vec![Asked::Any]);
            let known = self.again.borrow().len();
            let whole = Question { asking: Rc::clone(self), path: String::new(), value: 0, above: None };
            match T::deserialize(Node { part: Part::Question(whole), span: 0..0 }) {
                Ok(_) => return Some(self.values.take()),
                // A type that has itself below it ends the first readings: then it is known where to stop.
                Err(_) if self.again.borrow().len() > known => {}
                Err(_) => return None,
            }
        }
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// A value that is not there: what is asked for is written down.
struct Question {
    asking: Rc<Asking>,
    /// Keys of arrays and of their values are the same.
    path: String,
    /// Its place in [`Asking::values`].
    value: usize,
    above: Option<Rc<Above>>,
}

/// A table that the value is in.
struct Above {
    /// They identify its type.
    names: *const &'static str,
    path: String,
    above: Option<Rc<Above>>,
}

impl Question {
    fn note(&self, asked: Asked) {
        self.asking.values.borrow_mut()[self.value] = asked;
    }

    /// Places for values below this one.
    fn places(&self, number: usize) -> usize {
        let mut values = self.asking.values.borrow_mut();
        let first = values.len();
        values.resize(first + number, Asked::Any);
        first
    }

    fn below(&self, path: String, value: usize) -> Node<'static> {
        let (asking, above) = (Rc::clone(&self.asking), self.above.clone());
        Node { part: Part::Question(Self { asking, path, value, above }), span: 0..0 }
    }

    /// Whether the type of this value is above it.
    fn is_again(&self) -> bool {
        let again = self.asking.again.borrow();
        let like = again.iter().find(|(at, _)| *at == self.path).map(|(_, like)| like.clone());
        if let Some(like) = &like {
            self.note(Asked::Same(like.clone()));
        }
        like.is_some()
    }

    fn list(mut self) -> Vec<Node<'static>> {
        let value = self.places(1);
        self.note(Asked::List(value));
        self.value = value;
        if self.is_again() {
            return Vec::new();
        }
        vec![self.below(self.path.clone(), value)]
    }

    fn map(self) -> Vec<Entry<'static>> {
        let value = self.places(1);
        self.note(Asked::Map(value));
        vec![(Node::of_name("NAME"), self.below(join(&self.path, "NAME"), value))]
    }

    fn table(mut self, names: &'static [&'static str]) -> Result<Vec<Entry<'static>>, SourceError> {
        let mut tables = std::iter::successors(self.above.as_deref(), |table| table.above.as_deref());
        if let Some(table) = tables.find(|table| table.names == names.as_ptr()) {
            self.asking.again.borrow_mut().push((self.path, table.path.clone()));
            return Err(de::Error::custom("a table of its own type"));
        }
        let above = self.above.take();
        self.above = Some(Rc::new(Above { names: names.as_ptr(), path: self.path.clone(), above }));
        let first = self.places(names.len());
        self.note(Asked::Table(names, first));
        let values = names.iter().zip(first..).map(|(name, value)| (*name, join(&self.path, name), value));
        let left_out = self.asking.left_out.borrow();
        let offered = values.filter(|(_, path, _)| left_out.as_ref() != Some(path));
        Ok(offered.map(|(name, path, value)| (Node::of_name(name), self.below(path, value))).collect())
    }
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
    Placed(&'static [&'static str], Box<Part<'de>>),
    Offset(usize),
    Date(String),
    Question(Question),
    Items(Vec<Node<'de>>),
    Entries(Vec<Entry<'de>>),
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

    fn of_name(name: &'static str) -> Self {
        Self { part: Part::Value(DeValue::String(name.into())), span: 0..0 }
    }

    /// A value that is not there becomes `part`, and what was asked for is written down.
    fn noted(self, asked: Asked, part: Part<'static>) -> Self {
        match self.part {
            Part::Question(question) => {
                question.note(asked);
                Self { part, ..self }
            }
            _ => self,
        }
    }

    fn into_integer(self, max: u64) -> Self {
        self.noted(Asked::Integer(max), Part::Offset(0))
    }

    fn into_text(self) -> Self {
        self.noted(Asked::Text, Part::Value(DeValue::String("".into())))
    }

    fn into_list(self) -> Self {
        match self.part {
            Part::Question(question) => Self { part: Part::Items(question.list()), ..self },
            _ => self,
        }
    }

    fn into_map(self) -> Self {
        match self.part {
            Part::Question(question) => Self { part: Part::Entries(question.map()), ..self },
            _ => self,
        }
    }

    fn into_table(self, name: &str, fields: &'static [&'static str]) -> Result<Self, SourceError> {
        let part = match self.part {
            part @ (Part::Value(_) | Part::Question(_)) if name.starts_with("$__serde_spanned") => {
                Part::Placed(fields, Box::new(part))
            }
            Part::Question(question) => Part::Entries(question.table(fields)?),
            part => part,
        };
        Ok(Self { part, ..self })
    }

    /// What a visitor is shown. The code of sections is made anew for each of them, and this is not.
    fn open(self) -> Result<Shown<'de>, SourceError> {
        let Self { part, span } = self;
        let node = |part| Node { part, span: span.clone() };
        let entry = |name: &'static str, part| (node(Part::Value(DeValue::String(name.into()))), node(part));
        let entries: Vec<Entry<'de>> = match part {
            Part::Offset(offset) => return Ok(Shown::Unsigned(offset as u64)),
            Part::Date(text) => return Ok(Shown::Text(text.into())),
            // Types that take several kinds of value take text.
            Part::Question(question) => {
                question.note(Asked::Any);
                return Ok(Shown::Text("".into()));
            }
            Part::Items(items) => return Ok(Shown::List(Items(items.into_iter()))),
            Part::Entries(entries) => entries,
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
                let parts = [Part::Offset(span.start), Part::Offset(span.end), *value];
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
        match &self.part {
            Part::Question(question) if question.is_again() => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SourceError> {
        self.noted(Asked::Truth, Part::Value(DeValue::Boolean(false))).deserialize_any(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SourceError> {
        self.into_integer(u8::MAX.into()).deserialize_any(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SourceError> {
        self.into_integer(u16::MAX.into()).deserialize_any(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SourceError> {
        self.into_integer(u32::MAX.into()).deserialize_any(visitor)
    }

    /// TOML has signed numbers of 64 bits.
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SourceError> {
        self.into_integer(i64::MAX as u64).deserialize_any(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SourceError> {
        self.into_text().deserialize_any(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SourceError> {
        self.into_text().deserialize_any(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SourceError> {
        self.into_list().deserialize_any(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, SourceError> {
        self.into_map().deserialize_any(visitor)
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
        self.into_table(name, fields)?.deserialize_any(visitor)
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
        u128 i8 i16 i32 i64 i128 f32 f64 char bytes byte_buf unit ignored_any unit_struct tuple_struct tuple
        identifier
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
