//! A client's first bytes lead to an answer or not, the same whatever the pieces, and never to a connection: no client can
//! complete a handshake without having read the answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tieline_transport_fuzz::accepted;

fuzz_target!(|data: &[u8]| {
    let (whole, answer) = accepted(data, usize::MAX);
    let (pieces, answer_to_pieces) = accepted(data, 1);
    assert!(whole.is_err() && pieces.is_err());
    assert_eq!(answer.is_empty(), answer_to_pieces.is_empty());
});
