#![no_main]

libfuzzer_sys::fuzz_target!(|input: esker_fuzz::attach::Bucket| esker_fuzz::attach::run(&input));
