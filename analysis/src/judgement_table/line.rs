//! One record of a file of judgements, without a tree of values in between.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What stands under a key.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Cell<'a> {
    /// The key is not there.
    #[default]
    Absent,
    /// `null`.
    Null,
    /// A number.
    Number(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// Something that no column holds.
    Other(&'static str),
}

impl Cell<'_> {
    /// What it is, in words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Absent => "nothing",
            Self::Null => "null",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::Other(kind) => kind,
        }
    }

    /// Whether the record says something here.
    pub(super) fn is_given(&self) -> bool {
        !matches!(self, Self::Absent | Self::Null)
    }

    /// The text.
    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Cell<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CellVisitor)
    }
}

struct CellVisitor;

impl<'de> Visitor<'de> for CellVisitor {
    type Value = Cell<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Cell::Other("true or false"))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Cell::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Cell::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Cell::Number(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Cell::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Cell::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Self::Value, E> {
        Ok(Cell::Text(Cow::Owned(value)))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Cell::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Cell::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Cell::Other("an object"))
    }
}

/// The fields of a record that the table knows; others are passed over.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Line<'a> {
    #[serde(borrow)]
    pub(super) instruction: Cell<'a>,
    #[serde(borrow)]
    pub(super) input: Cell<'a>,
    #[serde(borrow)]
    pub(super) index: Cell<'a>,
    #[serde(borrow)]
    pub(super) dataset: Cell<'a>,
    #[serde(borrow)]
    pub(super) generator_1: Cell<'a>,
    #[serde(borrow)]
    pub(super) generator_2: Cell<'a>,
    #[serde(borrow)]
    pub(super) output_1: Cell<'a>,
    #[serde(borrow)]
    pub(super) output_2: Cell<'a>,
    #[serde(borrow)]
    pub(super) generator: Cell<'a>,
    #[serde(borrow)]
    pub(super) model: Cell<'a>,
    #[serde(borrow)]
    pub(super) output: Cell<'a>,
    #[serde(borrow)]
    pub(super) len_1: Cell<'a>,
    #[serde(borrow)]
    pub(super) len_2: Cell<'a>,
    #[serde(borrow)]
    pub(super) annotator: Cell<'a>,
    #[serde(borrow)]
    pub(super) preference: Cell<'a>,
    #[serde(borrow)]
    pub(super) scale: Cell<'a>,
    #[serde(borrow)]
    pub(super) price: Cell<'a>,
    #[serde(borrow)]
    pub(super) price_per_example: Cell<'a>,
    #[serde(borrow)]
    pub(super) preference_price_per_example: Cell<'a>,
    #[serde(borrow)]
    pub(super) time: Cell<'a>,
    #[serde(borrow)]
    pub(super) time_per_example: Cell<'a>,
    #[serde(borrow)]
    pub(super) preference_time_per_example: Cell<'a>,
}

impl Line<'_> {
    /// Whether the record is one that this reader knows: AlpacaEval's annotations, or the compact form of lengths.
    pub(super) fn is_flat(&self) -> bool {
        let is_asked = self.instruction.text().is_some() || matches!(self.index, Cell::Number(_));
        let is_verdict = matches!(self.preference, Cell::Number(_) | Cell::Null);
        is_asked && is_verdict && self.scale == Cell::Absent
    }

    /// Whether the record looks like a judgement that lacks its verdict.
    pub(super) fn lacks_verdict(&self) -> bool {
        self.preference == Cell::Absent && self.generator_2.is_given() && (self.output_2.is_given() || self.len_2.is_given())
    }

    pub(super) fn price(&self) -> [(&'static str, &Cell<'_>); 3] {
        [
            ("price", &self.price),
            ("preference_price_per_example", &self.preference_price_per_example),
            ("price_per_example", &self.price_per_example),
        ]
    }

    pub(super) fn time(&self) -> [(&'static str, &Cell<'_>); 3] {
        [
            ("time", &self.time),
            ("preference_time_per_example", &self.preference_time_per_example),
            ("time_per_example", &self.time_per_example),
        ]
    }
}

/// A record, or what stands where one should.
#[derive(Debug)]
pub(super) enum Item<'a> {
    /// An object.
    Line(Box<Line<'a>>),
    /// Anything else.
    Other(&'static str),
}

impl<'de: 'a, 'a> Deserialize<'de> for Item<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Line::deserialize(MapAccessDeserializer::new(map)).map(|line| Item::Line(Box::new(line)))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Item::Other("true or false"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Item::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Item::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Item::Other("a number"))
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Item::Other("a text"))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Item::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Item::Other("a list"))
    }
}
