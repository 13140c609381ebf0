//! A JSON object whose keys are kept in order and checked for duplicates, which serde's maps drop silently.

use std::{collections::HashSet, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

/// Entries in the file's order, and the first key that came twice.
pub(super) struct UniqueMap<V> {
    pub(super) entries: Vec<(String, V)>,
    pub(super) duplicate: Option<String>,
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = UniqueMap<V>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = UniqueMap { entries: Vec::new(), duplicate: None };
                let mut seen = HashSet::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    if !seen.insert(key.clone()) {
                        found.duplicate.get_or_insert_with(|| key.clone());
                    }
                    found.entries.push((key, value));
                }
                Ok(found)
            }
        }

        deserializer.deserialize_map(Entries(PhantomData))
    }
}
