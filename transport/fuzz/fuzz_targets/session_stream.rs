//! A session's stream over QUIC means the same whatever the chunks that it comes in, in both modes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tieline_transport_fuzz::session::learnt;
use tieline_wire::Mode;

/// The credit of a new session: beyond it, how much of a chunk is delivered before the error depends on the chunk.
const BYTES_MAX: usize = 16 * 1024;

fuzz_target!(|data: &[u8]| {
    let Some((chunk, input)) = data.split_first() else {
        return;
    };
    let input = &input[..input.len().min(BYTES_MAX)];
    for mode in [Mode::Bytes, Mode::Messages] {
        let whole = learnt(mode, input, BYTES_MAX);
        assert_eq!(whole, learnt(mode, input, usize::from(*chunk) + 1));
        assert_eq!(whole, learnt(mode, input, 1));
    }
});
