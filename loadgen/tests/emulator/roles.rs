//! Commands of the two ends, which a path runs in its namespaces. They find the addresses in the environment, print JSON,
//! and fail by panicking, which makes the path's exit code 101.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use serde_json::{Value, json};

/// Port for datagrams, and the port of TCP that a far role listens on once it is ready.
const UDP_PORT: u16 = 7000;
const TCP_PORT: u16 = 7001;

/// Datagrams that are sent in a row, and the time until the next ones.
const BURST: u64 = 20;
const BURST_PAUSE: Duration = Duration::from_millis(1);

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Counts datagrams to the port, where they leave or arrive.
const NFT_TABLE: &str = "table inet path {
    counter seen { }
    chain datagrams {
        type filter hook HOOK priority 0
        udp dport 7000 counter name \"seen\"
    }
}
";

/// Receive buffer of the counting end. The kernel charges up to 2.5 KiB for a datagram of 1,500 bytes.
const SINK_BUFFER_BYTES: usize = 64 << 20;

/// Runs the role that `words` name.
pub fn run(mut words: impl Iterator<Item = String>) -> ExitCode {
    let role = words.next().unwrap_or_default();
    let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
    match (&role[..], &numbers[..]) {
        ("echo", []) => echo(),
        ("sink", [nft]) => sink(*nft == 1),
        ("ping", [count]) => println!("{}", ping(*count)),
        ("probe", []) => println!("{}", probe()),
        ("flood", [count, bytes, nft]) => println!("{}", flood(*count, *bytes, *nft == 1)),
        _ => panic!("no role {role} with {} numbers", numbers.len()),
    }
    ExitCode::SUCCESS
}

fn address(name: &str) -> IpAddr {
    std::env::var(name).unwrap().parse().unwrap()
}

fn far(port: u16) -> SocketAddr {
    SocketAddr::new(address("EMULATED_FAR"), port)
}

/// A socket of the near end that sends to the far end.
fn near_udp(timeout: Duration) -> UdpSocket {
    let socket = UdpSocket::bind((address("EMULATED_NEAR"), 0)).unwrap();
    socket.connect(far(UDP_PORT)).unwrap();
    socket.set_read_timeout(Some(timeout)).unwrap();
    socket
}

/// Far: returns every datagram.
fn echo() {
    let socket = UdpSocket::bind(far(UDP_PORT)).unwrap();
    let _listener = TcpListener::bind(far(TCP_PORT)).unwrap();
    let mut buffer = [0; 2048];
    loop {
        let (bytes, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..bytes], from).unwrap();
    }
}

/// Near: round trips of single datagrams, in nanoseconds.
fn ping(count: u64) -> Value {
    let socket = near_udp(PATIENCE);
    let trips = (0..count).map(|number| {
        let begun = Instant::now();
        socket.send(&number.to_be_bytes()).unwrap();
        let mut back = [0; 8];
        assert_eq!(socket.recv(&mut back).unwrap(), 8);
        assert_eq!(u64::from_be_bytes(back), number);
        u64::try_from(begun.elapsed().as_nanos()).unwrap()
    });
    trips.collect()
}

/// Near: whether datagrams are returned, and whether a connection opens.
fn probe() -> Value {
    let socket = near_udp(Duration::from_millis(200));
    let returned = (0..5_u64).filter(|number| {
        socket.send(&number.to_be_bytes()).unwrap();
        socket.recv(&mut [0; 8]).is_ok()
    });
    let udp = returned.count();
    let tcp = TcpStream::connect_timeout(&far(TCP_PORT), PATIENCE).is_ok();
    json!({ "udp": udp, "tcp": tcp })
}

/// Near: sends datagrams with `bytes` of payload, then asks the far end what has arrived.
fn flood(count: u64, bytes: u64, nft: bool) -> Value {
    let nft = nft.then(|| Counter::start("output"));
    let socket = near_udp(PATIENCE);
    let payload = vec![7; usize::try_from(bytes).unwrap()];
    let mut next = Instant::now();
    for number in 0..count {
        socket.send(&payload).unwrap();
        if number % BURST == BURST - 1 {
            next += BURST_PAUSE;
            pause_until(next);
        }
    }
    let mut control = TcpStream::connect(far(TCP_PORT)).unwrap();
    control.set_read_timeout(Some(PATIENCE)).unwrap();
    control.write_all(b"what arrived?\n").unwrap();
    let mut answer = String::new();
    BufReader::new(control).read_line(&mut answer).unwrap();
    let arrived: Value = serde_json::from_str(&answer).unwrap();
    json!({ "sent": nft.map_or(count, |nft| nft.read()), "arrived": arrived })
}

fn pause_until(time: Instant) {
    loop {
        let left = time.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

/// Far: counts datagrams, and tells each connection what has arrived so far.
fn sink(nft: bool) {
    let nft = nft.then(|| Counter::start("input"));
    let socket = UdpSocket::bind(far(UDP_PORT)).unwrap();
    socket.set_nonblocking(true).unwrap();
    // All datagrams of a flood fit, so that none is lost while this process waits for a core.
    set_socket_recv_buffer_size_force(&socket, SINK_BUFFER_BYTES).unwrap();
    let listener = TcpListener::bind(far(TCP_PORT)).unwrap();
    let mut arrived = Arrived::default();
    loop {
        let mut watched = [
            PollFd::new(&socket, PollFlags::IN),
            PollFd::new(&listener, PollFlags::IN),
        ];
        poll(&mut watched, None).unwrap();
        let is_asked = !watched[1].revents().is_empty();
        arrived.take(&socket);
        if is_asked {
            let (control, _) = listener.accept().unwrap();
            let mut control = BufReader::new(control);
            control.read_line(&mut String::new()).unwrap();
            // Datagrams that were sent before the question are here: the path keeps the order.
            arrived.take(&socket);
            let answer = json!({
                "packets": arrived.packets,
                "ns": u64::try_from(arrived.lasted().as_nanos()).unwrap(),
                "counted": nft.as_ref().map(Counter::read),
            });
            writeln!(control.get_mut(), "{answer}").unwrap();
        }
    }
}

/// Datagrams that have arrived.
#[derive(Default)]
struct Arrived {
    packets: u64,
    /// Times of the first and of the last one.
    times: Option<(Instant, Instant)>,
}

impl Arrived {
    /// Reads all datagrams that are there.
    fn take(&mut self, socket: &UdpSocket) {
        while socket.recv(&mut [0; 2048]).is_ok() {
            let now = Instant::now();
            self.packets += 1;
            self.times.get_or_insert((now, now)).1 = now;
        }
    }

    fn lasted(&self) -> Duration {
        self.times
            .map_or(Duration::ZERO, |(first, last)| last - first)
    }
}

/// A counter of nftables in this end's namespace.
struct Counter;

impl Counter {
    /// Counts datagrams at this hook.
    fn start(hook: &str) -> Self {
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let rules = NFT_TABLE.replace("HOOK", hook);
        let mut stdin = nft.stdin.take().unwrap();
        stdin.write_all(rules.as_bytes()).unwrap();
        drop(stdin);
        assert!(nft.wait().unwrap().success());
        Self
    }

    fn read(&self) -> u64 {
        let output = Command::new("nft")
            .args(["list", "counter", "inet", "path", "seen"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (_, rest) = text.split_once("packets ").unwrap();
        rest.split_ascii_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }
}
