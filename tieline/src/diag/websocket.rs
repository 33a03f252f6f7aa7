//! Check of the WebSocket handshake with the relay.

use super::check::Check;
use tieline_agent::transport::{Dialler, Secured, Stream};

/// Opens the WebSocket, if the relay was reached and its URL asks for a WebSocket.
pub(super) async fn open(dialler: &Dialler, secured: Option<Secured>) -> (Check, Option<Stream>) {
    let Some(secured) = secured else {
        let check = Check::not_applicable("websocket", "the relay was not reached");
        return (check, None);
    };
    let transport = dialler.relay().transport();
    match dialler.finish(secured).await {
        Ok(stream) => {
            let check = match transport.is_websocket() {
                true => Check::ok("websocket", "the relay takes agents at /agent"),
                false => Check::not_applicable(
                    "websocket",
                    format!("a {}:// link has none", transport.word()),
                ),
            };
            (check, Some(stream))
        }
        Err(error) => {
            let advice = "is the relay's HTTP port behind this URL, and do the proxies on the way pass WebSockets on?";
            (Check::failed("websocket", error, advice), None)
        }
    }
}
