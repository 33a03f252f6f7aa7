//! Places of the handshakes on a shard, of TLS and of QUIC. When all are taken, an address that has few of them gets one
//! of an address that has many, so that a flood of begun handshakes keeps no other client out. Connections whose trusted
//! proxy has not named the client yet have places of their own.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::{AddressCount, PerAddress, counted_part};
use crate::io::turn;

/// Handshakes of one shard at a time, each of which may hold up to 64 KiB of a client's handshake; also the connections of
/// one shard that wait for a proxy's header.
const HANDSHAKES_MAX: usize = 512;

/// The handshakes of one shard, or its connections that wait for a proxy's header.
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
    /// Places by the number of their handshake: the oldest comes first.
    taken: BTreeMap<u64, Place>,
    /// Number of places of each address that has any.
    of_address: HashMap<IpAddr, usize>,
}

struct Place {
    /// Address of the client, or its network (IPv6).
    address: IpAddr,
    /// True until the client has sent its whole hello.
    is_silent: bool,
    /// Tells the handshake that it loses its place.
    lose: oneshot::Sender<()>,
    /// Counts the handshake with its address, on all shards.
    _counted: AddressCount,
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

    /// Tells a handshake that it has lost its place, which is free now.
    fn lose(&mut self, number: u64) {
        if let Some(place) = self.leave(number) {
            // The handshake may have ended by itself in this turn.
            let _ = place.lose.send(());
        }
    }

    /// The oldest handshake with `address` whose client has not sent its whole hello.
    fn oldest_silent(&self, address: IpAddr) -> Option<u64> {
        let mut taken = self.taken.iter();
        let silent = taken.find(|(_, place)| place.is_silent && place.address == address);
        silent.map(|(number, _)| *number)
    }

    /// The handshake that loses its place to a new client at `address`, if one does.
    ///
    /// If the new client's address has no place, or at least two fewer than another address, the oldest handshake of
    /// the address with the most places loses; else the oldest silent handshake of the new client's own address. With a
    /// difference of one, the addresses of one flood would replace each other's handshakes without end, and each that
    /// is begun costs a signature. Silence alone makes no handshake of another address lose: each client is silent
    /// until its hello has crossed the network, and a flood from many addresses would replace it before.
    fn loser(&self, address: IpAddr) -> Option<u64> {
        let count = |address| self.of_address.get(address).copied().unwrap_or(0);
        let own = count(&address);
        let most = self.of_address.values().copied().max()?;
        if own == 0 || own + 1 < most {
            let mut taken = self.taken.iter();
            let oldest = taken.find(|(_, place)| count(&place.address) == most);
            return oldest.map(|(number, _)| *number);
        }
        self.oldest_silent(address)
    }
}

impl Handshakes {
    /// Takes a place for a client at `address`, another handshake's if none is free; `None` if no other has to give way.
    /// `limit` is that of the address on all shards, if it has one: at its limit, a new client gets the place of the
    /// address's oldest silent handshake on this shard.
    pub(crate) fn enter(
        self: &Rc<Self>,
        address: IpAddr,
        limit: Option<&Arc<PerAddress>>,
    ) -> Option<Handshake> {
        let mut places = self.places.borrow_mut();
        let counted = match limit {
            None => AddressCount::default(),
            Some(limit) => match limit.enter(address) {
                Some(counted) => counted,
                None => {
                    let number = places.oldest_silent(counted_part(address))?;
                    places.lose(number);
                    limit.enter(address)?
                }
            },
        };
        let address = counted_part(address);
        if places.taken.len() >= HANDSHAKES_MAX {
            let number = places.loser(address)?;
            places.lose(number);
        }
        let (lose, lost) = oneshot::channel();
        let number = self.next.replace(self.next.get() + 1);
        let place = Place {
            address,
            is_silent: true,
            lose,
            _counted: counted,
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
            let enter = || all.enter(address(1), None);
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
            let flood = |at: usize| all.enter(address(u8::try_from(at % 8).unwrap()), None);
            let places: Vec<_> = (0..HANDSHAKES_MAX).map(|at| flood(at).unwrap()).collect();
            // Every client has sent its hello, so no handshake is silent.
            let answers = speak(&places);
            assert!((0..8).all(|at| flood(at).is_none()));
            let others: Vec<_> = (0..3)
                .map(|_| all.enter(address(100), None).unwrap())
                .collect();
            // The oldest handshakes of the addresses with the most places have lost theirs.
            let lost: Vec<_> = (0..).zip(&places).filter(|it| has_lost(it.1)).collect();
            assert!(lost.iter().map(|it| it.0).eq(0..3));
            // An address that lost a place has 63, only one fewer than the others, and gets none of theirs.
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
            let enter = |at: usize| all.enter(one_each(at), None).unwrap();
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
    fn at_its_limit_an_address_replaces_its_own_silent_handshakes_only() {
        run(Chosen::Epoll, async {
            let all = Rc::new(Handshakes::default());
            let limit = PerAddress::new(4);
            let enter = |at| all.enter(address(at), limit.as_ref());
            let places: Vec<_> = (0..4).map(|_| enter(1).unwrap()).collect();
            let _other = enter(2).unwrap();
            let answers = speak(&places[..1]);
            let mut newer = vec![enter(1).unwrap()];
            let lost: Vec<_> = places.iter().map(has_lost).collect();
            assert_eq!(lost, [false, true, false, false]);
            newer.extend((0..3).map(|_| enter(1).unwrap()));
            let answered = speak(&newer[1..]);
            assert!(enter(1).is_none());
            assert!(enter(2).is_some());
            drop((answers, answered));
            drop((places, newer));
            assert!(enter(1).is_some());
        })
        .unwrap();
    }
}
