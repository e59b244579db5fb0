#![no_main]

#[path = "../bodies/tokenizer.rs"]
mod body;

// Panics of the library that the loader catches are no findings; others end the run all the same.
libfuzzer_sys::fuzz_target!(init: std::panic::set_hook(Box::new(|_| ())), |bytes: &[u8]| body::run(bytes));
