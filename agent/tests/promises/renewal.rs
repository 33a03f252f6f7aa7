//! Tests of grants that expire, and of tokens that are rotated under a running agent.

use std::path::PathBuf;

use tempfile::TempDir;
use tieline_agent::AgentEvent;
use tieline_wire::{Event, Generation, Granted, Refusal, RefusalReason, Register, RegisterAck};

use crate::rig::{Agent, Link, Relay};

/// A token file that a test rotates.
struct TokenFile {
    folder: TempDir,
}

impl TokenFile {
    fn new(token: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = Self { folder };
        file.rotate(token);
        file
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// Replaces the token atomically.
    fn rotate(&self, token: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, token).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        std::fs::rename(new, self.path()).unwrap();
    }
}

async fn start(relay: &Relay, file: &TokenFile) -> (Agent, Link) {
    let path = file.path();
    let agent = Agent::start_with(relay, "127.0.0.1:1", |config| config.with_token_file(path));
    (agent, relay.accept().await)
}

/// Starts an agent with a first grant of `expires_in_s`; also returns the number of that registration.
async fn start_granted(relay: &Relay, file: &TokenFile, expires_in_s: u32) -> (Agent, Link, u32) {
    let (mut agent, mut link) = start(relay, file).await;
    let first = link.register().request;
    answer(&mut link, first, Ok(expires_in_s)).await;
    agent.saw_registered().await;
    (agent, link, first)
}

async fn answer(link: &mut Link, request: u32, outcome: Result<u32, RefusalReason>) {
    let tunnel = link.tunnel();
    let outcome = match outcome {
        Ok(expires_in_s) => Ok(Granted {
            tunnel,
            urls: Vec::new(),
            generation: Generation(41),
            heartbeat_ms: 15_000,
            expires_in_s,
        }),
        Err(reason) => Err(Refusal::new(reason, "says the test")),
    };
    link.mux.register_ack(&RegisterAck { request, outcome });
    link.flush().await;
}

/// The next registration, which must carry `token`.
async fn registered_with(link: &mut Link, token: &str) -> Register {
    let register = link.find(|event| match event {
        Event::Register(register) => Some(register),
        _ => None,
    });
    let register = register.await;
    assert_eq!(register.token.reveal(), token);
    register
}

/// Waits for an event that `choose` accepts; fails if the link ends before.
async fn saw<T>(agent: &mut Agent, choose: impl Fn(&AgentEvent) -> Option<T>) -> T {
    let found = agent.saw(|event| match event {
        AgentEvent::Disconnected { message, .. } => panic!("{message}"),
        event => choose(event),
    });
    found.await
}

async fn saw_ending(agent: &mut Agent) -> &'static str {
    saw(agent, |event| match event {
        AgentEvent::Ending { reason, .. } => Some(*reason),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn a_permission_that_ends_is_renewed_on_the_same_link_in_time() {
    let relay = Relay::bind().await;
    let file = TokenFile::new("same");
    let (mut agent, mut link, first) = start_granted(&relay, &file, 2).await;
    // The renewal comes long before the two seconds end; the file did not change.
    let again = registered_with(&mut link, "same").await;
    assert_ne!(again.request, first);
    assert_eq!(again.label, link.register().label);
    answer(&mut link, again.request, Ok(3_600)).await;
    let renewed = saw(&mut agent, |event| match event {
        AgentEvent::Renewed { expires_in_s, .. } => Some(*expires_in_s),
        _ => None,
    });
    assert_eq!(renewed.await, 3_600);
}

#[tokio::test]
async fn a_rotated_token_is_registered_as_soon_as_it_is_there() {
    let relay = Relay::bind().await;
    let file = TokenFile::new("old");
    // A renewal after two thirds of this time would come long after the test has ended.
    let (_agent, mut link, _) = start_granted(&relay, &file, 86_400).await;
    for token in ["new", "newer"] {
        file.rotate(token);
        let again = registered_with(&mut link, token).await;
        answer(&mut link, again.request, Ok(2 * 86_400)).await;
    }
}

#[tokio::test]
async fn a_renewal_that_is_refused_is_not_final() {
    let relay = Relay::bind().await;
    let file = TokenFile::new("old");
    let (mut agent, mut link, _) = start_granted(&relay, &file, 86_400).await;
    // A token that is only half written, and a token that has expired.
    for (token, reason) in [
        ("ne", RefusalReason::BadToken),
        ("stale", RefusalReason::TokenExpired),
    ] {
        file.rotate(token);
        let again = registered_with(&mut link, token).await;
        answer(&mut link, again.request, Err(reason)).await;
        assert_eq!(saw_ending(&mut agent).await, reason.word());
    }
    // An empty file leads to no registration at all.
    file.rotate("");
    assert_eq!(saw_ending(&mut agent).await, "token_file");
    file.rotate("good");
    let again = registered_with(&mut link, "good").await;
    answer(&mut link, again.request, Ok(86_400)).await;
}

#[tokio::test]
async fn an_agent_whose_token_ran_out_dials_again_with_the_next_one() {
    let relay = Relay::bind().await;
    let file = TokenFile::new("old");
    let (mut agent, mut link) = start(&relay, &file).await;
    let first = link.register().request;
    for _ in 0..8 {
        // The backoff grows with every refusal, and a rotated file cuts it short.
        answer(&mut link, first, Err(RefusalReason::TokenExpired)).await;
        assert_eq!(agent.saw_disconnected().await, "token_expired");
        file.rotate(&format!("token-{}", fastrand::u32(..)));
        link = relay.accept().await;
    }
    assert!(link.register().token.reveal().starts_with("token-"));
}

#[tokio::test]
async fn a_token_that_is_not_valid_yet_is_tried_again() {
    let relay = Relay::bind().await;
    let file = TokenFile::new("early");
    let (mut agent, mut link) = start(&relay, &file).await;
    link.refuse(RefusalReason::TokenNotYet).await;
    assert_eq!(agent.saw_disconnected().await, "token_not_yet");
    // The agent retries by itself at first, and at once when the file has another token.
    let mut link = relay.accept().await;
    link.refuse(RefusalReason::TokenNotYet).await;
    agent.saw_disconnected().await;
    file.rotate("valid");
    let mut link = relay.accept().await;
    assert_eq!(link.register().token.reveal(), "valid");
    link.grant().await;
    agent.saw_registered().await;
}
