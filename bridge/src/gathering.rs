//! Input that a modern child needs and a legacy caller gives: the child's result asks, the bridge sends requests to the
//! caller, and the call is repeated with the answers (mrtr.mdx, Basic Workflow).

use bytes::Bytes;

use crate::client::Client;
use crate::headers::META_LOG_LEVEL;
use crate::json::{self, Object};
use crate::message::{Edit, Line, Message, raw};

/// Most repetitions of one call, so that a child that always asks again ends.
pub(crate) const REPETITIONS_MAX: u32 = 32;

/// Most inputs that one result may ask for.
pub(crate) const INPUTS_MAX: usize = 64;

/// What the repetition of a call needs.
#[derive(Clone, Debug)]
pub(crate) struct Gathered {
    /// The caller's request.
    pub(crate) message: Message,
    /// How often the call was made.
    pub(crate) times: u32,
}

impl Gathered {
    /// A call that is made for the first time.
    pub(crate) fn new(message: &Message) -> Self {
        Self {
            message: message.clone(),
            times: 0,
        }
    }
}

/// A call that waits for input of its caller.
#[derive(Debug)]
pub(crate) struct Gathering {
    call: Gathered,
    /// The raw state that the child wants back.
    state: Option<Bytes>,
    inputs: Vec<Input>,
}

#[derive(Debug)]
struct Input {
    key: String,
    /// The raw result of the caller.
    answer: Option<Bytes>,
}

/// A request to the caller.
#[derive(Debug)]
pub(crate) struct InputRequest {
    /// The method.
    pub(crate) method: String,
    /// The raw params.
    pub(crate) params: Option<Bytes>,
}

impl Gathering {
    /// What `result` of a child asks for, and the requests that ask the caller; `None` if it asks in an unknown form,
    /// or too often.
    pub(crate) fn new(mut call: Gathered, result: &Message) -> Option<(Self, Vec<InputRequest>)> {
        call.times += 1;
        if call.times > REPETITIONS_MAX {
            return None;
        }
        let asked = match result.result_member("inputRequests") {
            Some(requests) => json::members(requests)?,
            None => Vec::new(),
        };
        if asked.len() > INPUTS_MAX {
            return None;
        }
        let (mut inputs, mut requests) = (Vec::new(), Vec::new());
        for (key, request) in asked {
            requests.push(InputRequest {
                method: raw::text(raw::member(request, "method")?)?,
                params: raw::member(request, "params").map(|params| result.piece(params)),
            });
            inputs.push(Input { key, answer: None });
        }
        let state = result.result_member("requestState");
        let gathering = Self {
            call,
            state: state.map(|state| result.piece(state)),
            inputs,
        };
        Some((gathering, requests))
    }

    /// The raw id of the caller's request.
    pub(crate) fn id(&self) -> &str {
        self.call.message.id().unwrap_or("null")
    }

    /// Takes the raw result of the caller for the input at this place.
    pub(crate) fn answered(&mut self, place: usize, result: Bytes) {
        if let Some(input) = self.inputs.get_mut(place) {
            input.answer = Some(result);
        }
    }

    /// True if no input is missing.
    pub(crate) fn is_complete(&self) -> bool {
        self.inputs.iter().all(|input| input.answer.is_some())
    }

    /// What the next repetition needs.
    pub(crate) fn call(&self) -> Gathered {
        self.call.clone()
    }

    /// The repeated request, with `number` as its id and its progress token.
    pub(crate) fn repeat(&self, number: u64, client: &Client, log_level: Option<&str>) -> Line {
        let mut edit = for_modern_child(&self.call.message, number, client, log_level);
        if !self.inputs.is_empty() {
            let object = self.inputs.iter().fold(Object::new(), |object, input| {
                let answer = input.answer.as_deref().unwrap_or(b"null");
                object.raw(&input.key, &String::from_utf8_lossy(answer))
            });
            edit = edit.set_param("inputResponses", object.end());
        }
        if let Some(state) = &self.state {
            edit = edit.set_param("requestState", state.clone());
        }
        edit.line()
    }
}

/// A legacy caller's request as a modern child needs it.
pub(crate) fn for_modern_child<'m>(
    message: &'m Message,
    number: u64,
    client: &Client,
    log_level: Option<&str>,
) -> Edit<'m> {
    let mut edit = message.edit().id(number.to_string());
    if message.progress_token().is_some() {
        edit = edit.progress_token(number.to_string());
    }
    for (key, value) in client.meta() {
        edit = edit.set_meta(key, value);
    }
    if let Some(level) = log_level {
        edit = edit.set_meta(META_LOG_LEVEL, level.to_owned());
    }
    edit
}
