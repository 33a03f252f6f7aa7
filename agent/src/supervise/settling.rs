//! What a slot does while this machine's network settles after a change or a sleep: dials with attempts side by side,
//! and finds out whether its link still works; the same for a link over QUIC that does not answer a ping.
//!
//! A link in doubt goes on until a new connection gets through beside it: while none does, the network itself may be
//! down, and the link may still be alive.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tieline_wire::Moment;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::Agent;
use super::chooser::{self, Raced};
use crate::error::Error;
use crate::link::Link;
use crate::network::{NetworkChanges, SETTLING};
use crate::reconnect::SETTLING_WAIT_MAX;

/// Time for a link to answer a ping before the relay is dialled beside it.
///
/// With it a link is back within 5 s of waking if a dial takes up to 1 s: up to 1 s until the sleep is noticed, 1 s of
/// silence, 1 s for the dial, and as long again for the silent link.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Longest time that a silent link has left once a new connection is there; below the relay's time limit for the first
/// frame of a connection (5 s).
const GRACE_MAX: Duration = Duration::from_secs(2);

/// Time for a link over QUIC whose relay has just not answered a ping to answer another one from a new port, before the
/// relay is dialled beside it; two round trips if they are more, and [`SILENCE_MAX`] at most.
///
/// Where UDP is blocked, a link is back within 3 s of its first lost bytes and four round trips: 1 s until a ping follows
/// them, 0.25 s until the mux doubts, 0.3 s here, 0.3 s until a WebSocket is tried beside QUIC, and 0.5 s of grace.
const QUICK_SILENCE: Duration = Duration::from_millis(300);

/// Time that such a link has left once a new connection is there; two round trips if they are more, and [`GRACE_MAX`] at
/// most.
const QUICK_GRACE: Duration = Duration::from_millis(500);

/// Time after which another attempt to dial starts beside those under way while the network settles: their packets, or
/// those of a name lookup, may have been lost before the network was usable, and are repeated after pauses of seconds.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(2);

/// Attempts of one dial that may run at the same time.
const ATTEMPTS_MAX: usize = 4;

/// Dials the relay. A change of the network does not end an attempt under way, which may be the one that gets through:
/// another attempt starts beside it, and the first connection wins.
///
/// No attempt starts after [`SETTLING`], so that the dial ends on a host whose network changes for ever.
///
/// # Errors
/// That of the last attempt, once all have failed; at once if a proxy refuses the login, which the other attempts would
/// send again.
pub(super) async fn dial(agent: Arc<Agent>, network: NetworkChanges) -> Result<Raced, Error> {
    let attempt = || chooser::dial(Arc::clone(&agent));
    side_by_side(network, attempt).await
}

/// Runs attempts side by side until one gets through or all have failed.
async fn side_by_side<T, F>(
    mut network: NetworkChanges,
    attempt: impl Fn() -> F,
) -> Result<T, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let began_at = Instant::now();
    let mut attempts = JoinSet::new();
    attempts.spawn(attempt());
    loop {
        let may_add = attempts.len() < ATTEMPTS_MAX && began_at.elapsed() < SETTLING;
        tokio::select! {
            biased;
            Some(ended) = attempts.join_next() => match ended {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) if attempts.is_empty() || error.is_refused_login() => {
                    return Err(error);
                }
                Err(_) if attempts.is_empty() => {
                    return Err(Error::link_lost("the task of a dial stopped"));
                }
                _ => {}
            },
            () = another_due(&mut network), if may_add => {
                // The wait may have begun long before.
                if began_at.elapsed() < SETTLING {
                    attempts.spawn(attempt());
                }
            }
        }
    }
}

/// Ready after a change of the network, and every [`ATTEMPT_PAUSE`] while the network settles.
async fn another_due(network: &mut NetworkChanges) {
    let settles = network.is_settling();
    tokio::select! {
        () = network.changed() => {}
        () = sleep(ATTEMPT_PAUSE), if settles => {}
    }
}

/// What becomes a `T`, or fails.
type Boxed<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// A doubt whether a link still works: the link was pinged, and must answer or be replaced.
pub(super) struct Doubt {
    asked_at: Moment,
    verdict: Boxed<Option<Raced>>,
}

impl Doubt {
    /// Pings `link`; `None` if the link cannot be pinged yet.
    pub(super) fn of(
        agent: &Arc<Agent>,
        link: &Arc<Link>,
        network: &NetworkChanges,
    ) -> Option<Self> {
        let asked_at = link.probe()?;
        let link = Arc::clone(link);
        let is_silent = move || link.is_silent_since(asked_at);
        let dial = dials(agent, network);
        Some(Self {
            asked_at,
            verdict: Box::pin(weigh(is_silent, dial)),
        })
    }

    /// Pings `link`, over QUIC, which has just not answered a ping; `None` if the link cannot be pinged yet. The relay is
    /// dialled soon, and the doubt never ends with an error.
    pub(super) fn quick(
        agent: &Arc<Agent>,
        link: &Arc<Link>,
        network: &NetworkChanges,
    ) -> Option<Self> {
        let asked_at = link.probe()?;
        let round_trips = 2 * link.rtt().unwrap_or_default();
        let (asked, again) = (Arc::clone(link), Arc::clone(link));
        let is_silent = move || asked.is_silent_since(asked_at);
        let ask_again = move || {
            let _ = again.probe();
        };
        let dial = dials(agent, network);
        let weighed = weigh_soon(round_trips, is_silent, ask_again, dial);
        Some(Self {
            asked_at,
            verdict: Box::pin(async move { Ok(weighed.await) }),
        })
    }

    /// True while `link`, which this doubt is about, has not answered.
    pub(super) fn is_open(&self, link: &Link) -> bool {
        link.is_silent_since(self.asked_at)
    }
}

/// Dials of the relay, in case of a doubt.
fn dials(agent: &Arc<Agent>, network: &NetworkChanges) -> impl Fn() -> Boxed<Raced> + Send + use<> {
    let (agent, network) = (Arc::clone(agent), network.clone());
    move || -> Boxed<Raced> {
        let mut network = network.clone();
        // Changes so far need no attempt of their own: this dial comes after them.
        network.mark_seen();
        Box::pin(dial(Arc::clone(&agent), network))
    }
}

/// Ready once a doubt is decided, if there is one: with the connection that replaces the link, or with `None` if the
/// link has answered.
///
/// # Errors
/// The link has not answered, and the relay cannot be dialled either: why not.
pub(super) async fn verdict(doubt: &mut Option<Doubt>) -> Result<Option<Raced>, Error> {
    match doubt {
        Some(doubt) => doubt.verdict.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Waits for a link that was pinged, and dials beside it while it is silent.
async fn weigh<T, F>(is_silent: impl Fn() -> bool, dial: impl Fn() -> F) -> Result<Option<T>, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let asked_at = Instant::now();
    sleep(SILENCE_MAX).await;
    let stream = loop {
        if !is_silent() {
            return Ok(None);
        }
        match dial().await {
            Ok(stream) => break stream,
            // More attempts may lock a user's account. The link has the time that they would have taken.
            Err(error) if error.is_refused_login() => {
                sleep_until(asked_at + SETTLING).await;
                return unless_answered(is_silent, error);
            }
            // The network may not be usable yet.
            Err(Error::Dial { .. }) if asked_at.elapsed() < SETTLING => {
                sleep(SETTLING_WAIT_MAX).await;
            }
            Err(error) => return unless_answered(is_silent, error),
        }
    };
    // TCP repeats the ping after pauses that double: if the network was down for a while, the ping is repeated within
    // about as long again.
    sleep(asked_at.elapsed().min(GRACE_MAX)).await;
    Ok(is_silent().then_some(stream))
}

/// Waits for a link over QUIC that was pinged after it had not answered before, and dials beside it soon. `round_trips` is the
/// time of two; `ask_again` pings the link once more.
///
/// Returns the connection that replaces the link; `None` if the link has answered, and also if the relay cannot be dialled:
/// the link's own ping then has the time that it has without a doubt.
async fn weigh_soon<T, F>(
    round_trips: Duration,
    is_silent: impl Fn() -> bool,
    ask_again: impl FnOnce(),
    dial: impl FnOnce() -> F,
) -> Option<T>
where
    F: Future<Output = Result<T, Error>>,
{
    sleep(round_trips.clamp(QUICK_SILENCE, SILENCE_MAX)).await;
    if !is_silent() {
        return None;
    }
    let dialled = dial().await;
    if let Err(error) = &dialled {
        tracing::debug!(%error, "nothing gets through beside a link over QUIC that does not answer");
    }
    let connection = dialled.ok()?;
    if !is_silent() {
        return None;
    }
    // QUIC repeats lost packets after pauses that double: if UDP was blocked for a moment only, the link answers this.
    ask_again();
    sleep(round_trips.clamp(QUICK_GRACE, GRACE_MAX)).await;
    is_silent().then_some(connection)
}

/// The verdict after a dial that failed with `error`.
fn unless_answered<T>(is_silent: impl Fn() -> bool, error: Error) -> Result<Option<T>, Error> {
    match is_silent() {
        true => Err(error),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;

    use tokio::time::timeout;

    use super::*;
    use crate::error::{NextTry, RefusedLogin};
    use crate::network::NetworkWatch;

    fn dial_failed(source: io::Error) -> Error {
        Error::Dial {
            relay: "tcp://relay.test:9001".to_owned(),
            source,
        }
    }

    fn unreachable() -> Error {
        dial_failed(io::ErrorKind::NetworkUnreachable.into())
    }

    fn refused_login() -> Error {
        let text = "the proxy wants a login".to_owned();
        let again = Duration::from_secs(30);
        let next = NextTry::Process;
        dial_failed(RefusedLogin { text, again, next }.into())
    }

    /// The verdict on a link that answers after `answers_ms`, if ever, while dials fail until `usable_ms`; with the time
    /// that it took and the number of dials.
    async fn judged(
        answers_ms: Option<u64>,
        usable_ms: u64,
    ) -> (Result<Option<()>, Error>, Duration, usize) {
        let began_at = Instant::now();
        let passed = || began_at.elapsed();
        let is_silent = || answers_ms.is_none_or(|ms| passed() < Duration::from_millis(ms));
        let dials = Cell::new(0);
        let dial = || {
            dials.set(dials.get() + 1);
            async {
                match passed() < Duration::from_millis(usable_ms) {
                    true => Err(unreachable()),
                    false => Ok(()),
                }
            }
        };
        let verdict = weigh(is_silent, dial).await;
        (verdict, passed(), dials.get())
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_answers_is_kept_and_the_relay_is_not_dialled() {
        let (verdict, _, dials) = judged(Some(900), 0).await;
        assert!(matches!(verdict, Ok(None)), "{verdict:?}");
        assert_eq!(dials, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_link_is_replaced_as_soon_as_a_dial_gets_through() {
        let (verdict, took, dials) = judged(None, 0).await;
        assert!(matches!(verdict, Ok(Some(()))), "{verdict:?}");
        assert!(
            took < 2 * SILENCE_MAX + Duration::from_millis(100),
            "{took:?}"
        );
        assert_eq!(dials, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_is_kept_while_the_network_itself_is_not_usable_yet() {
        // With a round trip of 50 ms, TCP repeats the ping at 0.25, 0.75 and 1.75 s.
        let (verdict, _, dials) = judged(Some(1_800), 1_000).await;
        assert!(matches!(verdict, Ok(None)), "{verdict:?}");
        assert_eq!(dials, 1);

        // TCP repeats the ping 1 s after the network has come.
        let (verdict, _, dials) = judged(Some(4_000), 3_000).await;
        assert!(matches!(verdict, Ok(None)), "{verdict:?}");
        assert!(dials > 1);

        let (verdict, took, _) = judged(None, 3_000).await;
        assert!(matches!(verdict, Ok(Some(()))), "{verdict:?}");
        let most = Duration::from_millis(3_100) + GRACE_MAX;
        assert!(took < most, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_link_whose_relay_stays_out_of_reach_ends_with_the_reason() {
        let (verdict, took, _) = judged(None, u64::MAX).await;
        assert!(matches!(verdict, Err(Error::Dial { .. })), "{verdict:?}");
        assert!(
            took < SILENCE_MAX + SETTLING + Duration::from_secs(1),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_refuses_the_login_is_asked_once_beside_a_silent_link() {
        for answers in [None, Some(Duration::from_millis(1_800))] {
            let (began_at, dials) = (Instant::now(), Cell::new(0));
            let is_silent = || answers.is_none_or(|answers| began_at.elapsed() < answers);
            let dial = || {
                dials.set(dials.get() + 1);
                async { Err::<(), _>(refused_login()) }
            };
            let verdict = weigh(is_silent, dial).await;
            assert_eq!(dials.get(), 1);
            match answers {
                None => assert!(verdict.is_err_and(|error| error.is_refused_login())),
                // Nothing would replace the link.
                Some(_) => assert!(matches!(verdict, Ok(None)), "{verdict:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_login_ends_a_dial_though_another_attempt_hangs() {
        let (_watch, network) = changed();
        let attempt = |number: u32| async move {
            if number == 1 {
                std::future::pending::<()>().await;
            }
            Err(refused_login())
        };
        let (raced, begun) = numbered(network, attempt).await;
        assert!(raced.is_some_and(|raced| raced.is_err_and(|error| error.is_refused_login())));
        assert_eq!(begun, 2);
    }

    /// The quick verdict on a link with this round trip, which answers after `answers_ms`, if ever, while a dial gets through
    /// after `dial_ms`, or fails then if `fails`; with the time that it took in milliseconds, and the number of dials and of
    /// further pings.
    async fn judged_soon(
        rtt_ms: u64,
        answers_ms: Option<u64>,
        (dial_ms, fails): (u64, bool),
    ) -> (Option<()>, u128, usize, usize) {
        let began_at = Instant::now();
        let (dials, pings) = (Cell::new(0), Cell::new(0));
        let is_silent = || {
            let passed = began_at.elapsed();
            answers_ms.is_none_or(|ms| passed < Duration::from_millis(ms))
        };
        let dial = || async {
            dials.set(dials.get() + 1);
            sleep(Duration::from_millis(dial_ms)).await;
            match fails {
                true => Err(unreachable()),
                false => Ok(()),
            }
        };
        let round_trips = 2 * Duration::from_millis(rtt_ms);
        let verdict = weigh_soon(round_trips, is_silent, || pings.set(1), dial).await;
        (
            verdict,
            began_at.elapsed().as_millis(),
            dials.get(),
            pings.get(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_link_over_quic_is_replaced_soon_and_one_that_answers_is_kept() {
        let through = (400, false);
        for (rtt_ms, answers_ms, verdict, took, dials, pings) in [
            (20, None, Some(()), 300 + 400 + 500, 1, 1),
            (20, Some(250), None, 300, 0, 0),
            // During the dial, and in the time that is left after it.
            (20, Some(600), None, 300 + 400, 1, 0),
            (20, Some(1_100), None, 300 + 400 + 500, 1, 1),
            // A long round trip.
            (450, Some(850), None, 900, 0, 0),
            (450, None, Some(()), 900 + 400 + 900, 1, 1),
            // One that was measured behind a queue.
            (8_000, None, Some(()), 1_000 + 400 + 2_000, 1, 1),
        ] {
            let (judged, ms, dialled, pinged) = judged_soon(rtt_ms, answers_ms, through).await;
            assert_eq!((judged, dialled, pinged), (verdict, dials, pings));
            // The clock of tokio's timers counts in milliseconds, rounded up.
            assert!((took..took + 5).contains(&ms), "{ms} ms in place of {took}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_link_over_quic_is_left_to_its_own_ping_if_nothing_gets_through() {
        let (verdict, _, dials, pings) = judged_soon(20, None, (50, true)).await;
        assert_eq!((verdict, dials, pings), (None, 1, 0));
    }

    /// A watch of a network that has just changed, and a view of it that has not seen the change yet.
    fn changed() -> (NetworkWatch, NetworkChanges) {
        let watch = NetworkWatch::default();
        let network = watch.changes();
        watch.changed();
        (watch, network)
    }

    /// Races attempts with numbers from 1 on; returns the outcome, if there is one within a minute, and the number of
    /// attempts that began.
    async fn numbered<F>(
        network: NetworkChanges,
        attempt: impl Fn(u32) -> F,
    ) -> (Option<Result<(), Error>>, u32)
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let begun = Cell::new(0);
        let next = || {
            begun.set(begun.get() + 1);
            attempt(begun.get())
        };
        let raced = timeout(Duration::from_secs(60), side_by_side(network, next)).await;
        (raced.ok(), begun.get())
    }

    /// Races attempts of which only the one with the number `winner` gets through, and the others hang; returns the
    /// number of attempts that began.
    async fn raced(network: NetworkChanges, winner: u32) -> u32 {
        let attempt = |number: u32| async move {
            if number != winner {
                std::future::pending::<()>().await;
            }
            Ok(())
        };
        let (raced, begun) = numbered(network, attempt).await;
        assert_eq!(raced.is_some(), begun == winner);
        begun
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_hangs_while_the_network_settles_gets_company() {
        let (_watch, mut network) = changed();
        network.mark_seen();
        let began_at = Instant::now();
        assert_eq!(raced(network.clone(), 2).await, 2);
        assert!(began_at.elapsed() >= ATTEMPT_PAUSE);
        let begun = raced(network, u32::MAX).await;
        assert_eq!(usize::try_from(begun).unwrap(), ATTEMPTS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_network_starts_another_attempt_at_once() {
        let (_watch, network) = changed();
        let began_at = Instant::now();
        assert_eq!(raced(network, 2).await, 2);
        assert!(began_at.elapsed() < ATTEMPT_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_dial_stays_alone_while_the_network_is_quiet() {
        let watch = NetworkWatch::default();
        assert_eq!(raced(watch.changes(), u32::MAX).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_that_changes_for_ever_does_not_keep_a_dial_from_failing() {
        let watch = NetworkWatch::default();
        let network = watch.changes();
        let changing = async {
            loop {
                watch.changed();
                sleep(Duration::from_secs(1)).await;
            }
        };
        let attempt = || async {
            sleep(SETTLING).await;
            Err::<(), _>(unreachable())
        };
        let most = 2 * SETTLING + Duration::from_secs(1);
        tokio::select! {
            raced = timeout(most, side_by_side(network, attempt)) => {
                assert!(matches!(raced, Ok(Err(Error::Dial { .. }))), "{raced:?}");
            }
            () = changing => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_network_late_in_a_dial_starts_no_attempt() {
        let watch = NetworkWatch::default();
        let network = watch.changes();
        let changing = async {
            sleep(SETTLING + Duration::from_secs(1)).await;
            watch.changed();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            begun = raced(network, u32::MAX) => assert_eq!(begun, 1),
            () = changing => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_fails_once_all_attempts_have_failed() {
        let (_watch, network) = changed();
        let attempt = |number: u32| async move {
            sleep(Duration::from_millis(100) * number).await;
            Err(unreachable())
        };
        let (raced, begun) = numbered(network, attempt).await;
        assert!(matches!(raced, Some(Err(Error::Dial { .. }))), "{raced:?}");
        assert_eq!(begun, 2);
    }
}
