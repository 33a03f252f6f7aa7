//! Any text is either refused or read as a key, a key set or a token; a key that was read can check
//! any token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tieline_token::{Expected, Jwks, Key, KeySet, verify};

fuzz_target!(|data: &[u8]| {
    // The input is keys, a zero byte, and a token.
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let keys = parts.next().unwrap_or_default();
    let token = parts.next().and_then(|token| std::str::from_utf8(token).ok());
    let mut set = KeySet::default();
    if let Ok(key) = Key::from_pem(keys) {
        set.add(None, key);
    }
    if let Ok(key) = Key::hs256(keys) {
        set.add(Some("secret".to_owned()), key);
    }
    if let Ok(read) = Jwks::read(keys) {
        set.extend(read.keys);
    }
    if let Some(token) = token {
        let _ = verify(token, &set, 0, &Expected::default());
    }
});
