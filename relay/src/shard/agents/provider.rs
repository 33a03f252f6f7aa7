//! Registrations that an external provider decides: the control thread asks it, so that no shard waits.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tieline_wire::{Moment, Refusal, RefusalReason, Register, TunnelId, WithdrawalReason};
use tracing::debug;

use super::Agents;
use super::limits::{TOO_MANY_QUESTIONS, refused};
use super::links::in_turns;
use super::registration::OPEN_REGISTRATIONS_MAX;
use crate::auth::{Identity, Mode, Permission, Question, Ruling};
use crate::clock::now_seconds;
use crate::registry::{LinkId, Renewal};

/// Links and tunnels that are checked for due renewals in one turn of the shard.
const RENEW_COUNT: usize = 2048;

/// Open questions of a link whose agent has no tunnel yet: each question holds a registration and its token.
const STRANGER_QUESTIONS_MAX: usize = 4;

/// Open questions of a link whose agent has a tunnel: a quarter of the queue, so that one agent cannot fill it.
const LINK_QUESTIONS_MAX: usize = 256;

/// Longest pause before a provider that gave no answer is asked again about a live tunnel.
const RETRY: Duration = Duration::from_secs(5);

impl Agents {
    /// Step 2 of a registration: asks the provider whether a link may have `tunnel`; the ruling arrives as a
    /// `Message::Ruled`.
    ///
    /// # Errors
    /// Too many questions are open, or the link has ended.
    pub(super) fn ask_provider(
        &self,
        link: LinkId,
        register: &Register,
        tunnel: TunnelId,
    ) -> Result<(), Refusal> {
        let mut registry = self.registry.borrow_mut();
        let entry = registry
            .link_mut(link)
            .ok_or_else(|| Refusal::standard(RefusalReason::Internal))?;
        let (is_stranger, peer) = (!entry.has_served, entry.peer);
        let questions_max = match is_stranger {
            true => STRANGER_QUESTIONS_MAX,
            false => LINK_QUESTIONS_MAX,
        };
        if entry.open_registrations >= OPEN_REGISTRATIONS_MAX {
            return Err(Refusal::standard(RefusalReason::Overload));
        }
        if entry.questions >= questions_max {
            self.kit.metrics.limited(TOO_MANY_QUESTIONS.kind);
            return Err(refused(TOO_MANY_QUESTIONS));
        }
        let place = is_stranger.then(|| self.question_from(peer));
        let place = place.transpose().map_err(refused)?;
        let question = Question {
            shard: self.kit.index,
            link: link.0,
            tunnel,
            register: Arc::new(register.clone()),
            is_renewal: false,
            place: place.map(|place| Arc::new(place) as Arc<_>),
            asked_at: Instant::now(),
        };
        if !self.kit.peers.asks.rule(question) {
            return Err(Refusal::standard(RefusalReason::Overload));
        }
        entry.open_registrations += 1;
        entry.questions += 1;
        Ok(())
    }

    /// Step 2 of a registration: applies the provider's ruling, or its failure to rule.
    pub(in crate::shard) fn ruled(&self, question: &Question, ruling: Ruling) {
        if question.is_renewal {
            return self.renewed(question, ruling);
        }
        let link = LinkId(question.link);
        let mux = match self.registry.borrow_mut().link_mut(link) {
            Some(entry) => {
                entry.open_registrations = entry.open_registrations.saturating_sub(1);
                entry.questions = entry.questions.saturating_sub(1);
                Rc::clone(&entry.mux)
            }
            // The link ended before the ruling arrived.
            None => return,
        };
        let outcome = match ruling {
            Ruling::Allowed {
                identity,
                expires_at_seconds,
            } => self.allowed(question, identity, expires_at_seconds),
            Ruling::Denied(refusal) => Err(refusal),
            Ruling::Unavailable(why) => {
                debug!(link = link.0, why, "no ruling from the provider");
                Err(Refusal::standard(RefusalReason::AuthUnavailable))
            }
        };
        let Err(refusal) = outcome else {
            mux.trust();
            return;
        };
        self.note_early_refusal(link, Some(&question.tunnel), refusal.reason);
        mux.with_mux(|mux| mux.refuse_registration(question.register.request, refusal));
    }

    fn allowed(
        &self,
        question: &Question,
        identity: Option<Arc<Identity>>,
        expires_at_seconds: Option<u64>,
    ) -> Result<(), Refusal> {
        let link = LinkId(question.link);
        let auth = self.kit.auth();
        // The token or the key may have been revoked since the question was asked.
        if let Some(agent) = self
            .registry
            .borrow()
            .link(link)
            .and_then(|it| it.agent.as_ref())
        {
            auth.still_allows(identity.as_deref(), Some(&agent.key), now_seconds())
                .map_err(|end| Refusal::standard(end.into()))?;
        }
        let Mode::Provider { interval, grace } = &auth.mode else {
            return Err(Refusal::standard(RefusalReason::AuthUnavailable));
        };
        let now = self.kit.clock.now();
        let renewal = Renewal {
            register: Arc::clone(&question.register),
            next_at: Some(after(now, *interval)),
            good_until: now + *interval + *grace,
        };
        let permission = Permission {
            identity,
            name: question.tunnel.clone(),
            expires_at_seconds,
        };
        self.claim_name(link, &question.register, permission, Some(renewal))
    }

    /// Applies the provider's ruling, or its failure to rule, on the renewal of a live tunnel.
    fn renewed(&self, question: &Question, ruling: Ruling) {
        let auth = self.kit.auth();
        let Mode::Provider { interval, grace } = &auth.mode else {
            return;
        };
        let now = self.kit.clock.now();
        let mut registry = self.registry.borrow_mut();
        let Some(entry) = registry.link_mut(LinkId(question.link)) else {
            return;
        };
        let Some(it) = entry.tunnel_mut(&question.tunnel) else {
            return;
        };
        let Some(renewal) = &mut it.renewal else {
            return;
        };
        // The agent has registered the tunnel again since then; that registration has a question of its own.
        if !Arc::ptr_eq(&renewal.register, &question.register) {
            return;
        }
        let owner = |identity: &Option<Arc<Identity>>| {
            let identity = identity.as_ref();
            identity.map(|it| (Arc::clone(&it.owner), it.shared))
        };
        let end = match ruling {
            Ruling::Allowed { ref identity, .. } if owner(identity) != owner(&it.identity) => {
                Some((WithdrawalReason::AuthChanged, None))
            }
            Ruling::Allowed {
                identity,
                expires_at_seconds,
            } => {
                it.identity = identity;
                renewal.next_at = Some(after(now, *interval));
                renewal.good_until = now + *interval + *grace;
                entry.extend(&question.tunnel, expires_at_seconds);
                None
            }
            Ruling::Denied(why) => Some((WithdrawalReason::Revoked, Some(why.message))),
            Ruling::Unavailable(_) if now >= renewal.good_until => {
                Some((WithdrawalReason::AuthUnavailable, None))
            }
            Ruling::Unavailable(why) => {
                debug!(tunnel = %question.tunnel, why, "no ruling from the provider");
                renewal.next_at = Some(after(now, RETRY.min(*interval)));
                None
            }
        };
        drop(registry);
        if let Some((reason, message)) = end {
            let link = LinkId(question.link);
            self.withdraw(link, &question.tunnel, reason, message);
        }
    }

    /// Asks the provider again about tunnels whose permissions are due for renewal.
    pub(in crate::shard) async fn renew_permissions(&self) {
        if !matches!(self.kit.auth().mode, Mode::Provider { .. }) {
            return;
        }
        in_turns(|after| {
            let now = self.kit.clock.now();
            let (due, last) = self.registry.borrow_mut().renewals(after, RENEW_COUNT, now);
            for due in due {
                let question = Question {
                    shard: self.kit.index,
                    link: due.link.0,
                    tunnel: due.tunnel,
                    register: due.register,
                    is_renewal: true,
                    place: None,
                    asked_at: Instant::now(),
                };
                let (link, tunnel) = (due.link, question.tunnel.clone());
                if !self.kit.peers.asks.rule(question) {
                    // The queue is full and the provider was not asked: the tunnel stays until the next try.
                    self.registry.borrow_mut().renew_at(link, &tunnel, now);
                }
            }
            last
        })
        .await;
    }
}

/// A moment 90 % to 100 % of `pause` after `now`: the jitter spreads renewals of agents that registered together.
fn after(now: Moment, pause: Duration) -> Moment {
    now + pause.mul_f64(0.9 + fastrand::f64() / 10.0)
}
