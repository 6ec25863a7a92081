//! libFuzzer over [`millstream_fuzz::scheduler`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    millstream_fuzz::scheduler::check(data);
});
