//! How large a part of a JSON file is, found without keeping it.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

/// The size of a JSON value.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Extent {
    /// Values in it, at any depth: of an object or array of simple values, its entries.
    pub(super) values: usize,
    /// Bytes of the longest of its texts, keys among them.
    pub(super) longest: usize,
}

impl Extent {
    fn add(&mut self, other: Self) {
        self.values += other.values;
        self.longest = self.longest.max(other.longest);
    }
}

struct Measure;

impl<'de> Visitor<'de> for Measure {
    type Value = Extent;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Extent, E> {
        Ok(Extent::default())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Extent, E> {
        Ok(Extent::default())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Extent, E> {
        Ok(Extent::default())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Extent, E> {
        Ok(Extent::default())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Extent, E> {
        Ok(Extent::default())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Extent, E> {
        Ok(Extent { values: 0, longest: text.len() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Extent, A::Error> {
        let mut sum = Extent::default();
        while let Some(value) = list.next_element::<Extent>()? {
            sum.values += 1;
            sum.add(value);
        }
        Ok(sum)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Extent, A::Error> {
        let mut sum = Extent::default();
        while let Some((key, value)) = map.next_entry::<Extent, Extent>()? {
            sum.values += 1;
            sum.add(key);
            sum.add(value);
        }
        Ok(sum)
    }
}

impl<'de> Deserialize<'de> for Extent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Measure)
    }
}

#[cfg(test)]
mod tests {
    use super::Extent;

    #[test]
    fn sizes() {
        let of = |text: &str| {
            let Extent { values, longest } = serde_json::from_str(text).unwrap();
            (values, longest)
        };
        assert_eq!(of("null"), (0, 0));
        assert_eq!(of(r#""é""#), (0, 2));
        assert_eq!(of(r#"{"a": 1, "bcd": -2}"#), (2, 3));
        assert_eq!(of(r#"[["a", "bc"], ["d", 1.5], [], true]"#), (8, 2));
    }
}
