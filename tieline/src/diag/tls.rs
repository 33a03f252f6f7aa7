//! Check of the TLS handshake with the relay, and of the relay's certificate.

use x509_parser::prelude::{FromDer, X509Certificate};

use super::check::Check;
use crate::token_show::time::Span;
use tieline_agent::transport::{Connected, Dialler, Secured, TlsDetails};

const SECONDS_A_DAY: u64 = 86_400;

/// Tries the handshake over the connection, if there is one and the relay's URL asks for TLS.
pub(super) async fn shake(
    dialler: &Dialler,
    connected: Option<Connected>,
    now: u64,
) -> (Check, Option<Secured>) {
    let Some(connected) = connected else {
        let check = Check::not_applicable("tls", "the relay was not reached");
        return (check, None);
    };
    match dialler.secure(connected).await {
        Ok(secured) => {
            let check = match secured.tls_details() {
                Some(details) => Check::ok("tls", words(&details, now)),
                None => {
                    let word = dialler.relay().transport().word();
                    Check::not_applicable("tls", format!("a {word}:// link is not encrypted"))
                }
            };
            (check, Some(secured))
        }
        Err(error) => {
            let address = dialler.relay().address();
            let protocol = match dialler.relay().transport().is_websocket() {
                true => "http/1.1",
                false => "tieline-agent/1",
            };
            let advice = format!(
                "openssl s_client -connect {address} -alpn {protocol} shows what the server answers"
            );
            (Check::failed("tls", error, advice), None)
        }
    }
}

/// What the handshake has agreed on, and what the relay's certificate says.
fn words(details: &TlsDetails, now: u64) -> String {
    let group = details.group.as_deref();
    let mut text = format!(
        "{}, key exchange {}",
        details.version,
        group.unwrap_or("of an earlier session")
    );
    text.push_str(&certificate(&details.certificate, now));
    text
}

/// What the relay's certificate says, as the end of a list.
pub(super) fn certificate(der: &[u8], now: u64) -> String {
    // The handshake has checked the certificate, so another parser that fails is no failure of the relay's.
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return String::new();
    };
    let ends_at = certificate.validity().not_after.timestamp();
    let left = u64::try_from(ends_at).unwrap_or(0).saturating_sub(now);
    format!(
        ", certificate by {}, {}",
        certificate.issuer(),
        time_left(left)
    )
}

/// The time until a certificate expires; `left` in seconds.
fn time_left(left: u64) -> String {
    match left / SECONDS_A_DAY {
        0 => format!("{} left", Span(left)),
        1 => "1 day left".to_owned(),
        days => format!("{days} days left"),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
    use tieline_agent::{Proxies, RelayUrl};

    use super::super::check::Outcome;
    use super::*;

    #[test]
    fn a_certificate_is_told_with_its_issuer_and_the_days_left() {
        let mut params = CertificateParams::new(["relay".to_owned()]).unwrap();
        params.not_after = date_time_ymd(2027, 1, 15);
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "Studio Authority");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let mut details = TlsDetails {
            version: "TLS 1.3".to_owned(),
            group: Some("X25519".to_owned()),
            certificate: certificate.der().to_vec(),
        };
        // 2027-01-15 00:00:00 UTC.
        let ends_at = 1_799_971_200;
        for (left, told) in [
            (30 * SECONDS_A_DAY + 7, "30 days left"),
            (SECONDS_A_DAY, "1 day left"),
            (3_600, "1 h left"),
            (0, "0 s left"),
        ] {
            let text = words(&details, ends_at - left);
            assert_eq!(
                text,
                format!("TLS 1.3, key exchange X25519, certificate by CN=Studio Authority, {told}")
            );
        }
        details.certificate.clear();
        assert_eq!(words(&details, 0), "TLS 1.3, key exchange X25519");
    }

    #[tokio::test]
    async fn without_a_connection_there_is_no_handshake() {
        let relay = RelayUrl::parse("tcp://relay.invalid:1").unwrap();
        let dialler = Dialler::new(relay, None, &Proxies::Never).unwrap();
        let (check, secured) = shake(&dialler, None, 0).await;
        assert!(check.outcome == Outcome::NotApplicable && secured.is_none());
    }
}
