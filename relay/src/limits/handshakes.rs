//! Places of the handshakes on a shard, of TLS and of QUIC. When all are taken, an address that has few of them gets one of an address
//! that has many, so that a flood of begun handshakes keeps no other client out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::counted_part;
use crate::io::turn;

/// Handshakes of one shard at a time. Each may hold up to 64 KiB of a client's handshake.
const HANDSHAKES_MAX: usize = 512;

/// The handshakes of one shard.
pub(crate) struct Handshakes {
    places: RefCell<Places>,
    /// Number of the next handshake.
    next: Cell<u64>,
    /// Permit to answer a client's hello: one at a time.
    answers: Semaphore,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self {
            places: RefCell::default(),
            next: Cell::new(0),
            answers: Semaphore::new(1),
        }
    }
}

/// The places that are taken, at most [`HANDSHAKES_MAX`].
#[derive(Default)]
struct Places {
    /// By number, so the oldest first.
    taken: BTreeMap<u64, Place>,
    /// How many each address has; none has 0.
    of_address: HashMap<IpAddr, usize>,
}

struct Place {
    /// Address of the client, or its network (IPv6).
    address: IpAddr,
    /// True until the client has sent its whole hello.
    is_silent: bool,
    /// Tells the handshake that it loses its place.
    lose: oneshot::Sender<()>,
}

impl Places {
    fn take(&mut self, number: u64, place: Place) {
        *self.of_address.entry(place.address).or_default() += 1;
        self.taken.insert(number, place);
    }

    fn leave(&mut self, number: u64) -> Option<Place> {
        let place = self.taken.remove(&number)?;
        if let Some(count) = self.of_address.get_mut(&place.address) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&place.address);
            }
        }
        Some(place)
    }

    /// The handshake that loses its place to a new client at `address`, if one does.
    ///
    /// It is the oldest of an address with the most places, if the new client's address has none, or still has fewer
    /// than the other with one more; else the oldest silent one of the new client's own address. Without the difference
    /// of two, addresses of one flood would replace each other, and each handshake that is begun costs a signature. Silent
    /// ones of other addresses do not go first: each client is silent until its hello has crossed the network, and in a
    /// flood from many addresses a newer client would take its place before.
    fn loser(&self, address: IpAddr) -> Option<u64> {
        let count = |address| self.of_address.get(address).copied().unwrap_or(0);
        let own = count(&address);
        let most = self.of_address.values().copied().max()?;
        let mut taken = self.taken.iter();
        if own == 0 || own + 1 < most {
            let oldest = taken.find(|(_, place)| count(&place.address) == most);
            return oldest.map(|(number, _)| *number);
        }
        let silent = taken.find(|(_, place)| place.is_silent && place.address == address);
        silent.map(|(number, _)| *number)
    }
}

impl Handshakes {
    /// Takes a place for a client at `address`, another handshake's if none is free; `None` if no other has to give way.
    pub(crate) fn enter(self: &Rc<Self>, address: IpAddr) -> Option<Handshake> {
        let address = counted_part(address);
        let mut places = self.places.borrow_mut();
        if places.taken.len() >= HANDSHAKES_MAX {
            let number = places.loser(address)?;
            if let Some(place) = places.leave(number) {
                // The handshake may have ended by itself in this turn.
                let _ = place.lose.send(());
            }
        }
        let (lose, lost) = oneshot::channel();
        let number = self.next.replace(self.next.get() + 1);
        let place = Place {
            address,
            is_silent: true,
            lose,
        };
        places.take(number, place);
        Some(Handshake {
            all: Rc::clone(self),
            number,
            lost: RefCell::new(lost),
        })
    }
}

/// The place of one handshake; free again once it is dropped.
pub(crate) struct Handshake {
    all: Rc<Handshakes>,
    number: u64,
    lost: RefCell<oneshot::Receiver<()>>,
}

impl Handshake {
    /// Runs `handshake` to its end; `None` as soon as its place is lost.
    pub(crate) async fn run<T>(&self, handshake: impl Future<Output = T>) -> Option<T> {
        let mut handshake = std::pin::pin!(handshake);
        poll_fn(|cx| {
            if self.is_lost(cx) {
                return Poll::Ready(None);
            }
            handshake.as_mut().poll(cx).map(Some)
        })
        .await
    }

    fn is_lost(&self, cx: &mut Context<'_>) -> bool {
        Pin::new(&mut *self.lost.borrow_mut()).poll(cx).is_ready()
    }

    /// Notes the address of the client behind a proxy, once the proxy has named it.
    pub(crate) fn is_from(&self, address: IpAddr) {
        let mut places = self.all.places.borrow_mut();
        if let Some(mut place) = places.leave(self.number) {
            place.address = counted_part(address);
            places.take(self.number, place);
        }
    }

    /// Waits until a hello of the client may be answered: after all sessions had a turn, and while no other hello is
    /// answered. The client's first hello is whole now.
    pub(crate) async fn may_answer(&self) -> Option<SemaphorePermit<'_>> {
        if let Some(place) = self.all.places.borrow_mut().taken.get_mut(&self.number) {
            place.is_silent = false;
        }
        // The semaphore is never closed.
        let permit = self.all.answers.acquire().await.ok();
        turn().await;
        permit
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let _place = self.all.places.borrow_mut().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::net::Ipv4Addr;
    use std::pin::pin;
    use std::task::Waker;

    use super::*;
    use crate::io::{Chosen, run};

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    fn has_lost(place: &Handshake) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        pin!(place.run(pending::<()>())).poll(&mut cx) == Poll::Ready(None)
    }

    /// Lets each of `places` send its hello; only the first is answered, so the futures must be kept.
    fn speak<'a>(
        places: impl IntoIterator<Item = &'a Handshake>,
    ) -> Vec<Pin<Box<dyn Future<Output = Option<SemaphorePermit<'a>>> + 'a>>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut answers: Vec<Pin<Box<dyn Future<Output = _>>>> = Vec::new();
        for place in places {
            answers.push(Box::pin(place.may_answer()));
        }
        for answer in &mut answers {
            assert!(answer.as_mut().poll(&mut cx).is_pending());
        }
        answers
    }

    #[test]
    fn silent_clients_lose_their_places_to_newer_ones_of_their_address_and_others_keep_them() {
        run(Chosen::Epoll, async {
            let all = Rc::new(Handshakes::default());
            let mut cx = Context::from_waker(Waker::noop());
            let enter = || all.enter(address(1));
            let places: Vec<_> = (0..HANDSHAKES_MAX).map(|_| enter().unwrap()).collect();
            let answers = speak(&places[..2]);
            let newer = enter().unwrap();
            for (at, place) in places.iter().enumerate().take(4) {
                assert_eq!(has_lost(place), at == 2, "{at}");
            }
            {
                let mut done = pin!(newer.run(ready(7)));
                assert_eq!(done.as_mut().poll(&mut cx), Poll::Ready(Some(7)));
            }
            drop(answers);
            drop(places);
            drop(newer);
            assert!(all.places.borrow().taken.is_empty());
            assert!(all.places.borrow().of_address.is_empty());
        })
        .unwrap();
    }

    #[test]
    fn an_address_with_few_handshakes_gets_places_of_those_with_many_and_these_get_none() {
        run(Chosen::Epoll, async {
            let all = Rc::new(Handshakes::default());
            let flood = |at: usize| all.enter(address(u8::try_from(at % 8).unwrap()));
            let places: Vec<_> = (0..HANDSHAKES_MAX).map(|at| flood(at).unwrap()).collect();
            // Begun by all: none is silent.
            let answers = speak(&places);
            assert!((0..8).all(|at| flood(at).is_none()));
            let others: Vec<_> = (0..3).map(|_| all.enter(address(100)).unwrap()).collect();
            // The oldest of the addresses with the most.
            let lost: Vec<_> = (0..).zip(&places).filter(|it| has_lost(it.1)).collect();
            assert!(lost.iter().map(|it| it.0).eq(0..3));
            // Those that lost one have 63 now, and one more would be as many as the others have.
            assert!(flood(0).is_none());
            assert!(others.iter().all(|it| !has_lost(it)));
            drop(answers);
        })
        .unwrap();
    }

    #[test]
    fn clients_of_many_addresses_replace_the_oldest() {
        run(Chosen::Epoll, async {
            let all = Rc::new(Handshakes::default());
            let one_each = |at: usize| IpAddr::from(u32::try_from(at).unwrap().to_be_bytes());
            let enter = |at: usize| all.enter(one_each(at)).unwrap();
            let places: Vec<_> = (0..HANDSHAKES_MAX).map(enter).collect();
            let answers = speak(&places);
            let _newer = [enter(1_000), enter(1_001)];
            assert!(
                places
                    .iter()
                    .enumerate()
                    .all(|(at, it)| has_lost(it) == (at < 2))
            );
            drop(answers);
        })
        .unwrap();
    }

    #[test]
    fn clients_behind_a_proxy_count_by_the_addresses_that_it_names() {
        run(Chosen::Epoll, async {
            let all = Rc::new(Handshakes::default());
            let places: Vec<_> = (0..HANDSHAKES_MAX)
                .map(|_| all.enter(address(1)).unwrap())
                .collect();
            for place in &places[1..] {
                place.is_from(address(2));
            }
            let answers = speak(&places);
            let _newer = all.enter(address(1)).unwrap();
            assert!(!has_lost(&places[0]));
            assert!(has_lost(&places[1]));
            drop(answers);
        })
        .unwrap();
    }
}
