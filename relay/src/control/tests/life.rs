use super::*;

#[test]
fn a_taken_port_fails_the_start() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let config = Config {
        admin_listen: vec![address],
        ..Config::default()
    };
    let fake = Arc::new(that_answer(0, 0));
    let snapshot = Snapshot::of(&config);
    let asked = crate::auth::asking().1;
    let Err(error) = Control::start(&config, &snapshot, asked, fake, vec![], Audit::default())
    else {
        panic!("started")
    };
    let text = error.to_string();
    assert!(
        text.contains(&address.to_string()) && text.contains("ss -ltnp"),
        "{text}"
    );
}

#[test]
fn stop_waits_for_nobody() {
    let (control, _) = start(that_answer(0, 0));
    let address = control.addresses()[0];
    let mut waiting = TcpStream::connect(address).unwrap();
    waiting
        .write_all(b"GET /tunnels HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let idle = TcpStream::connect(address).unwrap();
    control.stop();
    assert!(TcpStream::connect(address).is_err());
    drop((waiting, idle));
}
