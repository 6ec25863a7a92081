//! libFuzzer over [`millstream_fuzz::session`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    millstream_fuzz::session::check(data);
});
