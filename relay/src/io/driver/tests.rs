//! Tests of the events that each driver reports, and of a ring that is full.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use super::*;
use crate::io::pair;

#[test]
fn a_refusal_names_its_likely_cause() {
    let error = io::Error::from(rustix::io::Errno::PERM);
    assert!(explain(&error).contains("seccomp"));
}

fn drivers() -> [Driver; 2] {
    let (best, _) = choose(None).unwrap();
    [best, Chosen::Epoll].map(|chosen| Driver::new(chosen).unwrap())
}

/// Events that the driver reports within `timeout`, by key.
fn events(driver: &mut Driver, timeout: Duration) -> HashMap<u64, Ready> {
    let mut ready = Vec::new();
    driver.wait(Some(timeout), &mut ready).unwrap();
    ready.into_iter().collect()
}

const SOON: Duration = Duration::from_millis(20);

#[test]
fn readiness_is_said_once_and_again_when_more_comes() {
    for mut driver in drivers() {
        let (ours, theirs) = pair().unwrap();
        rustix::io::write(&theirs, b"x").unwrap();
        driver.watch(ours.as_fd(), Interest::Both, 7).unwrap();
        let first = events(&mut driver, SOON)[&7];
        assert!(first.readable && first.writable && !first.ended && !first.disarmed);
        assert!(events(&mut driver, SOON).is_empty());
        rustix::io::write(&theirs, b"y").unwrap();
        assert!(events(&mut driver, SOON)[&7].readable);
        drop(theirs);
        assert!(events(&mut driver, SOON)[&7].ended);
    }
}

#[test]
fn a_descriptor_that_is_forgotten_says_nothing_and_closes() {
    for mut driver in drivers() {
        let (ours, theirs) = pair().unwrap();
        driver.watch(ours.as_fd(), Interest::Both, 7).unwrap();
        // Right after the watch, which the ring has not submitted yet.
        driver.forget(ours.as_fd(), 7, false);
        rustix::io::write(&theirs, b"x").unwrap();
        events(&mut driver, SOON);
        assert!(events(&mut driver, SOON).is_empty());
        driver.watch(ours.as_fd(), Interest::Both, 8).unwrap();
        driver.forget(ours.as_fd(), 8, true);
        drop(ours);
        events(&mut driver, Duration::ZERO);
        assert_eq!(
            rustix::io::read(&theirs, &mut [0; 1]),
            Err(rustix::io::Errno::CONNRESET),
            "the close resets, since a byte is unread"
        );
    }
}

/// More descriptors than a ring of four entries has room for.
fn crowd() -> Vec<(OwnedFd, OwnedFd)> {
    (0..100).map(|_| pair().unwrap()).collect()
}

#[test]
fn a_ring_without_room_for_more_loses_neither_watches_nor_events() {
    let Ok(ring) = Uring::with_entries(4, 8) else {
        // The kernel refuses io_uring here, so `choose` must fall back.
        assert_eq!(choose(None).unwrap().0, Chosen::Epoll);
        return;
    };
    let mut driver = Driver::Uring(Box::new(ring));
    let crowd = crowd();
    let mut key = 0;
    for (ours, _) in &crowd {
        driver.watch(ours.as_fd(), Interest::Both, key).unwrap();
        key += 1;
    }
    let mut armed: HashMap<u64, bool> = (0..key).map(|key| (key, false)).collect();
    // All are writable: more completions than the queue holds, so that some polls are disarmed.
    for _ in 0..1_000 {
        for (key, ready) in events(&mut driver, Duration::from_millis(1)) {
            armed.insert(key, ready.writable);
            if ready.disarmed {
                let place = usize::try_from(key).unwrap();
                driver
                    .watch(crowd[place].0.as_fd(), Interest::Both, key)
                    .unwrap();
            }
        }
        if armed.values().all(|armed| *armed) {
            break;
        }
    }
    assert!(armed.values().all(|armed| *armed), "{armed:?}");
    // Each descriptor still reports events.
    for (_, theirs) in &crowd {
        rustix::io::write(theirs, b"x").unwrap();
    }
    let mut heard = HashMap::new();
    for _ in 0..1_000 {
        for (key, ready) in events(&mut driver, Duration::from_millis(1)) {
            *heard.entry(key).or_insert(false) |= ready.readable;
            if ready.disarmed {
                let place = usize::try_from(key).unwrap();
                driver
                    .watch(crowd[place].0.as_fd(), Interest::Both, key)
                    .unwrap();
            }
        }
        if heard.values().filter(|it| **it).count() == crowd.len() {
            break;
        }
    }
    assert_eq!(heard.values().filter(|it| **it).count(), crowd.len());
    // Forgets all descriptors through a submission queue of four entries.
    for (key, (ours, _)) in (0..).zip(&crowd) {
        driver.forget(ours.as_fd(), key, true);
    }
    let theirs: Vec<_> = crowd.into_iter().map(|(_, theirs)| theirs).collect();
    for _ in 0..100 {
        events(&mut driver, Duration::from_millis(1));
    }
    for theirs in theirs {
        let closed = rustix::io::read(&theirs, &mut [0; 1]);
        assert_eq!(closed, Err(rustix::io::Errno::CONNRESET));
    }
}
