//! Input of modern callers for calls of a legacy child.

use std::time::Instant;

use super::Bridge;
use super::modern::spent;
use crate::call::Call;
use crate::child::Waiter;
use crate::error::{BridgeError, INTERNAL_ERROR, METHOD_NOT_FOUND, error_line};
use crate::ids::ChildId;
use crate::message::Message;
use crate::modern::of_legacy_child;
use crate::outside::{Place, Timer};
use crate::own;
use crate::rounds::{PARKED_MAX, PARKED_TIME, Parked, QUESTIONS_MAX, Question, Ticket, input};

impl Bridge {
    /// Asks the caller of a call for the answer to this request of the child.
    pub(super) fn ask_modern(&mut self, now: Instant, id: ChildId, number: u64, request: &Message) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let is_crowded = child.parked_calls() >= PARKED_MAX;
        let Some(modern) = child.call_mut(number).and_then(Call::modern_mut) else {
            return;
        };
        let refusal = match &modern.parked {
            _ if !modern.client.answers(request) => {
                Some((METHOD_NOT_FOUND, "the client does not support this request"))
            }
            Some(parked) if parked.requests.len() >= QUESTIONS_MAX => {
                Some((INTERNAL_ERROR, "too many requests wait for the client"))
            }
            None if is_crowded => Some((
                INTERNAL_ERROR,
                "too many calls wait for input of their clients",
            )),
            _ => None,
        };
        if let Some((code, text)) = refusal {
            return self
                .outside
                .write(id, error_line(request.id(), code, text, None));
        }
        match &mut modern.parked {
            Some(parked) => parked.requests.push_back(request.clone()),
            None => modern.parked = Some(Parked::new(request.clone(), &mut self.random)),
        }
        if modern.exchange.is_some() {
            self.present(now, id, number);
        }
    }

    /// Takes the repetition of a call with what its child has asked for.
    pub(super) fn resume(
        &mut self,
        now: Instant,
        waiter: &Waiter,
        ticket: &Ticket,
    ) -> Result<(), BridgeError> {
        let (message, exchange) = (&waiter.message, waiter.exchange);
        let (id, number) = (ticket.child, ticket.number);
        let child = self.children.get_mut(&id).ok_or_else(spent)?;
        child.used = now;
        let call = child.call_mut(number).ok_or_else(spent)?;
        let modern = call.modern_mut().ok_or_else(spent)?;
        let is_same = modern.caller == waiter.caller
            && modern.exchange.is_none()
            && modern.question == Some(Question::of(message));
        let parked = modern
            .parked
            .as_mut()
            .filter(|parked| parked.has_sent(ticket));
        let parked = parked.filter(|_| is_same).ok_or_else(spent)?;
        if let Some(answer) = parked.answer.take() {
            let method = message.method().unwrap_or_default();
            let (status, line) = of_legacy_child(&answer, method, message.id().unwrap_or("null"));
            child.end(number);
            self.outside.let_sleep(Timer::Parked(id, number));
            self.outside.answer(now, exchange, status, line);
            return Ok(());
        }
        if let Some(input) = input(message)
            && let Some(request) = parked.requests.pop_front()
        {
            let line = own::response(request.id().unwrap_or("null"), message.piece(input));
            self.outside.write(id, line);
        }
        let is_over = parked.requests.is_empty();
        if is_over {
            modern.parked = None;
        }
        modern.exchange = Some(exchange);
        call.id = message.id().unwrap_or("null").into();
        call.token = message.progress_token().map(Box::from);
        self.outside.let_sleep(Timer::Parked(id, number));
        self.outside.set_place(exchange, Place::Call(id, number));
        match is_over {
            true => self.outside.expect_answer(now, exchange),
            false => self.present(now, id, number),
        }
        Ok(())
    }

    /// Answers a call with the child's first request; the call stays under way at the child.
    fn present(&mut self, now: Instant, id: ChildId, number: u64) {
        let call = self
            .children
            .get_mut(&id)
            .and_then(|child| child.call_mut(number));
        let Some(call) = call else {
            return;
        };
        let caller_id = call.id.clone();
        let Some(modern) = call.modern_mut() else {
            return;
        };
        let Some(parked) = &mut modern.parked else {
            return;
        };
        parked.renew(&mut self.random);
        if let Some(line) = parked.result(&caller_id, id, number)
            && let Some(exchange) = modern.exchange.take()
        {
            self.outside.answer(now, exchange, 200, line);
            self.outside
                .wake(Timer::Parked(id, number), now + PARKED_TIME);
        }
    }

    /// The caller of a call has not come back: the child's requests fail, and the call ends.
    pub(super) fn input_missing(&mut self, id: ChildId, number: u64) {
        let Some(child) = self.children.get_mut(&id) else {
            return;
        };
        let Some(mut call) = child.end(number) else {
            return;
        };
        let text = "the client has not answered in time";
        let Some(parked) = call.modern_mut().and_then(|modern| modern.parked.take()) else {
            return;
        };
        for request in parked.requests {
            let line = error_line(request.id(), INTERNAL_ERROR, text, None);
            self.outside.write(id, line);
        }
        if parked.answer.is_none() {
            self.outside
                .write(id, own::cancelled(&number.to_string(), text));
        }
    }
}
