//! What lies between the bytes of a load and a non-blocking socket: TLS, WebSocket frames, both or nothing. The
//! generator and its target use the same code, each over sockets of its own kind.

use std::io::{self, IoSlice, Read, Write};

use rustls::{Connection, HandshakeKind};

use super::tls;
use super::websocket::{Role, WebSocket};

/// The wrapping of one connection; by default none.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    tls: Option<Box<Connection>>,
    websocket: Option<Box<WebSocket>>,
}

impl Layers {
    /// TLS, whose handshake may not be complete.
    pub(crate) fn over_tls(connection: Connection) -> Self {
        Self {
            tls: Some(Box::new(connection)),
            websocket: None,
        }
    }

    /// Puts WebSocket frames above what is there.
    pub(crate) fn add_websocket(&mut self, role: Role) {
        self.websocket = Some(Box::new(WebSocket::new(role)));
    }

    /// Reads bytes of the load; 0 is the end.
    pub(crate) fn read(
        &mut self,
        io: &mut (impl Read + Write),
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        loop {
            let len = match &mut self.tls {
                Some(tls) => tls::read(tls, io, buffer)?,
                None => io.read(buffer)?,
            };
            let Some(websocket) = &mut self.websocket else {
                return Ok(len);
            };
            let payload = websocket.take(&mut buffer[..len])?;
            if websocket.has_unsent() {
                self.flush(io)?;
            }
            if payload > 0 || len == 0 || self.is_closed() {
                return Ok(payload);
            }
        }
    }

    fn is_closed(&self) -> bool {
        let websocket = self.websocket.as_ref();
        websocket.is_some_and(|websocket| websocket.is_closed())
    }

    /// Takes bytes of the load, none before the bytes that were taken earlier have left.
    pub(crate) fn write(
        &mut self,
        io: &mut (impl Read + Write),
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        if self.websocket.is_none() {
            return lower(self.tls.as_deref_mut(), io, slices);
        }
        if !self.flush(io)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = match &mut self.websocket {
            Some(websocket) => websocket.wrap(slices),
            None => 0,
        };
        self.flush(io)?;
        Ok(taken)
    }

    /// Gives the kernel the bytes that wait; returns whether it has all of them.
    pub(crate) fn flush(&mut self, io: &mut (impl Read + Write)) -> io::Result<bool> {
        if let Some(websocket) = &mut self.websocket {
            while websocket.has_unsent() {
                let unsent = [IoSlice::new(websocket.unsent())];
                match lower(self.tls.as_deref_mut(), io, &unsent) {
                    Ok(taken) => websocket.sent(taken),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if super::is_not_yet(&error) => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
        }
        match &mut self.tls {
            Some(tls) => tls::flush(tls, io),
            None => Ok(true),
        }
    }

    /// Whether bytes that were taken wait for room in the kernel.
    pub(crate) fn has_unsent(&self) -> bool {
        let websocket = self.websocket.as_ref();
        websocket.is_some_and(|websocket| websocket.has_unsent())
            || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// How the TLS handshake was done; `None` until it is complete.
    pub(crate) fn handshake(&self) -> Option<HandshakeKind> {
        let tls = self.tls.as_ref().filter(|tls| !tls.is_handshaking());
        tls?.handshake_kind()
    }

    /// Sends TLS's own end, if there is TLS.
    pub(crate) fn finish(&mut self, io: &mut (impl Read + Write)) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.flush(io).map(drop)
    }
}

/// Writes to TLS, or to the socket itself.
fn lower(
    tls: Option<&mut Connection>,
    io: &mut (impl Read + Write),
    slices: &[IoSlice<'_>],
) -> io::Result<usize> {
    match (tls, slices) {
        (Some(tls), _) => tls::write(tls, io, slices),
        (None, [one]) => io.write(one),
        (None, _) => io.write_vectored(slices),
    }
}
