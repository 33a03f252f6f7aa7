//! Repeats requests whose nonce the CA refuses, which changes nothing at the CA (RFC 8555, section 6.5).

use instant_acme::Error;

/// Times that the ACME client is told to make a request. It makes three tries each time, which are too few at a CA
/// whose servers do not know the nonces of each other: of two, half of the tries fail.
const ROUNDS_MAX: u32 = 5;

/// Type of the error (RFC 8555, section 6.7).
const BAD_NONCE: &str = "urn:ietf:params:acme:error:badNonce";

/// Rounds that are left for one request.
pub(super) struct Rounds(u32);

impl Rounds {
    pub(super) const fn new() -> Self {
        Self(ROUNDS_MAX)
    }

    /// Whether a request that failed with `error` is made once more.
    pub(super) fn go_on(&mut self, error: &Error) -> bool {
        self.0 = self.0.saturating_sub(1);
        let Error::Api(problem) = error else {
            return false;
        };
        self.0 > 0 && problem.r#type.as_deref() == Some(BAD_NONCE)
    }
}

/// The outcome of a request of the ACME client, an expression that makes a future: it is made again while the CA
/// refuses the nonce. The place of use needs [`Rounds`], too.
macro_rules! repeated {
    ($request:expr) => {{
        let mut rounds = Rounds::new();
        loop {
            match $request.await {
                Err(error) if rounds.go_on(&error) => {}
                outcome => break outcome,
            }
        }
    }};
}
pub(super) use repeated;

#[cfg(test)]
mod tests {
    use instant_acme::Problem;

    use super::*;

    fn problem(kind: &str) -> Error {
        Error::Api(Problem {
            r#type: Some(kind.to_owned()),
            detail: None,
            status: Some(400),
            subproblems: Vec::new(),
        })
    }

    #[tokio::test]
    async fn a_request_is_repeated_because_of_its_nonce_alone_and_not_for_ever() {
        let other = "urn:ietf:params:acme:error:malformed";
        for (kind, good_from, wanted) in [
            (BAD_NONCE, 1, 1),
            (BAD_NONCE, 5, 5),
            (BAD_NONCE, 6, 5),
            (other, 2, 1),
        ] {
            let mut count = 0;
            let mut request = || {
                count += 1;
                let outcome = match count < good_from {
                    true => Err(problem(kind)),
                    false => Ok(()),
                };
                std::future::ready(outcome)
            };
            let outcome = repeated!(request());
            assert_eq!(outcome.is_ok(), good_from <= wanted);
            assert_eq!(count, wanted);
        }
    }
}
