//! What a child says of itself when it starts, and how callers of the other era see it.

use crate::client::implementation;
use crate::headers::{Era, LEGACY_VERSIONS, META_SERVER_INFO, MODERN_VERSION};
use crate::json::{self, Object};
use crate::message::raw;
use crate::names::{LEGACY_VERSION, is_cacheable};

/// What a child said of itself.
#[derive(Debug)]
pub(crate) struct Greeting {
    era: Era,
    /// The raw `InitializeResult` or `DiscoverResult`.
    text: Box<str>,
    /// True if the child sends log messages.
    pub(crate) logs: bool,
    /// True if the child reports changes of a resource to its subscribers.
    pub(crate) subscribes: bool,
    /// True for each list whose changes the child reports.
    pub(crate) lists: Lists,
}

/// The lists of a server; true for those whose changes count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lists {
    /// The list of tools.
    pub(crate) tools: bool,
    /// The list of prompts.
    pub(crate) prompts: bool,
    /// The list of resources.
    pub(crate) resources: bool,
}

impl Greeting {
    /// Reads the result of `initialize` or `server/discover`; `None` if it is no object.
    pub(crate) fn new(era: Era, text: &str) -> Option<Self> {
        if !raw::is_object(text) {
            return None;
        }
        let capabilities = raw::member(text, "capabilities").unwrap_or("{}");
        let is_true = |part: &str, key: &str| {
            let part = raw::member(capabilities, part);
            raw::is_true(part.and_then(|part| raw::member(part, key)))
        };
        Some(Self {
            era,
            text: text.into(),
            logs: raw::member(capabilities, "logging").is_some(),
            subscribes: is_true("resources", "subscribe"),
            lists: Lists {
                tools: is_true("tools", "listChanged"),
                prompts: is_true("prompts", "listChanged"),
                resources: is_true("resources", "listChanged"),
            },
        })
    }

    /// The era that the child speaks.
    pub(crate) const fn era(&self) -> Era {
        self.era
    }

    /// The `InitializeResult` for a legacy caller that asks for `version`, and the version in it.
    pub(crate) fn initialize_result(&self, version: Option<&str>) -> (String, String) {
        if self.era == Era::Legacy {
            let version = self.member("protocolVersion").and_then(raw::text);
            return (self.text.to_string(), version.unwrap_or_default());
        }
        let asked = version.filter(|version| LEGACY_VERSIONS.contains(version));
        let version = asked.unwrap_or(LEGACY_VERSION);
        let meta = self.member("_meta");
        let server = meta.and_then(|meta| raw::member(meta, META_SERVER_INFO));
        let result = Object::new()
            .text("protocolVersion", version)
            .raw("capabilities", self.member("capabilities").unwrap_or("{}"))
            .raw(
                "serverInfo",
                &server.map_or_else(implementation, String::from),
            )
            .raw_if("instructions", self.member("instructions"))
            .end();
        (result, version.to_owned())
    }

    /// The `DiscoverResult` for a modern caller of a legacy child.
    ///
    /// It is not to be cached: another child may answer later, and with other capabilities.
    pub(crate) fn discover_result(&self) -> String {
        let versions = std::iter::once(MODERN_VERSION).chain(LEGACY_VERSIONS);
        let versions: Vec<String> = versions.map(raw::quoted).collect();
        let meta = Object::new().raw_if(META_SERVER_INFO, self.member("serverInfo"));
        let result = Object::new()
            .text("resultType", "complete")
            .raw("supportedVersions", &format!("[{}]", versions.join(",")))
            .raw("capabilities", &self.modern_capabilities())
            .raw("_meta", &meta.end())
            .raw_if("instructions", self.member("instructions"));
        let result = cache_hints("server/discover")
            .into_iter()
            .fold(result, |result, (key, value)| result.raw(key, value));
        result.end()
    }

    /// The capabilities without those that the modern era lacks.
    fn modern_capabilities(&self) -> String {
        let capabilities = self.member("capabilities").unwrap_or("{}");
        let members = json::members(capabilities).unwrap_or_default();
        let kept = members.into_iter().filter(|(key, _)| key != "tasks");
        let object = kept.fold(Object::new(), |object, (key, value)| {
            object.raw(&key, value)
        });
        object.end()
    }

    fn member(&self, key: &str) -> Option<&str> {
        raw::member(&self.text, key)
    }
}

/// Members that the result of `method` must have in the modern era, beside its type: nothing that a child of the other
/// era says may be kept, because that era has no rule for it.
pub(crate) fn cache_hints(method: &str) -> Vec<(&'static str, &'static str)> {
    match is_cacheable(method) {
        true => vec![("ttlMs", "0"), ("cacheScope", "\"private\"")],
        false => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIALIZED: &str = r#"{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"tasks":{},
        "resources":{"subscribe":true},"logging":{}},"serverInfo":{"name":"s","version":"1"},"instructions":"Ask."}"#;

    #[test]
    fn capabilities_are_read_once() -> Result<(), String> {
        let greeting = Greeting::new(Era::Legacy, INITIALIZED).ok_or("not read")?;
        assert!(greeting.logs && greeting.subscribes);
        let lists = Lists {
            tools: true,
            ..Lists::default()
        };
        assert_eq!(greeting.lists, lists);
        assert!(Greeting::new(Era::Legacy, "7").is_none());
        Ok(())
    }

    #[test]
    fn a_modern_caller_sees_a_legacy_server_without_tasks() -> Result<(), String> {
        let greeting = Greeting::new(Era::Legacy, INITIALIZED).ok_or("not read")?;
        let result = greeting.discover_result();
        let member = |key| raw::member(&result, key);
        assert_eq!(member("resultType"), Some("\"complete\""));
        assert!(member("supportedVersions").is_some_and(|list| list.contains(MODERN_VERSION)));
        assert!(member("capabilities").is_some_and(|text| !text.contains("tasks")));
        assert!(member("_meta").is_some_and(|text| text.contains(META_SERVER_INFO)));
        assert_eq!(member("instructions"), Some("\"Ask.\""));
        assert_eq!(
            (member("ttlMs"), member("cacheScope")),
            (Some("0"), Some("\"private\""))
        );
        Ok(())
    }

    #[test]
    fn a_legacy_caller_of_a_modern_server_gets_the_version_that_it_knows() -> Result<(), String> {
        let discovered = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},
            "_meta":{"io.modelcontextprotocol/serverInfo":{"name":"m","version":"2"}}}"#;
        let greeting = Greeting::new(Era::Modern, discovered).ok_or("not read")?;
        let (result, version) = greeting.initialize_result(Some("2025-06-18"));
        assert_eq!(version, "2025-06-18");
        assert_eq!(
            raw::member(&result, "serverInfo"),
            Some(r#"{"name":"m","version":"2"}"#)
        );
        assert_eq!(
            greeting.initialize_result(Some("1900-01-01")).1,
            LEGACY_VERSION
        );
        assert_eq!(greeting.initialize_result(None).1, LEGACY_VERSION);
        Ok(())
    }
}
