//! The store: layers of images, each unpacked once, for all images and sandboxes.
//!
//! ```text
//! DIR/lock             held by who unpacks (shared) and by who collects (exclusive)
//! DIR/layers/KEY/diff  a tree; KEY is the digest of its content, and whom its files belong to
//! DIR/layers/KEY/note  what is to be known of it; the directory is here only when it is whole
//! DIR/images/KEY       the layers of an image, a line each; locked by who uses it
//! DIR/work/KEY/        a layer that is being made, by whoever has locked DIR/locks/KEY
//! DIR/empty/           nothing
//! ```

mod attributes;
#[cfg(any(fuzzing, test))]
mod fuzzing;
mod hand;
mod lock;
mod lower;
mod marks;
mod ownership;
mod remove;
mod tree;
mod unpack;

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Image, UnpackLimits};
use crate::error::{Error, ErrorKind, Layer, Result};
#[cfg(fuzzing)]
pub use fuzzing::Applier;
use hand::Hand;
use lock::Locked;
use nix::fcntl::FlockArg;
use ownership::Owners;
pub use ownership::Ownership;
pub use unpack::Progress;
pub(crate) use unpack::Stored;

/// A directory with unpacked layers, shared by all images, sandboxes and processes that open it.
///
/// A layer is unpacked once, by whoever is first, and is there when it is whole: others wait for it. It is verified while it
/// is unpacked, and trusted from then on; so the directory has to be the caller's alone. Unpacking is done by a process
/// in a sandbox that has the new trees and, read-only, the finished layers, and nothing else of the host.
///
/// Where a layer says nothing of a directory that it has files in, the directory is as the layers below have it. A hard
/// link to a file of a layer below is a copy of that file. Of the top directory, what the uppermost layer says counts; it
/// has mode 755 if that one is silent. Devices, and extended attributes other than `user.*`, are left out:
/// [`Image::left_out`].
///
/// # Examples
///
/// ```no_run
/// use belljar::{Image, Sandbox, Store};
///
/// let store = Store::open("/var/tmp/layers")?;
/// let image = store.unpack(&Image::open("trixie.tar")?)?;
/// let outcome = Sandbox::from_image(&image).command("/bin/sh").args(["-c", "cat /etc/os-release"]).status()?;
/// # Ok::<(), belljar::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    ownership: Option<Ownership>,
    limits: UnpackLimits,
}

/// What [`Store::collect`] has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// How many layers.
    pub layers: usize,
    /// How many remains of unpacking that came to no end.
    pub remains: usize,
}

impl Store {
    /// Opens the store in `dir`, and makes it if there is none, with the directories above it: for the caller alone,
    /// whatever the umask.
    ///
    /// # Errors
    ///
    /// - [`InvalidPolicy`](ErrorKind::InvalidPolicy): the directory belongs to somebody else, others may write or enter
    ///   it, or everybody may rename it: who can change a layer changes what runs.
    /// - [`Os`](ErrorKind::Os): it can't be made.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = std::path::absolute(dir.as_ref()).map_err(|error| failed("open the store", &error))?;
        make_dir(&dir)?;
        let dir = dir.canonicalize().map_err(|error| failed("open the store", &error).with_path(&dir))?;
        check(&dir)?;
        for name in ["empty", "images", "layers", "locks", "work"] {
            make_dir(&dir.join(name))?;
        }
        Ok(Self { dir, ownership: None, limits: UnpackLimits::new() })
    }

    /// Opens the caller's own store: `belljar` in `$XDG_CACHE_HOME` or `~/.cache`, and for root `/var/cache/belljar`.
    ///
    /// # Errors
    ///
    /// As for [`open`](Store::open), and where there is no home directory.
    pub fn open_default() -> Result<Self> {
        if nix::unistd::geteuid().is_root() {
            return Self::open("/var/cache/belljar");
        }
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
        let missing = || {
            Error::new(Layer::Image, ErrorKind::Unsupported, "open the store", "there is no home directory")
                .with_hint("set HOME or XDG_CACHE_HOME, or choose a directory with Store::open")
        };
        Self::open(cache.ok_or_else(missing)?.join("belljar"))
    }

    /// Sets whom unpacked files belong to. The default is [`Ownership::Root`] for root, and [`Ownership::Caller`] for
    /// everybody else.
    pub fn ownership(mut self, ownership: Ownership) -> Self {
        self.ownership = Some(ownership);
        self
    }

    /// Sets the bounds of a layer that is unpacked.
    pub fn limits(mut self, limits: UnpackLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Unpacks the layers that are not here yet, and returns the image with all of them.
    ///
    /// They stay for as long as that image, or a clone, or a sandbox of it is there; and after that, until
    /// [`remove`](Store::remove) and [`collect`](Store::collect).
    ///
    /// # Errors
    ///
    /// - [`InvalidImage`](ErrorKind::InvalidImage): a layer breaks its format, its digest or a limit; the error names the
    ///   entry. Nothing of the layer is left.
    /// - [`Os`](ErrorKind::Os): the kernel refused a step, for want of space for example. Nothing of the layer is left.
    /// - [`Unsupported`](ErrorKind::Unsupported): the host lacks what the ownership needs, or the caller has not the ids
    ///   that files belong to.
    ///
    /// # Kernel
    ///
    /// Linux 5.15 or later, as for every sandbox.
    pub fn unpack(&self, image: &Image) -> Result<Image> {
        self.unpack_with(image, |_| ())
    }

    /// Like [`unpack`](Store::unpack), and calls `progress` now and then.
    ///
    /// # Errors
    ///
    /// As for `unpack`.
    pub fn unpack_with(&self, image: &Image, mut progress: impl FnMut(Progress)) -> Result<Image> {
        let owners = Owners::new(self.ownership)?;
        let _using = self.lock(FlockArg::LockShared)?;
        unpack::unpack(self, &owners, image, &mut progress)
    }

    /// Forgets an image: its layers go with the next [`collect`](Store::collect) that finds them unused.
    ///
    /// # Errors
    ///
    /// Where the image is in use, by this process or another; it stays.
    pub fn remove(&self, image: &Image) -> Result<()> {
        let _using = self.lock(FlockArg::LockShared)?;
        for entry in entries(&self.dir.join("images"))? {
            if !entry.starts_with(&unpack::file_name(image.digest())) {
                continue;
            }
            let path = self.dir.join("images").join(&entry);
            let Some(_lock) = lock::try_lock(&path)? else {
                return Err(Error::new(Layer::Image, ErrorKind::Os, "remove the image", "the image is in use")
                    .with_errno(libc::EBUSY)
                    .with_path(path));
            };
            fs::remove_file(&path).map_err(|error| failed("remove the image", &error).with_path(path))?;
        }
        Ok(())
    }

    /// Removes layers that belong to no image, and what unpacking has left behind that was killed. Waits until nobody
    /// unpacks: called from the `progress` of [`unpack_with`](Store::unpack_with), it would wait for itself.
    ///
    /// # Errors
    ///
    /// Where a file can't be removed.
    pub fn collect(&self) -> Result<Collected> {
        let _alone = self.lock(FlockArg::LockExclusive)?;
        let mut used = std::collections::HashSet::new();
        for image in entries(&self.dir.join("images"))? {
            let text = fs::read_to_string(self.dir.join("images").join(image));
            used.extend(text.map_err(|error| failed("read an image", &error))?.lines().map(str::to_owned));
        }
        let mut collected = Collected::default();
        for layer in entries(&self.dir.join("layers"))? {
            if !used.contains(&layer) {
                // Out of the way first: what is left of it, if this is interrupted, is no layer.
                let [from, to] = ["layers", "work"].map(|dir| self.dir.join(dir).join(&layer));
                if to.exists() {
                    self.clear(std::slice::from_ref(&layer))?;
                }
                fs::rename(&from, to).map_err(|error| failed("remove a layer", &error).with_path(from))?;
                collected.layers += 1;
            }
        }
        let remains = entries(&self.dir.join("work"))?;
        collected.remains = remains.len().saturating_sub(collected.layers);
        self.clear(&remains)?;
        // Nobody waits for one of these: that takes the shared lock.
        for lock in entries(&self.dir.join("locks"))? {
            fs::remove_file(self.dir.join("locks").join(lock)).map_err(|error| failed("remove a lock", &error))?;
        }
        Ok(collected)
    }

    /// Removes what is in the work directory.
    fn clear(&self, names: &[String]) -> Result<()> {
        let (mut plain, mut subordinate) = (None, None);
        for name in names {
            // A tree in subordinate ids takes those to remove it.
            let hand = if name.ends_with("subordinate") { &mut subordinate } else { &mut plain };
            if hand.is_none() {
                let ownership = name.ends_with("subordinate").then_some(Ownership::Subordinate);
                *hand = Some(Hand::start(&self.dir.join("work"), &self.dir.join("layers"), &Owners::new(ownership)?)?);
            }
            if let Some(hand) = hand {
                hand.remove(name)?;
            }
        }
        Ok(())
    }

    /// Removes what killed unpacking has left in the work directory: nobody has its lock.
    fn sweep(&self) -> Result<()> {
        for name in entries(&self.dir.join("work"))? {
            if let Some(_lock) = lock::try_lock(&self.dir.join("locks").join(&name))? {
                // Whoever made it may have come to an end just now.
                if self.dir.join("work").join(&name).exists() {
                    // What can't be removed is in nobody's way; `collect` tells why.
                    let _ = self.clear(&[name]);
                }
            }
        }
        Ok(())
    }

    fn lock(&self, how: FlockArg) -> Result<Locked> {
        lock::lock(&self.dir.join("lock"), how)
    }
}

/// The names in a directory.
fn entries(dir: &Path) -> Result<Vec<String>> {
    let wrong = |error: io::Error| failed("read the store", &error).with_path(dir);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(wrong)? {
        names.extend(entry.map_err(wrong)?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Makes a directory that is the caller's alone, if it is missing, with its parents.
fn make_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_dir(parent)?;
    }
    match make_one(dir, 0o700) {
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        made => made.map_err(|error| failed("make the store", &error).with_path(dir)),
    }
}

/// Makes one directory, with just this mode: the umask of the host may take some of it, and a parent add to it.
fn make_one(dir: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().mode(mode).create(dir)?;
    let made = fs::File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(dir)?;
    if made.metadata()?.mode() & 0o7777 != mode {
        // Just that directory, whatever is at the path by now.
        let path = format!("/proc/self/fd/{}", made.as_raw_fd());
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Refuses a directory that others may change, or whose place others may give to another.
fn check(dir: &Path) -> Result<()> {
    let metadata = |dir: &Path| fs::metadata(dir).map_err(|error| failed("open the store", &error).with_path(dir));
    let own = metadata(dir)?;
    let refused = |dir: &Path, cause: &str, hint: &str| {
        Err(Error::invalid(Layer::Image, "open the store", cause).with_path(dir).with_hint(hint))
    };
    if own.uid() != nix::unistd::geteuid().as_raw() {
        return refused(dir, "the directory belongs to somebody else", "every user needs a store of their own");
    }
    if own.mode() & 0o077 != 0 {
        let hint = "choose one that does not exist, or remove their rights: chmod 700";
        return refused(dir, "others may use the directory", hint);
    }
    for above in dir.ancestors().skip(1) {
        if metadata(above)?.mode() & 0o1002 == 0o002 {
            return refused(above, "everybody may rename what is in the directory", "choose another for the store");
        }
    }
    Ok(())
}

fn failed(step: &str, error: &io::Error) -> Error {
    Error::os(Layer::Image, step, error.raw_os_error().unwrap_or(libc::EIO))
}
