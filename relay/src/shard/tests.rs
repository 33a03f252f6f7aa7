//! Whole shards under a flood of messages, run by one relay.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use tieline_wire::{AgentKey, InstanceId, MachineId, Scheme, TunnelId};

use super::*;
use crate::config::{CallersConfig, DriverChoice};
use crate::directory::{Claim, home};
use crate::listen::http::DRAIN_GRACE;
use crate::registry::{LinkId, LinkRef, TunnelInfo};
use crate::session::Load;
use crate::{Config, Relay};

const SHARDS: usize = 2;

/// Longest time for one request during a flood, on a machine that is busy with other tests.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// A claim that its home shard decides and every shard applies, of a link that does not exist.
fn claim(tunnel: &TunnelId, home: usize) -> Message {
    Message::Claim(Box::new(Claim {
        tunnel: tunnel.clone(),
        key: AgentKey::new([1; 32]),
        machine: MachineId::new([1; 16]),
        instance: InstanceId::new([1; 16]),
        link: LinkRef {
            shard: 1 - home,
            link: LinkId(u64::MAX),
        },
        address: [127, 0, 0, 1].into(),
        load: Load::default(),
        link_index: 0,
        request: 1,
        info: Arc::new(TunnelInfo {
            scheme: Scheme::Http,
            authority: "127.0.0.1:1".into(),
            base_path: String::new(),
            dcc: String::new(),
            capabilities: Vec::new(),
            ..TunnelInfo::default()
        }),
    }))
}

fn mailbox_full(metrics: &str) -> u64 {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("relay_mailbox_full_total "));
    line.unwrap().parse().unwrap()
}

/// The response to a GET, head and body.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(ANSWER_TIME_MAX)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn flood_beside_io(driver: DriverChoice) {
    let relay = Relay::start(Config {
        shards: SHARDS,
        driver,
        callers: CallersConfig {
            start_grace: Duration::ZERO,
            ..CallersConfig::default()
        },
        ..Config::default()
    })
    .unwrap();
    let (http, admin) = (relay.http_addresses()[0], relay.admin_addresses()[0]);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for index in 0..SHARDS {
            let (mailbox, stop) = (relay.peers.mailboxes[index].clone(), &stop);
            let names: Vec<TunnelId> = (0..2_000)
                .map(|number| TunnelId::parse(&format!("flood-{number}")).unwrap())
                .filter(|name| home(name, SHARDS) == index)
                .collect();
            scope.spawn(move || {
                for name in names.iter().cycle() {
                    let mut message = claim(name, index);
                    while let Err(back) = mailbox.try_send(message) {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        message = back;
                        thread::yield_now();
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        // Stops the flooding threads even if an assertion below fails.
        let _stop = StopWhenDropped(&stop);
        for _ in 0..60 {
            let answer = get(http, "/w/nobody-has-this-name/");
            assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        }
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        while mailbox_full(&get(admin, "/metrics")) == 0 {
            assert!(Instant::now() < deadline, "the mailboxes were never full");
        }
    });
    // The queued messages are delivered, and the shards answer as before.
    let answer = get(admin, "/tunnels");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    relay.stop();
}

struct StopWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_flood_of_messages_between_shards_starves_no_io() {
    flood_beside_io(DriverChoice::Auto);
}

#[test]
fn a_flood_of_messages_between_shards_starves_no_io_on_epoll() {
    flood_beside_io(DriverChoice::Epoll);
}

#[test]
fn a_shard_that_is_lost_is_told_of_and_the_others_go_on_and_stop() {
    let (sender, lost) = sync_channel(SHARDS);
    let config = Config {
        shards: SHARDS,
        ..Config::default()
    };
    let relay = Relay::start_watched(config, move |it| sender.send(it).unwrap()).unwrap();
    assert!(relay.peers.mailboxes[1].try_send(Message::Panic).is_ok());
    let it = lost.recv_timeout(ANSWER_TIME_MAX).unwrap();
    assert_eq!(it.shard, 1);
    assert!(it.cause.contains("panic"), "{it:?}");
    // The listener of the lost shard is closed, so the other shard accepts every caller.
    for _ in 0..16 {
        let answer = get(relay.http_addresses()[0], "/healthz");
        assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    }
    relay.stop();
    assert!(
        lost.recv().is_err(),
        "a shard that was told to stop was reported as lost"
    );
}

/// Stops a relay whose callers are at various stages: every connection must be closed. Rounds differ in how many
/// callers have arrived, and in whether the relay drains or cuts them off.
fn stop_lets_go(driver: DriverChoice) {
    const ROUNDS: usize = 20;
    const CALLERS: usize = 16;
    for round in 0..ROUNDS {
        // Without a limit, the drain would wait 5 s for the callers that have sent one byte.
        let drain_timeout = match round % 2 {
            0 => Duration::ZERO,
            _ => 2 * DRAIN_GRACE,
        };
        let relay = Relay::start(Config {
            shards: SHARDS,
            driver,
            drain_timeout,
            ..Config::default()
        })
        .unwrap();
        let addresses = [
            relay.tcp_addresses()[0],
            relay.http_addresses()[0],
            relay.agent_addresses()[0],
        ];
        let mut callers: Vec<TcpStream> = addresses
            .iter()
            .flat_map(|address| (0..CALLERS).map(move |_| TcpStream::connect(address).unwrap()))
            .collect();
        for caller in callers.iter_mut().step_by(2) {
            // A prefix that none of the ports refuses at once.
            caller.write_all(b"\0").unwrap();
        }
        // Agents do not count as callers.
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        while relay.peers.callers.len() < 2 * CALLERS * round / (ROUNDS - 1) {
            assert!(Instant::now() < deadline, "too few callers arrived");
            thread::yield_now();
        }
        relay.stop();
        for mut caller in callers {
            caller.set_read_timeout(Some(ANSWER_TIME_MAX)).unwrap();
            let end = caller.read(&mut [0; 64]);
            let hangs = matches!(&end, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            assert!(!hangs, "a connection outlived its relay (round {round})");
        }
    }
}

#[test]
fn a_stopped_relay_holds_no_connection() {
    stop_lets_go(DriverChoice::Auto);
}

#[test]
fn a_stopped_relay_holds_no_connection_on_epoll() {
    stop_lets_go(DriverChoice::Epoll);
}
