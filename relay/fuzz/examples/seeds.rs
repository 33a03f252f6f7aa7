//! Writes the seed corpus: `cargo run --example seeds` in this folder.

use std::fs;
use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/packets");
    fs::create_dir_all(&folder)?;
    for (name, head, len) in [
        ("initial", &[0xc3, 0, 0, 0, 1, 8][..], 1200),
        ("short_initial", &[0xc3, 0, 0, 0, 1, 8], 100),
        ("handshake", &[0xe3, 0, 0, 0, 1, 8], 60),
        ("other_version", &[0xc3, 0x6b, 0x33, 0x43, 0xcf, 8], 1200),
        ("negotiation", &[0x80, 0, 0, 0, 0, 8], 40),
        ("short", &[0x43], 40),
        ("http", b"GET / HTTP/1.1\r\n\r\n", 18),
    ] {
        // Shards, further sockets, and a key.
        let mut bytes = vec![2, 1];
        bytes.extend(1..=16);
        let start = bytes.len();
        bytes.extend(head);
        bytes.resize(start + len, 7);
        fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}
