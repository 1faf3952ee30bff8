//! Layers made by hand, and what unpacking them leaves in the store and beside it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use belljar::{Error, Image, Store};
use serde_json::json;

use crate::fixtures::tell_tree;
use crate::harness::{children, open_fds, real, temp_dir, token};
use crate::image_made::{Layout, config};
use crate::store::Removable;

/// A layer in the making. What its entries say is up to the test: nothing is checked.
#[derive(Clone, Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn entry(mut self, kind: u8, name: impl AsRef<[u8]>, link: impl AsRef<[u8]>, mode: u32) -> Self {
        self.head(kind, name.as_ref(), link.as_ref(), mode, 0, (0, 0));
        self
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        self.file_of(name, data, 0o644, (0, 0))
    }

    pub(crate) fn file_of(
        mut self,
        name: impl AsRef<[u8]>,
        data: impl AsRef<[u8]>,
        mode: u32,
        owner: (u32, u32),
    ) -> Self {
        let data = data.as_ref();
        self.head(b'0', name.as_ref(), b"", mode, data.len(), owner);
        self.data(data);
        self
    }

    pub(crate) fn dir(self, name: impl AsRef<[u8]>, mode: u32) -> Self {
        self.entry(b'5', name, "", mode)
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(b'2', name, target, 0o777)
    }

    pub(crate) fn hard_link(self, name: impl AsRef<[u8]>, other: impl AsRef<[u8]>) -> Self {
        self.entry(b'1', name, other, 0o644)
    }

    /// What a pax header says of the next entry.
    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            let digits = (1..).find(|digits| (rest.len() + digits).to_string().len() == *digits).unwrap();
            text.extend([(rest.len() + digits).to_string().as_bytes(), &rest].concat());
        }
        self.head(b'x', b"pax", b"", 0o644, text.len(), (0, 0));
        self.data(&text);
        self
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    fn data(&mut self, data: &[u8]) {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn head(&mut self, kind: u8, name: &[u8], link: &[u8], mode: u32, size: usize, owner: (u32, u32)) {
        for (kind, long) in [(b'L', name), (b'K', link)] {
            if long.len() > 100 {
                self.head(kind, b"././@LongLink", b"", 0o644, long.len() + 1, (0, 0));
                self.data(&[long, b"\0"].concat());
            }
        }
        let mut head = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &name[..name.len().min(100)]);
        put(100, format!("{mode:07o}").as_bytes());
        for (at, id) in [(108, owner.0), (116, owner.1)] {
            // In base 256, as GNU tar has what does not fit.
            put(at, &[&[0x80, 0, 0, 0][..], &id.to_be_bytes()].concat());
        }
        put(124, format!("{size:011o}").as_bytes());
        put(136, format!("{:011o}", 1_000_000_000).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, &link[..link.len().min(100)]);
        put(257, b"ustar  \0");
        let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(head);
    }
}

/// An image of these layers, in a layout that has to stay.
pub(crate) fn image(layers: &[Tar]) -> (Layout, Image) {
    let layers: Vec<_> = layers.iter().map(|layer| layer.clone().end()).collect();
    let layers: Vec<_> = layers.iter().map(Vec::as_slice).collect();
    let layout = Layout::new();
    layout.index(&json!([layout.image(&config(&json!({}), &layers), &layers)]));
    let image = Image::open(layout.path()).unwrap();
    (layout, image)
}

/// A store, and beside it a tree that nothing may touch.
pub(crate) struct Place {
    pub(crate) dir: Removable,
    pub(crate) store: Store,
    before: (String, BTreeSet<String>, PathBuf),
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = Removable(temp_dir());
        let canary = dir.path().join("canary");
        fs::create_dir_all(canary.join("dir/sub")).unwrap();
        for name in ["secret", "dir/file", "dir/sub/file"] {
            fs::write(canary.join(name), token()).unwrap();
        }
        symlink("secret", canary.join("link")).unwrap();
        let store = Store::open(real(dir.path()).join("store")).unwrap();
        let before = (tell_tree(&canary), open_fds(), std::env::current_dir().unwrap());
        Self { dir, store, before }
    }

    /// The path of something in the tree.
    pub(crate) fn canary(&self, name: &str) -> String {
        self.dir.path().join("canary").join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn unpack(&self, layers: &[Tar]) -> Result<Image, Error> {
        let (_layout, image) = image(layers);
        self.store.unpack(&image)
    }

    pub(crate) fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("store").join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Nothing was touched, and nothing half is left.
    #[track_caller]
    pub(crate) fn assert_untouched(&self, what: &str) {
        assert_eq!(tell_tree(&self.dir.path().join("canary")), self.before.0, "{what}");
        let beside: Vec<_> = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(beside.len(), 2, "{what}: {beside:?}");
        assert_eq!(self.names("work"), [""; 0], "{what}");
        assert_eq!(std::env::current_dir().unwrap(), self.before.2, "{what}");
    }

    /// No descriptor and no process is left: for a test that runs alone.
    #[track_caller]
    pub(crate) fn assert_alone(&self, what: &str) {
        assert_eq!(open_fds(), self.before.1, "{what}");
        assert_eq!(children(), [""; 0], "{what}");
    }
}
