//! libFuzzer over [`millstream_fuzz::control`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    millstream_fuzz::control::check(data);
});
