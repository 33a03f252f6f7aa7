//! Decodes the peer's frames from bytes in pieces of any size. Holds only control frames whole, which have at most 125
//! bytes of payload.

use std::io::Cursor;

use bytes::{Buf, BytesMut};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::mask::{self, KEY_BYTES};
use super::{Role, Violation};

/// Longest payload of a control frame, in bytes (RFC 6455, section 5.5).
pub(super) const CONTROL_BYTES_MAX: usize = 125;

/// Longest header, in bytes: two, a length of eight and a mask.
const HEADER_BYTES_MAX: usize = 14;

/// Bytes that a read takes beyond its reader's room, so that a frame header or one control frame fits beside the
/// payload.
pub(super) const EXTRA_BYTES: usize = HEADER_BYTES_MAX + CONTROL_BYTES_MAX;

/// Control frames and empty data frames after which other tasks get a turn: such frames must not keep a thread busy.
const EMPTY_FRAMES_MAX: u8 = 16;

/// Largest length: the highest bit must be 0 (RFC 6455, section 5.2).
const LENGTH_MAX: u64 = u64::MAX >> 1;

/// Decoder of one connection.
pub(super) struct Decoder {
    role: Role,
    /// The data frame whose payload is being received.
    frame: Option<DataFrame>,
    /// Whether a message has begun and not ended.
    is_in_message: bool,
    /// Control frames and empty data frames since the last byte of a message, or since other tasks had a turn.
    empty_frames: u8,
    /// Frames and pieces of payload so far, wrapping.
    pub(super) heard: u64,
}

/// A data frame whose payload is being received.
struct DataFrame {
    left: u64,
    /// The masking key, rotated so that its first byte masks the next byte of payload.
    mask: Option<[u8; KEY_BYTES]>,
    is_final: bool,
}

/// Why [`Decoder::digest`] stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// More bytes are needed.
    Starved,
    /// The reader has no room.
    Full,
    /// A message ended.
    Border,
    /// [`EMPTY_FRAMES_MAX`] control frames and empty data frames came in a row.
    Empty,
    /// A control frame.
    Control(ControlFrame),
}

/// A control frame of the peer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ControlFrame {
    Ping(Vec<u8>),
    Pong,
    /// The code and the reason, unless the frame is empty.
    Close(Option<(u16, String)>),
}

impl Decoder {
    pub(super) const fn new(role: Role) -> Self {
        Self {
            role,
            frame: None,
            is_in_message: false,
            empty_frames: 0,
            heard: 0,
        }
    }

    /// Whether a message has begun and not ended.
    pub(super) const fn is_in_message(&self) -> bool {
        self.is_in_message
    }

    /// Takes frames from `input`, and gives their payload to `put` while there is `room`.
    pub(super) fn digest(
        &mut self,
        input: &mut BytesMut,
        room: &mut usize,
        put: &mut impl FnMut(&[u8]),
    ) -> Result<Stop, Violation> {
        loop {
            if let Some(frame) = &mut self.frame {
                if frame.left > 0 {
                    let count = frame.take(input, *room, put);
                    if count == 0 {
                        return Ok(if *room == 0 {
                            Stop::Full
                        } else {
                            Stop::Starved
                        });
                    }
                    *room -= count;
                    self.empty_frames = 0;
                    self.heard = self.heard.wrapping_add(1);
                }
                if frame.left == 0 {
                    let is_final = frame.is_final;
                    self.frame = None;
                    if is_final {
                        self.is_in_message = false;
                        return Ok(Stop::Border);
                    }
                }
                continue;
            }
            if *room == 0 {
                return Ok(Stop::Full);
            }
            if self.empty_frames >= EMPTY_FRAMES_MAX {
                self.empty_frames = 0;
                return Ok(Stop::Empty);
            }
            if let Some(stop) = self.begin(input)? {
                return Ok(stop);
            }
        }
    }

    /// Takes the header of a data frame, or a whole control frame.
    fn begin(&mut self, input: &mut BytesMut) -> Result<Option<Stop>, Violation> {
        let mut cursor = Cursor::new(&input[..]);
        // A reserved opcode is the codec's only error for bytes in memory.
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Violation::Opcode)?;
        let Some((header, length)) = parsed else {
            return Ok(Some(Stop::Starved));
        };
        let header_len = header.len(length);
        if cursor.position() != header_len as u64 || length > LENGTH_MAX {
            return Err(Violation::Length);
        }
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Violation::ReservedBits);
        }
        if header.mask.is_some() != (self.role == Role::Server) {
            return Err(Violation::Masking);
        }
        match header.opcode {
            OpCode::Control(control) => self.control(control, &header, length, input),
            OpCode::Data(data) => {
                self.data(data, header.is_final)?;
                input.advance(header_len);
                self.frame = Some(DataFrame {
                    left: length,
                    mask: header.mask,
                    is_final: header.is_final,
                });
                self.begun(length == 0);
                Ok(None)
            }
        }
    }

    /// Checks that a data frame continues a message only within one, and begins one only outside.
    fn data(&mut self, data: Data, is_final: bool) -> Result<(), Violation> {
        let continues = match data {
            Data::Continue => true,
            Data::Binary => false,
            Data::Text => return Err(Violation::Text),
            Data::Reserved(_) => return Err(Violation::Opcode),
        };
        if continues != self.is_in_message {
            return Err(Violation::Continuation);
        }
        self.is_in_message = !is_final;
        Ok(())
    }

    fn control(
        &mut self,
        control: Control,
        header: &FrameHeader,
        length: u64,
        input: &mut BytesMut,
    ) -> Result<Option<Stop>, Violation> {
        if !header.is_final {
            return Err(Violation::FragmentedControl);
        }
        let len = usize::try_from(length).unwrap_or(usize::MAX);
        if len > CONTROL_BYTES_MAX {
            return Err(Violation::LongControl);
        }
        let header_len = header.len(length);
        if input.len() < header_len + len {
            return Ok(Some(Stop::Starved));
        }
        let mut payload = input[header_len..header_len + len].to_vec();
        input.advance(header_len + len);
        if let Some(key) = header.mask {
            mask::apply(key, &mut payload);
        }
        self.begun(true);
        let frame = match control {
            Control::Ping => ControlFrame::Ping(payload),
            Control::Pong => ControlFrame::Pong,
            Control::Close => ControlFrame::Close(close(&payload)?),
            Control::Reserved(_) => return Err(Violation::Opcode),
        };
        Ok(Some(Stop::Control(frame)))
    }

    /// Counts a frame; `is_empty` is true for control frames, too.
    const fn begun(&mut self, is_empty: bool) {
        self.heard = self.heard.wrapping_add(1);
        if is_empty {
            self.empty_frames += 1;
        }
    }
}

impl DataFrame {
    /// Takes as much of the payload as `input` and `room` allow; returns how much that is.
    fn take(&mut self, input: &mut BytesMut, room: usize, put: &mut impl FnMut(&[u8])) -> usize {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let count = left.min(input.len()).min(room);
        if count == 0 {
            return 0;
        }
        let piece = &mut input[..count];
        if let Some(key) = &mut self.mask {
            mask::apply(*key, piece);
            mask::advance(key, count);
        }
        put(piece);
        input.advance(count);
        self.left -= count as u64;
        count
    }
}

/// The code and the reason of a Close frame (RFC 6455, section 5.5.1).
fn close(payload: &[u8]) -> Result<Option<(u16, String)>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return match payload {
            [] => Ok(None),
            _ => Err(Violation::CloseCode),
        };
    };
    let code = u16::from_be_bytes(*code);
    // Codes 1004 to 1006 and 1015 must not be sent; other codes below 3000 that are missing here are not assigned (RFC
    // 6455, section 7.4, and IANA's registry).
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::CloseCode);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::CloseReason)?;
    Ok(Some((code, reason.to_owned())))
}
