//! The store: layers of real images, unpacked.

use std::fs;
use std::path::{Path, PathBuf};

use belljar::{Image, Store};

use crate::fixtures::tell_tree;
use crate::harness::{real, temp_dir};
use crate::images;

/// A store of its own.
fn store() -> (tempfile::TempDir, Store) {
    let dir = temp_dir();
    let store = Store::open(real(dir.path()).join("store")).unwrap();
    (dir, store)
}

#[test]
fn a_large_image_is_unpacked_once() {
    let images = images!();
    let (dir, store) = store();
    let image = Image::open(images.join("large.tar")).unwrap();
    let started = std::time::Instant::now();
    let image = store.unpack(&image).unwrap();
    eprintln!("{:?} {:?}", started.elapsed(), image.ownership());
    let started = std::time::Instant::now();
    store.unpack(&image).unwrap();
    eprintln!("{:?}", started.elapsed());
    let _ = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("du -sh {0}; ls {0}/store/*", dir.path().display()))
        .status();
}
