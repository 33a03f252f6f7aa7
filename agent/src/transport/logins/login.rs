//! A login at a proxy, and how it fails.

use std::fmt;

/// A proxy, with the user name and password that it is sent.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::transport) struct Login {
    /// URL of the proxy without user name and password.
    pub(in crate::transport) proxy: String,
    /// User name and password, in the form in which they are sent; `None` if the proxy is sent none.
    pub(in crate::transport) user: Option<Vec<u8>>,
}

/// Shows the proxy's URL without user name and password.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({})", self.proxy)
    }
}

/// How a login failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Failure {
    /// The proxy said that it does not accept the login, or wants one and was given none.
    Refused,
    /// The proxy was sent a user name and password, and gave no answer that says whether it accepts them.
    Unanswered,
}
