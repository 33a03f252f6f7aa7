//! Input that a legacy child needs and a modern caller gives: the child's request becomes the result of the call, which
//! stays under way at the child until the caller repeats it with the answer (mrtr.mdx, Basic Workflow).
//!
//! The state that travels through the caller names the call and carries a secret of 128 random bits; everything that it
//! stands for stays here, so a caller can neither read nor change it. Each secret counts once.

use std::collections::VecDeque;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use data_encoding::HEXLOWER;

use crate::ids::{ChildId, Random};
use crate::message::{Line, Message, raw};

/// Most calls of one child that wait for input: each is a task of the child that stands still.
pub(crate) const PARKED_MAX: usize = 32;

/// Most requests of a child that wait for the caller of one call.
pub(crate) const QUESTIONS_MAX: usize = 16;

/// Time that a caller has for an input: a person may have to answer.
pub(crate) const PARKED_TIME: Duration = Duration::from_secs(10 * 60);

/// Key of the one input request in a result; it need not differ from those of other results.
const INPUT: &str = "input";

/// Digest of what a call asks for; a repetition must ask for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question([u8; SHA256_OUTPUT_LEN]);

/// Requests of a child during one call, and the secret by which its caller proves to have been told of the first.
#[derive(Debug)]
pub(crate) struct Parked {
    secret: Secret,
    /// The child's requests without an answer; the first is the one that the caller was told of.
    pub(crate) requests: VecDeque<Message>,
    /// The child's answer to the call, if it came meanwhile.
    pub(crate) answer: Option<Message>,
}

/// A random number that travels through the caller.
#[derive(Clone, Copy)]
pub(crate) struct Secret([u8; 16]);

/// The state that came back from a caller.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// The child of the call.
    pub(crate) child: ChildId,
    /// The child's number of the call.
    pub(crate) number: u64,
    secret: String,
}

impl Question {
    /// What this request asks for, apart from its input and its `_meta`.
    pub(crate) fn of(message: &Message) -> Self {
        let param = |key| message.param(key);
        let parts = [
            message.method(),
            param("name"),
            param("uri"),
            param("arguments"),
        ];
        let mut context = Context::new(&SHA256);
        for part in parts.map(Option::unwrap_or_default) {
            // With the lengths, different parts never make the same text.
            context.update(&part.len().to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut digest = [0; SHA256_OUTPUT_LEN];
        digest.copy_from_slice(context.finish().as_ref());
        Self(digest)
    }
}

impl Parked {
    /// A call whose child has sent `request`.
    pub(crate) fn new(request: Message, random: &mut Random) -> Self {
        Self {
            secret: Secret::new(random),
            requests: VecDeque::from([request]),
            answer: None,
        }
    }

    /// Makes the earlier state void.
    pub(crate) fn renew(&mut self, random: &mut Random) {
        self.secret = Secret::new(random);
    }

    /// True if the state is the latest of this call.
    pub(crate) fn has_sent(&self, ticket: &Ticket) -> bool {
        self.secret.is(&ticket.secret)
    }

    /// The result that asks the caller of the call `number` for the answer to the child's first request.
    pub(crate) fn result(&self, id: &str, child: ChildId, number: u64) -> Option<Line> {
        let request = self.requests.front()?;
        let method = raw::quoted(request.method().unwrap_or_default());
        let state = raw::quoted(&format!("{}.{number}.{}", child.0, self.secret.text()));
        let mut line = Line::new().with(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"input_required","inputRequests":{{"{INPUT}":{{"method":{method}"#
        ));
        if let Some(params) = request.params() {
            line = line.with(r#","params":"#).with(request.piece(params));
        }
        Some(line.with(format!(r#"}}}},"requestState":{state}}}}}"#)))
    }
}

impl Ticket {
    /// Reads the state that a caller's request carries; `None` if the bridge has not written it.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        let text = raw::text(message.param("requestState")?)?;
        let mut parts = text.splitn(3, '.');
        Some(Self {
            child: ChildId(parts.next()?.parse().ok()?),
            number: parts.next()?.parse().ok()?,
            secret: parts.next()?.to_owned(),
        })
    }
}

/// The caller's raw answer in a repetition of a call.
pub(crate) fn input(message: &Message) -> Option<&str> {
    raw::member(message.param("inputResponses")?, INPUT)
}

impl Secret {
    fn new(random: &mut Random) -> Self {
        let mut bytes = [0; 16];
        random(&mut bytes);
        Self(bytes)
    }

    fn text(self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// Compares in a time that does not tell how far two secrets agree.
    fn is(self, text: &str) -> bool {
        verify_slices_are_equal(self.text().as_bytes(), text.as_bytes()).is_ok()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("Secret(..)")
    }
}
