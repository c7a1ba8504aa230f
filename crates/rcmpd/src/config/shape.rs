//! The keys of the configuration file with their types, as the parser has them.

use super::source::{Asked, Asking, join};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::rc::Rc;

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
pub(crate) fn shape_of<T: DeserializeOwned>() -> Shape {
    let asking = Rc::new(Asking::default());
    let Some(values) = asking.keys_of::<T>(None) else { return Shape::Any };
    shape_at(&values, 0, "", &|path| asking.keys_of::<T>(Some(path)).is_none())
}

fn shape_at(values: &[Asked], at: usize, path: &str, is_required: &impl Fn(&str) -> bool) -> Shape {
    let field = |name: &'static str, at| {
        let path = join(path, name);
        Field { name, is_required: is_required(&path), shape: shape_at(values, at, &path, is_required) }
    };
    match &values[at] {
        Asked::Any => Shape::Any,
        Asked::Text => Shape::Text,
        Asked::Truth => Shape::Truth,
        Asked::Integer(max) => Shape::Integer(*max),
        Asked::List(value) => Shape::List(Box::new(shape_at(values, *value, path, is_required))),
        Asked::Map(value) => Shape::Map(Box::new(shape_at(values, *value, &join(path, "NAME"), is_required))),
        Asked::Table(names, first) => {
            Shape::Table(names.iter().zip(*first..).map(|(name, at)| field(name, at)).collect())
        }
        Asked::Same(like) => Shape::Same(like.clone()),
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
        #[serde(default)]
        more: Vec<Spanned<Part>>,
    }

    #[test]
    fn a_shape_has_what_the_type_asks_for() {
        let field = |name, is_required, shape| Field { name, is_required, shape };
        let part = |path: &str| {
            Shape::Table(vec![
                field("path", true, Shape::Text),
                field("for", false, Shape::Truth),
                field("inner", false, Shape::Same(path.to_owned())),
                field("more", false, Shape::List(Box::new(Shape::Same(path.to_owned())))),
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
