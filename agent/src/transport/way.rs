//! The way to a server, straight or through a proxy, and connections that take it.

use std::fmt;
use std::io;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::ask::Request;
use super::logins::Logins;
use super::proxy::Proxy;
use super::refusal::{LATE, LATE_IN_LINE};
use crate::address::HostPort;

/// Why a way goes through its proxy, or straight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WayReason {
    /// The server is on this machine, which is never reached through a proxy.
    Loopback,
    /// A setting names the proxy, or none.
    Setting,
    /// The variable with this name has the proxy's URL, or `none`.
    Variable(&'static str),
    /// A variable exempts the server.
    Exempt {
        /// Name of the variable.
        by: &'static str,
        /// Its entry for the server.
        entry: String,
        /// Name of the variable whose proxy is not used, if there is one.
        from: Option<&'static str>,
    },
    /// The system's settings name the proxy, or none.
    System,
}

/// The way to a server: straight, or through a proxy.
#[derive(Clone, Debug)]
pub struct Way {
    to: HostPort,
    proxy: Option<Proxy>,
    reason: WayReason,
    logins: Logins,
}

impl Way {
    /// The way to `to`, through `proxy` if there is one, for this reason.
    pub(super) fn new(to: &HostPort, proxy: Option<Proxy>, reason: WayReason) -> Self {
        Self {
            to: to.clone(),
            proxy,
            reason,
            logins: Logins::default(),
        }
    }

    /// The same way, whose dials heed the refusals that `logins` knows, and add theirs to it.
    #[must_use]
    pub fn with_logins(self, logins: &Logins) -> Self {
        Self {
            logins: logins.clone(),
            ..self
        }
    }

    /// True if the proxy has refused the login, and must not be asked yet.
    pub(crate) fn is_barred(&self) -> bool {
        let login = self.proxy.as_ref().map(Proxy::login);
        login.is_some_and(|login| self.logins.refusal(&login).is_some())
    }

    /// The proxy on the way, if there is one.
    #[must_use]
    pub const fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// Why the way goes through the proxy, or straight.
    #[must_use]
    pub const fn reason(&self) -> &WayReason {
        &self.reason
    }

    /// Connects to the server, before `deadline`.
    ///
    /// # Errors
    /// The system's error; with a proxy also what the proxy says, in words that name it: a [`RefusedLogin`] if it does
    /// not accept the login, also without a connection if it has refused the login a short time ago; an
    /// [`UnansweredLogin`] if the time ends while it leaves the login without an answer, which may be up to a second
    /// after `deadline`, once the login of another dial counts as unanswered.
    ///
    /// [`RefusedLogin`]: crate::RefusedLogin
    /// [`UnansweredLogin`]: crate::UnansweredLogin
    pub async fn connect(&self, deadline: Instant) -> io::Result<TcpStream> {
        let Some(proxy) = &self.proxy else {
            return self.to.connect(deadline).await;
        };
        let login = proxy.login();
        if let Some(refusal) = self.logins.refusal(&login) {
            return Err(refusal.into());
        }
        let named = |kind, problem: &dyn fmt::Display| io::Error::new(kind, proxy.words(problem));
        let connected = proxy.address().connect(deadline).await;
        let socket = connected.map_err(|error| named(error.kind(), &error))?;
        // After the connection, so that one whose packets are lost holds up no other dial.
        let turn = self.logins.turn(&login, deadline).await;
        let turn = turn.map_err(|error| {
            if error.get_ref().is_some() {
                return error;
            }
            let why = match login.user {
                Some(_) => LATE_IN_LINE,
                None => LATE,
            };
            named(error.kind(), &why)
        })?;
        let request = Request {
            proxy: proxy.clone(),
            to: self.to.clone(),
            socket,
            turn,
        };
        request.make(deadline).await
    }
}
