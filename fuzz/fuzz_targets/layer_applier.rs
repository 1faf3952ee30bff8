//! Any bytes as a layer, unpacked by the hand of a store, beside files that must stay as they are.
#![no_main]

mod seal;

use std::cell::RefCell;

use belljar::fuzzing::Applier;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static APPLIER: RefCell<Applier> = RefCell::new(Applier::new(&dir()));
}

/// In memory: it is gone with the machine, if not before.
fn dir() -> std::path::PathBuf {
    tempfile::Builder::new().prefix("belljar-fuzz-").tempdir_in("/dev/shm").expect("a directory in memory").keep()
}

fuzz_target!(|layer: &[u8]| {
    APPLIER.with_borrow_mut(|applier| applier.apply(layer));
});

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    seal::mutate(data, size, max_size, seed)
});
