//! Fetch Metadata: fields in which browsers describe the requesting page, beside `Origin`.

use http::{HeaderMap, HeaderName};

/// Relation of the requesting page to the requested URL, such as `same-origin`.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What the names of all these fields begin with.
const PREFIX: &str = "sec-fetch-";

/// Removes every field of Fetch Metadata.
pub fn remove_metadata(headers: &mut HeaderMap) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(PREFIX))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// True if `Sec-Fetch-Site` has a value outside `own`; false without the field, which only browsers send.
#[must_use]
pub fn is_foreign(headers: &HeaderMap, own: &[&str]) -> bool {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    sites.any(|site| {
        let site = site.as_bytes();
        !own.iter()
            .any(|own| own.as_bytes().eq_ignore_ascii_case(site))
    })
}
