//! Tests of the order in which tasks, I/O and timers get their turn, on both drivers.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::io::{Received, Socket, choose, pair, sleep, timeout};

fn drivers() -> [Chosen; 2] {
    let (best, _) = choose(None).unwrap();
    [best, Chosen::Epoll]
}

/// A socket pair whose readiness has been spent: both ends are known to have nothing to read.
fn sockets() -> (Socket, Socket) {
    let (ours, theirs) = pair().unwrap();
    let ends = (Socket::new(ours), Socket::new(theirs));
    for end in [&ends.0, &ends.1] {
        let found = end.recv(&mut bytes::BytesMut::new(), 1).unwrap();
        assert_eq!(found, Received::Nothing);
    }
    ends
}

/// Waits for a byte that another task sends after a while.
async fn hear_a_byte() {
    let (ours, theirs) = sockets();
    spawn(async move {
        sleep(Duration::from_millis(5)).await;
        assert_eq!(theirs.send(b"x").unwrap(), 1);
    })
    .detach();
    timeout(Duration::from_secs(20), ours.readable())
        .await
        .expect("the timer or the socket was not looked at");
}

/// Counts the runs of a task that runs only when timers fire.
fn ticks() -> Rc<Cell<u32>> {
    let ticks = Rc::new(Cell::new(0));
    let ticking = Rc::clone(&ticks);
    spawn(async move {
        loop {
            sleep(Duration::from_millis(1)).await;
            ticking.set(ticking.get() + 1);
        }
    })
    .detach();
    ticks
}

/// Repeats `round` until timers have fired.
async fn go_round(round: impl AsyncFn()) {
    let ticks = ticks();
    let mut rounds = 0;
    while ticks.get() < 3 {
        round().await;
        rounds += 1;
        assert!(rounds < 10_000_000, "no timer fired");
    }
}

#[test]
fn a_socket_that_is_always_ready_starves_nobody() {
    for driver in drivers() {
        run(driver, async {
            let (ours, theirs) = sockets();
            assert_eq!(theirs.send(b"x").unwrap(), 1);
            go_round(async || {
                ours.readable().await;
                ours.writable().await;
            })
            .await;
        })
        .unwrap();
    }
}

#[test]
fn a_task_that_reads_without_end_still_writes() {
    for driver in drivers() {
        run(driver, async {
            let (ours, theirs) = sockets();
            assert_eq!(theirs.send(b"x").unwrap(), 1);
            let mut reads = pin!(async {
                loop {
                    ours.readable().await;
                }
            });
            let mut write = pin!(ours.writable());
            let both = poll_fn(|cx| {
                let _: Poll<()> = reads.as_mut().poll(cx);
                write.as_mut().poll(cx)
            });
            let written = timeout(Duration::from_secs(20), both).await;
            written.expect("the reader took every turn");
        })
        .unwrap();
    }
}

#[test]
fn tasks_that_wake_one_another_starve_nobody() {
    for driver in drivers() {
        run(driver, async {
            for _ in 0..2 {
                spawn(poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    Poll::<()>::Pending
                }))
                .detach();
            }
            hear_a_byte().await;
        })
        .unwrap();
    }
}

#[test]
fn in_a_turn_timers_are_looked_at() {
    for driver in drivers() {
        run(driver, go_round(turn)).unwrap();
    }
}

#[test]
fn a_task_that_wakes_itself_runs_behind_those_that_were_woken_before() {
    for driver in drivers() {
        let order = run(driver, async {
            let order = Rc::new(RefCell::new(Vec::new()));
            let (first, second) = (Rc::clone(&order), Rc::clone(&order));
            let mut polls = 0;
            let first = spawn(poll_fn(move |cx| {
                polls += 1;
                first.borrow_mut().push(polls);
                cx.waker().wake_by_ref();
                if polls < 2 {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            }));
            spawn(async move { second.borrow_mut().push(10) }).detach();
            first.await;
            order.take()
        });
        assert_eq!(order.unwrap(), [1, 10, 2]);
    }
}

#[test]
fn a_task_can_be_woken_from_another_thread() {
    for driver in drivers() {
        run(driver, async {
            let (woken, wakers) = mpsc::sync_channel::<TaskWaker>(1);
            let flag = Arc::new(AtomicBool::new(false));
            let set = Arc::clone(&flag);
            let waking = thread::spawn(move || {
                let waker = wakers.recv().unwrap();
                set.store(true, Ordering::SeqCst);
                waker.wake();
            });
            let mut woken = Some(woken);
            let task = spawn(poll_fn(move |cx| {
                if let Some(woken) = woken.take() {
                    woken.send(cx.waker().clone()).unwrap();
                }
                if flag.load(Ordering::SeqCst) {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            }));
            timeout(Duration::from_secs(20), task)
                .await
                .expect("the task was not woken");
            waking.join().unwrap();
        })
        .unwrap();
    }
}

#[test]
fn what_still_waits_at_the_end_is_dropped() {
    for driver in drivers() {
        let alive = Rc::new(());
        let (held, asleep) = (Rc::clone(&alive), Rc::clone(&alive));
        let theirs = run(driver, async {
            let (ours, theirs) = pair().unwrap();
            let ours = Socket::new(ours);
            spawn(async move {
                ours.readable().await;
                drop(held);
            })
            .detach();
            spawn(async move {
                sleep(Duration::from_secs(3600)).await;
                drop(asleep);
            })
            .detach();
            turn().await;
            theirs
        })
        .unwrap();
        assert_eq!(Rc::strong_count(&alive), 1);
        // The task's socket is closed, too: the other end reads the end.
        assert_eq!(rustix::io::read(&theirs, &mut [0; 1]).unwrap(), 0);
    }
}

#[test]
fn a_task_that_was_woken_elsewhere_at_the_end_is_dropped() {
    for driver in drivers() {
        let alive = Rc::new(());
        let held = Rc::clone(&alive);
        run(driver, async {
            let (woken, wakers) = mpsc::sync_channel::<TaskWaker>(1);
            spawn(poll_fn(move |cx| {
                let _held = &held;
                let _ = woken.try_send(cx.waker().clone());
                Poll::<()>::Pending
            }))
            .detach();
            turn().await;
            let waking = thread::spawn(move || wakers.recv().unwrap().wake());
            waking.join().unwrap();
        })
        .unwrap();
        assert_eq!(Rc::strong_count(&alive), 1);
    }
}

#[test]
fn every_socket_is_closed_at_the_end_however_many_there_are() {
    for driver in drivers() {
        // More sockets than a driver reports in one wait.
        let callers = run(driver, async {
            let callers = (0..1_500).map(|_| {
                let (ours, caller) = pair().unwrap();
                let ours = Socket::new(ours);
                spawn(async move { ours.readable().await }).detach();
                caller
            });
            let callers = callers.collect::<Vec<_>>();
            turn().await;
            callers
        })
        .unwrap();
        let open = callers.iter().filter(|caller| {
            rustix::io::ioctl_fionbio(caller, true).unwrap();
            rustix::io::read(caller, &mut [0; 1]).is_err()
        });
        assert_eq!(open.count(), 0, "{driver:?}");
    }
}

#[test]
fn timers_fire_and_bytes_arrive_while_a_shard_spins() {
    for driver in drivers() {
        let passes = Cell::new(0_u32);
        let spin = Spin {
            limit: Duration::from_secs(10),
            passed: &|| passes.set(passes.get() + 1),
        };
        run_spinning(driver, &spin, async {
            hear_a_byte().await;
        })
        .unwrap();
        // The runtime polled instead of sleeping until the timer.
        assert!(passes.get() > 10, "{driver:?}");
    }
}

#[test]
fn a_descriptor_that_moves_on_is_watched_where_it_went() {
    for driver in drivers() {
        let (theirs, fd) = run(driver, async {
            let (ours, theirs) = sockets();
            theirs.send(b"x").unwrap();
            ours.readable().await;
            (theirs.into_fd(), ours.into_fd())
        })
        .unwrap();
        run(driver, async {
            let moved = Socket::new(fd);
            moved.readable().await;
            let mut heard = bytes::BytesMut::new();
            moved.recv(&mut heard, 8).unwrap();
            // The moved socket gets later readiness from this runtime as well.
            rustix::io::write(&theirs, b"y").unwrap();
            moved.readable().await;
            moved.recv(&mut heard, 8).unwrap();
            assert_eq!(&heard[..], b"xy");
        })
        .unwrap();
    }
}
