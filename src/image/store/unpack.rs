//! Unpacks the layers of an image.

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::fcntl::FlockArg;
use sha2::{Digest as _, Sha256};

use super::hand::Hand;
use super::lock::{self, Locked};
use super::ownership::{Owners, Ownership};
use super::tree::{Notes, Tree};
use super::{Store, failed, make_one};
use crate::IdMap;
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::image::digest::Digest;
use crate::image::layer::LayerReader;
use crate::image::{Image, LayerBlob};

/// How far unpacking is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The layer under way, from 1 on.
    pub layer: usize,
    /// How many layers the image has.
    pub layers: usize,
    /// How many bytes of the image are read, as it is stored; those of layers that were here already count.
    pub bytes: u64,
    /// How many there are.
    pub total: u64,
}

/// The layers of an image in the store. They stay while this is there.
#[derive(Debug)]
pub(crate) struct Stored {
    /// Directories to stack, the lowest first.
    pub(crate) dirs: Vec<PathBuf>,
    /// What is in them, by the digests of the image's layers.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) ownership: Ownership,
    /// What maps the ids that the files belong to, of users and of groups.
    pub(crate) maps: [Vec<IdMap>; 2],
    /// How many device files and extended attributes were left out.
    pub(crate) devices: u64,
    pub(crate) xattrs: u64,
    /// The record of the image, locked.
    _lock: Locked,
}

/// Unpacks what is missing.
pub(super) fn unpack(
    store: &Store,
    owners: &Owners,
    image: &Image,
    progress: &mut dyn FnMut(Progress),
) -> Result<Image> {
    let mut unpacking = Unpacking { store, owners, hand: None, names: Vec::new(), notes: Vec::new() };
    let mut at = Progress { layer: 0, layers: image.layers().len(), bytes: 0, total: image.size() };
    for (index, info) in image.layers().iter().enumerate() {
        let before = at.bytes;
        at.layer = index + 1;
        progress(at);
        unpacking.layer(image, index, &mut |bytes| progress(Progress { bytes: before + bytes, ..at }))?;
        at.bytes = before.saturating_add(info.size());
    }
    progress(at);
    let stored = unpacking.stored(image)?;
    Ok(image.with_layers(stored))
}

struct Unpacking<'a> {
    store: &'a Store,
    owners: &'a Owners,
    /// Started for the first layer that is missing.
    hand: Option<Hand>,
    /// The layers that are there, the lowest first.
    names: Vec<String>,
    notes: Vec<Notes>,
}

impl Unpacking<'_> {
    fn layer(&mut self, image: &Image, index: usize, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let Some(info) = image.layers().get(index) else { return Ok(()) };
        let name = format!("{}-{}", file_name(info.diff_id()), self.owners.tag());
        if self.find(&name)? {
            return Ok(());
        }
        let _making = lock::lock(&self.store.dir.join("locks").join(&name), FlockArg::LockExclusive)?;
        // Somebody else may have been first.
        if self.find(&name)? {
            return Ok(());
        }
        let made = self.make(&name, image, index, progress);
        if made.is_err() {
            // A hand that has failed may be out of step, or gone.
            self.hand = None;
            let _ = self.store.clear(&[name]);
        }
        made.map_err(|error| error.within(&format!("layer {} {}", index + 1, info.digest())))
    }

    /// Whether a layer is there: made for any, or for just these layers below.
    fn find(&mut self, name: &str) -> Result<bool> {
        for name in [name.to_owned(), self.chained(name)] {
            if let Some(notes) = self.read_notes(&name)? {
                self.names.push(name);
                self.notes.push(notes);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The name of a layer that depends on those below: those that hide or have something of them, as engines name all.
    fn chained(&self, name: &str) -> String {
        let below = Sha256::digest(self.names.join("\n"));
        let digits: String = below.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{digits}-{name}")
    }

    fn make(&mut self, name: &str, image: &Image, index: usize, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let work = self.store.dir.join("work").join(name);
        if work.exists() {
            self.store.clear(&[name.to_owned()])?;
        }
        // Whatever takes descriptors comes before there is something to be removed.
        let blob = image.open_layer(index)?.hashed_once();
        self.start_hand()?;
        for (dir, mode) in [(&work, 0o700), (&work.join("diff"), 0o755)] {
            make_one(dir, mode).map_err(|error| failed("make a layer", &error).with_path(dir))?;
        }
        let notes = self.fill(name, blob, progress)?;
        write(&work.join("note"), &notes.to_text())?;
        // What is renamed to its place has to be on the disk.
        sync(&work)?;
        let name = if notes.chained { self.chained(name) } else { name.to_owned() };
        let place = self.store.dir.join("layers").join(&name);
        fs::rename(&work, &place).map_err(|error| failed("make a layer", &error).with_path(place))?;
        self.names.push(name);
        self.notes.push(notes);
        Ok(())
    }

    /// For the first layer that is missing, with a look at what others have left.
    fn start_hand(&mut self) -> Result<()> {
        if self.hand.is_none() {
            self.store.sweep()?;
            let [work, layers] = ["work", "layers"].map(|name| self.store.dir.join(name));
            self.hand = Some(Hand::start(&work, &layers, self.owners)?);
        }
        Ok(())
    }

    fn fill(&mut self, name: &str, blob: LayerBlob, progress: &mut dyn FnMut(u64)) -> Result<Notes> {
        let Some(hand) = &mut self.hand else { return Err(failed("make a layer", &io::ErrorKind::Other.into())) };
        let diff_id = blob.diff_id().clone();
        let read = Arc::new(AtomicU64::new(0));
        let mut reader = LayerReader::new(Counted { blob, read: read.clone() }, &self.store.limits)?;
        let below: Vec<String> = self.names.iter().rev().cloned().collect();
        let tree = Tree::new(hand, &format!("{name}/diff"), self.owners, &below, &self.store.limits)?;
        let notes = tree.fill(&mut reader, &mut || progress(read.load(Relaxed)))?;
        let totals = reader.finish()?;
        let found: String = totals.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        if diff_id.parts() != ("sha256", &found) {
            let cause = format!("its content is sha256:{found}, and the image tells {diff_id}");
            return Err(Error::new(Layer::Image, ErrorKind::InvalidImage, "verify", cause));
        }
        Ok(notes)
    }

    /// Records the image, so that its layers are kept.
    fn stored(self, image: &Image) -> Result<Stored> {
        let Self { store, owners, names, notes, .. } = self;
        let record = store.dir.join("images").join(format!("{}-{}", file_name(image.digest()), owners.tag()));
        let lock = lock::lock(&record, FlockArg::LockShared)?;
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        record_once(&lock, &text).map_err(|error| failed("record the image", &error).with_path(&record))?;
        let first = notes.iter().rposition(|notes| notes.alone);
        let shown = names.iter().skip(first.unwrap_or(0));
        let mut dirs: Vec<_> = shown.map(|name| store.dir.join("layers").join(name).join("diff")).collect();
        // Of one directory there is no overlay, which would hide its mark; and of none there is nothing.
        if dirs.is_empty() || dirs.len() == 1 && first.is_some() {
            dirs.insert(0, store.dir.join("empty"));
        }
        let sum = |count: fn(&Notes) -> u64| notes.iter().map(count).sum();
        let (devices, xattrs) = (sum(|notes| notes.devices), sum(|notes| notes.xattrs));
        let (ownership, maps) = (owners.ownership, owners.maps());
        let diff_ids = image.layers().iter().map(|info| info.diff_id.clone()).collect();
        Ok(Stored { dirs, diff_ids, ownership, maps, devices, xattrs, _lock: lock })
    }

    fn read_notes(&self, name: &str) -> Result<Option<Notes>> {
        let path = self.store.dir.join("layers").join(name).join("note");
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read the store", &error).with_path(path)),
            Ok(text) => match Notes::from_text(&text) {
                Some(notes) => Ok(Some(notes)),
                None => {
                    let cause = "it is not a note of this version's";
                    Err(Error::new(Layer::Image, ErrorKind::Unsupported, "read the store", cause)
                        .with_path(path)
                        .with_hint("another version has made this store: choose another directory, or remove this one"))
                }
            },
        }
    }
}

/// Counts what is read of a layer.
struct Counted {
    blob: LayerBlob,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.blob.read(buffer)?;
        self.read.fetch_add(read as u64, Relaxed);
        Ok(read)
    }
}

impl Notes {
    fn to_text(self) -> String {
        let Notes { chained, alone, devices, xattrs } = self;
        format!("chained {}\nalone {}\ndevices {devices}\nxattrs {xattrs}\n", u8::from(chained), u8::from(alone))
    }

    fn from_text(text: &str) -> Option<Notes> {
        let mut values = text.lines().zip(["chained ", "alone ", "devices ", "xattrs "]);
        let mut value = || values.next().and_then(|(line, key)| line.strip_prefix(key)?.parse::<u64>().ok());
        Some(Notes { chained: value()? != 0, alone: value()? != 0, devices: value()?, xattrs: value()? })
    }
}

/// A digest as a name of a file.
pub(super) fn file_name(digest: &str) -> String {
    digest.replace(':', "-")
}

/// Writes a file that everybody writes the same way.
fn record_once(mut file: &fs::File, text: &str) -> io::Result<()> {
    let mut there = String::new();
    file.rewind()?;
    file.read_to_string(&mut there)?;
    if there != text {
        file.rewind()?;
        file.write_all(text.as_bytes())?;
        file.set_len(text.len() as u64)?;
        file.sync_all()?;
    }
    Ok(())
}

/// Writes a new file, whose mode the umask of the host has no say in.
fn write(path: &Path, text: &str) -> Result<()> {
    let write = || {
        let mut file = fs::File::create_new(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|error| failed("make a layer", &error).with_path(path))
}

/// syncfs(2): one call for all files of a tree.
fn sync(dir: &Path) -> Result<()> {
    let wrong = |error: io::Error| failed("sync", &error).with_path(dir);
    let dir = fs::File::open(dir).map_err(wrong)?;
    crate::sys::syncfs(std::os::fd::AsFd::as_fd(&dir)).map_err(|errno| wrong(io::Error::from_raw_os_error(errno.0)))
}
