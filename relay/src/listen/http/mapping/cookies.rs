//! Cookies of targets that share a host (RFC 6265bis): each cookie is limited to its tunnel, and name prefixes
//! with a meaning for browsers are kept valid.

/// Name prefix of cookies for a whole host: browsers drop such a cookie without `Path=/`.
const HOST_PREFIX: &[u8] = b"__Host-";

/// Replacement prefix for a `__Host-` cookie that is limited to one tunnel. It keeps the rest of the meaning:
/// the cookie is set and sent over secure connections only.
const SECURE_PREFIX: &[u8] = b"__Secure-";

/// Maps a target's cookie for its caller. `prefix` is the public prefix of the target's paths, and may be
/// empty; `request_path` is the path of the request at the target.
pub(crate) fn for_caller(value: &[u8], prefix: &str, request_path: &str) -> Vec<u8> {
    let mut parts = value.split(|b| *b == b';');
    let pair = parts.next().unwrap_or_default();
    let attributes: Vec<_> = parts.map(Attribute::of).collect();
    let last_path = attributes.iter().rposition(|it| it.is(b"path"));
    let path = last_path.map(|at| unquoted(attributes[at].value));
    let path = path.filter(|path| path.starts_with(b"/"));
    let public = (!prefix.is_empty()).then(|| match path {
        Some(path) if is_under(path, prefix.as_bytes()) => path.to_vec(),
        Some(path) => below(prefix, path),
        None => below(prefix, default_path(request_path).as_bytes()),
    });
    let mut out = Vec::with_capacity(value.len() + prefix.len() + 16);
    if public.is_some() && is_for_host(pair) {
        out.extend_from_slice(SECURE_PREFIX);
        out.extend_from_slice(pair.trim_ascii_start());
    } else {
        out.extend_from_slice(pair);
    }
    let mut is_placed = false;
    for (at, attribute) in attributes.iter().enumerate() {
        match &public {
            _ if attribute.is(b"domain") => {}
            Some(_) if attribute.is(b"path") && last_path != Some(at) => {}
            Some(public) if attribute.is(b"path") => {
                place(&mut out, public);
                is_placed = true;
            }
            _ => {
                out.push(b';');
                out.extend_from_slice(attribute.text);
            }
        }
    }
    if let Some(public) = public.filter(|_| !is_placed) {
        place(&mut out, &public);
    }
    out
}

/// Maps a caller's cookies back to the target's names; `None` if they are unchanged.
pub(super) fn for_target(value: &[u8]) -> Option<Vec<u8>> {
    let mut is_changed = false;
    let pairs = value.split(|b| *b == b';').map(|pair| {
        let name = pair.trim_ascii_start();
        match without(name, SECURE_PREFIX).filter(|rest| is_for_host(rest)) {
            Some(rest) => {
                is_changed = true;
                [&pair[..pair.len() - name.len()], rest].concat()
            }
            None => pair.to_vec(),
        }
    });
    let pairs: Vec<_> = pairs.collect();
    is_changed.then(|| pairs.join(&b';'))
}

/// One attribute after a cookie's name and value.
struct Attribute<'a> {
    text: &'a [u8],
    name: &'a [u8],
    value: &'a [u8],
}

impl<'a> Attribute<'a> {
    fn of(text: &'a [u8]) -> Self {
        let mut parts = text.splitn(2, |b| *b == b'=');
        let mut next = || parts.next().unwrap_or_default().trim_ascii();
        Self {
            text,
            name: next(),
            value: next(),
        }
    }

    fn is(&self, name: &[u8]) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

fn place(out: &mut Vec<u8>, path: &[u8]) {
    out.extend_from_slice(b"; Path=");
    out.extend_from_slice(path);
}

/// The value without quotes: older servers write quotes, and older clients remove them.
fn unquoted(value: &[u8]) -> &[u8] {
    let inside = value
        .strip_prefix(b"\"")
        .and_then(|it| it.strip_suffix(b"\""));
    inside.unwrap_or(value)
}

/// A target's path below the prefix. For `/` no slash is added after the prefix, so that the cookie also
/// matches the tunnel's bare URL (RFC 6265, section 5.1.4).
fn below(prefix: &str, path: &[u8]) -> Vec<u8> {
    let path = if path == b"/" { b"" } else { path };
    [prefix.as_bytes(), path].concat()
}

/// True if the target itself wrote the prefix.
fn is_under(path: &[u8], prefix: &[u8]) -> bool {
    let rest = path.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Default path of a cookie without `Path` (RFC 6265, section 5.1.4).
fn default_path(request_path: &str) -> &str {
    let path = request_path.split('?').next().unwrap_or_default();
    match path.rfind('/') {
        None | Some(0) => "/",
        Some(end) => &path[..end],
    }
}

/// True for a cookie whose name, perhaps after `__Secure-`, begins with `__Host-` and so needs `Path=/`.
/// Browsers ignore the case of these prefixes.
fn is_for_host(pair: &[u8]) -> bool {
    let mut name = pair.trim_ascii_start();
    while let Some(rest) = without(name, SECURE_PREFIX) {
        name = rest;
    }
    without(name, HOST_PREFIX).is_some() && pair.contains(&b'=')
}

fn without<'a>(name: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = name.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(value: &str, prefix: &str, request_path: &str) -> String {
        String::from_utf8(for_caller(value.as_bytes(), prefix, request_path)).unwrap()
    }

    #[test]
    fn a_cookie_is_confined_to_the_tunnel() {
        for (value, expected) in [
            ("a=1; Path=/; HttpOnly", "a=1; Path=/w/maya; HttpOnly"),
            ("a=/; path = /mcp ;Secure", "a=/; Path=/w/maya/mcp;Secure"),
            ("a=1;PATH=/x/", "a=1; Path=/w/maya/x/"),
            ("a=1; Path=\"/\"", "a=1; Path=/w/maya"),
            ("a=1; Path=/w/maya/x", "a=1; Path=/w/maya/x"),
            ("a=1; Path=/w/mayax", "a=1; Path=/w/maya/w/mayax"),
            // The last `Path` counts.
            (
                "a=1; Path=/x; Secure; Path=/y",
                "a=1; Secure; Path=/w/maya/y",
            ),
            ("a=1; Path=/x; Path=y", "a=1; Path=/w/maya/mcp"),
            ("a=1", "a=1; Path=/w/maya/mcp"),
            ("a=1; Path", "a=1; Path=/w/maya/mcp"),
            ("a=1; Path=; Secure", "a=1; Path=/w/maya/mcp; Secure"),
            ("path=/x", "path=/x; Path=/w/maya/mcp"),
            ("no name", "no name; Path=/w/maya/mcp"),
            ("", "; Path=/w/maya/mcp"),
        ] {
            assert_eq!(kept(value, "/w/maya", "/mcp/a?b=/c/"), expected, "{value}");
        }
    }

    #[test]
    fn a_cookie_without_a_path_counts_where_its_request_was() {
        for (request_path, path) in [
            ("/", "/w/a"),
            ("/x", "/w/a"),
            ("/x/", "/w/a/x"),
            ("/x/y/z?q=/", "/w/a/x/y"),
        ] {
            assert_eq!(
                kept("a=1", "/w/a", request_path),
                format!("a=1; Path={path}")
            );
        }
    }

    #[test]
    fn no_cookie_names_a_domain() {
        for domain in [
            "Domain=127.0.0.1",
            "domain = .relay.example ",
            "DOMAIN",
            "Domain=",
        ] {
            let value = format!("a=1; {domain}; Max-Age=5; Path=/x");
            let expected = "a=1; Max-Age=5; Path=/w/maya/x";
            assert_eq!(kept(&value, "/w/maya", "/"), expected);
            assert_eq!(kept(&value, "", "/"), "a=1; Max-Age=5; Path=/x");
        }
        assert_eq!(kept("Domain=1; Secure", "", "/"), "Domain=1; Secure");
    }

    #[test]
    fn where_the_host_names_the_tunnel_the_path_stays() {
        for value in [
            "a=1",
            "a=1; Path=/",
            "a=1; Path=x",
            "__Host-a=1; Secure; Path=/",
        ] {
            assert_eq!(kept(value, "", "/mcp/a"), value);
        }
    }

    #[test]
    fn a_name_for_the_whole_host_is_told_in_one_that_browsers_take_for_a_path() {
        let kept = |value| kept(value, "/w/maya", "/mcp");
        assert_eq!(
            kept("__Host-a=1; Secure; Path=/"),
            "__Secure-__Host-a=1; Secure; Path=/w/maya"
        );
        assert_eq!(
            kept(" __host-http-a=1; Secure"),
            "__Secure-__host-http-a=1; Secure; Path=/w/maya"
        );
        for name in ["__Secure-a", "x__Host-a", "__Hosta"] {
            let kept = for_caller(format!("{name}=1").as_bytes(), "/w/maya", "/");
            assert!(kept.starts_with(format!("{name}=1;").as_bytes()));
        }
        let back = |value: &str| {
            let mapped = for_target(value.as_bytes());
            mapped.map(|mapped| String::from_utf8(mapped).unwrap())
        };
        assert_eq!(
            back("b=2; __Secure-__Host-a=1;__Secure-c=3").as_deref(),
            Some("b=2; __Host-a=1;__Secure-c=3")
        );
        assert_eq!(back("a=__Secure-__Host-a; __Host-b=1"), None);
        assert_eq!(back(""), None);
    }

    proptest! {
        #[test]
        fn a_target_gets_its_own_name_back(
            name in "(__[Ss]ecure-|__Host-|__HOST-|a|-){0,4}", value in "[a-z=_-]{0,8}"
        ) {
            let pair = format!("{name}={value}");
            let kept = kept(&pair, "/w/maya", "/");
            let sent = kept.split(';').next().unwrap();
            let back = for_target(sent.as_bytes());
            prop_assert_eq!(back.unwrap_or_else(|| sent.into()), pair.into_bytes());
        }

        #[test]
        fn whatever_a_cookie_says_it_has_one_path_and_no_domain(
            value in "([a-z=]{0,5}|;|; |path|PATH|domain|=|/|\"| ){0,20}"
        ) {
            let kept = kept(&value, "/w/maya", "/x");
            let attributes: Vec<_> = kept.as_bytes().split(|b| *b == b';').skip(1).map(Attribute::of).collect();
            let paths: Vec<_> = attributes.iter().filter(|it| it.is(b"path")).collect();
            prop_assert_eq!(paths.len(), 1, "{}", kept);
            prop_assert!(is_under(paths[0].value, b"/w/maya"), "{}", kept);
            prop_assert!(!attributes.iter().any(|it| it.is(b"domain")), "{}", kept);
        }
    }
}
