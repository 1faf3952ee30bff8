//! The smallest root that runs one program.
//!
//! Everything is found out before any process exists, and comes to a list of paths: files and directories of the host, to be
//! bound or copied, links, and small files of our own. Program and libraries are hostile input: what they say is read
//! within bounds, and paths are walked in the tree that they are taken from.

mod base;
mod cache;
mod closure;
mod copy;
pub(crate) mod elf;
mod listing;
mod search;
mod tree;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Layer, Result};
use crate::layer::mount::{Distroless, Mount, Tmpfs};
use crate::plan::{Content, Escaped};
use closure::Closure;
use listing::{Listing, Node};
use tree::{Kind, Tree};

/// The most files that are counted of a whole directory.
const COUNTED_MAX: usize = 1 << 20;

/// Something in a root: see [`Distroless::files`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistrolessFile {
    path: PathBuf,
    from: DistrolessFrom,
    size: u64,
}

/// Where something in a root comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DistrolessFrom {
    /// The file at this path of the host.
    File(PathBuf),
    /// The directory at this path of the host, with all that is in it.
    Dir(PathBuf),
    /// It is a symbolic link to this.
    Link(PathBuf),
    /// The crate makes it: a small file, or an empty directory.
    Made,
}

impl DistrolessFile {
    /// Its path inside.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it comes from.
    pub fn from(&self) -> &DistrolessFrom {
        &self.from
    }

    /// Its size in bytes: the length of files, those in a whole directory together.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Distroless {
    /// Lists what the root holds, by path: what a start would bind in. Directories that only lead to something are left out.
    ///
    /// # Errors
    ///
    /// What a start would say: see [`Distroless`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use belljar::Rootfs;
    ///
    /// let files = Rootfs::distroless("/usr/bin/env").files()?;
    /// println!("{} bytes", files.iter().map(|file| file.size()).sum::<u64>());
    /// # Ok::<(), belljar::Error>(())
    /// ```
    pub fn files(&self) -> Result<Vec<DistrolessFile>> {
        let (mut tree, listing) = resolve(self)?;
        let file = |(path, node): (&Path, &Node)| {
            let (from, size) = match node {
                Node::File => (DistrolessFrom::File(tree.outside(path)), size(&mut tree, path)?),
                Node::Copy(source) => (DistrolessFrom::File(tree.outside(source)), size(&mut tree, source)?),
                Node::Tree => (DistrolessFrom::Dir(tree.outside(path)), size(&mut tree, path)?),
                Node::Link(target) => (DistrolessFrom::Link(target.clone()), 0),
                Node::Text(text) => (DistrolessFrom::Made, text.len() as u64),
                Node::Dir { .. } | Node::Home { .. } => (DistrolessFrom::Made, 0),
            };
            Ok(DistrolessFile { path: path.to_owned(), from, size })
        };
        listing
            .iter()
            .map(file)
            .collect::<std::result::Result<_, i32>>()
            .map_err(|errno| Error::os(Layer::Mount, words(self), errno).with_path(&self.program))
    }

    /// Makes a directory of the root, which must not be there yet: for [`Rootfs::dir`](crate::Rootfs::dir), or as the one
    /// layer of an image.
    ///
    /// Files are copied, or share their blocks where the file system can (copy_file_range(2)); they keep their modes,
    /// but for set-user-ID and set-group-ID bits. As root the user's home is given to the user. If it fails, what was
    /// made is removed.
    ///
    /// # Errors
    ///
    /// What a start would say; that something is at `dir` already; that a program lies in /tmp, which a sandbox covers; and
    /// what the kernel says to copying.
    pub fn write_to(&self, dir: impl AsRef<Path>) -> Result<()> {
        let (tree, listing) = resolve(self)?;
        copy::write(&tree, &listing, dir.as_ref(), &words(self))
    }
}

/// What a sandbox with this root starts with, in an empty one.
pub(crate) fn mounts(distroless: &Distroless, host_network: bool) -> Result<Vec<Mount>> {
    let (tree, listing) = resolve(distroless)?;
    let mount = |(path, node): (&Path, &Node)| {
        let bind = |source: &Path| Mount::Bind { source: tree.outside(source), target: path.into(), write: false };
        match node {
            // /tmp among them, which a sandbox has anyway.
            Node::Dir { .. } => (path != Path::new("/tmp")).then(|| Mount::Dir(path.into())),
            Node::Home { .. } => Some(Mount::Tmpfs(Tmpfs::new(path).mode(0o700))),
            Node::File | Node::Tree => Some(bind(path)),
            Node::Copy(source) => Some(bind(source)),
            Node::Link(target) => Some(Mount::Symlink { target: target.clone(), link: path.into() }),
            Node::Text(text) => Some(Mount::File { path: path.into(), data: Content(text.as_slice().into()) }),
        }
    };
    let mut mounts: Vec<Mount> = listing.iter().filter_map(mount).collect();
    if host_network {
        for path in ["/etc/resolv.conf", "/etc/hosts"] {
            // They may be links to where the host's network manager keeps them: what counts is the content.
            let source = std::fs::canonicalize(path).ok().filter(|_| !listing.has_below_tree(Path::new(path)));
            if let Some(source) = source {
                mounts.push(Mount::Bind { source, target: path.into(), write: false });
            }
        }
    }
    Ok(mounts)
}

/// Finds out what is in the root.
fn resolve(distroless: &Distroless) -> Result<(Tree, Listing)> {
    let words = words(distroless);
    let failed = |errno| Error::os(Layer::Mount, &*words, errno);
    let from = std::path::absolute(&distroless.from).map_err(|_| failed(libc::ENOENT).with_path(&distroless.from))?;
    let mut tree = Tree::open(&from).map_err(|errno| failed(errno).with_path(&from))?;
    let mut closure = Closure::new(&mut tree, words.clone());
    let mut linked = closure.program(&path(distroless, &distroless.program, &words)?)?;
    for extra in &distroless.extras {
        closure.extra(&path(distroless, extra, &words)?, &mut linked)?;
    }
    if distroless.certificates {
        base::put_certificates(&mut closure)?;
    }
    if distroless.tzdata {
        base::put_tzdata(&mut closure)?;
    }
    if distroless.shell {
        base::put_shell(&mut closure)?;
    }
    base::put(distroless, &mut closure)?;
    let listing = closure.listing.finish().map_err(|(path, link)| {
        let cause = format!("{} would be made through the link {}", shown(&path), shown(&link));
        Error::new(Layer::Mount, ErrorKind::Unsupported, &*words, cause).with_path(path)
    })?;
    Ok((tree, listing))
}

/// A path of the caller's. On the host it may start at the working directory; in another tree there is none.
fn path(distroless: &Distroless, path: &Path, words: &str) -> Result<PathBuf> {
    if path.as_os_str().is_empty() || path.as_os_str().as_bytes().contains(&0) {
        let cause = "a path is empty, or has a zero byte";
        return Err(Error::invalid(Layer::Mount, words, cause).with_errno(libc::ENOENT).with_path(path));
    }
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    if distroless.from != Path::new("/") {
        let cause = format!("{} is not absolute, and the tree has no working directory", shown(path));
        return Err(Error::invalid(Layer::Mount, words, cause).with_path(path));
    }
    std::path::absolute(path).map_err(|_| Error::os(Layer::Mount, words, libc::ENOENT).with_path(path))
}

/// The length of a file, or of all files in a directory.
fn size(tree: &mut Tree, path: &Path) -> std::result::Result<u64, i32> {
    let (mut paths, mut total, mut left) = (vec![path.to_owned()], 0, COUNTED_MAX);
    while let Some(path) = paths.pop() {
        match tree.kind(&path)? {
            Kind::File => total += tree.length(&path)?,
            Kind::Dir => {
                let names = tree.list(&path, left)?;
                left -= names.len();
                paths.extend(names.into_iter().map(|name| path.join(name)));
            }
            Kind::Link(_) | Kind::Other => {}
        }
    }
    Ok(total)
}

fn words(distroless: &Distroless) -> String {
    format!("distroless {}", shown(&distroless.program))
}

/// A path in words: whoever has named the file must not write to the terminal of whoever reads them.
fn shown(path: &Path) -> String {
    Escaped(path.as_os_str().as_bytes()).to_string()
}
