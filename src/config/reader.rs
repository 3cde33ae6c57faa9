//! The tree as a source for `serde`: every error names the value it is about.
//!
//! Types are decided here: a setting that wants text gets `1.10` as written, one that wants a number gets a number or a
//! message that says what was found instead.

use std::fmt;

use serde::de::DeserializeSeed;
use serde::de::EnumAccess;
use serde::de::Error as _;
use serde::de::IntoDeserializer;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Unexpected;
use serde::de::VariantAccess;
use serde::de::Visitor;
use serde::de::value::StrDeserializer;
use serde::forward_to_deserialize_any;

use crate::config::nearest::one_of;
use crate::config::node::Entry;
use crate::config::node::Kind;
use crate::config::node::Node;
use crate::config::node::Origin;
use crate::config::node::Scalar;
use crate::config::node::Step;

/// A mistake on its way out of the tree; `path` grows from the inside.
#[derive(Debug)]
pub(super) struct DecodeError {
    /// From the mistaken value outwards.
    pub(super) path: Vec<Step>,
    /// Where it was written, when that is not where the value stands.
    pub(super) at: Option<Origin>,
    /// What is wrong.
    pub(super) what: What,
}

/// What is wrong with a value.
#[derive(Debug)]
pub(super) enum What {
    /// Follows from something that was already reported.
    Damaged,
    /// A key that the mapping does not take.
    UnknownKey {
        key: String,
        expected: &'static [&'static str],
    },
    /// A word that is none of the choices.
    UnknownChoice {
        word: String,
        expected: &'static [&'static str],
    },
    /// A required key that is not there.
    Missing(&'static str),
    /// Anything else, in words.
    Value {
        message: String,
        help: Option<String>,
    },
}

impl DecodeError {
    fn new(what: What) -> Self {
        Self {
            path: Vec::new(),
            at: None,
            what,
        }
    }

    fn value(message: impl Into<String>) -> Self {
        Self::new(What::Value {
            message: message.into(),
            help: None,
        })
    }

    fn expected(what: &str, node: &Node) -> Self {
        Self::value(format!("expected {what}, found {}", node.describe()))
    }

    fn help(mut self, text: String) -> Self {
        if let What::Value { help, .. } = &mut self.what {
            *help = Some(text);
        }
        self
    }

    fn under(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for DecodeError {}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::value(message.to_string())
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn serde::de::Expected) -> Self {
        let number = match found {
            Unexpected::Unsigned(n) => n.to_string(),
            Unexpected::Signed(n) => n.to_string(),
            Unexpected::Float(n) => n.to_string(),
            other => return Self::value(format!("expected {expected}, found {other}")),
        };
        Self::value(match range(&expected.to_string()) {
            Some((low, "")) => format!("{number} is below {low}"),
            Some((low, high)) => format!("{number} is outside {low} to {high}"),
            None => format!("expected {expected}, found {number}"),
        })
    }

    fn unknown_field(key: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey {
            key: key.to_owned(),
            expected,
        })
    }

    fn unknown_variant(word: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::UnknownChoice {
            word: word.to_owned(),
            expected,
        })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(What::Missing(key))
    }
}

/// The range of an integer type by its name; an empty upper bound is out of anybody's reach.
fn range(integer: &str) -> Option<(&'static str, &'static str)> {
    Some(match integer.trim_start_matches("a nonzero ") {
        "u8" if integer.starts_with('a') => ("1", "255"),
        "u16" if integer.starts_with('a') => ("1", "65535"),
        "u32" if integer.starts_with('a') => ("1", "4294967295"),
        "u64" | "usize" if integer.starts_with('a') => ("1", ""),
        "u8" => ("0", "255"),
        "u16" => ("0", "65535"),
        "u32" => ("0", "4294967295"),
        "u64" | "usize" => ("0", ""),
        "i32" => ("-2147483648", "2147483647"),
        _ => return None,
    })
}

/// Reads one value of the tree.
#[derive(Clone, Copy)]
pub(super) struct Decoder<'a> {
    /// The value.
    pub(super) node: &'a Node,
}

impl<'a> Decoder<'a> {
    fn scalar(self, what: &str) -> Result<&'a Scalar, DecodeError> {
        match &self.node.kind {
            Kind::Scalar(scalar) => Ok(scalar),
            _ => Err(DecodeError::expected(what, self.node)),
        }
    }

    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let scalar = self.scalar("a whole number")?;
        if scalar.quoted {
            let error = DecodeError::expected("a whole number", self.node);
            return Err(error.help("remove the quotes".to_owned()));
        }
        if let Ok(number) = scalar.text.parse::<u64>() {
            return visitor.visit_u64(number);
        }
        if let Ok(number) = scalar.text.parse::<i64>() {
            return visitor.visit_i64(number);
        }
        Err(DecodeError::expected("a whole number", self.node))
    }

    fn float<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let scalar = self.scalar("a number")?;
        match scalar.text.parse::<f64>() {
            Ok(number) if number.is_finite() && !scalar.quoted => visitor.visit_f64(number),
            _ => Err(DecodeError::expected("a number", self.node)),
        }
    }

    fn map(
        self,
        what: &str,
        fields: &'static [&'static str],
    ) -> Result<MapReader<'a>, DecodeError> {
        let entries = match &self.node.kind {
            Kind::Map(entries) => entries.as_slice(),
            Kind::Null => &[],
            _ => {
                let error = DecodeError::expected(what, self.node);
                return Err(if fields.is_empty() {
                    error
                } else {
                    error.help(format!("known here: {}", fields.join(", ")))
                });
            }
        };
        Ok(MapReader {
            entries: entries.iter(),
            fields,
            current: None,
        })
    }
}

impl<'de> serde::Deserializer<'de> for Decoder<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.kind {
            Kind::Null | Kind::Removed => visitor.visit_unit(),
            Kind::List(_) => self.deserialize_seq(visitor),
            Kind::Map(_) => self.deserialize_map(visitor),
            Kind::Scalar(scalar) if scalar.quoted => visitor.visit_str(&scalar.text),
            Kind::Scalar(scalar) => {
                let text = scalar.text.as_str();
                if let Ok(flag) = text.parse() {
                    visitor.visit_bool(flag)
                } else if let Ok(number) = text.parse() {
                    visitor.visit_u64(number)
                } else if let Ok(number) = text.parse() {
                    visitor.visit_i64(number)
                } else if let (true, Ok(number)) = (
                    text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.'),
                    text.parse(),
                ) {
                    visitor.visit_f64(number)
                } else {
                    visitor.visit_str(text)
                }
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let scalar = self.scalar("`true` or `false`")?;
        match scalar.text.as_str() {
            "true" | "True" | "TRUE" if !scalar.quoted => visitor.visit_bool(true),
            "false" | "False" | "FALSE" if !scalar.quoted => visitor.visit_bool(false),
            _ => Err(DecodeError::expected("`true` or `false`", self.node)),
        }
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.float(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.float(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let scalar = self.scalar("a text")?;
        visitor
            .visit_str(&scalar.text)
            .map_err(|error: DecodeError| reword(error, &scalar.text))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.node.kind {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.kind {
            Kind::List(items) => visitor.visit_seq(ListReader {
                items: items.iter().enumerate(),
            }),
            Kind::Null => visitor.visit_seq(ListReader {
                items: [].iter().enumerate(),
            }),
            Kind::Scalar(scalar) => {
                let text = scalar.template.as_ref().unwrap_or(&scalar.text);
                let error = DecodeError::expected("a list", self.node);
                Err(match text.starts_with('[') {
                    true => error,
                    false => error.help(format!("write [{text}]")),
                })
            }
            _ => Err(DecodeError::expected("a list", self.node)
                .help("each element of a list starts with `- `".to_owned())),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_map(self.map("a mapping of `key: value` lines", &[])?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_map(self.map("a mapping of `key: value` lines", fields)?)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let choice = || format!("one of {}", one_of(variants));
        let (word, origin, content) = match &self.node.kind {
            Kind::Scalar(scalar) => (scalar.text.as_str(), &self.node.origin, None),
            Kind::Map(entries) => match entries.as_slice() {
                [] => {
                    return Err(DecodeError::value(format!("expected {}", choice())));
                }
                [entry] if entry.value.kind == Kind::Removed => {
                    return Err(DecodeError::new(What::Damaged));
                }
                [entry] => (entry.key.as_str(), &entry.key_origin, Some(&entry.value)),
                [first, second, ..] => {
                    let mut error = DecodeError::value(format!(
                        "`{}` and `{}` exclude each other: write {}",
                        first.key,
                        second.key,
                        choice()
                    ));
                    error.at = Some(second.key_origin.clone());
                    return Err(error);
                }
            },
            _ => return Err(DecodeError::expected(&choice(), self.node)),
        };
        if !variants.contains(&word) {
            let mut error = DecodeError::unknown_variant(word, variants);
            error.at = Some(origin.clone());
            return Err(error);
        }
        visitor
            .visit_enum(ChoiceReader { word, content })
            .map_err(|error| match content {
                Some(_) => error.under(Step::Key(word.to_owned())),
                None => error,
            })
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple_struct ignored_any
    }
}

/// Messages of the standard library, in the words of this program.
fn reword(mut error: DecodeError, text: &str) -> DecodeError {
    if let What::Value { message, .. } = &mut error.what {
        if message == "invalid socket address syntax" {
            *message = format!("{text:?} is not an IP address with a port, such as 127.0.0.1:8080");
        } else if message == "invalid IP address syntax" {
            *message = format!("{text:?} is not an IP address");
        }
    }
    error
}

struct ListReader<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for ListReader<'_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        for (index, node) in self.items.by_ref() {
            if node.kind != Kind::Removed {
                return seed
                    .deserialize(Decoder { node })
                    .map(Some)
                    .map_err(|error| error.under(Step::Index(index)));
            }
        }
        Ok(None)
    }
}

struct MapReader<'a> {
    entries: std::slice::Iter<'a, Entry>,
    fields: &'static [&'static str],
    current: Option<&'a Entry>,
}

impl<'de> MapAccess<'de> for MapReader<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, DecodeError> {
        for entry in self.entries.by_ref() {
            let unknown = !self.fields.is_empty() && !self.fields.contains(&entry.key.as_str());
            // `admin:` with every line below it commented out, or `a: ${UNSET:-}`, means not set.
            let absent = entry.value.kind == Kind::Null && !unknown;
            if absent || entry.value.kind == Kind::Removed {
                continue;
            }
            self.current = Some(entry);
            let key: StrDeserializer<'_, DecodeError> = entry.key.as_str().into_deserializer();
            return seed.deserialize(key).map(Some).map_err(|mut error| {
                error.at = Some(entry.key_origin.clone());
                error.under(Step::Key(entry.key.clone()))
            });
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, DecodeError> {
        let Some(entry) = self.current else {
            return Err(DecodeError::value("a value was asked for before its key"));
        };
        seed.deserialize(Decoder { node: &entry.value })
            .map_err(|error| error.under(Step::Key(entry.key.clone())))
    }
}

/// `name`, `name:` or `name: content` of an externally tagged choice.
struct ChoiceReader<'a> {
    word: &'a str,
    content: Option<&'a Node>,
}

impl<'de, 'a> EnumAccess<'de> for ChoiceReader<'a> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), DecodeError> {
        let word: StrDeserializer<'_, DecodeError> = self.word.into_deserializer();
        Ok((seed.deserialize(word)?, self))
    }
}

impl<'de> VariantAccess<'de> for ChoiceReader<'_> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        match self.content {
            None => Ok(()),
            Some(node) => match &node.kind {
                Kind::Null => Ok(()),
                Kind::Map(entries) if entries.is_empty() => Ok(()),
                _ => Err(DecodeError::value(format!(
                    "`{}` takes no settings, found {}",
                    self.word,
                    node.describe()
                ))),
            },
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<T::Value, DecodeError> {
        match self.content {
            Some(node) => seed.deserialize(Decoder { node }),
            None => seed.deserialize(Decoder {
                node: &Node {
                    origin: Origin::Derived("the name alone"),
                    kind: Kind::Null,
                },
            }),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, DecodeError> {
        Err(DecodeError::value("this choice cannot be configured"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let null = Node {
            origin: Origin::Derived("the name alone"),
            kind: Kind::Null,
        };
        let node = self.content.unwrap_or(&null);
        visitor.visit_map(Decoder { node }.map("a mapping of `key: value` lines", fields)?)
    }
}
