//! Any script of operations; `tieline_wire_fuzz::operations` says what holds in each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tieline_wire_fuzz::operations;

fuzz_target!(|data: &[u8]| {
    operations::run(data);
});
