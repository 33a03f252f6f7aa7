//! Encodes frames to the peer: at most one open data frame, and the control frames before and after it.
//!
//! The layer below must be offered the same bytes in the same order until it has taken them. So `front` keeps headers
//! and control frames, and the caller offers payload again, which is masked with the same key.

use std::cell::RefCell;
use std::io::{self, IoSlice};

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::Role;
use super::decoder::CONTROL_BYTES_MAX;
use super::mask::{self, KEY_BYTES};
use crate::socket::Socket;

/// Most payload of a client's frame, in bytes: a client masks a copy of the payload.
const MASKED_BYTES_MAX: usize = 64 * 1024;

/// Slices that a gathered write has room for: `SLICES_FEW` suffice for most writes; slices beyond `SLICES_MAX` wait for
/// the next write.
const SLICES_FEW: usize = 16;
const SLICES_MAX: usize = 256;

/// Longest reason in a Close frame, in bytes.
const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

thread_local! {
    /// The masked frame that is being offered.
    static MASKED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Encoder of one connection.
pub(super) struct Encoder {
    role: Role,
    /// Control frames, and behind them the header of the open frame.
    front: Vec<u8>,
    /// How many bytes of `front` the kernel has.
    front_sent: usize,
    /// Payload of the open frame that the kernel does not have.
    left: usize,
    /// The masking key of the open frame, rotated so that its first byte masks the next byte of payload.
    key: Option<[u8; KEY_BYTES]>,
    /// Payload of the newest ping that has no answer yet.
    pong: Option<Vec<u8>>,
    ping: Ping,
    close: Close,
    /// What is left of the open frame's payload, to check that it is offered again.
    #[cfg(debug_assertions)]
    rest: Vec<u8>,
}

/// State of this end's own ping.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ping {
    None,
    Due,
    Unanswered,
}

/// State of this end's Close frame.
enum Close {
    None,
    /// A Close frame with this payload is sent after the open data frame.
    Due(Vec<u8>),
    /// The Close frame is in `front`, or the kernel has it.
    Queued,
}

impl Encoder {
    pub(super) const fn new(role: Role) -> Self {
        Self {
            role,
            front: Vec::new(),
            front_sent: 0,
            left: 0,
            key: None,
            pong: None,
            ping: Ping::None,
            close: Close::None,
            #[cfg(debug_assertions)]
            rest: Vec::new(),
        }
    }

    /// Whether a data frame has begun and not ended, so that no other frame may be sent.
    pub(super) const fn is_frame_open(&self) -> bool {
        self.left > 0
    }

    /// Whether control frames wait for room in the kernel.
    pub(super) const fn has_unsent(&self) -> bool {
        !self.front.is_empty() && self.left == 0
    }

    /// Whether the kernel has a Close frame.
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.close, Close::Queued) && self.front.is_empty()
    }

    /// Notes a ping to answer, in place of an older one that was not answered yet (RFC 6455, section 5.5.3).
    pub(super) fn answer(&mut self, ping: Vec<u8>) {
        self.pong = Some(ping);
    }

    /// Asks for a ping, unless one has no answer yet.
    pub(super) fn ping(&mut self) {
        if self.ping == Ping::None {
            self.ping = Ping::Due;
        }
    }

    /// Notes a pong.
    pub(super) fn answered(&mut self) {
        if self.ping == Ping::Unanswered {
            self.ping = Ping::None;
        }
    }

    /// Asks for a Close frame, unless there is one; `None` stands for an empty one.
    pub(super) fn close(&mut self, code: Option<u16>, reason: &str) {
        if matches!(self.close, Close::None) {
            let mut payload = Vec::new();
            if let Some(code) = code {
                payload.extend_from_slice(&code.to_be_bytes());
                payload.extend_from_slice(cut(reason).as_bytes());
            }
            self.close = Close::Due(payload);
        }
    }

    /// Writes control frames that are due; false if the kernel does not take all of them now, or a data frame is open.
    pub(super) fn flush(&mut self, socket: &impl Socket) -> io::Result<bool> {
        if self.is_frame_open() {
            return Ok(false);
        }
        loop {
            self.queue_control()?;
            if self.front.is_empty() {
                return Ok(true);
            }
            let taken = socket.send_vectored(&[IoSlice::new(&self.front[self.front_sent..])])?;
            if taken == 0 {
                return Ok(false);
            }
            self.take_front(taken);
        }
    }

    /// Sends `slices` as one binary message, or the rest of the open frame; returns how much payload the kernel has.
    pub(super) fn send(
        &mut self,
        socket: &impl Socket,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        if !self.is_frame_open() {
            self.queue_control()?;
            if !matches!(self.close, Close::None) {
                self.flush(socket)?;
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if !self.open(slices)? {
                self.flush(socket)?;
                return Ok(0);
            }
        }
        let taken = match self.role {
            Role::Server if slices.len() < SLICES_FEW => {
                self.send_plain::<SLICES_FEW>(socket, slices)?
            }
            Role::Server => self.send_plain::<SLICES_MAX>(socket, slices)?,
            Role::Client => self.send_masked(socket, slices)?,
        };
        let payload = self.take(taken, slices);
        if !self.is_frame_open() && self.has_due() {
            // The next write returns an error of this send again; this call must report the payload that the kernel has
            // taken.
            let _ = self.flush(socket);
        }
        Ok(payload)
    }

    /// Opens a frame for `slices`; false if they are empty.
    fn open(&mut self, slices: &[IoSlice<'_>]) -> io::Result<bool> {
        let fitting = match self.role {
            Role::Server => &slices[..slices.len().min(SLICES_MAX - 1)],
            Role::Client => slices,
        };
        let offered: usize = fitting.iter().map(|slice| slice.len()).sum();
        let len = match self.role {
            Role::Server => offered,
            Role::Client => offered.min(MASKED_BYTES_MAX),
        };
        if len == 0 {
            return Ok(false);
        }
        self.key = self.queue_header(OpCode::Data(Data::Binary), len)?;
        self.left = len;
        #[cfg(debug_assertions)]
        {
            let offered = slices.iter().flat_map(|slice| &**slice);
            self.rest = offered.copied().take(len).collect();
        }
        Ok(true)
    }

    /// Offers `front` and unmasked payload to the socket.
    fn send_plain<const SLICES: usize>(
        &self,
        socket: &impl Socket,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let mut gathered = [IoSlice::new(&[]); SLICES];
        gathered[0] = IoSlice::new(&self.front[self.front_sent..]);
        let first = usize::from(self.front.is_empty());
        let (mut filled, mut room) = (1, self.left);
        for (slot, slice) in gathered[1..].iter_mut().zip(slices) {
            let piece = &slice[..slice.len().min(room)];
            *slot = IoSlice::new(piece);
            room -= piece.len();
            filled += 1;
        }
        socket.send_vectored(&gathered[first..filled])
    }

    /// Offers `front` and a masked copy of the payload to the socket.
    fn send_masked(&self, socket: &impl Socket, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        MASKED.with_borrow_mut(|out| {
            out.clear();
            out.extend_from_slice(&self.front[self.front_sent..]);
            let (front, mut room) = (out.len(), self.left);
            for slice in slices {
                let piece = &slice[..slice.len().min(room)];
                out.extend_from_slice(piece);
                room -= piece.len();
            }
            mask::apply(self.key.unwrap_or_default(), &mut out[front..]);
            socket.send_vectored(&[IoSlice::new(out)])
        })
    }

    /// Notes that the kernel took `taken` bytes of `front` and then of `slices`; returns how many were of `slices`.
    fn take(&mut self, taken: usize, slices: &[IoSlice<'_>]) -> usize {
        let payload = taken.saturating_sub(self.front.len() - self.front_sent);
        self.take_front(taken - payload);
        self.left -= payload;
        if let Some(key) = &mut self.key {
            mask::advance(key, payload);
        }
        #[cfg(debug_assertions)]
        {
            let offered = slices.iter().flat_map(|slice| &**slice).take(payload);
            assert!(
                self.rest.drain(..payload).eq(offered.copied()),
                "other bytes offered"
            );
        }
        #[cfg(not(debug_assertions))]
        let _ = slices;
        payload
    }

    fn take_front(&mut self, taken: usize) {
        self.front_sent += taken;
        if self.front_sent == self.front.len() {
            self.front.clear();
            self.front_sent = 0;
        }
    }

    /// Whether a control frame is due.
    const fn has_due(&self) -> bool {
        self.pong.is_some() || matches!(self.ping, Ping::Due) || matches!(self.close, Close::Due(_))
    }

    /// Puts the control frames that are due into `front`, but only while it is empty: so `front` stays small, however
    /// many pings come.
    fn queue_control(&mut self) -> io::Result<()> {
        if !self.front.is_empty() || matches!(self.close, Close::Queued) {
            return Ok(());
        }
        if let Some(pong) = self.pong.take() {
            self.queue(Control::Pong, &pong)?;
        }
        if self.ping == Ping::Due {
            self.queue(Control::Ping, &[])?;
            self.ping = Ping::Unanswered;
        }
        if let Close::Due(payload) = &mut self.close {
            let payload = std::mem::take(payload);
            self.queue(Control::Close, &payload)?;
            self.close = Close::Queued;
        }
        Ok(())
    }

    fn queue(&mut self, control: Control, payload: &[u8]) -> io::Result<()> {
        let key = self.queue_header(OpCode::Control(control), payload.len())?;
        let start = self.front.len();
        self.front.extend_from_slice(payload);
        if let Some(key) = key {
            mask::apply(key, &mut self.front[start..]);
        }
        Ok(())
    }

    /// Puts a header into `front`; returns the masking key of its payload.
    fn queue_header(&mut self, opcode: OpCode, len: usize) -> io::Result<Option<[u8; KEY_BYTES]>> {
        let mask = match self.role {
            Role::Client => Some(mask::new_key()?),
            Role::Server => None,
        };
        let header = FrameHeader {
            opcode,
            mask,
            ..FrameHeader::default()
        };
        let written = header.format(len as u64, &mut self.front);
        written.map_err(io::Error::other)?;
        Ok(mask)
    }
}

/// The beginning of `reason` that fits into a Close frame.
fn cut(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}
