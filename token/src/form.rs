//! Formats of claims: dates, lists and words.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A permission that is present must have its type: `null` must not read as "any".
pub(super) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

pub(super) fn some_date<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    numeric_date(deserializer).map(Some)
}

/// Seconds since 1970, whole or fractional (RFC 7519, 2), limited to the range of `u64`.
pub(super) fn numeric_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Seconds;

    impl serde::de::Visitor<'_> for Seconds {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("seconds since 1970")
        }

        fn visit_u64<E>(self, value: u64) -> Result<u64, E> {
            Ok(value)
        }

        fn visit_i64<E>(self, value: i64) -> Result<u64, E> {
            Ok(u64::try_from(value).unwrap_or(0))
        }

        #[allow(clippy::cast_possible_truncation)] // A float cast saturates, as intended.
        fn visit_f64<E>(self, value: f64) -> Result<u64, E> {
            Ok(value as u64)
        }
    }

    deserializer.deserialize_any(Seconds)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrList {
    Text(String),
    List(Vec<String>),
}

/// The `scope` claim: words separated by spaces (RFC 8693, 4.2); a list is read as well.
pub(super) mod scope_text {
    use super::{Deserialize, Deserializer, Serializer, TextOrList};

    pub(crate) fn serialize<S: Serializer>(
        words: &Option<Vec<String>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&words.as_deref().unwrap_or_default().join(" "))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<String>>, D::Error> {
        Ok(Some(match TextOrList::deserialize(deserializer)? {
            TextOrList::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
            TextOrList::List(words) => words,
        }))
    }
}

/// The `aud` claim: one text, or a list (RFC 7519, 4.1.3).
pub(super) mod audience {
    use super::{Deserialize, Deserializer, Serialize, Serializer, TextOrList};

    pub(crate) fn serialize<S: Serializer>(
        names: &Option<Vec<String>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match names.as_deref().unwrap_or_default() {
            [one] => serializer.serialize_str(one),
            names => names.serialize(serializer),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<String>>, D::Error> {
        Ok(Some(match TextOrList::deserialize(deserializer)? {
            TextOrList::Text(name) => vec![name],
            TextOrList::List(names) => names,
        }))
    }
}
