mod client;
mod connected;
mod flood;
mod forged;
mod links;
mod moved;
mod raw;
mod resets;
mod strays;
mod streams;
mod unproved;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_task::Task;
use quinn_proto::{ConnectionError, Dir, Event, StreamEvent, VarInt};

use self::client::{Client, read};
use self::raw::Raw;
use self::streams::{echo_back, serve};
use super::config::UNPROVED_MAX;
use super::*;
use crate::certificates::Certificates;
use crate::certificates::tests::Files;
use crate::config::TlsConfig;
use crate::io::{Chosen, PacketSteering, Signal, bind_packets, choose, run, sleep, spawn, timeout};
use crate::limits::{Handshake, Handshakes};
use crate::metrics::{AuditCounts, ShardMetrics, TlsReport, render};

/// A shard that keeps the connections that it gets.
#[derive(Default)]
struct TestHost {
    tasks: RefCell<Vec<Task<()>>>,
    connected: RefCell<Vec<Rc<Connection>>>,
    has_connected: Signal,
    /// The endpoints of all shards, for strays.
    all: RefCell<Vec<Rc<Endpoint>>>,
    strays: Cell<usize>,
    handshakes: Rc<Handshakes>,
    /// Whether there is no place for a handshake.
    is_full: Cell<bool>,
}

impl Host for TestHost {
    fn spawn(&self, task: LocalTask) {
        self.tasks.borrow_mut().push(spawn(task));
    }

    fn handshake_place(&self, client: SocketAddr, _: bool) -> Option<Handshake> {
        match self.is_full.get() {
            true => None,
            false => self.handshakes.enter(client.ip(), None),
        }
    }

    fn pass_on(&self, to: usize, strays: Strays) -> bool {
        self.strays.set(self.strays.get() + strays.len());
        let endpoint = Rc::clone(&self.all.borrow()[to]);
        endpoint.take_strays(strays);
        true
    }

    fn connected(&self, connection: Rc<Connection>) {
        self.connected.borrow_mut().push(connection);
        self.has_connected.raise();
    }
}

impl TestHost {
    /// Waits for the next connection.
    async fn next(&self) -> Rc<Connection> {
        loop {
            if let Some(connection) = self.connected.borrow_mut().pop() {
                return connection;
            }
            self.has_connected.wait().await;
        }
    }

    /// Drops all tasks and endpoints, as a relay that is killed does.
    async fn kill(&self) {
        self.connected.borrow_mut().clear();
        self.all.borrow_mut().clear();
        for task in self.tasks.take() {
            task.cancel().await;
        }
    }
}

/// A relay's certificate, and its keys.
struct Rig {
    tls: Arc<rustls::ServerConfig>,
    cert: PathBuf,
    keys: QuicKeys,
    metrics: Arc<ShardMetrics>,
    handshake_timeout: Duration,
    connections_max: usize,
    _files: Files,
}

impl Rig {
    fn new() -> Self {
        Self::named(&["relay.example"])
    }

    /// With a certificate for `names`.
    fn named(names: &[&str]) -> Self {
        let files = Files::new();
        let certificate = files.lasting("relay", names);
        let cert = certificate.cert.clone();
        let config = TlsConfig {
            certificates: vec![certificate],
            ..TlsConfig::default()
        };
        let certificates = Certificates::read(&config, None).unwrap().unwrap();
        Self {
            tls: Arc::clone(&certificates.configs().quic),
            cert,
            keys: QuicKeys::of(&[3; 32]),
            metrics: Arc::default(),
            handshake_timeout: Duration::from_secs(20),
            connections_max: CONNECTIONS_MAX,
            _files: files,
        }
    }

    /// A shard with one endpoint, and the endpoint's address.
    fn host(&self) -> (Rc<TestHost>, SocketAddr) {
        let host = Rc::<TestHost>::default();
        let (bound, sockets) = bind_packets(loopback(), 1).unwrap();
        self.open(&host, sockets);
        (host, bound)
    }

    /// Opens the endpoints of `sockets`, one for each shard.
    fn open(&self, host: &Rc<TestHost>, sockets: Vec<UdpSocket>) {
        let shards = sockets.len();
        for (shard, socket) in sockets.into_iter().enumerate() {
            let setup = Setup {
                host: Rc::clone(host) as Rc<dyn Host>,
                place: Place {
                    address: 0,
                    shard,
                    shards,
                    steering: PacketSteering::new(self.keys.steering(), shards),
                },
                keys: self.keys.clone(),
                tls: Arc::clone(&self.tls),
                handshake_timeout: self.handshake_timeout,
                connections_max: self.connections_max,
                idle_timeout: Duration::from_secs(60),
                metrics: Arc::clone(&self.metrics),
            };
            let (endpoint, reads) = Endpoint::open(setup, socket).unwrap();
            host.all.borrow_mut().push(endpoint);
            host.spawn(reads);
        }
    }

    /// Runs a client on a thread of its own.
    fn client<T: Send + 'static>(
        &self,
        relay: SocketAddr,
        protocol: &'static str,
        act: impl FnOnce(Client) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let cert = self.cert.clone();
        thread::spawn(move || act(Client::begin(relay, &cert, protocol)))
    }

    /// A client that writes its packets itself, at loopback address number `host`.
    fn raw(&self, relay: SocketAddr, host: u8) -> Raw {
        Raw::new(relay, loopback_of(host), &self.cert, &["tieline"])
    }

    /// Runs such a client on a thread of its own, once its handshake is over.
    fn shaken_raw<T: Send + 'static>(
        &self,
        relay: SocketAddr,
        act: impl FnOnce(&mut Raw) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let mut raw = self.raw(relay, 1);
        thread::spawn(move || {
            raw.shake().unwrap();
            act(&mut raw)
        })
    }

    /// The page of metrics.
    fn page(&self) -> String {
        let metrics = [Arc::clone(&self.metrics)];
        let (audit, tls) = (AuditCounts::default(), TlsReport::default());
        render(&metrics, &[], 0, &audit, &tls)
    }

    /// The value of a metric.
    fn count(&self, sample: &str) -> u64 {
        let page = self.page();
        let value = page.lines().find_map(|it| it.strip_prefix(sample));
        value.unwrap().trim().parse().unwrap()
    }

    /// The sum of a metric's values with all labels.
    fn sum(&self, family: &str) -> u64 {
        let start = format!("{family}{{");
        let page = self.page();
        let samples = page.lines().filter(|it| it.starts_with(&start));
        let values = samples.map(|it| it.rsplit(' ').next().unwrap().parse::<u64>());
        values.sum::<Result<u64, _>>().unwrap()
    }

    /// Waits until the metrics are as wanted.
    async fn sees(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let seen = async {
            while !is_so(self) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let seen = timeout(Duration::from_secs(20), seen).await;
        assert!(seen.is_ok(), "{what}:\n{}", self.page());
    }

    /// Waits until a metric, which may fall, has a value.
    async fn settled(&self, sample: &str, wanted: u64) {
        self.sees(sample, |it| it.count(sample) == wanted).await;
    }

    /// Waits until a metric has a value.
    async fn counted(&self, sample: &str, wanted: u64) {
        let counted = async {
            while self.count(sample) < wanted {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let counted = timeout(Duration::from_secs(20), counted).await;
        assert!(counted.is_ok(), "{sample} is {}", self.count(sample));
        assert_eq!(self.count(sample), wanted, "{sample}");
    }
}

/// A caller beside an attack, which sends and gets back on one stream after another.
struct Bystander {
    stop: SyncSender<()>,
    client: JoinHandle<()>,
}

impl Bystander {
    async fn of(rig: &Rig, host: &Rc<TestHost>, relay: SocketAddr) -> Self {
        let (stop, is_stopped) = sync_channel(1);
        let client = rig.client(relay, "tieline", move |mut client| {
            client.shake().unwrap();
            let mut is_last = false;
            while !is_last {
                is_last = is_stopped.try_recv().is_ok();
                let sent = [7; 2_000];
                assert!(client.exchange(&sent) == sent);
            }
            client.leave();
        });
        let tasks = Rc::clone(host);
        serve(host, host.next().await, move |stream| {
            stream.widen();
            tasks.spawn(Box::pin(echo_back(stream)));
        });
        Self { stop, client }
    }

    /// Goes on to a whole exchange after the attack.
    async fn ends_well(self) {
        self.stop.send(()).unwrap();
        joined(self.client).await;
    }
}

/// An address of this machine; all of 127.0.0.0/8 are.
fn loopback_of(host: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, host).into()
}

/// Number of connections.
const CONNECTIONS: &str = "relay_quic_connections ";

/// Number of changes of a connection's address.
const MOVES: &str = "relay_quic_moves_total ";

/// The metric of packets dropped for `reason`.
fn dropped(reason: &str) -> String {
    format!("relay_quic_dropped_total{{reason=\"{reason}\"}}")
}

/// The metric of handshakes that failed for `reason`.
fn failures(reason: &str) -> String {
    format!("relay_tls_failures_total{{reason=\"{reason}\"}}")
}

fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn drivers() -> [Chosen; 2] {
    let (best, _) = choose(None).unwrap();
    [best, Chosen::Epoll]
}

/// Waits until a client's thread has ended.
async fn joined<T>(client: JoinHandle<T>) -> T {
    while !client.is_finished() {
        sleep(Duration::from_millis(1)).await;
    }
    client.join().unwrap()
}

/// Sends back what arrives on the peer's first stream.
async fn echo(connection: Rc<Connection>) {
    let (mut heard, mut sent, mut stream, mut is_whole) = (Vec::new(), 0, None, false);
    loop {
        match connection.event().await {
            Event::ConnectionLost { .. } => return,
            Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                stream = stream.or_else(|| connection.with(|it, _| it.streams().accept(Dir::Bi)));
            }
            _ => {}
        }
        let Some(id) = stream else {
            continue;
        };
        connection.with(|it, _| {
            is_whole |= read(it, id, &mut heard);
            while sent < heard.len() {
                match it.send_stream(id).write(&heard[sent..]) {
                    Ok(count) => sent += count,
                    Err(_) => return,
                }
            }
            if is_whole {
                // Fails once it is finished.
                let _ = it.send_stream(id).finish();
            }
        });
    }
}

#[test]
fn a_client_shakes_hands_and_gets_back_what_it_sends() {
    for driver in drivers() {
        let rig = Rig::new();
        run(driver, async {
            let (host, bound) = rig.host();
            let payload: Vec<u8> = (0..300_000_u32).map(|it| it.to_le_bytes()[0]).collect();
            let sent = payload.clone();
            let client = rig.client(bound, "tieline-agent/1", move |mut client| {
                client.shake().unwrap();
                client.exchange(&sent)
            });
            let connection = host.next().await;
            let protocol = connection.protocol();
            assert_eq!(protocol.as_deref(), Some(&b"tieline-agent/1"[..]));
            assert!(!connection.has_peer_certificate());
            assert_eq!(connection.peer().ip(), bound.ip());
            host.spawn(Box::pin(echo(connection)));
            assert!(joined(client).await == payload);
            assert_eq!(rig.count("relay_quic_handshakes_total"), 1);
            assert_eq!(rig.count("relay_quic_retries_total"), 0);
            host.kill().await;
            assert_eq!(rig.count("relay_quic_connections"), 0);
        })
        .unwrap();
    }
}

#[test]
fn where_many_have_not_proved_their_address_clients_must() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let endpoint = Rc::clone(&host.all.borrow()[0]);
        let unproved: Vec<_> = (0..UNPROVED_MAX).map(|_| endpoint.unproved()).collect();
        let client = rig.client(bound, "tieline", |mut client| client.shake());
        host.next().await;
        joined(client).await.unwrap();
        // The hello has two datagrams, and each may be answered.
        let retries = rig.count("relay_quic_retries_total");
        assert!((1..=2).contains(&retries), "{retries}");
        drop(unproved);
        let client = rig.client(bound, "tieline", |mut client| client.shake());
        host.next().await;
        joined(client).await.unwrap();
        assert_eq!(rig.count("relay_quic_retries_total"), retries);
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn packets_that_come_to_another_shard_find_their_connection() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let host = Rc::<TestHost>::default();
        // Without the program, so the kernel divides by address.
        let (bound, sockets) = bind_packets(loopback(), 3).unwrap();
        rig.open(&host, sockets);
        let clients: Vec<_> = (0..12)
            .map(|_| rig.client(bound, "tieline", |mut client| client.shake()))
            .collect();
        for client in clients {
            joined(client).await.unwrap();
        }
        rig.counted("relay_quic_handshakes_total", 12).await;
        assert!(host.strays.get() > 0);
        let counted = rig.count("relay_quic_strays_total");
        assert_eq!(counted, host.strays.get() as u64);
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn a_client_with_another_protocol_is_refused_with_a_reason() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let client = rig.client(bound, "h3", |mut client| client.end());
        let end = joined(client).await;
        assert!(matches!(end, ConnectionError::ConnectionClosed(_)), "{end}");
        rig.counted(&failures("alpn"), 1).await;
        assert!(host.connected.borrow().is_empty());
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn an_endpoint_that_closes_tells_clients_the_code_and_refuses_more() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let client = rig.client(bound, "tieline", |mut client| {
            client.shake().unwrap();
            client.end()
        });
        let connection = host.next().await;
        let endpoint = Rc::clone(&host.all.borrow()[0]);
        endpoint.close(VarInt::from_u32(77), b"over");
        let event = connection.event().await;
        assert!(matches!(
            event,
            Event::ConnectionLost {
                reason: ConnectionError::LocallyClosed
            }
        ));
        match joined(client).await {
            ConnectionError::ApplicationClosed(close) => {
                assert_eq!(close.error_code, VarInt::from_u32(77));
                assert_eq!(&close.reason[..], b"over");
            }
            other => panic!("{other}"),
        }
        let client = rig.client(bound, "tieline", |mut client| client.end());
        let end = joined(client).await;
        assert!(matches!(end, ConnectionError::ConnectionClosed(_)), "{end}");
        assert!(rig.count("relay_quic_dropped_total{reason=\"closing\"}") > 0);
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn a_relay_that_comes_back_tells_clients_that_their_connections_are_gone() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let (killed, is_killed) = sync_channel(1);
        let client = rig.client(bound, "tieline", move |mut client| {
            client.shake().unwrap();
            is_killed.recv().unwrap();
            client.ping();
            client.end()
        });
        drop(host.next().await);
        host.kill().await;
        drop(host);
        // With other shards than before.
        let (_, sockets) = bind_packets(bound, 2).unwrap();
        let host = Rc::<TestHost>::default();
        rig.open(&host, sockets);
        killed.send(()).unwrap();
        assert_eq!(joined(client).await, ConnectionError::Reset);
        host.kill().await;
    })
    .unwrap();
}

#[test]
fn garbage_is_counted_and_a_client_behind_it_is_served() {
    let rig = Rig::new();
    run(Chosen::Epoll, async {
        let (host, bound) = rig.host();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let long = |version: u8, len: usize| {
            let mut packet = vec![0xc0, 0, 0, 0, version, 8];
            packet.resize(len, 7);
            packet
        };
        for (packet, reason) in [
            (b"hello".to_vec(), "malformed"),
            (long(1, 100), "short_initial"),
            (long(9, 100), "version"),
            ([&[0x40][..], &[9; 60]].concat(), "unknown_connection"),
        ] {
            sender.send_to(&packet, bound).unwrap();
            rig.counted(&dropped(reason), 1).await;
        }
        // None of them has got an answer.
        sender.set_nonblocking(true).unwrap();
        let answer = sender.recv_from(&mut [0; 2048]);
        assert!(answer.is_err());
        // A version that the relay does not have, in a long datagram, is answered with one that it has.
        sender.send_to(&long(9, 1200), bound).unwrap();
        rig.counted(&dropped("version"), 2).await;
        let mut answer = [0; 2048];
        let (len, _) = sender.recv_from(&mut answer).unwrap();
        assert_eq!(answer[1..5], [0; 4]);
        assert!(len < 3 * 1200);
        assert!(answer[..len].ends_with(&[0, 0, 0, 1]));
        let client = rig.client(bound, "tieline", |mut client| client.shake());
        host.next().await;
        joined(client).await.unwrap();
        host.kill().await;
    })
    .unwrap();
}
