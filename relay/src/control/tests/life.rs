use super::*;

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
