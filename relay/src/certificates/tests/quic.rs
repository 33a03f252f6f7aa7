use super::*;

#[test]
fn quic_has_tls_1_3_and_the_protocols_of_agents_and_raw_callers_alone() {
    let files = Files::new();
    let (certificates, path) = certificates(&files);
    let quic = &certificates.configs().quic;
    let agreed = |version, offered: &[&str]| {
        let client = Arc::new(client(&path, version, offered));
        let shaken = shaken(&client, quic);
        shaken.map(|(client, _)| client.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(agreed(&TLS13, &["tieline"]), Ok(Some(RAW.to_vec())));
    let both = ["h3", "tieline", "tieline-agent/1"];
    assert_eq!(agreed(&TLS13, &both), Ok(Some(AGENT.to_vec())));
    for other in ["h3", "h2", "http/1.1", "acme-tls/1"] {
        assert!(agreed(&TLS13, &[other]).is_err(), "{other}");
    }
    assert!(agreed(&TLS12, &["tieline"]).is_err());
    assert_eq!(quic.max_early_data_size, 0);
}

#[test]
fn over_quic_agents_need_a_certificate_and_callers_do_not() {
    let files = Files::new();
    let (ca, ours) = agents(&files, "ours.pem");
    let (_, others) = agents(&files, "others.pem");
    let certificate = files.lasting("relay", &["relay.example"]);
    let path = certificate.cert.clone();
    let config = TlsConfig {
        certificates: vec![certificate],
        agent_ca: Some(ca),
        ..TlsConfig::default()
    };
    let certificates = Certificates::read(&config, None).unwrap().unwrap();
    let configs = certificates.configs();
    let served = |own: Option<&Arc<SingleCertAndKey>>,
                  protocol: &str|
     -> Result<Option<Served>, rustls::Error> {
        let mut client = client(&path, &TLS13, &[protocol]);
        if let Some(own) = own {
            let own: Arc<SingleCertAndKey> = Arc::clone(own);
            client.client_auth_cert_resolver = own;
        }
        let (_, server) = shaken(&Arc::new(client), &configs.quic)?;
        let has_certificate = server.peer_certificates().is_some();
        Ok(configs.served(server.alpn_protocol(), ListenKind::Quic, has_certificate))
    };
    let as_agent = Some(Served::As(ListenKind::Agent));
    assert_eq!(served(Some(&ours), "tieline-agent/1"), Ok(as_agent));
    assert_eq!(served(None, "tieline-agent/1"), Ok(None));
    let as_caller = Some(Served::As(ListenKind::Tcp));
    assert_eq!(served(None, "tieline"), Ok(as_caller));
    let strange = served(Some(&others), "tieline-agent/1").unwrap_err();
    assert!(
        matches!(strange, rustls::Error::InvalidCertificate(_)),
        "{strange}"
    );
}
