//! Any bytes as a layer, read to its end.
#![no_main]

mod seal;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|layer: &[u8]| {
    belljar::fuzzing::read_layer(layer);
});

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    seal::mutate(data, size, max_size, seed)
});
