//! Unpacks one layer after the other with the same hand, as long as that works: for fuzzers, and a test.

#![cfg_attr(not(fuzzing), allow(unreachable_pub, reason = "the fuzzers are another crate"))]

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::io::Cursor;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::Store;
use super::hand::Hand;
use super::ownership::Owners;
use super::tree::Tree;
use crate::error::Result;
use crate::image::UnpackLimits;
use crate::image::layer::{Kind, LayerReader};

/// The name of the layer that is made again and again, and of the one that is there.
const NAME: &str = "layer";
const BELOW: &str = "below";

/// A store with a layer, beside files that must stay as they are.
#[derive(Debug)]
pub struct Applier {
    dir: PathBuf,
    store: Store,
    owners: Owners,
    hand: Option<Hand>,
    before: String,
}

#[allow(clippy::unwrap_used, reason = "a failure is what a fuzzer looks for")]
impl Applier {
    /// Begins in a directory, which must be empty.
    pub fn new(dir: &Path) -> Self {
        fs::create_dir(dir.join("canary")).unwrap();
        fs::write(dir.join("canary/file"), "canary").unwrap();
        let limits = UnpackLimits::new().bytes(4 << 20).entries(500).depth(40).file_bytes(1 << 20);
        let store = Store::open(dir.join("store")).unwrap().limits(limits);
        let below = store.dir.join("layers").join(BELOW).join("diff");
        fs::create_dir_all(below.join("dir")).unwrap();
        fs::write(below.join("dir/file"), "below").unwrap();
        symlink(dir.join("canary"), below.join("out")).unwrap();
        symlink("../../../../../canary/file", below.join("up")).unwrap();
        let owners = Owners::new(None).unwrap();
        let before = snapshot(dir, &store.dir.join("work"));
        Self { dir: dir.to_owned(), store, owners, hand: None, before }
    }

    /// Unpacks a layer, and removes it. Tells whether it could be unpacked.
    ///
    /// # Panics
    ///
    /// Where anything outside of the layer's own tree has changed, where something is there that the layer has not told,
    /// and where something of it is left.
    pub fn apply(&mut self, layer: &[u8]) -> bool {
        let work = self.store.dir.join("work");
        fs::create_dir_all(work.join(NAME).join("diff")).unwrap();
        let made = self.fill(layer);
        if made.is_ok() {
            self.look(layer, &work.join(NAME).join("diff"));
        } else if self.hand.as_mut().is_some_and(|hand| hand.flush().is_err()) {
            self.hand = None;
        }
        let removed = self.hand().and_then(|hand| hand.remove(NAME));
        assert!(removed.is_ok(), "{removed:?} after {made:?}");
        assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "something is left");
        assert_eq!(snapshot(&self.dir, &work), self.before, "something has changed");
        made.is_ok()
    }

    fn hand(&mut self) -> Result<&mut Hand> {
        if self.hand.is_none() {
            let [work, layers] = ["work", "layers"].map(|name| self.store.dir.join(name));
            self.hand = Some(Hand::start(&work, &layers, &self.owners)?);
        }
        Ok(self.hand.as_mut().unwrap())
    }

    fn fill(&mut self, layer: &[u8]) -> Result<()> {
        let mut reader = LayerReader::new(Cursor::new(layer.to_vec()), &self.store.limits)?;
        let (below, owners, limits) = ([BELOW.to_owned()], self.owners.clone(), self.store.limits.clone());
        let tree = Tree::new(self.hand()?, &format!("{NAME}/diff"), &owners, &below, &limits)?;
        tree.fill(&mut reader, &mut || ())?;
        reader.finish().map(drop)
    }

    /// Compares the names in a tree with those in the layer.
    fn look(&self, layer: &[u8], tree: &Path) {
        let mut reader = LayerReader::new(Cursor::new(layer.to_vec()), &self.store.limits).unwrap();
        let mut told = HashSet::new();
        let mut hidden = HashSet::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            let path = tree.join(OsStr::from_bytes(entry.path.as_bytes()));
            if entry.kind == Kind::Whiteout {
                hidden.insert(path.clone());
            }
            told.extend(path.ancestors().take_while(|above| *above != tree).map(Path::to_owned));
        }
        walk(tree, &mut |path| {
            let metadata = fs::symlink_metadata(path).unwrap();
            assert!(path == tree || told.contains(path), "{path:?} is nothing of the layer's");
            let kind = metadata.file_type();
            assert!(!kind.is_block_device() && !kind.is_socket(), "{path:?}");
            assert!(!kind.is_char_device() || (metadata.rdev() == 0 && hidden.contains(path)), "{path:?}");
            true
        });
    }
}

/// Calls `look` for a file and all that is below it, where `look` says so and the caller may read.
fn walk(path: &Path, look: &mut dyn FnMut(&Path) -> bool) {
    if !look(path) || !fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return;
    }
    let Ok(entries) = fs::read_dir(path) else { return };
    let mut entries: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    entries.iter().for_each(|entry| walk(entry, look));
}

/// All that can be seen of the files below a directory, but for one.
#[allow(clippy::unwrap_used, reason = "a failure is what a fuzzer looks for")]
fn snapshot(dir: &Path, but: &Path) -> String {
    let mut text = String::new();
    walk(dir, &mut |path| {
        if path == but {
            return false;
        }
        let metadata = fs::symlink_metadata(path).unwrap();
        let content = match metadata.is_file() {
            true => fs::read(path).unwrap(),
            false => fs::read_link(path).map(|target| target.as_os_str().as_bytes().to_owned()).unwrap_or_default(),
        };
        let (mode, owner, links) = (metadata.mode(), (metadata.uid(), metadata.gid()), metadata.nlink());
        let times = (metadata.mtime_nsec(), metadata.ctime_nsec());
        writeln!(text, "{path:?} {mode:o} {owner:?} {links} {times:?} {}", content.escape_ascii()).unwrap();
        true
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes headers right again.
    fn seal(archive: &mut [u8]) {
        for block in archive.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }

    #[test]
    fn layers_that_are_slightly_wrong_touch_nothing_else() {
        let corpus = tempfile::tempdir().unwrap();
        let script = include_str!("../layer/tests/make-corpus.sh");
        let mut bash = std::process::Command::new("bash");
        bash.args(["-c", script, "make-corpus.sh"]).arg(corpus.path()).env("TMPDIR", corpus.path());
        assert!(bash.status().unwrap().success());
        let layers: Vec<_> = fs::read_dir(corpus.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        let dir = tempfile::tempdir().unwrap();
        let mut applier = Applier::new(&dir.path().canonicalize().unwrap());
        // xorshift, by Marsaglia, with a fixed seed.
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = |bound: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 33) as usize % bound
        };
        let (mut taken, mut refused) = (0, 0);
        for layer in layers.iter().map(|path| fs::read(path).unwrap()) {
            for turn in 0..20 {
                let mut layer = layer.clone();
                for _ in 0..turn.min(4) {
                    // In the first headers there is most to be changed: names, types, links.
                    let at = [below(layer.len()), below(512), 156, 157, 512 + below(160)][below(5)] % layer.len();
                    layer[at] = [b'0' + below(8) as u8, b'/', b'.', 0, below(256) as u8][below(5)];
                }
                seal(&mut layer);
                *if applier.apply(&layer) { &mut taken } else { &mut refused } += 1;
            }
        }
        assert!(taken > 50 && refused > 50, "{taken} taken, {refused} refused: one of them is not tried");
    }
}
