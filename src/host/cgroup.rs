//! Control groups: which version, and whether a part of the tree is the caller's to divide.

use std::fs;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};

use super::finding::Finding;

/// What a limit for a whole sandbox needs.
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];

const DELEGATE: &str = "start this program with `systemd-run --user --scope -p Delegate=yes`, or from a unit with \
    `Delegate=yes`";

const UNIFY: &str = "boot with `systemd.unified_cgroup_hierarchy=1`";

/// The caller's place in the cgroup trees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    /// Where version 2 is mounted, if it is.
    unified: Option<PathBuf>,
    /// The caller's own directory there, if it can be reached.
    own: Option<PathBuf>,
    /// Whether there are controllers in trees of version 1.
    legacy: bool,
}

/// What of cgroups the caller can use, and its own directory if that is delegated to it.
pub(super) fn delegated() -> (Option<PathBuf>, Finding) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let place = Place::parse(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    let own = place.own.as_deref().filter(|own| is_delegated(own)).map(Path::to_owned);
    let finding = place.judge(own.as_deref());
    (own, finding)
}

/// Whether the caller may make groups below its own, and move processes into them: cgroups(7), *delegation*.
fn is_delegated(own: &Path) -> bool {
    let files = [own.to_owned(), own.join("cgroup.procs"), own.join("cgroup.subtree_control")];
    let writable = |path: &PathBuf| faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS);
    files.iter().all(|path| writable(path).is_ok())
}

impl Place {
    fn parse(cgroup: &str, mountinfo: &str) -> Self {
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

    fn judge(&self, delegated: Option<&Path>) -> Finding {
        let version = match (&self.unified, self.legacy) {
            (Some(_), false) => "version 2",
            (Some(_), true) => "hybrid, with controllers in version 1",
            (None, true) => return Finding::no("version 1").remedy(UNIFY),
            (None, false) => {
                return Finding::no("not mounted").remedy("as root, `mount -t cgroup2 none /sys/fs/cgroup`");
            }
        };
        let remedy = if self.legacy { UNIFY } else { DELEGATE };
        let Some(own) = delegated else {
            let own = self.own.as_deref().map_or("out of reach".into(), |own| own.display().to_string());
            let found = format!("{version}; the caller's own, {own}, is not delegated to it");
            return Finding::no(found).remedy(remedy);
        };
        let controllers = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
        let usable: Vec<_> =
            CONTROLLERS.into_iter().filter(|name| controllers.split_whitespace().any(|c| c == *name)).collect();
        let found = format!("{version}; {} is delegated, with ", own.display());
        match usable.as_slice() {
            [] => Finding::no(found + "no controller").remedy(remedy),
            usable => Finding::yes(found + &usable.join(", ")),
        }
    }
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
    fn the_versions_are_told_apart() {
        let says = |cgroup, mountinfo| Place::parse(cgroup, mountinfo).judge(None).to_string();
        assert!(says("0::/a\n", V2).starts_with("no   version 2; the caller's own, /sys/fs/cgroup/a, is not"));
        assert!(says("4:memory:/\n0::/\n", V2).starts_with("no   hybrid"));
        assert!(says("1:name=systemd:/\n0::/\n", V2).starts_with("no   version 2"));
        assert!(says("4:memory:/\n", "").starts_with("no   version 1;"));
        assert!(says("", "").starts_with("no   not mounted"));
    }

    #[test]
    fn delegation_is_of_controllers() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::parse("0::/\n", V2);
        assert!(!is_delegated(dir.path()), "there are no files of a cgroup");
        for file in ["cgroup.procs", "cgroup.subtree_control"] {
            fs::write(dir.path().join(file), "").unwrap();
        }
        assert!(is_delegated(dir.path()));
        assert!(!place.judge(Some(dir.path())).works());
        fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu memory pids\n").unwrap();
        let found = place.judge(Some(dir.path()));
        assert!(found.works() && found.to_string().ends_with("with cpu, memory, pids"), "{found}");
    }
}
