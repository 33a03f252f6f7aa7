//! One order: from the names to a certificate with its key.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CertificateSigningRequest, DistinguishedName, KeyPair};
use tokio::time;

use super::challenge::{Answer, Check, Means};
use super::error::{AcmeError, line};
use super::nonce::{Rounds, repeated};
use super::{hook, now};
use crate::certificates::OrderedCertificate;
use crate::config::AcmeConfig;

/// Time for a whole order, without that of the operator's program for DNS.
const TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Questions to the CA whether it is done: after a quarter of a second, then more and more seldom.
const POLLS: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// Time to tell the CA which checks are not wanted any more.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(30);

/// What is ordered, and how.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) config: &'a AcmeConfig,
    pub(super) means: Means<'a>,
    /// Checks that the relay can answer, the best first; one at least.
    pub(super) checks: &'a [Check],
    /// Number of orders that failed before: each begins with another check.
    pub(super) failures: u32,
    /// The certificate in use, if the order may say that it replaces that.
    pub(super) replaces: Option<&'a CertificateIdentifier<'static>>,
}

/// Orders a certificate; returns it behind its key, in PEM.
pub(super) async fn order(account: &Account, wanted: Wanted<'_>) -> Result<String, AcmeError> {
    let mut answers = Vec::new();
    let mut begun = None;
    let limit = limit(wanted);
    let ordering = through(account, wanted, &mut answers, &mut begun);
    let outcome = time::timeout(limit, ordering).await;
    let outcome = outcome.unwrap_or_else(|_| {
        Err(AcmeError::Here(format!(
            "the order was not done within {limit:?}"
        )))
    });
    // A busy CA is left alone: it forgets checks by itself, some days later.
    let may_ask = !wanted.means.heard.is_busy();
    if outcome.is_err()
        && may_ask
        && let Some(order) = &mut begun
    {
        let giving_up = give_up(order, wanted.config.domains.len());
        // A check that is not given up in time stays at the CA for some days.
        let _ = time::timeout(GIVE_UP_TIMEOUT, giving_up).await;
    }
    for answer in answers {
        answer.close().await;
    }
    outcome
}

/// Tells the CA that the checks which it has not made are not wanted any more, of `count` names at most: CAs count those
/// that wait, and refuse orders beyond some. Its answers change nothing.
async fn give_up(order: &mut Order, count: usize) {
    let mut authorizations = order.authorizations();
    for _ in 0..count {
        let mut authorization = match authorizations.next().await {
            Some(Ok(authorization)) => authorization,
            Some(Err(_)) => continue,
            None => return,
        };
        // The CA may have made the check since: one that succeeded counts for later orders.
        let is_fresh = authorization.refresh().await.is_ok();
        if is_fresh && authorization.status == AuthorizationStatus::Pending {
            let _ = authorization.deactivate().await;
        }
    }
}

/// Time for a whole order.
fn limit(wanted: Wanted<'_>) -> Duration {
    let names = u32::try_from(wanted.config.domains.len()).unwrap_or(u32::MAX);
    match wanted.means.hook {
        Some(_) => TIMEOUT.saturating_add(hook::TIMEOUT.saturating_mul(names)),
        None => TIMEOUT,
    }
}

/// Takes an order through all its steps. Puts the open answers to the CA's checks into `answers`, for the caller to
/// close, and the order at the CA into `begun`.
async fn through<'a>(
    account: &Account,
    wanted: Wanted<'a>,
    answers: &mut Vec<Answer<'a>>,
    begun: &mut Option<Order>,
) -> Result<String, AcmeError> {
    let order = begin(account, wanted).await?;
    let order = begun.insert(order);
    answer_all(order, wanted, answers).await?;
    if repeated!(order.poll_ready(&POLLS))? != OrderStatus::Ready {
        let texts = refusal(order, wanted.config.domains.len()).await;
        return Err(AcmeError::Refused(texts));
    }
    let (key, request) = request(&wanted.config.domains)
        .map_err(|error| AcmeError::Here(format!("cannot make a request: {error}")))?;
    repeated!(order.finalize_csr(request.der()))?;
    let chain = repeated!(order.poll_certificate(&POLLS))?;
    let pem = key + &chain;
    let unfit = |problem: &str| AcmeError::Here(format!("the CA's certificate {problem}"));
    let certificate = OrderedCertificate::of_pem(&pem).map_err(|problem| unfit(&problem))?;
    // The one in use may be valid yet.
    let checked = certificate.check(&wanted.config.domains, now());
    checked.map_err(|problem| unfit(&problem))?;
    Ok(pem)
}

/// A new key, in PEM, and the request for a certificate with it.
fn request(names: &[String]) -> Result<(String, CertificateSigningRequest), rcgen::Error> {
    // ECDSA with P-256, which every client accepts.
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    Ok((key.serialize_pem(), request))
}

/// Tells the CA what is wanted.
async fn begin(account: &Account, wanted: Wanted<'_>) -> Result<Order, AcmeError> {
    let names = wanted.config.domains.iter();
    let names: Vec<_> = names.map(|name| Identifier::Dns(name.clone())).collect();
    let mut order = NewOrder::new(&names);
    if let Some(profile) = &wanted.config.profile {
        order = order.profile(profile);
    }
    if let Some(before) = wanted.replaces {
        order = order.replaces(before.clone());
    }
    Ok(repeated!(account.new_order(&order))?)
}

/// Opens an answer for each name that the CA has not checked yet, and tells the CA to look. There is one check for each
/// name at most.
async fn answer_all<'a>(
    order: &mut Order,
    wanted: Wanted<'a>,
    answers: &mut Vec<Answer<'a>>,
) -> Result<(), AcmeError> {
    let (asked, ordered) = (
        order.state().authorizations.len(),
        wanted.config.domains.len(),
    );
    if asked > ordered {
        let text = format!("the CA wants {asked} checks for {ordered} names");
        return Err(AcmeError::Here(text));
    }
    for place in 0..asked {
        repeated!(fetch(order, place))?;
        answer(order, place, wanted, answers).await?;
    }
    Ok(())
}

/// Asks the CA for the authorization in `place` of the order, unless the order has it. Those in front have been
/// fetched.
async fn fetch(order: &mut Order, place: usize) -> Result<(), instant_acme::Error> {
    let mut authorizations = order.authorizations();
    for _ in 0..place {
        authorizations.next().await.transpose()?;
    }
    authorizations.next().await.transpose()?;
    Ok(())
}

/// Opens an answer for the name of the fetched authorization in `place`, if the CA has not checked that yet, and tells
/// the CA to look.
async fn answer<'a>(
    order: &mut Order,
    place: usize,
    wanted: Wanted<'a>,
    answers: &mut Vec<Answer<'a>>,
) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    for _ in 0..place {
        authorizations.next().await.transpose()?;
    }
    let Some(authorization) = authorizations.next().await else {
        return Ok(());
    };
    let mut authorization = authorization?;
    let name = authorization.identifier().to_string();
    if !wanted.config.has(&name) {
        let text = format!("the CA wants to check {name}, which was not ordered");
        return Err(AcmeError::Here(text));
    }
    match authorization.status {
        AuthorizationStatus::Valid => return Ok(()),
        AuthorizationStatus::Pending => {}
        status => {
            let text = format!("the CA's check of {name} is {status:?} before it began");
            return Err(AcmeError::Here(text));
        }
    }
    let offered = authorization.challenges.iter().map(|it| it.r#type.clone());
    let offered: Vec<_> = offered.collect();
    let Some(check) = choose(wanted, &offered) else {
        return Err(AcmeError::Here(format!(
            "for {name} the CA offers no check that this relay can answer: {}; it offers {offered:?}",
            remedy(wanted.config)
        )));
    };
    let Some(mut challenge) = authorization.challenge(check.challenge_type()) else {
        return Ok(());
    };
    let key = challenge.key_authorization();
    let answer = wanted.means.open(check, &name, &challenge.token, &key);
    answers.push(answer.map_err(AcmeError::Here)?);
    if let Some(answer) = answers.last() {
        answer.present().await.map_err(AcmeError::Here)?;
    }
    repeated!(challenge.set_ready())?;
    Ok(())
}

/// What an operator can do if the CA offers none of the relay's checks.
const fn remedy(config: &AcmeConfig) -> &'static str {
    match config.dns_persist_issuer {
        Some(_) => {
            "acme_dns_persist_issuer needs a CA with dns-persist-01; in its place set acme_dns_hook"
        }
        None => {
            "names with * and relays that the CA cannot reach need acme_dns_hook, or acme_dns_persist_issuer if the CA \
             has dns-persist-01"
        }
    }
}

/// The first check that relay and CA have in common, beginning with another after each failure.
fn choose(wanted: Wanted<'_>, offered: &[ChallengeType]) -> Option<Check> {
    let count = wanted.checks.len();
    let shift = usize::try_from(wanted.failures).unwrap_or(0) % count.max(1);
    let (first, last) = wanted.checks.split_at(shift);
    let mut all = last.iter().chain(first).copied();
    all.find(|check| offered.contains(&check.challenge_type()))
}

/// Why the CA refuses an order: the names whose check failed, `count` at most, and what the CA says.
async fn refusal(order: &mut Order, count: usize) -> String {
    let mut texts = Vec::new();
    let mut authorizations = order.authorizations();
    // The CA may name more authorizations now than at the beginning.
    for _ in 0..count {
        let Some(Ok(mut authorization)) = authorizations.next().await else {
            break;
        };
        if authorization.refresh().await.is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        let mut challenges = authorization.challenges.iter();
        if let Some(problem) = challenges.find_map(|it| it.error.as_ref()) {
            texts.push(line(&format!("{name}: {problem}")));
        }
    }
    match texts.is_empty() {
        true => "the CA refuses the order, without a reason".to_owned(),
        false => texts.join("; "),
    }
}
