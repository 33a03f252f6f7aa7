//! Frames mean the same whatever the pieces that they come in and whatever the reads, for both ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tieline_transport::websocket::Role;
use tieline_transport_fuzz::heard;

fuzz_target!(|data: &[u8]| {
    let Some((&[piece, max], input)) = data.split_first_chunk() else {
        return;
    };
    for role in [Role::Client, Role::Server] {
        let whole = heard(role, input, usize::MAX, usize::MAX >> 1);
        let (piece, max) = (usize::from(piece) + 1, usize::from(max) + 1);
        assert_eq!(whole, heard(role, input, piece, max));
        assert_eq!(whole, heard(role, input, 1, 1));
    }
});
