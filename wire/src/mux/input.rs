//! Cuts the byte stream of a link into frames. `Data` passes through as it arrives; only headers
//! and the other frames are assembled.

use bytes::{Buf, Bytes};

use crate::error::Error;
use crate::frame::{self, Header, Kind};
use crate::ids::SessionId;
use crate::limits::{HEADER_BYTES, PREFACE};
use crate::reason::LinkEnd;

/// The next item in the stream.
#[derive(Debug)]
pub(super) enum Item {
    Preface,
    /// The header of a `Data` frame, whose payload follows in pieces.
    DataHeader(Header),
    /// A piece of a `Data` frame.
    Data {
        session: SessionId,
        payload: Bytes,
        end_of_message: bool,
    },
    /// A skipped frame of a kind that this build does not know.
    Skipped,
    /// A complete frame of another kind.
    Frame {
        kind: Kind,
        session: SessionId,
        payload: Bytes,
    },
}

#[derive(Debug)]
enum State {
    Preface {
        have: usize,
    },
    Header {
        bytes: [u8; HEADER_BYTES],
        have: usize,
    },
    Data {
        header: Header,
        left: u32,
    },
    Body {
        kind: Kind,
        session: SessionId,
        len: usize,
        have: Vec<u8>,
    },
    Skip {
        left: u32,
    },
}

const HEADER: State = State::Header {
    bytes: [0; HEADER_BYTES],
    have: 0,
};

/// Position in the stream.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
}

impl Decoder {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Preface { have: 0 },
        }
    }

    /// Takes the next item off `input`; `None` when `input` is used up.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Item>, Error> {
        loop {
            match &mut self.state {
                State::Preface { have } => {
                    let take = input.len().min(PREFACE.len() - *have);
                    if input[..take] != PREFACE[*have..*have + take] {
                        return Err(Error::peer(LinkEnd::Preface, "not the preface of Tieline"));
                    }
                    input.advance(take);
                    *have += take;
                    if *have < PREFACE.len() {
                        return Ok(None);
                    }
                    self.state = HEADER;
                    return Ok(Some(Item::Preface));
                }
                State::Header { bytes, have } => {
                    let take = input.len().min(HEADER_BYTES - *have);
                    bytes[*have..*have + take].copy_from_slice(&input[..take]);
                    input.advance(take);
                    *have += take;
                    if *have < HEADER_BYTES {
                        return Ok(None);
                    }
                    let header = frame::decode(*bytes)?;
                    self.state = match header.kind {
                        None => State::Skip {
                            left: header.payload_len,
                        },
                        Some(Kind::Data) => {
                            let left = header.payload_len;
                            self.state = State::Data { header, left };
                            return Ok(Some(Item::DataHeader(header)));
                        }
                        Some(kind) => State::Body {
                            kind,
                            session: header.session,
                            len: header.payload_len as usize,
                            have: Vec::new(),
                        },
                    };
                }
                State::Data { header, left } => {
                    if *left > 0 && input.is_empty() {
                        return Ok(None);
                    }
                    let take = input.len().min(*left as usize);
                    let payload = input.split_to(take);
                    *left = left.saturating_sub(u32::try_from(take).unwrap_or(u32::MAX));
                    let frame_end = *left == 0;
                    let item = Item::Data {
                        session: header.session,
                        payload,
                        end_of_message: frame_end && header.end_of_message,
                    };
                    if frame_end {
                        self.state = HEADER;
                    }
                    return Ok(Some(item));
                }
                State::Body {
                    kind,
                    session,
                    len,
                    have,
                } => {
                    let payload = if have.is_empty() && input.len() >= *len {
                        input.split_to(*len)
                    } else {
                        let take = input.len().min(*len - have.len());
                        // Grows with the bytes that arrive, never with the length that a header claims.
                        have.extend_from_slice(&input[..take]);
                        input.advance(take);
                        if have.len() < *len {
                            return Ok(None);
                        }
                        Bytes::from(std::mem::take(have))
                    };
                    let item = Item::Frame {
                        kind: *kind,
                        session: *session,
                        payload,
                    };
                    self.state = HEADER;
                    return Ok(Some(item));
                }
                State::Skip { left } => {
                    let take = input.len().min(*left as usize);
                    input.advance(take);
                    *left -= u32::try_from(take).unwrap_or(*left);
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.state = HEADER;
                    return Ok(Some(Item::Skipped));
                }
            }
        }
    }
}
