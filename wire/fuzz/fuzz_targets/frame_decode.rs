//! Every header is either refused or is the only encoding of its meaning; and a stream that starts
//! anywhere reads the same in one piece as byte by byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tieline_wire::frame;
use tieline_wire_fuzz::{START, acquainted, give_input};

fuzz_target!(|data: &[u8]| {
    for bytes in data.as_chunks::<12>().0 {
        if let Ok(header) = frame::decode(*bytes)
            && let Some(kind) = header.kind
        {
            let (session, len) = (header.session, header.payload_len);
            let mut again = frame::encode(kind, session, len, header.end_of_message);
            again[9] |= bytes[9] & frame::OPTIONAL;
            assert_eq!(&again, bytes);
        }
    }
    let [_, mut whole] = acquainted();
    let [_, mut split] = acquainted();
    let in_one = give_input(&mut whole, START, data.to_vec());
    let mut in_pieces = Ok(());
    for byte in data {
        match give_input(&mut split, START, vec![*byte]) {
            Ok(_) => {}
            Err(error) => {
                in_pieces = Err(error);
                break;
            }
        }
    }
    assert_eq!(in_one.map(drop), in_pieces);
});
