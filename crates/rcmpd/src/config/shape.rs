//! The keys of the configuration file with their types, as the parser has them.
//!
//! The types of the sections implement `Deserialize` alone. They are read here from a source that has each
//! key they ask for, and that writes down what they ask for. A second table of keys could differ from the
//! parser.

use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

/// What stands behind a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Any value.
    Any,
    /// A string.
    Text,
    /// `true` or `false`.
    Truth,
    /// A number from 0 to this one.
    Integer(u64),
    /// An array.
    List(Box<Self>),
    /// A table whose keys the operator chooses.
    Map(Box<Self>),
    /// A table with these keys.
    Table(Vec<Field>),
    /// The same as behind another key, which is above this one.
    Same(String),
    /// One of several.
    Either(Vec<Self>),
}

/// A key of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    /// Whether the parser refuses a table without it.
    pub(crate) is_required: bool,
    pub(crate) shape: Shape,
}

/// The shape of a type.
pub(crate) fn shape_of<T: de::DeserializeOwned>() -> Shape {
    let source = Source::default();
    // A type that has itself below it ends the first readings: then it is known where to stop.
    let mut shape = loop {
        match source.read::<T>() {
            Ok(shape) => break shape,
            Err(Stopped::Again { at, like }) if !source.stops_at(&at) => {
                source.again.borrow_mut().push((at, like));
            }
            // Nothing else of what is offered is refused.
            Err(_) => return Shape::Any,
        }
    };
    mark(&mut shape, "", &|path| {
        source.left_out.replace(Some(path.to_owned()));
        matches!(source.read::<T>(), Err(Stopped::Missing))
    });
    shape
}

fn mark(shape: &mut Shape, path: &str, is_required: &impl Fn(&str) -> bool) {
    match shape {
        Shape::Table(fields) => {
            for field in fields {
                let path = join(path, field.name);
                field.is_required = is_required(&path);
                mark(&mut field.shape, &path, is_required);
            }
        }
        Shape::List(inner) | Shape::Map(inner) => mark(inner, path, is_required),
        _ => {}
    }
}

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[derive(Default)]
struct Source {
    /// Keys whose type stands above them, and the key of that one.
    again: RefCell<Vec<(String, String)>>,
    /// The key that is not offered.
    left_out: RefCell<Option<String>>,
    /// The tables that are being read: their keys, which identify a type, and their paths.
    open: RefCell<Vec<(*const &'static str, String)>>,
}

impl Source {
    fn stops_at(&self, path: &str) -> bool {
        self.again.borrow().iter().any(|(at, _)| at == path)
    }

    fn read<T: de::DeserializeOwned>(&self) -> Result<Shape, Stopped> {
        self.open.borrow_mut().clear();
        let mut shape = Shape::Any;
        T::deserialize(Reading { source: self, path: String::new(), shape: &mut shape })?;
        Ok(shape)
    }
}

/// Why a reading ended early.
#[derive(Debug)]
enum Stopped {
    Again { at: String, like: String },
    Missing,
    Other,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Stopped {}

impl de::Error for Stopped {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Other
    }

    fn missing_field(_: &'static str) -> Self {
        Self::Missing
    }
}

/// One value that is asked for.
struct Reading<'s> {
    source: &'s Source,
    path: String,
    shape: &'s mut Shape,
}

impl Reading<'_> {
    /// Whether the type of this value is above it.
    fn is_again(&mut self) -> bool {
        let again = self.source.again.borrow();
        let Some((_, like)) = again.iter().find(|(at, _)| *at == self.path) else { return false };
        *self.shape = Shape::Same(like.clone());
        true
    }
}

macro_rules! integers {
    ($($method:ident, $visit:ident, $max:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
            *self.shape = Shape::Integer($max);
            visitor.$visit(0)
        })*
    };
}

macro_rules! texts {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
            *self.shape = Shape::Text;
            visitor.visit_str("")
        })*
    };
}

impl<'de> Deserializer<'de> for Reading<'_> {
    type Error = Stopped;

    integers! {
        deserialize_u8, visit_u8, u8::MAX.into();
        deserialize_u16, visit_u16, u16::MAX.into();
        deserialize_u32, visit_u32, u32::MAX.into();
        // TOML has signed numbers of 64 bits.
        deserialize_u64, visit_u64, i64::MAX as u64;
    }

    texts! { deserialize_str deserialize_string deserialize_identifier }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
        *self.shape = Shape::Truth;
        visitor.visit_bool(false)
    }

    /// Types that take several kinds of value take text.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
        *self.shape = Shape::Any;
        visitor.visit_str("")
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stopped> {
        if self.is_again() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stopped> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Stopped> {
        let is_empty = self.is_again();
        let mut inner = std::mem::replace(self.shape, Shape::Any);
        let value = visitor.visit_seq(Entries {
            source: self.source,
            path: &self.path,
            names: if is_empty { &[] } else { &[""] },
            shapes: std::slice::from_mut(&mut inner),
            at: 0,
        });
        *self.shape = Shape::List(Box::new(inner));
        value
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stopped> {
        let mut inner = Shape::Any;
        let (path, names) = (&self.path, &["NAME"]);
        let shapes = std::slice::from_mut(&mut inner);
        let value = visitor.visit_map(Entries { source: self.source, path, names, shapes, at: 0 });
        *self.shape = Shape::Map(Box::new(inner));
        value
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stopped> {
        let Self { source, path, shape } = self;
        let mut shapes = vec![Shape::Any; names.len()];
        // A value with its place in the file: the value is the last field.
        if name.starts_with("$__serde_spanned") {
            shapes[names.len() - 1] = std::mem::replace(shape, Shape::Any);
            let entries = Entries { source, path: &path, names, shapes: &mut shapes, at: 0 };
            let value = visitor.visit_map(Placed(entries));
            *shape = shapes.pop().unwrap_or(Shape::Any);
            return value;
        }
        let above =
            source.open.borrow().iter().find(|(keys, _)| *keys == names.as_ptr()).map(|(_, at)| at.clone());
        if let Some(like) = above {
            return Err(Stopped::Again { at: path, like });
        }
        source.open.borrow_mut().push((names.as_ptr(), path.clone()));
        let value = visitor.visit_map(Entries { source, path: &path, names, shapes: &mut shapes, at: 0 });
        source.open.borrow_mut().pop();
        let fields = names.iter().zip(shapes);
        *shape =
            Shape::Table(fields.map(|(name, shape)| Field { name, is_required: false, shape }).collect());
        value
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum ignored_any
    }
}

/// The keys of a table or the one entry of an array.
struct Entries<'s> {
    source: &'s Source,
    path: &'s str,
    names: &'s [&'static str],
    shapes: &'s mut [Shape],
    at: usize,
}

impl Entries<'_> {
    /// The path of the entry that comes next.
    fn next_path(&self) -> Option<String> {
        self.names.get(self.at).map(|name| match *name {
            "" => self.path.to_owned(),
            name => join(self.path, name),
        })
    }
}

impl<'de> SeqAccess<'de> for Entries<'_> {
    type Error = Stopped;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Stopped> {
        let Some(path) = self.next_path() else { return Ok(None) };
        self.at += 1;
        seed.deserialize(Reading { source: self.source, path, shape: &mut self.shapes[0] }).map(Some)
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Stopped;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stopped> {
        if self.next_path().is_some_and(|path| self.source.left_out.borrow().as_deref() == Some(&*path)) {
            self.at += 1;
        }
        let Some(name) = self.names.get(self.at) else { return Ok(None) };
        let mut shape = Shape::Any;
        // A key that the operator chooses may have its place beside it, as values have.
        match *name {
            "NAME" => {
                seed.deserialize(Reading { source: self.source, path: String::new(), shape: &mut shape })
            }
            name => seed.deserialize(name.into_deserializer()),
        }
        .map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Stopped> {
        let path = self.next_path().unwrap_or_default();
        let shape = &mut self.shapes[self.at];
        self.at += 1;
        seed.deserialize(Reading { source: self.source, path, shape })
    }
}

/// A value with its place: all three fields have the path of the value.
struct Placed<'s>(Entries<'s>);

impl<'de> MapAccess<'de> for Placed<'_> {
    type Error = Stopped;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stopped> {
        let name = self.0.names.get(self.0.at);
        name.map(|name| seed.deserialize(de::value::BorrowedStrDeserializer::new(name))).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Stopped> {
        let (path, shape) = (self.0.path.to_owned(), &mut self.0.shapes[self.0.at]);
        self.0.at += 1;
        seed.deserialize(Reading { source: self.0.source, path, shape })
    }
}

/// All keys of a shape with their paths; tables come before what is in them.
pub(crate) fn keys(shape: &Shape) -> Vec<(String, &Field)> {
    fn add<'s>(shape: &'s Shape, path: &str, keys: &mut Vec<(String, &'s Field)>) {
        match shape {
            Shape::Table(fields) => {
                for field in fields {
                    let path = join(path, field.name);
                    keys.push((path.clone(), field));
                    add(&field.shape, &path, keys);
                }
            }
            Shape::List(inner) | Shape::Map(inner) => add(inner, path, keys),
            _ => {}
        }
    }
    let mut all = Vec::new();
    add(shape, "", &mut all);
    all
}

/// The paths of all keys.
pub(crate) fn paths(shape: &Shape) -> BTreeSet<String> {
    keys(shape).into_iter().map(|(path, _)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use toml::Spanned;

    #[expect(dead_code, reason = "the types count, not the values")]
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Whole {
        part: Spanned<Part>,
        parts: Option<Vec<Spanned<Part>>>,
        #[serde(default)]
        names: BTreeMap<Spanned<String>, Spanned<u32>>,
        free: Option<Spanned<toml::Table>>,
    }

    #[expect(dead_code, reason = "the types count, not the values")]
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Part {
        path: PathBuf,
        #[serde(rename = "for", default)]
        to: bool,
        inner: Option<Box<Spanned<Part>>>,
    }

    #[test]
    fn a_shape_has_what_the_type_asks_for() {
        let field = |name, is_required, shape| Field { name, is_required, shape };
        let part = |path: &str| {
            Shape::Table(vec![
                field("path", true, Shape::Text),
                field("for", false, Shape::Truth),
                field("inner", false, Shape::Same(path.to_owned())),
            ])
        };
        let expected = Shape::Table(vec![
            field("part", true, part("part")),
            field("parts", false, Shape::List(Box::new(part("parts")))),
            field("names", false, Shape::Map(Box::new(Shape::Integer(u32::MAX.into())))),
            field("free", false, Shape::Map(Box::new(Shape::Any))),
        ]);
        assert_eq!(shape_of::<Whole>(), expected);
        let paths: Vec<String> = keys(&expected).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths[..4], ["part", "part.path", "part.for", "part.inner"]);
    }
}
