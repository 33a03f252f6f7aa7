//! What a caller says of its own program: name, version and capabilities, as JSON texts.

use crate::headers::{META_CLIENT_CAPABILITIES, META_CLIENT_INFO, META_VERSION, MODERN_VERSION};
use crate::json::Object;
use crate::message::{Message, raw};

/// A client program as the child is to see it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// The raw `Implementation`; modern callers may leave it out.
    info: Option<Box<str>>,
    /// The raw `ClientCapabilities`.
    capabilities: Box<str>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            info: None,
            capabilities: "{}".into(),
        }
    }
}

impl Client {
    /// The client that sends this `initialize` request.
    pub(crate) fn of_initialize(message: &Message) -> Self {
        Self {
            info: message.param("clientInfo").map(Box::from),
            capabilities: message.param("capabilities").unwrap_or("{}").into(),
        }
    }

    /// The client that sends this modern request.
    pub(crate) fn of_meta(message: &Message) -> Self {
        Self {
            info: message.meta(META_CLIENT_INFO).map(Box::from),
            capabilities: message
                .meta(META_CLIENT_CAPABILITIES)
                .unwrap_or("{}")
                .into(),
        }
    }

    /// The raw capabilities.
    pub(crate) fn capabilities(&self) -> &str {
        &self.capabilities
    }

    /// The members of `_meta` that a modern child needs in each request.
    pub(crate) fn meta(&self) -> Vec<(&'static str, String)> {
        let mut meta = vec![
            (META_VERSION, raw::quoted(MODERN_VERSION)),
            (META_CLIENT_CAPABILITIES, self.capabilities.to_string()),
        ];
        if let Some(info) = &self.info {
            meta.push((META_CLIENT_INFO, info.to_string()));
        }
        meta
    }

    /// Those members as one raw object.
    pub(crate) fn meta_object(&self) -> String {
        let members = self.meta().into_iter();
        let object = members.fold(Object::new(), |object, (key, value)| {
            object.raw(key, &value)
        });
        object.end()
    }

    /// Raw params of an `initialize` request for this client.
    pub(crate) fn initialize_params(&self, version: &str) -> String {
        let info = self.info.as_deref();
        Object::new()
            .text("protocolVersion", version)
            .raw("capabilities", &self.capabilities)
            .raw(
                "clientInfo",
                &info.map_or_else(implementation, String::from),
            )
            .end()
    }

    /// True if the client has declared that its user can open a URL.
    pub(crate) fn opens_urls(&self) -> bool {
        let modes = raw::member(&self.capabilities, "elicitation");
        modes.is_some_and(|modes| raw::member(modes, "url").is_some())
    }

    /// True if the client has declared that it answers this request of a server.
    ///
    /// An empty `elicitation` object declares the form mode, which is also the mode of an elicitation that names none.
    pub(crate) fn answers(&self, request: &Message) -> bool {
        let declared = |key| raw::member(&self.capabilities, key);
        match request.method() {
            Some("sampling/createMessage") => declared("sampling").is_some(),
            Some("roots/list") => declared("roots").is_some(),
            Some("elicitation/create") => {
                declared("elicitation").is_some_and(|modes| {
                    match request.param("mode") == Some("\"url\"") {
                        true => self.opens_urls(),
                        false => raw::member(modes, "form").is_some() || !self.opens_urls(),
                    }
                })
            }
            _ => false,
        }
    }
}

/// The bridge as a raw `Implementation`, where a caller or a child has not named itself.
pub(crate) fn implementation() -> String {
    Object::new()
        .text("name", "tieline-bridge")
        .text("version", env!("CARGO_PKG_VERSION"))
        .end()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn client(capabilities: &str) -> Client {
        Client {
            info: None,
            capabilities: capabilities.into(),
        }
    }

    fn request(method: &str, params: &str) -> Message {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        Message::parse(Bytes::from(text)).unwrap()
    }

    #[test]
    fn a_client_answers_what_it_has_declared() {
        let sampling = request("sampling/createMessage", "{}");
        assert!(client(r#"{"sampling":{}}"#).answers(&sampling));
        assert!(!client(r#"{"roots":{}}"#).answers(&sampling));
        assert!(client(r#"{"roots":{}}"#).answers(&request("roots/list", "{}")));
        assert!(!client(r#"{"roots":{}}"#).answers(&request("tools/list", "{}")));
    }

    #[test]
    fn an_elicitation_needs_its_mode() {
        let form = request("elicitation/create", "{}");
        let url = request("elicitation/create", r#"{"mode":"url"}"#);
        let modes = |modes: &str| client(&format!(r#"{{"elicitation":{modes}}}"#));
        assert!(modes("{}").answers(&form) && !modes("{}").answers(&url));
        assert!(!modes(r#"{"url":{}}"#).answers(&form) && modes(r#"{"url":{}}"#).answers(&url));
        assert!(modes(r#"{"form":{},"url":{}}"#).answers(&form));
        assert!(!client("{}").answers(&form));
    }

    #[test]
    fn a_client_without_a_name_gets_that_of_the_bridge() {
        let params = client("{}").initialize_params("2025-11-25");
        let info = raw::member(&params, "clientInfo");
        assert!(info.is_some_and(|info| info.contains("tieline-bridge")));
    }
}
