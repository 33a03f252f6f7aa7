//! What browsers say of the page that asks, beside `Origin` (Fetch Metadata).

use http::{HeaderMap, HeaderName};

/// How the page that asks stands to what it asks.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// True if a browser says of the page anything but what stands in `own`; false if no browser asks.
#[must_use]
pub fn is_foreign(headers: &HeaderMap, own: &[&str]) -> bool {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    sites.any(|site| {
        let site = site.as_bytes();
        !own.iter()
            .any(|own| own.as_bytes().eq_ignore_ascii_case(site))
    })
}
