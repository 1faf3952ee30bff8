//! What a layer hides of those below, in the form that overlayfs has for it, and what it takes from there in silence.

use std::collections::HashSet;

use super::attributes::xattr;
use super::hand::{FILE, TREE, close_from, open, path};
use super::lower::Found;
use super::tree::Tree;
use crate::agent::{Answer, Calls};
use crate::error::{Error, Layer, Result};
use crate::image::layer::EntryPath;
use crate::plan::Escaped;
use crate::sys::Errno;

/// What the kernel's overlay takes for "nothing of the layers below". In a user namespace it can't be in trusted.*.
pub(super) const OPAQUE: &[u8] = b"user.overlay.opaque";

impl Tree<'_> {
    /// Hides what is below. Something of the same name in this layer is not hidden, but it stands alone.
    pub(super) fn whiteout(&mut self, hidden: &EntryPath) -> Result<()> {
        self.check_time(hidden)?;
        self.notes.chained = true;
        let Some((dir, name)) = hidden.split() else { return Ok(()) };
        if self.hand.look_up(self.below, hidden)?.is_none() {
            return Ok(());
        }
        let mut made = self.mark(&dir, name)?;
        if made == Err((1, Errno(libc::ENOENT))) {
            self.ensure(&dir)?;
            made = self.mark(&dir, name)?;
        }
        match made {
            Ok(()) => Ok(()),
            // What this layer has in place of the directory hides all of it.
            Err((1, Errno(libc::ENOTDIR | libc::ELOOP))) => Ok(()),
            Err((_, Errno(libc::EEXIST))) => match self.hand.attempt(|calls| mark_opaque(calls, hidden))? {
                Ok(()) | Err((1, Errno(libc::ENOTDIR | libc::ELOOP))) => Ok(()),
                Err((_, errno)) => Err(hiding(hidden, errno)),
            },
            Err((_, errno)) => Err(hiding(hidden, errno)),
        }
    }

    /// Makes a mark in a directory; the second call is the one that opens it.
    fn mark(&mut self, dir: &EntryPath, name: &[u8]) -> Result<Answer> {
        self.hand.attempt(|calls| {
            close_from(calls, FILE);
            open(calls, TREE, dir.as_bytes(), libc::O_PATH | libc::O_DIRECTORY);
            let name = path(calls, name);
            calls.call(libc::SYS_mknodat, [FILE.into(), name, libc::S_IFCHR.into(), 0.into()]);
        })
    }

    /// Hides all that is in a directory below, unless something else does.
    pub(super) fn opaque(&mut self, dir: &EntryPath, covered: bool) -> Result<()> {
        self.check_time(dir)?;
        self.notes.chained = true;
        // The top of a stack is not asked whether it is opaque: it has to be the lowest of it.
        self.notes.alone |= dir.is_root();
        let opened = self.hand.open_dir(dir.as_bytes())?;
        match opened {
            Err(Errno(libc::ENOENT)) => self.ensure(dir)?,
            Err(Errno(libc::ENOTDIR | libc::ELOOP)) => return Ok(()),
            Err(errno) => return Err(hiding(dir, errno)),
            Ok(_) => {}
        }
        if covered || self.hand.look_up(self.below, dir)?.is_none() {
            return Ok(());
        }
        let marked = self.hand.attempt(|calls| mark_opaque(calls, dir))?;
        marked.map_err(|(_, errno)| hiding(dir, errno))
    }

    /// Gives a directory that the layer says nothing of what the layers below say.
    pub(super) fn inherit(&mut self, dir: &EntryPath) -> Result<()> {
        self.check_time(dir)?;
        self.notes.chained = true;
        let found = self.hand.look_up(self.below, dir)?;
        match found.filter(Found::is_dir) {
            Some(found) => self.hand.set_dir(dir, &found.attributes(self.owners), self.owners),
            None => Ok(()),
        }
    }

    /// Whether a path, or something above it, is among those with these hashes.
    pub(super) fn is_among(&self, path: &EntryPath, hashes: &HashSet<u64>) -> bool {
        let mut path = path.clone();
        loop {
            if hashes.contains(&self.hash(&path)) {
                return true;
            }
            match path.split() {
                Some((above, _)) => path = above,
                None => return false,
            }
        }
    }
}

fn mark_opaque(calls: &mut Calls, dir: &EntryPath) {
    close_from(calls, FILE);
    open(calls, TREE, dir.as_bytes(), libc::O_RDONLY | libc::O_DIRECTORY);
    let args = xattr(calls, OPAQUE, b"y");
    calls.call(libc::SYS_fsetxattr, args);
    calls.call(libc::SYS_close, [FILE.into()]);
}

fn hiding(path: &EntryPath, Errno(errno): Errno) -> Error {
    let hint = "the marks of an overlay need a file system with device files and extended attributes user.*";
    Error::os(Layer::Image, format!("hide \"{}\"", Escaped(path.as_bytes())), errno).with_hint(hint)
}
