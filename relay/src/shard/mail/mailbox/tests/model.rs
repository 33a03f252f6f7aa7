//! Loom runs the park flag's own code in every order of the threads' steps, and lets each load return every value that
//! the memory model allows. Queue and waker are models with the weakest guarantees. A receiver that never wakes is a
//! deadlock, which loom reports.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};
use std::task::{Context, Poll, Waker};

use loom::sync::Notify;
use loom::sync::atomic::{AtomicBool, AtomicUsize};
use loom::{model::Builder, thread};

use super::super::park_flag::{Flag, ParkFlag};

impl Flag for AtomicBool {
    fn swap(&self, to: bool, order: Ordering) -> bool {
        Self::swap(self, to, order)
    }
}

/// Parameters of one model check.
#[derive(Clone, Copy)]
struct Case {
    senders: usize,
    /// Messages of each sender.
    each: usize,
    /// Places in the queue for each sender's messages.
    room: usize,
    /// Limit on preemptions, the switches away from a thread that could go on; `just loom` may raise it.
    preemptions: u8,
}

/// A mailbox with the weakest guarantees.
#[derive(Default)]
struct Model<F> {
    flag: ParkFlag<F>,
    /// Places of each sender; 0 is an empty place. A message that is found was sent, but a message sent later may be
    /// found before it.
    queue: Vec<Vec<AtomicUsize>>,
    /// Behaves as an eventfd: wake-ups merge, and a wait consumes them all. One wait may end spuriously.
    eventfd: Notify,
    // Loom's threads take turns on one thread, so cells can be shared and impose no memory order.
    /// The receiver is about to park and was not woken.
    is_asleep: Cell<bool>,
    /// Number of times that a full queue returned a message.
    refused: Cell<usize>,
}

impl<F: Flag> Model<F> {
    fn send(&self, sender: usize, message: usize) {
        let places = &self.queue[sender];
        let place = &places[message % places.len()];
        let push = || {
            if place.load(Acquire) != 0 {
                return Err(message);
            }
            place.store(message, Release);
            Ok(())
        };
        while let Err(back) = self.flag.send(push, || self.wake()) {
            assert_eq!(back, message);
            self.refused.set(self.refused.get() + 1);
            thread::yield_now();
        }
    }

    fn wake(&self) {
        // Loom does not switch threads between the swap and this line.
        let is_asleep = self.is_asleep.replace(false);
        assert!(is_asleep, "the receiver was woken although it was awake");
        self.eventfd.notify();
    }

    /// The next message, with its sender.
    fn next(&self) -> (usize, usize) {
        loop {
            let look = || {
                let found = self.look();
                if found.is_none() {
                    self.is_asleep.set(true);
                }
                Ok::<_, ()>(found)
            };
            let park = async {
                self.eventfd.wait();
                Ok(())
            };
            let step = pin!(self.flag.receive(look, park));
            // The wait blocks the thread, so one poll suffices.
            let outcome = step.poll(&mut Context::from_waker(Waker::noop()));
            self.is_asleep.set(false);
            match outcome {
                Poll::Ready(Ok(Some(found))) => return found,
                outcome => assert_eq!(outcome, Poll::Ready(Ok(None))),
            }
        }
    }

    fn look(&self) -> Option<(usize, usize)> {
        for (sender, places) in self.queue.iter().enumerate() {
            for place in places {
                let message = place.load(Acquire);
                if message != 0 {
                    place.store(0, Release);
                    return Some((sender, message));
                }
            }
        }
        None
    }
}

/// Checks a case; returns the number of times that a full queue returned a message.
fn check<F: Flag + Default + 'static>(case: Case) -> usize {
    let refused = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let sum = std::sync::Arc::clone(&refused);
    let mut builder = Builder::new();
    // The builder has read LOOM_MAX_PREEMPTIONS.
    let wanted = builder.preemption_bound.unwrap_or(0);
    builder.preemption_bound = Some(wanted.max(case.preemptions.into()));
    builder.check(move || {
        let places = |_| (0..case.room).map(|_| AtomicUsize::new(0)).collect();
        let model = Rc::new(Model::<F> {
            queue: (0..case.senders).map(places).collect(),
            ..Model::default()
        });
        for sender in 0..case.senders {
            let model = Rc::clone(&model);
            thread::spawn(move || (1..=case.each).for_each(|message| model.send(sender, message)));
        }
        let mut received: Vec<_> = (0..case.senders * case.each)
            .map(|_| model.next())
            .collect();
        received.sort_unstable();
        let sent = (0..case.senders)
            .flat_map(|sender| (1..=case.each).map(move |message| (sender, message)));
        assert!(
            received.into_iter().eq(sent),
            "a message was lost, or received twice"
        );
        sum.fetch_add(model.refused.get(), Relaxed);
    });
    refused.load(Relaxed)
}

#[test]
fn a_message_at_whatever_step_of_parking_wakes_the_receiver_once() {
    check::<AtomicBool>(Case {
        senders: 1,
        each: 2,
        room: 2,
        preemptions: u8::MAX,
    });
}

#[test]
fn senders_at_once_lose_nothing_and_one_of_them_wakes_the_receiver() {
    for (senders, each, preemptions) in [(2, 1, 4), (2, 2, 2), (3, 1, 2)] {
        check::<AtomicBool>(Case {
            senders,
            each,
            room: each,
            preemptions,
        });
    }
}

#[test]
fn what_a_full_queue_gives_back_arrives_once_there_is_room() {
    let refused = check::<AtomicBool>(Case {
        senders: 1,
        each: 3,
        room: 1,
        preemptions: 3,
    });
    assert!(refused > 0, "the queue was never full");
}

/// Checks two messages through a flag that is too weak.
fn check_weak<F: Flag + Default + 'static>() {
    check::<F>(Case {
        senders: 1,
        each: 2,
        room: 2,
        preemptions: 2,
    });
}

/// A flag whose swaps have no memory order.
#[derive(Default)]
struct Unordered(AtomicBool);

impl Flag for Unordered {
    fn swap(&self, to: bool, _: Ordering) -> bool {
        self.0.swap(to, Relaxed)
    }
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_flag_without_order_would_lose_a_wake_up() {
    check_weak::<Unordered>();
}

/// A flag that the receiver stores instead of swapping, so that it sees nothing.
#[derive(Default)]
struct Stored(AtomicBool);

impl Flag for Stored {
    fn swap(&self, to: bool, order: Ordering) -> bool {
        if to {
            self.0.store(true, Ordering::SeqCst);
            return false;
        }
        self.0.swap(false, order)
    }
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_flag_that_is_stored_would_lose_a_wake_up() {
    check_weak::<Stored>();
}
