//! WebSocket (RFC 6455) of the generator and its target: the opening handshake, and frames without I/O.
//!
//! Each write of the load becomes one binary message of one frame. Ends of messages have no meaning: the bytes of the
//! load are a stream.

use std::io::{self, ErrorKind, IoSlice};

use super::{BUFFER_BYTES_MIN, Socket, invalid};

/// Most payload of a sent frame, in bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Longest payload of a control frame, in bytes (RFC 6455, section 5.5).
const CONTROL_BYTES_MAX: u64 = 125;

/// Longest accepted head of the opening handshake, in bytes.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most header fields of the opening handshake.
const FIELDS_MAX: usize = 64;

/// Key and answer of every opening handshake: the example of RFC 6455, section 1.3. A load generator has no need of a
/// fresh key, which only keeps caches from answering.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;

/// Opcodes (RFC 6455, section 5.2); a frame of a fragmented message that is not its first is a continuation.
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// End of a connection: clients mask what they send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// The side that asked for the WebSocket.
    Client,
    /// The side that granted it.
    Server,
}

/// A frame whose payload is being received.
#[derive(Debug)]
struct Frame {
    opcode: u8,
    /// Bytes of the payload that are missing.
    rest: u64,
    /// Mask of the next four bytes of the payload; zeros for a frame that is not masked.
    mask: [u8; 4],
}

/// Frames of one connection.
#[derive(Debug)]
pub(super) struct WebSocket {
    role: Role,
    /// Bytes of an incomplete frame header.
    head: Vec<u8>,
    frame: Option<Frame>,
    /// Payload of the control frame that is being received.
    control: Vec<u8>,
    is_closed: bool,
    /// Whole frames, of which the layer below has taken the first `taken` bytes.
    out: Vec<u8>,
    taken: usize,
}

impl WebSocket {
    /// State behind the opening handshake.
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            head: Vec::new(),
            frame: None,
            control: Vec::new(),
            is_closed: false,
            out: Vec::new(),
            taken: 0,
        }
    }

    /// Whether the peer has closed the WebSocket.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Moves the payload of received frames to the start of `bytes`; returns its length.
    pub(super) fn take(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() && !self.is_closed {
            let Some(frame) = &mut self.frame else {
                self.head.push(bytes[from]);
                from += 1;
                if let Some(frame) = parse(&self.head, self.role)? {
                    self.head.clear();
                    self.frame = Some(frame);
                    self.end_frame();
                }
                continue;
            };
            let rest = usize::try_from(frame.rest).unwrap_or(usize::MAX);
            let until = from.saturating_add(rest).min(bytes.len());
            mask(&mut bytes[from..until], frame.mask);
            frame.mask.rotate_left((until - from) % 4);
            frame.rest -= (until - from) as u64;
            if frame.opcode < CLOSE {
                bytes.copy_within(from..until, to);
                to += until - from;
            } else {
                self.control.extend_from_slice(&bytes[from..until]);
            }
            from = until;
            self.end_frame();
        }
        Ok(to)
    }

    /// Ends the current frame if its payload is complete, and answers a ping.
    fn end_frame(&mut self) {
        let Some(frame) = self.frame.take_if(|frame| frame.rest == 0) else {
            return;
        };
        let payload = std::mem::take(&mut self.control);
        match frame.opcode {
            CLOSE => self.is_closed = true,
            PING => {
                self.add_frame(PONG, &[IoSlice::new(&payload)], payload.len());
            }
            _ => {}
        }
    }

    /// Takes up to [`FRAME_BYTES_MAX`] bytes as one message; returns how many.
    pub(super) fn wrap(&mut self, slices: &[IoSlice<'_>]) -> usize {
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let len = offered.min(FRAME_BYTES_MAX);
        if len > 0 {
            self.add_frame(BINARY, slices, len);
        }
        len
    }

    /// Queues a frame with the first `len` bytes of `slices`.
    fn add_frame(&mut self, opcode: u8, slices: &[IoSlice<'_>], len: usize) {
        let masked = if self.role == Role::Client { MASKED } else { 0 };
        self.out.push(FINAL | opcode);
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(short @ ..=125), _) => self.out.push(masked | short),
            (_, Ok(middle)) => {
                self.out.push(masked | 126);
                self.out.extend_from_slice(&middle.to_be_bytes());
            }
            _ => {
                self.out.push(masked | 127);
                self.out.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        let key = fastrand::u32(..).to_ne_bytes();
        if masked != 0 {
            self.out.extend_from_slice(&key);
        }
        let start = self.out.len();
        for slice in slices {
            let room = len - (self.out.len() - start);
            self.out.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        if masked != 0 {
            mask(&mut self.out[start..], key);
        }
    }

    /// Whether frames wait for the layer below.
    pub(super) fn has_unsent(&self) -> bool {
        self.taken < self.out.len()
    }

    /// Bytes that wait for the layer below.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.out[self.taken..]
    }

    /// Records that the layer below took `count` bytes.
    pub(super) fn sent(&mut self, count: usize) {
        self.taken += count;
        if !self.has_unsent() {
            self.out.clear();
            self.taken = 0;
        }
    }
}

/// Parses a frame header that may be incomplete.
fn parse(head: &[u8], role: Role) -> io::Result<Option<Frame>> {
    let [first, second, rest @ ..] = head else {
        return Ok(None);
    };
    let (is_masked, short) = (second & MASKED != 0, second & !MASKED);
    let length_bytes = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if rest.len() < length_bytes + 4 * usize::from(is_masked) {
        return Ok(None);
    }
    let (length, key) = rest.split_at(length_bytes);
    let long = length
        .iter()
        .fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    let frame = Frame {
        opcode: first & OPCODE,
        rest: if length_bytes > 0 {
            long
        } else {
            u64::from(short)
        },
        mask: key.try_into().unwrap_or_default(),
    };
    if first & RESERVED != 0 || is_masked != (role == Role::Server) {
        return Err(invalid(
            "a WebSocket frame has reserved bits or a wrong mask",
        ));
    }
    match frame.opcode {
        CONTINUATION | BINARY => Ok(Some(frame)),
        CLOSE | PING | PONG if frame.rest <= CONTROL_BYTES_MAX => Ok(Some(frame)),
        _ => Err(invalid("a WebSocket frame is not binary")),
    }
}

/// Masks or unmasks `bytes`, of which the first has the first byte of `key`.
fn mask(bytes: &mut [u8], key: [u8; 4]) {
    if key == [0; 4] {
        return;
    }
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// Asks for a WebSocket at `page`, and checks that it is granted; the socket blocks.
pub(super) fn upgrade(socket: &mut Socket, host: &str, page: &str) -> io::Result<()> {
    let request = format!(
        "GET {page} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tieline-loadgen\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    socket.write_all(request.as_bytes())?;
    let mut buffer = vec![0; BUFFER_BYTES_MIN];
    let mut head = Vec::new();
    loop {
        let len = socket.read(&mut buffer)?;
        head.extend_from_slice(&buffer[..len]);
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut answer = httparse::Response::new(&mut fields);
        match answer.parse(&head) {
            Ok(httparse::Status::Complete(end)) => {
                if answer.code != Some(101)
                    || value(answer.headers, "sec-websocket-accept") != Some(ACCEPT)
                {
                    let status = answer.code.unwrap_or_default();
                    let what = format!("the WebSocket was refused with status {status}");
                    return Err(io::Error::new(ErrorKind::InvalidData, what));
                }
                // The target sends only answers, and no ping at the start of a connection, so nothing may follow the
                // head.
                let is_alone = end == head.len();
                return is_alone
                    .then_some(())
                    .ok_or_else(|| invalid("frames before the first request"));
            }
            Ok(httparse::Status::Partial) if len > 0 && head.len() < HEAD_BYTES_MAX => {}
            _ => {
                return Err(invalid(
                    "the answer to the WebSocket's request is not HTTP/1.1",
                ));
            }
        }
    }
}

/// The target's answer to the head of a request for a WebSocket, and the length of that head; `None` if the head is
/// incomplete.
pub(crate) fn answer_to(head: &[u8]) -> io::Result<Option<(String, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(httparse::Status::Complete(end)) => {
            if value(request.headers, "sec-websocket-key") != Some(KEY) {
                return Err(invalid(
                    "the request is not for a WebSocket of this program",
                ));
            }
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
            );
            Ok(Some((answer, end)))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(invalid("the request is not HTTP/1.1")),
    }
}

/// Value of a header field.
fn value<'a>(fields: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let field = fields
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(field.value).ok()
}
