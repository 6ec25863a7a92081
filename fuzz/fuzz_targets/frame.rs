//! libFuzzer over [`millstream_fuzz::frame`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    millstream_fuzz::frame::check(data);
});
