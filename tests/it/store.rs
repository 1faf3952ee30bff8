//! The store: layers of real images, unpacked.

use belljar::{Image, Sandbox, Store};

use crate::harness::{real, sh, temp_dir};
use crate::images;

#[test]
fn a_large_image_is_unpacked_once_and_runs() {
    let images = images!();
    let dir = temp_dir();
    let store = Store::open(real(dir.path()).join("store")).unwrap();
    let image = store.unpack(&Image::open(images.join("large.tar")).unwrap()).unwrap();
    assert!(sh(&Sandbox::from_image(&image), "cat /etc/os-release").contains("trixie"));
    let mut told = Vec::new();
    let again = store.unpack_with(&image, |progress| told.push(progress.bytes)).unwrap();
    assert_eq!(told, [0, again.size()], "nothing was read");
}
