//! Finds a file in stacked layers: the one that their overlay would show, without a mount.

use std::ffi::{CString, OsStr};
use std::fs::{File, FileType, Metadata};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::sys::{self, Errno, Result};

/// How many links are followed: as many as by the kernel, in path_resolution(7).
const LINKS_MAX: usize = 40;

/// A directory: what the layers have of it, the uppermost first.
type Dir = Vec<OwnedFd>;

/// What a name stands for in a directory.
enum Found {
    Nothing,
    Dir(Dir),
    Link(Vec<u8>),
    /// Open to be read, if it is a regular file.
    Other(OwnedFd),
}

/// How many directories are open at once, where a path is deeper than those of real images: `/nix/store/NAME/etc`.
const OPEN_MAX: usize = 256;
const SHALLOW: usize = 4;

/// Opens a file below the layers, the uppermost first. Links lead to what is in them, and nowhere else.
///
/// What is found may be no regular file, and then it can't be read.
pub(super) fn open(layers: &[impl AsFd], path: &str) -> Result<Option<OwnedFd>> {
    let root = layers.iter().map(|layer| layer.as_fd().try_clone_to_owned().map_err(number));
    let mut dir: Dir = root.collect::<Result<_>>()?;
    let mut above: Vec<Dir> = Vec::new();
    let mut names = names(path.as_bytes());
    let mut links = 0;
    while let Some(name) = names.pop() {
        if name == b".." {
            dir = above.pop().unwrap_or(dir);
            continue;
        }
        match look(&dir, &name)? {
            Found::Nothing => return Ok(None),
            // Each has a descriptor for each layer, and the host has other uses for them.
            Found::Dir(_) if above.len() >= SHALLOW && (above.len() + 2) * layers.len() > OPEN_MAX => {
                return Err(Errno(libc::ELOOP));
            }
            Found::Dir(below) => above.push(std::mem::replace(&mut dir, below)),
            Found::Other(file) if names.is_empty() => return Ok(Some(file)),
            Found::Other(_) => return Ok(None),
            Found::Link(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno(libc::ELOOP));
                }
                if target.starts_with(b"/") && !above.is_empty() {
                    dir = above.swap_remove(0);
                    above.clear();
                }
                names.extend(self::names(&target));
            }
        }
    }
    Ok(dir.into_iter().next())
}

/// The names in a path, the last one first.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(<[u8]>::to_vec).collect()
}

fn look(dir: &Dir, name: &[u8]) -> Result<Found> {
    let name = CString::new(name).map_err(|_| Errno(libc::EINVAL))?;
    let mut parts = Dir::new();
    for part in dir {
        let open = |flags| {
            let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
            sys::openat2(part.as_fd(), &name, flags | libc::O_NOFOLLOW, 0, resolve).map(OwnedFd::from)
        };
        let found = match open(libc::O_PATH) {
            Err(Errno(libc::ENOENT)) => continue,
            found => File::from(found?),
        };
        let metadata = found.metadata().map_err(number)?;
        match metadata.file_type() {
            kind if kind.is_dir() => {
                let last = is_opaque(&found);
                parts.push(found.into());
                if last {
                    break;
                }
            }
            // A directory above hides it.
            _ if !parts.is_empty() => break,
            kind if is_whiteout(kind, &metadata) => return Ok(Found::Nothing),
            kind if kind.is_symlink() => {
                let target = nix::fcntl::readlinkat(&found, OsStr::new("")).map_err(|errno| Errno(errno as i32))?;
                return Ok(Found::Link(target.as_bytes().to_vec()));
            }
            // Nothing else is opened: a device may mind.
            kind if kind.is_file() => return open(libc::O_RDONLY | libc::O_NONBLOCK).map(Found::Other),
            _ => return Ok(Found::Other(found.into())),
        }
    }
    Ok(if parts.is_empty() { Found::Nothing } else { Found::Dir(parts) })
}

/// Whether nothing of the layers below a directory is to be seen.
fn is_opaque(dir: &File) -> bool {
    // A descriptor with O_PATH has no attributes but by its name.
    let path = CString::new(format!("/proc/self/fd/{}", dir.as_raw_fd())).unwrap_or_default();
    sys::xattr_size(&path, c"user.overlay.opaque").is_ok()
}

/// Whether something is the mark of a file that is removed: a device 0/0, which has no driver.
fn is_whiteout(kind: FileType, metadata: &Metadata) -> bool {
    kind.is_char_device() && metadata.rdev() == 0
}

fn number(error: std::io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    /// What is in the file, if there is one.
    fn content(layers: &[&Path]) -> Option<String> {
        let layers: Vec<_> = layers.iter().map(|layer| File::open(layer).unwrap()).collect();
        let mut text = String::new();
        File::from(open(&layers, "etc/passwd").unwrap()?).read_to_string(&mut text).unwrap();
        Some(text)
    }

    fn layer(dir: &Path, name: &str) -> std::path::PathBuf {
        let layer = dir.join(name);
        fs::create_dir_all(layer.join("etc")).unwrap();
        layer
    }

    #[test]
    fn it_finds_what_an_overlay_shows() {
        let dir = tempfile::tempdir().unwrap();
        let [upper, lower] = ["upper", "lower"].map(|name| layer(dir.path(), name));
        assert_eq!(content(&[&upper, &lower]), None);
        fs::write(lower.join("etc/passwd"), "lower").unwrap();
        assert_eq!(content(&[&upper, &lower]).as_deref(), Some("lower"));
        // A link of the upper one to what only the lower one has, and back.
        fs::create_dir_all(lower.join("store/etc")).unwrap();
        fs::write(lower.join("store/etc/passwd"), "stored").unwrap();
        symlink("../../../store/./etc/passwd", upper.join("etc/passwd")).unwrap();
        assert_eq!(content(&[&upper, &lower]).as_deref(), Some("stored"));
        fs::remove_file(upper.join("etc/passwd")).unwrap();
        symlink("/etc/passwd", upper.join("etc/passwd")).unwrap();
        let files = [&upper, &lower].map(|layer| File::open(layer).unwrap());
        assert_eq!(open(&files, "etc/passwd").unwrap_err(), Errno(libc::ELOOP));
        // A whole directory that is another.
        fs::remove_dir_all(upper.join("etc")).unwrap();
        symlink("/store/etc", upper.join("etc")).unwrap();
        assert_eq!(content(&[&upper, &lower]).as_deref(), Some("stored"));
        // A file in the place of a directory hides it.
        fs::remove_file(upper.join("etc")).unwrap();
        fs::write(upper.join("etc"), "").unwrap();
        assert_eq!(content(&[&upper, &lower]), None);
    }

    #[test]
    fn a_deep_path_does_not_take_the_hosts_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let layer = layer(dir.path(), "layer");
        for (depth, found) in [(100, true), (300, false)] {
            let deep = vec!["d"; depth].join("/");
            fs::create_dir_all(layer.join(&deep)).unwrap();
            fs::write(layer.join(&deep).join("passwd"), "deep").unwrap();
            let _ = fs::remove_file(layer.join("etc/passwd"));
            symlink(format!("/{deep}/passwd"), layer.join("etc/passwd")).unwrap();
            let opened = open(&[File::open(&layer).unwrap()], "etc/passwd");
            assert_eq!(opened.map(|file| file.is_some()), if found { Ok(true) } else { Err(Errno(libc::ELOOP)) });
        }
    }

    #[test]
    fn it_does_not_find_what_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let [upper, lower] = ["upper", "lower"].map(|name| layer(dir.path(), name));
        fs::write(lower.join("etc/passwd"), "lower").unwrap();
        let opaque = c"user.overlay.opaque";
        let path = CString::new(upper.join("etc").as_os_str().as_bytes()).unwrap();
        #[allow(unsafe_code)]
        // SAFETY: All are strings that end in a zero byte, or have the length that is given.
        let set = unsafe { libc::setxattr(path.as_ptr(), opaque.as_ptr(), c"y".as_ptr().cast(), 1, 0) };
        if set != 0 {
            let why = std::io::Error::last_os_error();
            eprintln!("SKIPPED: no attributes here: {why}");
            assert!(std::env::var_os("BELLJAR_TEST_REQUIRE").is_none(), "skipped, and everything has to run: {why}");
            return;
        }
        assert_eq!(content(&[&upper, &lower]), None);
        fs::write(upper.join("etc/passwd"), "upper").unwrap();
        assert_eq!(content(&[&upper, &lower]).as_deref(), Some("upper"));
    }
}
