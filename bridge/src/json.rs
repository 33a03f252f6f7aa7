//! JSON objects that the bridge writes itself, around texts that pass as they are.

use serde_json::value::RawValue;

use crate::message::raw;

/// A JSON object under construction.
#[derive(Debug)]
pub(crate) struct Object(String);

impl Object {
    /// An object without members.
    pub(crate) fn new() -> Self {
        Self(String::from("{"))
    }

    /// Adds a member whose value is JSON text.
    pub(crate) fn raw(mut self, key: &str, value: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&raw::quoted(key));
        self.0.push(':');
        self.0.push_str(value);
        self
    }

    /// Adds a member whose value is JSON text, if there is one.
    pub(crate) fn raw_if(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.raw(key, value),
            None => self,
        }
    }

    /// Adds a member whose value is a string.
    pub(crate) fn text(self, key: &str, value: &str) -> Self {
        self.raw(key, &raw::quoted(value))
    }

    /// The finished object.
    pub(crate) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// The members of a JSON object in their order, each with its JSON text; `None` if `text` is no object.
pub(crate) fn members(text: &str) -> Option<Vec<(String, &str)>> {
    let members: Members<'_> = serde_json::from_str(text).ok()?;
    let pairs = members.0.into_iter();
    Some(pairs.map(|(key, value)| (key, value.get())).collect())
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> serde::de::Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("a JSON object")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_the_texts_of_its_members() {
        let object = Object::new()
            .raw("a", "1.50")
            .text("b\"", "c\n")
            .raw_if("d", None);
        let text = object.end();
        assert_eq!(text, r#"{"a":1.50,"b\"":"c\n"}"#);
        let read = members(&text).unwrap();
        let keys = (String::from("a"), String::from("b\""));
        assert_eq!(read, [(keys.0, "1.50"), (keys.1, r#""c\n""#)]);
        assert_eq!(Object::new().end(), "{}");
        assert_eq!(members("[1]"), None);
    }
}
