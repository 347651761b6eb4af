#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| s3_orchestrator::fuzz::run("tags", input));
