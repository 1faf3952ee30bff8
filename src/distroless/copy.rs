//! Making a directory of a root.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::listing::{Listing, Node};
use super::shown;
use super::tree::{Kind, Tree};
use crate::error::{Error, Layer, Result};

/// How deep directories may be.
const DEPTH_MAX: usize = 128;

/// What could not be made, and why.
type Failed = (PathBuf, io::Error);

pub(super) fn write(tree: &Tree, listing: &Listing, dir: &Path, words: &str) -> Result<()> {
    let covered = listing.iter().find(|(path, node)| path.starts_with("/tmp") && !matches!(node, Node::Dir { .. }));
    if let Some((path, _)) = covered {
        let cause = format!("{} would be covered by the /tmp of a sandbox", shown(path));
        return Err(Error::invalid(Layer::Mount, words, cause).with_path(path));
    }
    let failed = |(path, error): Failed| {
        let step = format!("{words}: write {}", shown(&path));
        Error::os(Layer::Mount, step, error.raw_os_error().unwrap_or(libc::EIO)).with_path(path)
    };
    // Nobody else's until it is whole: what is made by path in it then is where it seems to be.
    fs::DirBuilder::new().mode(0o700).create(dir).map_err(|error| failed((dir.to_owned(), error)))?;
    let made = fill(tree, listing, dir).and_then(|()| named(dir, set_mode(dir, 0o755)));
    if made.is_err() {
        let _ = fs::remove_dir_all(dir);
    }
    made.map_err(failed)
}

fn fill(tree: &Tree, listing: &Listing, dir: &Path) -> std::result::Result<(), Failed> {
    for (inside, node) in listing.iter() {
        let path = dir.join(inside.strip_prefix("/").unwrap_or(inside));
        make_parents(dir, &path)?;
        match node {
            Node::Dir { mode, owner } => named(&path, make_dir(&path, *mode, *owner))?,
            Node::Home { owner } => named(&path, make_dir(&path, 0o700, *owner))?,
            Node::File => named(&path, copy(tree, inside, &path))?,
            Node::Copy(source) => named(&path, copy(tree, source, &path))?,
            Node::Tree => copy_tree(tree, inside, &path, DEPTH_MAX)?,
            Node::Link(target) => named(&path, symlink(target, &path))?,
            Node::Text(text) => named(&path, make_file(&path, text))?,
        }
    }
    Ok(())
}

fn named<T>(path: &Path, made: io::Result<T>) -> std::result::Result<T, Failed> {
    made.map_err(|error| (path.to_owned(), error))
}

fn make_parents(dir: &Path, path: &Path) -> std::result::Result<(), Failed> {
    let missing = path.ancestors().skip(1).take_while(|parent| *parent != dir && parent.symlink_metadata().is_err());
    for parent in missing.collect::<Vec<_>>().into_iter().rev() {
        named(parent, fs::create_dir(parent).and_then(|()| set_mode(parent, 0o755)))?;
    }
    Ok(())
}

fn make_dir(path: &Path, mode: u32, owner: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    // Only root can give it away; for anybody else, the user inside is who has made it.
    if owner != 0 && nix::unistd::geteuid().is_root() {
        chown(path, Some(owner), Some(owner))?;
    }
    set_mode(path, mode)
}

fn make_file(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    io::Write::write_all(&mut file, text)?;
    file.set_permissions(Permissions::from_mode(0o644))
}

fn copy(tree: &Tree, source: &Path, path: &Path) -> io::Result<()> {
    let mut source = tree.read(source).map_err(io::Error::from_raw_os_error)?;
    let mode = source.metadata()?.permissions().mode() & 0o777;
    let mut file = create(path)?;
    io::copy(&mut source, &mut file)?;
    file.set_permissions(Permissions::from_mode(mode))
}

fn copy_tree(tree: &Tree, inside: &Path, path: &Path, depth: usize) -> std::result::Result<(), Failed> {
    let errno = |errno| (path.to_owned(), io::Error::from_raw_os_error(errno));
    let Some(depth) = depth.checked_sub(1) else { return Err(errno(libc::ELOOP)) };
    named(path, fs::create_dir(path))?;
    for name in tree.list(inside, usize::MAX).map_err(errno)? {
        let (inside, path) = (inside.join(&name), path.join(&name));
        match tree.look(&inside).map_err(errno)? {
            Kind::Dir => copy_tree(tree, &inside, &path, depth)?,
            Kind::File => named(&path, copy(tree, &inside, &path))?,
            Kind::Link(target) => named(&path, symlink(target, &path))?,
            // A socket, FIFO or device is of no use in a copy.
            Kind::Other => return Err((path, io::Error::from_raw_os_error(libc::EOPNOTSUPP))),
        }
    }
    named(path, set_mode(path, 0o755))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}
