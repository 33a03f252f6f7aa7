//! The registrations of a slot's link, and what the relay answers to them: notes it, and tells the user.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tieline_wire::{Granted, Lost, Refusal, RefusalReason};
use tokio::time::Instant;

use super::Slot;
use crate::error::{Error, refusal_words};
use crate::event::AgentEvent;
use crate::link::Link;
use crate::status::RefusalStatus;
use crate::supervise::registrations::{Change, Registrations, awaits_token};
use crate::transport::Transport;

impl Slot {
    /// Registers every target that is due, with the token that the token file holds now.
    pub(super) fn ask(&mut self, it: &mut Registrations, link: &Link) {
        let due = it.take_due(Instant::now());
        if due.is_empty() {
            return;
        }
        match self.agent.config.registrations() {
            Ok(registers) => {
                let registers = registers.into_iter().enumerate();
                let asked = registers.filter(|(target, _)| due.contains(target));
                asked.for_each(|(target, register)| link.register(target, register));
            }
            Err(error) => {
                let error = Error::from(error);
                for target in due {
                    let left = it.not_renewed(target, Instant::now(), &mut self.random);
                    if let Some(left) = left {
                        self.ending(target, left, error.word(), error.to_string());
                    }
                }
            }
        }
    }

    /// Notes that a target's tunnel is up; returns what that changes.
    pub(super) fn note(
        &mut self,
        it: &mut Registrations,
        target: usize,
        granted: &Granted,
    ) -> Change {
        self.tell_of_transport();
        self.backoff.registered();
        forget_reported(&mut self.lost, &self.reported);
        self.agent.had[target].store(true, Ordering::Relaxed);
        let lasts = granted.expires_in_s;
        if lasts > 0 {
            self.agent.token.want();
        }
        self.agent.board.registered(self.index, target, granted);
        it.granted(target, lasts, Instant::now(), &mut self.random)
    }

    pub(super) fn registered(&mut self, it: &mut Registrations, target: usize, granted: Granted) {
        let change = self.note(it, target, &granted);
        let lasts = granted.expires_in_s;
        let at = self.agent.targets[target].to_string();
        match change {
            Change::Ending(left) => {
                let message = match &self.agent.config.token_file {
                    Some(path) => format!("{} holds no fresh token yet", path.display()),
                    None => "the relay did not extend it".to_owned(),
                };
                self.ending(target, left, RefusalReason::TokenExpired.word(), message);
            }
            Change::Renewed => self.tell(AgentEvent::Renewed {
                link: self.index,
                tunnel: granted.tunnel.to_string(),
                target: at,
                expires_in_s: lasts,
            }),
            Change::Repeated => {}
            Change::Up | Change::Refused { .. } => self.tell(AgentEvent::Registered {
                link: self.index,
                tunnel: granted.tunnel.to_string(),
                url: granted.urls.first().cloned().unwrap_or_default(),
                generation: granted.generation.0,
                urls: granted.urls,
                target: at,
                transport: self.transport().word(),
            }),
        }
    }

    /// Tells the user if the link, which has a tunnel, is over another transport than the last one that had a tunnel.
    fn tell_of_transport(&mut self) {
        let now = self.transport();
        let before = self.served_over.replace(now);
        if before.is_some_and(|before| before != now) {
            self.tell(AgentEvent::TransportChanged {
                link: self.index,
                transport: now.word(),
            });
        }
    }

    /// What the slot's link is over. A URL that leaves it open names the WebSocket.
    fn transport(&self) -> Transport {
        match self.link.as_ref().is_some_and(|link| link.is_over_quic()) {
            true => Transport::Quic,
            false => self.agent.config.relay.transport(),
        }
    }

    pub(super) fn refused(&mut self, it: &mut Registrations, target: usize, refusal: Refusal) {
        let change = it.refused(target, refusal.clone(), Instant::now(), &mut self.random);
        self.not_granted(target, change, refusal);
    }

    pub(super) fn withdrawn(&mut self, it: &mut Registrations, target: usize, refusal: Refusal) {
        let change = it.lost(target, refusal.clone(), Instant::now(), &mut self.random);
        self.not_granted(target, change, refusal);
    }

    pub(super) fn not_granted(&self, target: usize, change: Change, refusal: Refusal) {
        let Refusal { reason, message } = refusal;
        if awaits_token(reason) {
            self.agent.token.want();
        }
        match change {
            Change::Ending(left) => self.ending(target, left, reason.word(), message),
            Change::Refused { is_final } => {
                let tunnel = self.agent.board.tunnel(target);
                let refusal = RefusalStatus {
                    reason: reason.word().to_owned(),
                    message: refusal_words(reason, &message, &tunnel),
                    is_final,
                };
                let message = refusal.message.clone();
                let is_news = self.agent.board.refused(self.index, target, refusal);
                // With a single target, the end of the agent or of the link reports the refusal.
                if is_news && self.agent.targets.len() > 1 {
                    self.tell(AgentEvent::TunnelRefused {
                        link: self.index,
                        tunnel,
                        target: self.agent.targets[target].to_string(),
                        reason: reason.word(),
                        message,
                        is_final,
                    });
                }
            }
            Change::Up | Change::Renewed | Change::Repeated => {}
        }
    }

    /// Reports that a tunnel's permission will end, and could not be renewed yet.
    pub(super) fn ending(
        &self,
        target: usize,
        left: Duration,
        reason: &'static str,
        message: String,
    ) {
        self.tell(AgentEvent::Ending {
            link: self.index,
            tunnel: self.agent.board.tunnel(target),
            target: self.agent.targets[target].to_string(),
            expires_in_s: left.as_secs(),
            reason,
            message,
        });
    }
}

/// Removes the reports with the nonces `reported` from those of the links that were `lost`: the relay has read them once it
/// grants a tunnel, because they precede the registration. A link that was lost after the present one was started is not
/// among them.
fn forget_reported(lost: &mut Vec<Lost>, reported: &[[u8; 32]]) {
    lost.retain(|it| !reported.contains(&it.nonce));
}

#[cfg(test)]
mod tests {
    use tieline_wire::SessionId;

    use super::*;

    fn lost(nonce: u8) -> Lost {
        Lost {
            nonce: [nonce; 32],
            last_session: SessionId(1),
            sessions: Vec::new(),
        }
    }

    #[test]
    fn a_lost_link_that_the_present_one_does_not_report_is_kept_for_the_next() {
        let mut reports = vec![lost(2), lost(1)];
        forget_reported(&mut reports, &[[1; 32]]);
        assert_eq!(reports, [lost(2)]);
        forget_reported(&mut reports, &[]);
        assert_eq!(reports, [lost(2)]);
    }
}
