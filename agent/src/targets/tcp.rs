//! A target behind a TCP port.

use std::io;
use std::time::Duration;

use tieline_wire::SessionEnd;
use tokio::net::TcpStream;

use crate::address::{HostPort, deadline_in};
use crate::socket::CloseMode;

/// A target that gets plain bytes at a host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpTarget {
    address: HostPort,
}

impl TcpTarget {
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        // A number alone is a port of this machine.
        let is_port = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let address = match is_port {
            true => HostPort::parse(&format!("127.0.0.1:{text}"), None),
            false => HostPort::parse(text, None),
        };
        address.map(Self::new)
    }

    pub(super) const fn new(address: HostPort) -> Self {
        Self { address }
    }

    /// Address at which the target listens.
    #[must_use]
    pub const fn address(&self) -> &HostPort {
        &self.address
    }

    pub(super) async fn connect(
        &self,
        timeout: Duration,
        unfinished: CloseMode,
    ) -> Result<TcpStream, (TargetFailure, io::Error)> {
        self.address
            .connect_with(deadline_in(timeout), unfinished)
            .await
            .map_err(|error| (TargetFailure::of(&error), error))
    }
}

/// Why a target did not take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetFailure {
    /// The connection was refused: no server listens at the address.
    Refused,
    /// There is no route to the host, or no such host.
    Unreachable,
    /// The target did not answer in time.
    Timeout,
    /// The connection was reset before it stood.
    Reset,
}

impl TargetFailure {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Self::Reset,
            _ => Self::Unreachable,
        }
    }
}

impl From<TargetFailure> for SessionEnd {
    fn from(failure: TargetFailure) -> Self {
        match failure {
            TargetFailure::Refused => Self::TargetRefused,
            TargetFailure::Unreachable => Self::TargetUnreachable,
            TargetFailure::Timeout => Self::TargetTimeout,
            TargetFailure::Reset => Self::TargetReset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_told_apart_from_an_unknown_host() {
        let port = {
            let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            server.local_addr().unwrap().port()
        };
        let reason = |text: String| async move {
            let target = TcpTarget::parse(&text).unwrap();
            let connecting = target.connect(Duration::from_secs(5), CloseMode::Ends);
            connecting.await.unwrap_err().0
        };
        assert_eq!(
            reason(format!("127.0.0.1:{port}")).await,
            TargetFailure::Refused
        );
        // RFC 6761, 6.4: `invalid` never resolves.
        assert!(matches!(
            reason("nowhere.invalid:1".to_owned()).await,
            TargetFailure::Unreachable | TargetFailure::Timeout
        ));
    }
}
