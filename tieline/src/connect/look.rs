//! Checks the relay once when the proxy starts, so that a wrong port or an expired token is reported before
//! the first call fails. The check delays nothing, and the first call does not repeat its report.

use super::event::ConnectEvent;
use super::forward::Front;
use crate::outbound::tunnels::{ListErrorKind, RelayHttp};

/// Checks `relay` as a caller of the proxy would reach it, and reports the result as an event.
pub(super) async fn look(front: &Front, relay: RelayHttp) {
    // As with callers' requests, the token is sent only if the relay asks for one.
    let asks = front.token_demand.asks(&relay.origin, &relay.dial).await;
    let credential = front.credential.as_ref().filter(|_| asks);
    let relay = RelayHttp {
        authorization: credential.map(|it| it.current().0),
        ..relay
    };
    let good = |message| ConnectEvent::Relay {
        state: "ok",
        is_good: true,
        message,
    };
    let event = match relay.look().await {
        Ok(()) => good(match asks {
            true => format!("{} answers, and takes your token", relay.origin),
            false => format!("{} answers, and asks callers for no token", relay.origin),
        }),
        Err(problem) if problem.why == ListErrorKind::Hidden => {
            good(format!("{} answers", relay.origin))
        }
        Err(problem) => {
            front.trouble.told(problem.why);
            ConnectEvent::Relay {
                state: problem.why.word(),
                is_good: false,
                message: problem.text,
            }
        }
    };
    front.hook.tell(&event);
}
