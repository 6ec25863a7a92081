//! libFuzzer over [`millstream_fuzz::journal`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    millstream_fuzz::journal::check(data);
});
