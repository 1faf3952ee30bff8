//! Paths, of the host and inside, in kernel form.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::shown;
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::plan::{HostPath, Inside, InsideKind, Step};
use crate::sys::{self, Errno};

/// What lies at a path of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostKind {
    Dir,
    Other,
}

/// Directories whose own entries the distribution makes, like /bin -> usr/bin: a program in a sandbox could have
/// made a link there only if the caller had given it the host.
const SYSTEM_DIRS: [&str; 2] = ["/", "/var"];

/// Trees for which the same holds.
const SYSTEM_TREES: [&str; 6] = ["/bin", "/etc", "/lib", "/lib64", "/sbin", "/usr"];

/// How many links a path may have, as for the kernel.
const LINKS_MAX: usize = 40;

/// Resolves a path of the host, taken from the working directory if it is relative.
///
/// Symbolic links are followed where the system has made them, and refused elsewhere: one that an earlier program
/// has left in its output directory must not lead a later sandbox to some other file of the host.
pub(super) fn host_path(path: &Path, words: &str) -> Result<(HostPath, HostKind)> {
    let failed = |errno| Error::os(Layer::Mount, words, errno).with_path(path);
    if path.as_os_str().is_empty() {
        return Err(failed(libc::ENOENT).with_kind(ErrorKind::InvalidPolicy));
    }
    let absolute = std::path::absolute(path).map_err(|error| failed(error.raw_os_error().unwrap_or(libc::ENOENT)))?;
    let zero = |_| Error::invalid(Layer::Mount, words, "the path has a zero byte").with_path(path);
    let mut resolved = CString::new(absolute.as_os_str().as_bytes()).map_err(zero)?;
    let mut opened = open_without_links(&resolved);
    if let Err(Errno(libc::ELOOP)) = opened {
        resolved = CString::new(follow(&absolute, path, words)?.as_os_str().as_bytes()).map_err(zero)?;
        opened = open_without_links(&resolved);
    } else if opened.is_ok() {
        // Without links "/a/.." is "/", and must read so: the host's root goes by its name.
        resolved = CString::new(plain(&absolute).as_os_str().as_bytes()).map_err(zero)?;
    }
    let stat = opened.and_then(|file| sys::fstat(file.as_fd())).map_err(|Errno(errno)| failed(errno))?;
    let kind = if stat.is_dir() { HostKind::Dir } else { HostKind::Other };
    Ok((HostPath(resolved), kind))
}

fn open_without_links(path: &CStr) -> sys::Result<sys::Fd> {
    sys::openat2(sys::CWD, path, libc::O_PATH, 0, libc::RESOLVE_NO_SYMLINKS)
}

/// Follows the links of an absolute path one by one, if they are the system's.
fn follow(absolute: &Path, path: &Path, words: &str) -> Result<PathBuf> {
    let mut resolved = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = names(absolute);
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&name);
        let Ok(target) = std::fs::read_link(&next) else {
            resolved = next;
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            return Err(Error::os(Layer::Mount, words, libc::ELOOP).with_path(path));
        }
        if !is_system(&resolved) {
            let cause = format!("{} is a symbolic link", shown(&next));
            let hint = "a program that could write there may have made it; if it is yours, pass what \
                        std::fs::canonicalize returns";
            return Err(Error::invalid(Layer::Mount, words, cause)
                .with_errno(libc::ELOOP)
                .with_path(path)
                .with_hint(hint));
        }
        if target.is_absolute() {
            resolved = PathBuf::from("/");
        }
        for name in names(&target).into_iter().rev() {
            rest.push_front(name);
        }
    }
    Ok(resolved)
}

/// An absolute path that leads over no link, without "..".
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for name in names(path) {
        match name == ".." {
            true => drop(plain.pop()),
            false => plain.push(name),
        }
    }
    plain
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

/// Whether only the system makes links in a directory.
pub(crate) fn is_system(dir: &Path) -> bool {
    SYSTEM_DIRS.iter().any(|known| dir == Path::new(known)) || SYSTEM_TREES.iter().any(|tree| dir.starts_with(tree))
}

/// Splits a path inside, and names it as the step if that fails.
pub(super) fn inside(path: impl AsRef<Path>, kind: InsideKind) -> Result<Inside> {
    let path = path.as_ref();
    split(path, kind).map_err(|cause| Error::invalid(Layer::Mount, shown(path).to_string(), cause).with_path(path))
}

/// Splits a path inside, which may be the root itself.
pub(super) fn inside_or_root(path: &Path, kind: InsideKind) -> std::result::Result<Inside, &'static str> {
    match path.is_absolute() && path.components().all(|component| matches!(component, Component::RootDir)) {
        true => Ok(Inside { path: c"/".into(), kind, components: Vec::new() }),
        false => split(path, kind),
    }
}

/// Splits a path inside: absolute, below the root, and without "..".
pub(super) fn split(path: &Path, kind: InsideKind) -> std::result::Result<Inside, &'static str> {
    if !path.is_absolute() {
        return Err("a path inside must be absolute");
    }
    let mut dir = Vec::new();
    let mut components = Vec::new();
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name.as_bytes(),
            Component::ParentDir => return Err("a path inside can't have \"..\""),
            _ => continue,
        };
        let zero = |_| "the path has a zero byte";
        let parent = if dir.is_empty() { b"/".to_vec() } else { dir.clone() };
        components.push([CString::new(parent).map_err(zero)?, CString::new(name).map_err(zero)?]);
        dir.push(b'/');
        dir.extend_from_slice(name);
    }
    if components.is_empty() {
        return Err("the root itself is set by rootfs");
    }
    let path = CString::new(dir).map_err(|_| "the path has a zero byte")?;
    Ok(Inside { path, kind, components })
}

/// The places that steps need on the root itself, outside of what earlier steps mount: as far as paths tell, for in a
/// root one may be a link to another.
pub(super) fn places(content: &[Step]) -> Vec<(&Step, &Inside)> {
    let mut mounted: Vec<&CStr> = Vec::new();
    let mut places = Vec::new();
    for step in content {
        let (at, mounts) = match step {
            Step::Bind { at, .. } | Step::Tmpfs { at, .. } | Step::Proc { at } | Step::Devpts { at } => (at, true),
            Step::Dir { at } | Step::File { at, .. } | Step::Symlink { at, .. } => (at, false),
            _ => continue,
        };
        if mounted.iter().any(|place| lies_below(&at.path, place)) {
            continue;
        }
        places.push((step, at));
        if mounts {
            mounted.push(&at.path);
        }
    }
    places
}

/// The first place that a directory does not have.
pub(super) fn lacking<'a>(root: &HostPath, content: &'a [Step]) -> Result<Option<&'a Inside>> {
    let failed = |Errno(errno)| Error::os(Layer::Mount, format!("root {root}"), errno);
    let root = open_without_links(&root.0).map_err(failed)?;
    let lacks = |(step, at): &(&Step, &Inside)| {
        let resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
        let there = sys::openat2(root.as_fd(), &at.path, libc::O_PATH, 0, resolve).is_ok();
        // A link is made, or found to be the same.
        !there || matches!(step, Step::Symlink { .. })
    };
    Ok(places(content).into_iter().find(lacks).map(|(_, at)| at))
}

/// Whether a stack of directories may lack a place: if a look at each of them does not show that it is there.
///
/// What shows it is a directory right below the root: marks of overlayfs could hide everything else.
pub(super) fn may_lack(layers: &[HostPath], content: &[Step]) -> Result<bool> {
    let failed = |Errno(errno)| Error::os(Layer::Mount, "root", errno);
    let layers: sys::Result<Vec<_>> = layers.iter().rev().map(|layer| open_without_links(&layer.0)).collect();
    let layers = layers.map_err(failed)?;
    let top = |at: &Inside| {
        let [[_, name]] = at.components.as_slice() else { return None };
        let open = |layer: &sys::Fd| {
            sys::openat2(layer.as_fd(), name, libc::O_PATH | libc::O_NOFOLLOW, 0, libc::RESOLVE_BENEATH).ok()
        };
        sys::fstat(layers.iter().find_map(open)?.as_fd()).ok()
    };
    let there = |(step, at): &(&Step, &Inside)| {
        at.kind == InsideKind::Dir && !matches!(step, Step::Symlink { .. }) && top(at).is_some_and(sys::Stat::is_dir)
    };
    Ok(!places(content).iter().all(there))
}

fn lies_below(path: &CStr, place: &CStr) -> bool {
    let rest = path.to_bytes().strip_prefix(place.to_bytes());
    rest.is_some_and(|rest| rest.first() == Some(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_inside_is_absolute_and_plain() {
        let at = inside("//a/./b//c", InsideKind::Dir).unwrap();
        assert_eq!(at.path.as_c_str(), c"/a/b/c");
        assert_eq!(at.components.last(), Some(&[c"/a/b".into(), c"c".into()]));
        for path in ["a", "", "/", "/..", "/a/../b", "/a\0b"] {
            assert!(inside(path, InsideKind::Dir).is_err(), "{path:?}");
        }
    }

    #[test]
    fn only_links_of_the_system_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink("/etc", dir.join("link")).unwrap();
        for path in [dir.join("link"), dir.join("link/passwd")] {
            let error = host_path(&path, "bind").unwrap_err();
            assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InvalidPolicy, Some(libc::ELOOP)));
            assert!(error.to_string().ends_with("link is a symbolic link"), "{error}");
        }
        let (path, kind) = host_path(Path::new("/dev/fd/../../bin"), "bind")
            .unwrap_or_else(|_| host_path(Path::new("/bin"), "bind").unwrap());
        assert_eq!(kind, HostKind::Dir);
        let real = std::fs::canonicalize("/bin").unwrap();
        assert_eq!(path.0.as_bytes(), real.as_os_str().as_bytes());
    }

    #[test]
    fn a_place_below_an_earlier_mount_is_not_missing() {
        assert!(lies_below(c"/a/b", c"/a"));
        assert!(!lies_below(c"/ab", c"/a"));
        assert!(!lies_below(c"/a", c"/a"));
    }
}
