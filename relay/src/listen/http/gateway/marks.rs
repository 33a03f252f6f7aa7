//! Marks on the MCP session ids, endpoints and login paths of a target, by which a request with a marked name
//! returns to the agent that gave the name. The relay keeps no state.
//!
//! A mark holds the agent's tag, and an HMAC over the tag, the tunnel, the caller and the marked name. A mark
//! cannot be forged, and is valid for its caller only, unless it is a login mark.

use aws_lc_rs::digest::SHA256_OUTPUT_LEN;
use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use tieline_wire::TunnelId;

use crate::directory::AgentBinding;
use crate::registry::AgentTag;

/// Bytes of a mark: agent tag and HMAC.
const MARK_BYTES: usize = 8 + SHA256_OUTPUT_LEN;

/// Characters of a mark in base64, with 6 bits each.
const MARK_CHARS: usize = (MARK_BYTES * 8).div_ceil(6);

/// Prefix of a mark in a path.
const IN_PATH: &str = "/~";

/// Key that makes marks and checks them.
#[derive(Clone, Debug)]
pub(crate) struct MarkKey(hmac::Key);

/// Kind of name that a mark belongs to.
#[derive(Clone, Copy)]
pub(crate) enum MarkKind {
    /// An MCP session id.
    Session = 1,
    /// The path of an endpoint of MCP's older transport.
    Path = 2,
    /// The path of a login endpoint. Its mark is valid for every caller, because the user's browser opens it, not the
    /// client that received it.
    Login = 3,
}

impl MarkKey {
    /// For a given key: instances with the same key accept each other's marks.
    pub(crate) fn of(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Marks an MCP session id for `caller`: the target's id, the mark, the tunnel.
    pub(crate) fn mark_session(
        &self,
        binding: &AgentBinding,
        caller: Option<&str>,
        id: &str,
    ) -> String {
        let mark = self.mark(MarkKind::Session, binding, caller, id);
        [id, ".", &mark, ".", binding.tunnel.as_str()].concat()
    }

    /// Checks a marked session id; returns its agent and the target's id.
    pub(crate) fn check_session<'a>(
        &self,
        caller: Option<&str>,
        marked: &'a str,
    ) -> Option<(AgentBinding, &'a str)> {
        let (rest, tunnel) = marked.rsplit_once('.')?;
        let (id, mark) = rest.rsplit_once('.')?;
        let tunnel = TunnelId::parse(tunnel).ok()?;
        let binding = self.check(MarkKind::Session, tunnel, caller, id, mark)?;
        Some((binding, id))
    }

    /// Marks a path of a target for `caller`; the result follows the tunnel's prefix.
    pub(crate) fn mark_path(
        &self,
        kind: MarkKind,
        binding: &AgentBinding,
        caller: Option<&str>,
        path: &str,
    ) -> String {
        let mark = self.mark(kind, binding, caller, path);
        [IN_PATH, &mark, path].concat()
    }

    /// Checks a marked path; returns its agent and the target's path.
    pub(crate) fn check_path<'a>(
        &self,
        kind: MarkKind,
        tunnel: &TunnelId,
        caller: Option<&str>,
        marked: &'a str,
    ) -> Option<(AgentBinding, &'a str)> {
        let rest = marked.strip_prefix(IN_PATH)?;
        let (mark, path) = rest.split_at_checked(MARK_CHARS)?;
        let binding = self.check(kind, tunnel.clone(), caller, path, mark)?;
        Some((binding, path))
    }

    fn mark(
        &self,
        kind: MarkKind,
        binding: &AgentBinding,
        caller: Option<&str>,
        text: &str,
    ) -> String {
        let code = hmac::sign(&self.0, &hmac_input(kind, binding, caller, text));
        BASE64URL_NOPAD.encode(&[&binding.agent.0, code.as_ref()].concat())
    }

    fn check(
        &self,
        kind: MarkKind,
        tunnel: TunnelId,
        caller: Option<&str>,
        text: &str,
        mark: &str,
    ) -> Option<AgentBinding> {
        let mark = BASE64URL_NOPAD.decode(mark.as_bytes()).ok()?;
        let (agent, code) = mark.split_first_chunk()?;
        let binding = AgentBinding {
            tunnel,
            agent: AgentTag(*agent),
        };
        hmac::verify(&self.0, &hmac_input(kind, &binding, caller, text), code).ok()?;
        Some(binding)
    }
}

/// Input of the HMAC. It is unambiguous, since all parts but the last have a known length.
fn hmac_input(kind: MarkKind, binding: &AgentBinding, caller: Option<&str>, text: &str) -> Vec<u8> {
    let sized = |part: &str| part.len().to_be_bytes();
    let (tunnel, name) = (binding.tunnel.as_str(), caller.unwrap_or_default());
    let head = [kind as u8, u8::from(caller.is_some())];
    let parts: [&[u8]; 7] = [
        &head,
        &binding.agent.0,
        &sized(tunnel),
        tunnel.as_bytes(),
        &sized(name),
        name.as_bytes(),
        text.as_bytes(),
    ];
    parts.concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binding(tunnel: &str) -> AgentBinding {
        AgentBinding {
            tunnel: TunnelId::parse(tunnel).unwrap(),
            agent: AgentTag(*b"12345678"),
        }
    }

    fn key() -> MarkKey {
        key_of(7)
    }

    fn key_of(byte: u8) -> MarkKey {
        MarkKey::of(&[byte; 32])
    }

    #[test]
    fn what_was_marked_leads_back_to_its_agent_for_the_same_caller_only() {
        let marked = key().mark_session(&binding("maya"), Some("ada"), "a.b-1");
        let check = |caller| key().check_session(caller, &marked);
        assert_eq!(check(Some("ada")), Some((binding("maya"), "a.b-1")));
        assert_eq!(check(Some("bob")), None);
        assert_eq!(check(None), None);
        assert!(key_of(8).check_session(Some("ada"), &marked).is_none());

        let path = key().mark_path(MarkKind::Path, &binding("maya"), None, "/messages/?id=1");
        let check = |tunnel: &str, path: &str| {
            let tunnel = TunnelId::parse(tunnel).unwrap();
            let checked = key().check_path(MarkKind::Path, &tunnel, None, path);
            checked.map(|(binding, path)| (binding.agent, path.to_owned()))
        };
        let checked = Some((binding("maya").agent, "/messages/?id=1".to_owned()));
        assert_eq!(check("maya", &path), checked);
        assert_eq!(check("comfy", &path), None);
        assert_eq!(check("maya", &(path.clone() + "&admin")), None);
    }

    #[test]
    fn a_mark_on_one_thing_is_none_on_another() {
        let session = key().mark_session(&binding("maya"), None, "/x");
        let mark = session.split('.').nth(1).unwrap();
        assert_eq!(mark.len(), MARK_CHARS);
        let path = ["/~", mark, "/x"].concat();
        assert!(
            key()
                .check_path(MarkKind::Path, &binding("maya").tunnel, None, &path)
                .is_none()
        );
    }

    proptest! {
        #[test]
        fn a_mark_that_was_changed_is_worth_nothing(at in 0_usize..MARK_CHARS, to in "[A-Za-z0-9_-]") {
            let marked = key().mark_session(&binding("maya"), Some("ada"), "id");
            let mut changed = marked.clone();
            changed.replace_range(3 + at..4 + at, &to);
            let checked = key().check_session(Some("ada"), &changed);
            prop_assert_eq!(checked.is_some(), changed == marked);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}") {
            let _ = key().check_session(None, &text);
            let _ = key().check_path(MarkKind::Path, &binding("maya").tunnel, None, &text);
        }
    }
}
