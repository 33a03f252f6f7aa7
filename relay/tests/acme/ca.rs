//! A CA for tests: speaks ACME (RFC 8555) with a relay, really checks its names, and fails on command.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, Uri};
use axum::response::Response;
use data_encoding::BASE64URL_NOPAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::checks::{by_dns, by_http, by_persist, by_tls, hashed};
use crate::script::Script;

/// Addresses at which the CA checks names, in the place of ports 443 and 80.
#[derive(Clone, Copy)]
struct Checked {
    tls: SocketAddr,
    http: SocketAddr,
}

/// A running CA.
pub(crate) struct Ca {
    shared: Arc<Shared>,
    address: SocketAddr,
    _runtime: Runtime,
}

struct Shared {
    state: Mutex<Known>,
    base: String,
    authority: CertificateParams,
    key_pem: String,
    root: CertificateDer<'static>,
    root_pem: String,
    checked: watch::Sender<Option<Checked>>,
    /// Records that stay; a check waits for the first of them.
    zone: watch::Sender<Option<Vec<String>>>,
}

#[derive(Default)]
struct Known {
    script: Script,
    count: u64,
    nonces: HashSet<String>,
    /// Requests to each path whose nonce was refused on command.
    bad_nonces: HashMap<String, usize>,
    /// Keys of the accounts.
    accounts: Vec<Value>,
    orders: Vec<Order>,
    /// Kinds of the checks that were made.
    checks: Vec<String>,
    /// Checks that the relay did not want any more, by order and place.
    given_up: Vec<(usize, usize)>,
    /// Orders that the CA was too busy for.
    turned_away: Vec<Instant>,
    /// Orders refused because of the certificate that they replace.
    already_replaced: usize,
}

struct Order {
    names: Vec<String>,
    /// Outcome of each name's check, once it is made.
    outcomes: Vec<Option<Result<(), String>>>,
    /// Kind of the check that each name was answered by.
    kinds: Vec<Option<String>>,
    certificate: Option<String>,
    asked: Value,
}

/// Status, content and place of an answer.
struct Reply {
    status: u16,
    body: String,
    location: Option<String>,
}

/// A request whose signature is right.
struct Signed {
    /// URL of the account, if it exists.
    account: String,
    jwk: Value,
    payload: Value,
}

impl Ca {
    pub(crate) fn start(script: Script) -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name = DistinguishedName::new();
        authority
            .distinguished_name
            .push(DnType::CommonName, "the test's CA");
        let root = authority.self_signed(&key).unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::new(Known {
                script,
                ..Known::default()
            }),
            base: format!("http://{address}"),
            authority,
            key_pem: key.serialize_pem(),
            root: root.der().clone(),
            root_pem: root.pem(),
            checked: watch::Sender::new(None),
            zone: watch::Sender::new(None),
        });
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            shared,
            address,
            _runtime: runtime,
        }
    }

    pub(crate) fn directory(&self) -> String {
        format!("http://{}/directory", self.address)
    }

    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        &self.shared.root
    }

    /// Sets the addresses of the relay whose names are checked.
    pub(crate) fn checks_at(&self, tls: SocketAddr, http: SocketAddr) {
        self.shared
            .checked
            .send_replace(Some(Checked { tls, http }));
    }

    /// Makes the records those that stay in DNS.
    pub(crate) fn publish(&self, records: &[String]) {
        self.shared.zone.send_replace(Some(records.to_vec()));
    }

    /// Changes what the CA does.
    pub(crate) fn order(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.shared.state().script);
    }

    /// Kinds of the checks that were made.
    pub(crate) fn checks(&self) -> Vec<String> {
        self.shared.state().checks.clone()
    }

    /// Checks that the relay did not want any more, by order and place.
    pub(crate) fn given_up(&self) -> Vec<(usize, usize)> {
        self.shared.state().given_up.clone()
    }

    /// Orders that the CA was too busy for.
    pub(crate) fn turned_away(&self) -> Vec<Instant> {
        self.shared.state().turned_away.clone()
    }

    /// Orders refused because of the certificate that they replace.
    pub(crate) fn already_replaced(&self) -> usize {
        self.shared.state().already_replaced
    }

    /// What was asked for in each order.
    pub(crate) fn asked(&self) -> Vec<Value> {
        let state = self.shared.state();
        state.orders.iter().map(|it| it.asked.clone()).collect()
    }

    pub(crate) fn accounts(&self) -> usize {
        self.shared.state().accounts.len()
    }

    /// Requests to each path whose nonce was refused on command.
    pub(crate) fn bad_nonces(&self) -> Vec<usize> {
        self.shared.state().bad_nonces.values().copied().collect()
    }
}

async fn answer(State(ca): State<Arc<Shared>>, method: Method, uri: Uri, body: Bytes) -> Response {
    let reply = ca.reply(&method, uri.path(), &body);
    let (nonce, pause) = {
        let mut state = ca.state();
        state.count += 1;
        let nonce = format!("nonce{}", state.count);
        state.nonces.insert(nonce.clone());
        let busy = state.script.busy_seconds.filter(|_| reply.status == 429);
        (nonce, busy.unwrap_or(1))
    };
    let mut response = Response::builder()
        .status(reply.status)
        .header("Replay-Nonce", nonce)
        .header("Retry-After", pause);
    if let Some(location) = reply.location {
        response = response.header("Location", location);
    }
    response.body(Body::from(reply.body)).unwrap()
}

fn problem(status: u16, kind: &str, detail: &str) -> Reply {
    let kind = format!("urn:ietf:params:acme:error:{kind}");
    Reply {
        status,
        body: json!({ "type": kind, "detail": detail }).to_string(),
        location: None,
    }
}

fn ok(body: &Value) -> Reply {
    Reply {
        status: 200,
        body: body.to_string(),
        location: None,
    }
}

fn decoded(text: &Value) -> Vec<u8> {
    BASE64URL_NOPAD
        .decode(text.as_str().unwrap().as_bytes())
        .unwrap()
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn token(order: usize, place: usize) -> String {
    format!("token-{order}-{place}")
}

/// Thumbprint of a key (RFC 7638).
fn thumbprint(jwk: &Value) -> String {
    let (x, y) = (&jwk["x"], &jwk["y"]);
    let text = format!(r#"{{"crv":"P-256","kty":"EC","x":{x},"y":{y}}}"#);
    BASE64URL_NOPAD.encode(digest(&SHA256, text.as_bytes()).as_ref())
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap()
    }

    fn reply(self: &Arc<Self>, method: &Method, path: &str, body: &[u8]) -> Reply {
        if self.state().script.is_down {
            return Reply {
                status: 503,
                body: "down".to_owned(),
                location: None,
            };
        }
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method.as_str(), parts.as_slice()) {
            ("GET", ["directory"]) => self.directory(),
            ("HEAD", ["nonce"]) => ok(&Value::Null),
            ("GET", ["ari", _]) => self.window(),
            ("POST", parts) => match self.signed(path, body) {
                Ok(signed) => self.post(parts, signed),
                Err(reply) => reply,
            },
            _ => problem(404, "malformed", "there is no such page"),
        }
    }

    fn directory(&self) -> Reply {
        let at = |path: &str| format!("{}/{path}", self.base);
        let prefix = self.state().script.hash_prefix;
        ok(&json!({
            "newNonce": at("nonce"), "newAccount": at("account"), "newOrder": at("order"),
            "revokeCert": at("revoke"), "keyChange": at("key"), "renewalInfo": at("ari"),
            "meta": { "profiles": { "shortlived": "for tests" }, "accountHashPrefix": prefix },
        }))
    }

    fn window(&self) -> Reply {
        let script = self.state().script.clone();
        let Some((from, to)) = script.window else {
            return problem(404, "malformed", "no window");
        };
        let time = |seconds: i64| {
            let now = i64::try_from(now().as_secs()).unwrap();
            let at = jiff::Timestamp::from_second(now + seconds).unwrap();
            at.to_string()
        };
        ok(&json!({ "suggestedWindow": { "start": time(from), "end": time(to) } }))
    }

    /// Checks nonce, address and signature of a request.
    fn signed(&self, path: &str, body: &[u8]) -> Result<Signed, Reply> {
        let body: Value = serde_json::from_slice(body).unwrap();
        let header: Value = serde_json::from_slice(&decoded(&body["protected"])).unwrap();
        let mut state = self.state();
        if !state.nonces.remove(header["nonce"].as_str().unwrap()) {
            return Err(problem(400, "badNonce", "unknown"));
        }
        let bad_nonces_max = state.script.bad_nonces;
        let bad_nonces = state.bad_nonces.entry(path.to_owned()).or_default();
        if *bad_nonces < bad_nonces_max {
            *bad_nonces += 1;
            return Err(problem(400, "badNonce", "on command"));
        }
        assert_eq!(header["url"], format!("{}{path}", self.base));
        let jwk = match header["kid"].as_str() {
            Some(kid) => {
                let index: usize = kid.rsplit('/').next().unwrap().parse().unwrap();
                let gone = || problem(400, "accountDoesNotExist", "unknown");
                let known = state.accounts.get(index);
                let known = known.filter(|_| index >= state.script.known_from);
                known.cloned().ok_or_else(gone)?
            }
            None => header["jwk"].clone(),
        };
        let point = [vec![4], decoded(&jwk["x"]), decoded(&jwk["y"])].concat();
        let text = [&body["protected"], &body["payload"]].map(|it| it.as_str().unwrap());
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(text.join(".").as_bytes(), &decoded(&body["signature"]))
            .expect("a right signature");
        let payload = decoded(&body["payload"]);
        Ok(Signed {
            account: header["kid"].as_str().unwrap_or_default().to_owned(),
            jwk,
            payload: serde_json::from_slice(&payload).unwrap_or(Value::Null),
        })
    }

    fn post(self: &Arc<Self>, parts: &[&str], signed: Signed) -> Reply {
        let number = |text: &str| text.parse::<usize>().unwrap();
        match *parts {
            ["account"] => self.new_account(&signed),
            ["order"] => self.new_order(&signed.payload),
            ["order", order] => self.shown(number(order)),
            ["authorization", order, place] => {
                let (order, place) = (number(order), number(place));
                if signed.payload["status"] == "deactivated" {
                    self.state().given_up.push((order, place));
                }
                self.authorization(order, place)
            }
            ["check", order, place, kind] => {
                let (order, place) = (number(order), number(place));
                tokio::spawn(Arc::clone(self).check(order, place, kind.to_owned(), signed));
                ok(&self.challenge(order, place, kind))
            }
            ["finalize", order] => self.finalize(number(order), &signed.payload),
            ["certificate", order] => Reply {
                status: 200,
                body: self.state().orders[number(order)]
                    .certificate
                    .clone()
                    .unwrap(),
                location: None,
            },
            _ => problem(404, "malformed", "there is no such page"),
        }
    }

    fn new_account(&self, signed: &Signed) -> Reply {
        let mut state = self.state();
        if let Some((id, key)) = &state.script.account_key {
            let binding = &signed.payload["externalAccountBinding"];
            if binding.is_null() {
                return problem(403, "externalAccountRequired", "no binding");
            }
            let header: Value = serde_json::from_slice(&decoded(&binding["protected"])).unwrap();
            let text = [&binding["protected"], &binding["payload"]];
            let text = text.map(|it| it.as_str().unwrap()).join(".");
            let key = hmac::Key::new(hmac::HMAC_SHA256, key);
            let is_right =
                hmac::verify(&key, text.as_bytes(), &decoded(&binding["signature"])).is_ok();
            if header["kid"] != *id || header["alg"] != "HS256" || !is_right {
                return problem(403, "unauthorized", "the binding is wrong");
            }
        }
        assert_eq!(signed.payload["termsOfServiceAgreed"], true);
        state.accounts.push(signed.jwk.clone());
        let index = state.accounts.len() - 1;
        Reply {
            status: 201,
            body: json!({ "status": "valid" }).to_string(),
            location: Some(format!("{}/account/{index}", self.base)),
        }
    }

    fn new_order(&self, payload: &Value) -> Reply {
        if self.state().script.is_replaced && !payload["replaces"].is_null() {
            self.state().already_replaced += 1;
            return problem(409, "alreadyReplaced", "by another order");
        }
        if self.state().script.busy_seconds.is_some() {
            self.state().turned_away.push(Instant::now());
            return problem(429, "rateLimited", "too many orders");
        }
        let names = payload["identifiers"].as_array().unwrap().iter();
        let names: Vec<_> = names
            .map(|it| it["value"].as_str().unwrap().to_owned())
            .collect();
        let order = {
            let mut state = self.state();
            state.orders.push(Order {
                outcomes: vec![None; names.len()],
                kinds: vec![None; names.len()],
                names,
                certificate: None,
                asked: payload.clone(),
            });
            state.orders.len() - 1
        };
        Reply {
            status: 201,
            location: Some(format!("{}/order/{order}", self.base)),
            ..self.shown(order)
        }
    }

    fn shown(&self, number: usize) -> Reply {
        let state = self.state();
        let order = &state.orders[number];
        let is_wrong = |it: &Option<Result<(), String>>| matches!(it, Some(Err(_)));
        let status = if order.certificate.is_some() {
            "valid"
        } else if order.outcomes.iter().any(is_wrong) {
            "invalid"
        } else if order.outcomes.iter().all(Option::is_some) {
            "ready"
        } else {
            "pending"
        };
        let places = 0..order.names.len() + state.script.surplus;
        let authorizations: Vec<_> = places
            .map(|place| format!("{}/authorization/{number}/{place}", self.base))
            .collect();
        let mut shown = json!({
            "status": status,
            "identifiers": order.asked["identifiers"],
            "authorizations": authorizations,
            "finalize": format!("{}/finalize/{number}", self.base),
        });
        for key in ["replaces", "profile"] {
            if !order.asked[key].is_null() {
                shown[key] = order.asked[key].clone();
            }
        }
        if order.certificate.is_some() {
            shown["certificate"] = format!("{}/certificate/{number}", self.base).into();
        }
        ok(&shown)
    }

    fn authorization(&self, order: usize, place: usize) -> Reply {
        let (name, status, offers) = {
            let state = self.state();
            let status = match &state.orders[order].outcomes[place] {
                _ if state.given_up.contains(&(order, place)) => "deactivated",
                None => "pending",
                Some(Ok(())) => "valid",
                Some(Err(_)) => "invalid",
            };
            let name = state.orders[order].names[place].clone();
            (name, status, state.script.offers.clone())
        };
        let challenges = offers.iter().map(|kind| self.challenge(order, place, kind));
        let challenges: Vec<_> = challenges.collect();
        let plain = name.strip_prefix("*.");
        ok(&json!({
            "identifier": { "type": "dns", "value": plain.unwrap_or(&name) },
            "status": status,
            "challenges": challenges,
            "wildcard": plain.is_some(),
        }))
    }

    fn challenge(&self, order: usize, place: usize, kind: &str) -> Value {
        let state = self.state();
        let row = &state.orders[order];
        let mut shown = json!({
            "type": kind,
            "url": format!("{}/check/{order}/{place}/{kind}", self.base),
            "status": "pending",
        });
        match (kind, state.script.hash_prefix) {
            ("dns-persist-01", Some(_)) => {
                shown["issuerDomainNames"] = json!(state.script.issuers);
            }
            ("dns-persist-01", None) => {
                shown["issuer-domain-names"] = json!(state.script.issuers);
            }
            _ => shown["token"] = token(order, place).into(),
        }
        if row.kinds[place].as_deref() == Some(kind)
            && let Some(Err(detail)) = &row.outcomes[place]
        {
            shown["status"] = "invalid".into();
            shown["error"] = json!({
                "type": "urn:ietf:params:acme:error:unauthorized", "detail": detail,
            });
        }
        shown
    }

    /// Checks a name as a CA does.
    async fn check(self: Arc<Self>, order: usize, place: usize, kind: String, signed: Signed) {
        let mut checked = self.checked.subscribe();
        let at = *checked.wait_for(Option::is_some).await.unwrap();
        let at = at.unwrap();
        let mut zone = self.zone.subscribe();
        if kind == "dns-persist-01" {
            drop(zone.wait_for(Option::is_some).await.unwrap());
        }
        let zone = zone.borrow().clone().unwrap_or_default();
        let (name, script) = {
            let mut state = self.state();
            state.checks.push(kind.clone());
            let name = state.orders[order].names[place].clone();
            (name, state.script.clone())
        };
        let (token, asked) = (token(order, place), kind.clone());
        let (thumbprint, account) = (thumbprint(&signed.jwk), signed.account);
        let key = format!("{token}.{thumbprint}");
        let outcome = tokio::task::spawn_blocking(move || match asked.as_str() {
            _ if script.refuses => Err("refused on command".to_owned()),
            "http-01" => by_http(at.http, &name, &token, &key),
            "tls-alpn-01" => by_tls(at.tls, &name, &key),
            "dns-01" => by_dns(&script.records.unwrap(), &name, &key),
            "dns-persist-01" => {
                let account = match script.hash_prefix {
                    Some(prefix) => hashed(prefix, &name, &thumbprint, &account),
                    None => account,
                };
                by_persist(&zone, &name, &script.issuers, &account)
            }
            other => Err(format!("no check {other}")),
        });
        let outcome = outcome.await.unwrap();
        let mut state = self.state();
        state.orders[order].kinds[place] = Some(kind);
        state.orders[order].outcomes[place] = Some(outcome);
    }

    fn finalize(&self, number: usize, payload: &Value) -> Reply {
        let life = self.state().script.life;
        let request = CertificateSigningRequestDer::from(decoded(&payload["csr"]));
        let mut request = CertificateSigningRequestParams::from_der(&request).unwrap();
        let names = request.params.subject_alt_names.iter().map(|it| match it {
            SanType::DnsName(name) => name.as_str().to_owned(),
            other => panic!("{other:?}"),
        });
        let names: Vec<_> = names.collect();
        assert_eq!(names, self.state().orders[number].names);
        let params = &mut request.params;
        params.not_before = date_time_ymd(1970, 1, 1) + now();
        params.not_after = params.not_before + life;
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::from_pem(&self.key_pem).unwrap();
        let issuer = Issuer::new(self.authority.clone(), key);
        let certificate = request.signed_by(&issuer).unwrap();
        self.state().orders[number].certificate = Some(certificate.pem() + &self.root_pem);
        self.shown(number)
    }
}
