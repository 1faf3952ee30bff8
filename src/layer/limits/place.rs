//! Where cgroups of version 2 are, and which of them are the caller's to divide.

use std::fs;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat, geteuid};

/// The caller's place in the cgroup trees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where version 2 is mounted, if it is.
    pub(crate) unified: Option<PathBuf>,
    /// The caller's own directory there, if it can be reached.
    pub(crate) own: Option<PathBuf>,
    /// Whether there are controllers in trees of version 1.
    pub(crate) legacy: bool,
}

/// A directory of cgroup version 2, which the caller may make groups in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    /// What groups in it can have.
    pub(crate) controllers: Vec<String>,
    /// What they have.
    pub(crate) enabled: Vec<String>,
}

impl Place {
    pub(crate) fn current() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"))
    }

    pub(crate) fn parse(cgroup: &str, mountinfo: &str) -> Self {
        let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"));
        // Named trees (systemd's) have no controller.
        let has_controller =
            |line: &str| line.split(':').nth(1).is_some_and(|names| !names.is_empty() && !names.starts_with("name="));
        let legacy = cgroup.lines().any(has_controller);
        let mount = mountinfo.lines().find_map(unified_mount);
        let own = mount.as_ref().zip(path).and_then(|((root, point), path)| {
            // A path that starts with "/.." is outside the caller's cgroup namespace.
            let below = Path::new(path).strip_prefix(root).ok().filter(|_| !path.starts_with("/.."))?;
            Some(point.join(below).components().collect())
        });
        Self { unified: mount.map(|(_, point)| point), own, legacy }
    }

    /// The directories that are delegated to the caller, the best last: its own, and the one that holds that.
    ///
    /// The kernel gives controllers only to groups in a directory without processes, and the caller is in its own: there it
    /// depends on what is enabled already. The one above is the caller's where a user owns it. Root owns everything, and so
    /// has to name what it may use.
    pub(crate) fn delegated(&self) -> Vec<Directory> {
        let above = self.own.as_deref().and_then(Path::parent).filter(|above| {
            let within = self.unified.as_deref().is_some_and(|mount| above.starts_with(mount));
            within && !geteuid().is_root() && Directory::is_empty(above)
        });
        let own = self.own.as_deref().filter(|own| is_delegated(own)).map(|own| {
            let directory = Directory::read(own);
            Directory { controllers: directory.enabled.clone(), ..directory }
        });
        let above = above.filter(|above| is_delegated(above)).map(Directory::read);
        own.into_iter().chain(above).collect()
    }
}

impl Directory {
    /// Tells what is in the files of a directory; what can't be read is not there.
    pub(crate) fn read(path: &Path) -> Self {
        let words = |file: &str| {
            let text = fs::read_to_string(path.join(file)).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect()
        };
        Self {
            path: path.to_owned(),
            controllers: words("cgroup.controllers"),
            enabled: words("cgroup.subtree_control"),
        }
    }

    pub(crate) fn can(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }

    fn is_empty(path: &Path) -> bool {
        fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|text| text.is_empty())
    }
}

/// Whether the caller may make groups in a directory, and move processes into them: cgroups(7), *delegation*.
pub(crate) fn is_delegated(path: &Path) -> bool {
    let files = [path.to_owned(), path.join("cgroup.procs"), path.join("cgroup.subtree_control")];
    let writable = |path: &PathBuf| faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS);
    files.iter().all(|path| writable(path).is_ok())
}

/// The root and the mount point, if a line of mountinfo is for cgroup version 2.
fn unified_mount(line: &str) -> Option<(PathBuf, PathBuf)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    (filesystem.split(' ').next() == Some("cgroup2")).then(|| (root.into(), point.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_own_directory_is_below_the_mount() {
        let place = Place::parse("0::/user.slice/a.scope\n", V2);
        assert_eq!(place.own.unwrap(), Path::new("/sys/fs/cgroup/user.slice/a.scope"));
        assert!(!place.legacy);
        let part = V2.replace("0:26 / ", "0:26 /user.slice ");
        let place = Place::parse("0::/user.slice/a.scope\n", &part);
        assert_eq!(place.own.unwrap(), Path::new("/sys/fs/cgroup/a.scope"));
        assert_eq!(Place::parse("0::/\n", V2).own.unwrap().as_os_str(), "/sys/fs/cgroup");
        for outside in ["0::/../b\n", "0::/system.slice\n"] {
            assert_eq!(Place::parse(outside, &part).own, None);
        }
    }

    #[test]
    fn delegation_is_of_the_files_and_controllers_are_told() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_delegated(dir.path()), "there are no files of a cgroup");
        for file in ["cgroup.procs", "cgroup.subtree_control"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        assert!(is_delegated(dir.path()));
        assert!(!Directory::read(dir.path()).can("memory"));
        fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu memory pids\n").unwrap();
        let directory = Directory::read(dir.path());
        assert!(directory.can("memory") && directory.can("pids") && !directory.can("io"));
        assert_eq!(directory.enabled, Vec::<String>::new());
    }
}
