//! The root itself: a directory, or several that are stacked, and what becomes of what is written there.

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::path::{HostKind, host_path, lacking, may_lack, places};
use super::tmpfs::bounds;
use super::{Root, Source, Writes, shown};
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::plan::{HostPath, Step, Upper, attr, os};
use crate::sys::{self, Errno};

/// How many directories the kernel stacks (`OVL_MAX_STACK`), less the one for places.
const LAYERS: usize = 499;

/// What one overlay can't have below another's upper directory.
const OVERLAY_MAGIC: u64 = 0x794c_7630;

/// The steps that make the root; `content` is what will be put into it.
pub(super) fn lower(root: &Root, content: &[Step]) -> Result<Vec<Step>> {
    if (root.size.is_some() || root.inodes.is_some()) && !matches!(root.writes, Writes::Ephemeral | Writes::Copied) {
        let cause = "size and inodes are bounds of memory: they need ephemeral or copied";
        return Err(Error::invalid(Layer::Mount, "root", cause));
    }
    if root.source == Source::Bare {
        return match root.writes {
            Writes::Refused => Ok(vec![Step::RootMemory]),
            _ => Err(Error::invalid(Layer::Mount, "root", "a bare root is in memory, and can be written to as it is")),
        };
    }
    let dirs = match &root.source {
        Source::Empty | Source::Bare | Source::Host => Vec::new(),
        #[cfg(feature = "image")]
        Source::Distroless(_) => Vec::new(),
        Source::Dir(dir) => vec![host_dir(dir)?],
        Source::Layers(dirs) => layers(dirs)?,
    };
    let one_of_many = matches!(root.source, Source::Dir(_) | Source::Layers(_));
    match &root.writes {
        Writes::Refused if !one_of_many => Ok(vec![Step::RootEmpty]),
        Writes::Refused => Ok(vec![read_only(dirs, content)?]),
        Writes::Through => writable(&root.source, dirs, content),
        Writes::Copied if !one_of_many => {
            Err(Error::invalid(Layer::Mount, "root", "only directories can be copied: use ephemeral"))
        }
        Writes::Copied => {
            let [size, inodes] = bounds(root.size, root.inodes, "root")?;
            let mut steps = vec![read_only(dirs, &[])?, Step::RootCopy { size, inodes }];
            // A file in the root itself would be the program's to change: what is mounted on a place is not.
            let files = places(content).into_iter().filter(|(step, _)| matches!(step, Step::File { .. }));
            steps.extend(files.map(|(_, at)| Step::Place { at: at.clone() }));
            Ok(steps)
        }
        Writes::Ephemeral => {
            let [size, inodes] = bounds(root.size, root.inodes, "root")?;
            under(Upper::Tmpfs { size, inodes }, dirs, content)
        }
        Writes::Kept(base) => under(Upper::Kept { base: kept(base, &dirs)? }, dirs, content),
    }
}

/// Whether a step makes a root that the program may write to.
pub(crate) fn is_writable_root(step: &Step) -> bool {
    match step {
        Step::RootDir { attributes, .. } => attributes & attr::READ_ONLY == 0,
        Step::RootOverlay { upper, .. } => matches!(upper, Upper::Tmpfs { .. } | Upper::Kept { .. }),
        Step::RootCopy { .. } | Step::RootMemory => true,
        _ => false,
    }
}

/// One directory by itself needs no overlay, and could not be one.
fn read_only(mut dirs: Vec<HostPath>, content: &[Step]) -> Result<Step> {
    let lacks = match dirs.as_slice() {
        [only] => lacking(only, content)?.is_some(),
        many => may_lack(many, content)?,
    };
    let attributes = attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV;
    Ok(match (lacks, dirs.len()) {
        (false, 1) => Step::RootDir { source: dirs.remove(0), attributes },
        (false, _) => Step::RootOverlay { lowers: dirs, upper: Upper::Nothing },
        (true, _) => Step::RootOverlay { lowers: dirs, upper: Upper::Private },
    })
}

fn writable(source: &Source, mut dirs: Vec<HostPath>, content: &[Step]) -> Result<Vec<Step>> {
    let Source::Dir(path) = source else {
        let cause = "only a directory can be written through to: use ephemeral or overlay";
        return Err(Error::invalid(Layer::Mount, "root", cause));
    };
    let source = dirs.remove(0);
    if let Some(at) = lacking(&source, content)? {
        let hint = "make it there: nothing but the program writes to a directory of the host";
        let error = Error::os(Layer::Mount, format!("root {} writable: place {at}", shown(path)), libc::ENOENT);
        return Err(error.with_path(os(&at.path)).with_hint(hint));
    }
    Ok(vec![Step::RootDir { source, attributes: attr::NO_SUID | attr::NO_DEV }])
}

/// What the layers lack is made first, below the upper directory: there is only what the program writes.
fn under(upper: Upper, lowers: Vec<HostPath>, content: &[Step]) -> Result<Vec<Step>> {
    let lacks = match lowers.as_slice() {
        [] => true,
        [only] => lacking(only, content)?.is_some(),
        many => may_lack(many, content)?,
    };
    let mut steps = Vec::new();
    if lacks {
        steps.push(Step::RootOverlay { lowers: lowers.clone(), upper: Upper::Stage });
        steps.extend(places(content).into_iter().map(|(step, at)| match step {
            Step::Symlink { target, at } => Step::Symlink { target: target.clone(), at: at.clone() },
            _ => Step::Place { at: at.clone() },
        }));
    }
    steps.push(Step::RootOverlay { lowers, upper });
    Ok(steps)
}

/// A directory of the host that the root is made from.
fn host_dir(path: &Path) -> Result<HostPath> {
    let words = format!("root {}", shown(path));
    let (source, kind) = host_path(path, &words)?;
    if kind != HostKind::Dir {
        let cause = "the root is not a directory";
        return Err(Error::invalid(Layer::Mount, words, cause).with_errno(libc::ENOTDIR).with_path(path));
    }
    if source.0.as_bytes() == b"/" {
        let cause = "the host's root would take everything of the host along, /home and /proc included";
        return Err(Error::invalid(Layer::Mount, words, cause)
            .with_path(path)
            .with_hint("use Rootfs::host() and bind what else is needed"));
    }
    Ok(source)
}

/// Directories for a stack: the kernel takes none twice, and none that lies in another.
fn layers(paths: &[PathBuf]) -> Result<Vec<HostPath>> {
    let invalid = |cause: String| Error::invalid(Layer::Mount, "root", cause);
    if paths.is_empty() {
        return Err(invalid("layers need one directory at least".to_owned()));
    }
    if paths.len() > LAYERS {
        return Err(invalid(format!("{} layers are more than the kernel stacks: {LAYERS}", paths.len())));
    }
    let dirs: Vec<_> = paths.iter().map(|path| host_dir(path)).collect::<Result<_>>()?;
    // In the order of their names a directory stands before what lies in it, and nothing else comes between.
    let mut sorted: Vec<_> = dirs.iter().collect();
    sorted.sort_by(|a, b| a.0.to_bytes().split(is_slash).cmp(b.0.to_bytes().split(is_slash)));
    let overlap = sorted.windows(2).find_map(|pair| match pair {
        [outer, inner] if holds(&outer.0, &inner.0) => Some(inner),
        _ => None,
    });
    match overlap {
        Some(inner) => {
            let error = invalid(format!("{inner} is a layer twice, or lies in another layer"));
            Err(error.with_errno(libc::ELOOP).with_path(os(&inner.0)))
        }
        None => Ok(dirs),
    }
}

/// The directory that changes are kept in, apart from what lies below them.
fn kept(path: &Path, layers: &[HostPath]) -> Result<HostPath> {
    let words = format!("root under {}", shown(path));
    let (base, kind) = host_path(path, &words)?;
    let invalid = |cause: &str| Error::invalid(Layer::Mount, words.as_str(), cause).with_path(path);
    if kind != HostKind::Dir {
        return Err(invalid("what changes are kept in is not a directory").with_errno(libc::ENOTDIR));
    }
    if layers.iter().any(|layer| holds(&layer.0, &base.0) || holds(&base.0, &layer.0)) {
        return Err(invalid("changes can't be kept in what they are made to").with_errno(libc::ELOOP));
    }
    let opened = sys::openat2(sys::CWD, &base.0, libc::O_PATH, 0, libc::RESOLVE_NO_SYMLINKS);
    let magic = opened.and_then(|dir| sys::file_system(dir.as_fd()));
    match magic.map_err(|Errno(errno)| Error::os(Layer::Mount, words.as_str(), errno).with_path(path))? {
        OVERLAY_MAGIC => {
            let cause = "the directory lies on an overlay, as in a container, and the kernel keeps no changes there";
            let hint = "use a directory on another file system, such as a volume or a tmpfs, or Rootfs::ephemeral";
            let error = Error::new(Layer::Mount, ErrorKind::Unsupported, words, cause);
            Err(error.with_errno(libc::EINVAL).with_path(path).with_hint(hint))
        }
        _ => Ok(base),
    }
}

/// Whether `path` is `dir` or lies in it.
fn holds(dir: &CStr, path: &CStr) -> bool {
    Path::starts_with(os(path), os(dir))
}

fn is_slash(byte: &u8) -> bool {
    *byte == b'/'
}
