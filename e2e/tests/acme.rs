//! A relay that gets its certificate from pebble, Let's Encrypt's CA for tests (Debian: package `pebble`).
//!
//! Where pebble is missing, the test is reported as ignored.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::json;
use tempfile::TempDir;
use tieline_e2e::behaviour::{
    Addresses, HttpStream, RelayProgram, SOON, TestCertificate, tls, within,
};
use tieline_e2e::environment::is_there;
use tieline_e2e::process::Process;
use tokio::time::sleep;

/// Programs of the package.
const PROGRAMS: [&str; 2] = ["pebble", "pebble-challtestsrv"];

/// Name that the test's DNS server knows.
const NAME: &str = "relay.example";

/// Validity of each certificate. The relay renews after two thirds of it.
const VALIDITY: Duration = Duration::from_secs(60);

/// Certificates of one run.
const CERTIFICATES: i64 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let name = "pebble::certificates_of_a_minute_are_renewed_and_no_connection_ends";
    let check = || run().map_err(|error| Failed::from(format!("{error:#}")));
    let mut trial = Trial::test(name, check);
    if let Some(program) = PROGRAMS.into_iter().find(|it| !is_there(it)) {
        eprintln!(
            "the ACME test is ignored: {program} is missing (Debian: apt-get install pebble)"
        );
        trial = trial
            .with_ignored_flag(true)
            .with_kind(format!("{program} is missing"));
    }
    libtest_mimic::run(&arguments, vec![trial]).exit_code()
}

fn run() -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(renewed())
}

/// The CA and its DNS server, and the ports that they and the relay use.
struct Pebble {
    /// Certificate of the CA's own server.
    certificate: TestCertificate,
    acme: SocketAddr,
    management: SocketAddr,
    relay_tls: SocketAddr,
    _ca: Process,
    _dns: Process,
}

/// Addresses on loopback that were free a moment ago.
fn free<const N: usize>() -> Result<[SocketAddr; N]> {
    let listeners = (0..N).map(|_| TcpListener::bind("127.0.0.1:0"));
    let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
    let mut found = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    for (place, listener) in found.iter_mut().zip(&listeners) {
        *place = listener.local_addr()?;
    }
    Ok(found)
}

impl Pebble {
    fn start(folder: &TempDir) -> Result<Self> {
        let [acme, management, relay_tls, relay_http, dns, control] = free()?;
        let certificate = TestCertificate::new("pebble.example")?;
        let files = certificate.files();
        let config = json!({ "pebble": {
            "listenAddress": acme.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": files.cert,
            "privateKey": files.key,
            "httpPort": relay_http.port(),
            "tlsPort": relay_tls.port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": VALIDITY.as_secs(),
        }});
        let path = folder.path().join("pebble.json");
        fs::write(&path, config.to_string())?;
        let mut command = Command::new(PROGRAMS[1]);
        command
            .args(["-dns01", &dns.to_string()])
            .args(["-management", &control.to_string()])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]);
        let dns_server = Process::spawn(PROGRAMS[1], &mut command)?;
        let mut command = Command::new(PROGRAMS[0]);
        command
            .arg("-config")
            .arg(&path)
            .args(["-dnsserver", &dns.to_string()])
            // Checks at once, and refuses one good nonce in ten.
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "10");
        let ca = Process::spawn(PROGRAMS[0], &mut command)?;
        ca.wait_for(SOON, |line| {
            line.contains("Root CA certificate").then_some(())
        })?;
        Ok(Self {
            certificate,
            acme,
            management,
            relay_tls,
            _ca: ca,
            _dns: dns_server,
        })
    }

    /// The root of the certificates that the CA issues, in PEM.
    async fn root(&self) -> Result<Vec<u8>> {
        let stream = self.certificate.connect(self.management, None).await?;
        let mut stream = HttpStream::new(stream);
        stream
            .write("GET /roots/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await?;
        let (_, body) = stream.answer().await?;
        Ok(body.bytes)
    }

    /// Starts a relay that orders its certificate from this CA.
    fn relay(&self, folder: &TempDir) -> Result<RelayProgram> {
        let trust = format!("SSL_CERT_FILE={}", self.certificate.cert().display());
        let tls = format!("tls://{}", self.relay_tls);
        let url = format!("https://{}/dir", self.acme);
        let cache = folder.path().join("cache").display().to_string();
        let flags = [
            ["--http-listen", &tls],
            ["--acme-domains", NAME],
            ["--acme-directory-url", &url],
            ["--acme-cache-dir", &cache],
        ];
        RelayProgram::start(&["env", &trust], Addresses::any(), flags.as_flattened())
    }
}

/// The number of certificates that the relay was issued.
async fn issued(relay: &RelayProgram) -> Result<i64> {
    let metrics = relay.metrics().await?;
    Ok(metrics.labelled("relay_acme_orders_total", "issued"))
}

async fn renewed() -> Result<()> {
    let folder = TempDir::new()?;
    let pebble = Pebble::start(&folder)?;
    let relay = pebble.relay(&folder)?;
    let first = async {
        while issued(&relay).await? == 0 {
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    within(VALIDITY * 2, "the first certificate", first).await??;
    let root = folder.path().join("root.pem");
    fs::write(&root, pebble.root().await?)?;
    let client = Arc::new(tls::client(&root, Some("http/1.1"))?);
    let connect = || tls::connect(pebble.relay_tls, Arc::clone(&client), NAME);
    let stream = within(SOON, "a caller", async {
        // The shards get the certificate a moment after it was counted.
        loop {
            match connect().await {
                Ok(stream) => break stream,
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    });
    let mut open = HttpStream::new(stream.await?);
    let renewing = async {
        while issued(&relay).await? < CERTIFICATES {
            open.write("GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                .await?;
            let (head, _) = open.answer().await?;
            ensure!(head.status() == 200, "{}", head.status());
            // A new caller is served at any time.
            connect().await?;
            sleep(Duration::from_millis(500)).await;
        }
        anyhow::Ok(())
    };
    let limit = VALIDITY * u32::try_from(CERTIFICATES)?;
    within(limit, "renewals", renewing).await??;
    Ok(())
}
