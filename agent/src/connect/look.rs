//! One look at the relay when the proxy starts: a wrong port or a token that is over is then told before the
//! first call fails. It holds up nothing, and what it tells is not told again for the first call.

use super::event::ConnectEvent;
use super::forward::Front;
use super::tunnels::{CallerSide, Obstacle};

/// Looks at `relay` as a caller of the proxy would reach it, and tells what is there.
pub(super) async fn look(front: &Front, relay: CallerSide) {
    // The token goes only where it is asked for, as with callers.
    let asks = front.asking.asks(&relay.origin, relay.tls.as_ref()).await;
    let credential = front.credential.as_ref().filter(|_| asks);
    let relay = CallerSide {
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
        Err(problem) if problem.obstacle == Obstacle::Hidden => {
            good(format!("{} answers", relay.origin))
        }
        Err(problem) => {
            front.outlook.told(problem.obstacle);
            ConnectEvent::Relay {
                state: problem.obstacle.word(),
                is_good: false,
                message: problem.text,
            }
        }
    };
    front.hook.tell(&event);
}
