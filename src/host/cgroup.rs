//! Control groups: which version, and whether a part of the tree is the caller's to divide.

use std::path::PathBuf;

use super::finding::Finding;
use crate::layer::limits::{AS_ROOT, DELEGATE, Directory, Place, UNIFY};

/// What a limit for a whole sandbox needs.
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// What of cgroups the caller can use, and the directory if one is delegated to it: the one with most controllers.
pub(super) fn delegated() -> (Option<PathBuf>, Finding) {
    let place = Place::current();
    let best = place.delegated().into_iter().max_by_key(|directory| usable(directory).len());
    let finding = judge(&place, best.as_ref());
    (best.map(|directory| directory.path), finding)
}

fn usable(directory: &Directory) -> Vec<&'static str> {
    CONTROLLERS.into_iter().filter(|name| directory.can(name)).collect()
}

fn judge(place: &Place, delegated: Option<&Directory>) -> Finding {
    let version = match (&place.unified, place.legacy) {
        (Some(_), false) => "version 2",
        (Some(_), true) => "hybrid, with controllers in version 1",
        (None, true) => return Finding::no("version 1").remedy(UNIFY),
        (None, false) => {
            return Finding::no("not mounted").remedy("as root, `mount -t cgroup2 none /sys/fs/cgroup`");
        }
    };
    let remedy = if place.legacy { UNIFY.to_owned() } else { format!("{DELEGATE}; or, {AS_ROOT}") };
    let Some(directory) = delegated else {
        let own = place.own.as_deref().map_or("out of reach".into(), |own| own.display().to_string());
        let found = format!("{version}; the caller's own, {own}, is not delegated to it");
        return Finding::no(found).remedy(remedy);
    };
    let found = format!("{version}; {} is the caller's, with ", directory.path.display());
    match usable(directory).as_slice() {
        [] => Finding::no(found + "no controller for groups below").remedy(remedy),
        usable => Finding::yes(found + &usable.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_versions_are_told_apart() {
        let says = |cgroup, mountinfo| judge(&Place::parse(cgroup, mountinfo), None).to_string();
        assert!(says("0::/a\n", V2).starts_with("no   version 2; the caller's own, /sys/fs/cgroup/a, is not"));
        assert!(says("0::/a\n", V2).contains("systemd-run --user --scope -p Delegate=yes"));
        assert!(says("4:memory:/\n0::/\n", V2).starts_with("no   hybrid"));
        assert!(says("1:name=systemd:/\n0::/\n", V2).starts_with("no   version 2"));
        assert!(says("4:memory:/\n", "").starts_with("no   version 1;"));
        assert!(says("", "").starts_with("no   not mounted"));
    }

    #[test]
    fn delegation_is_of_controllers() {
        let place = Place::parse("0::/\n", V2);
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let directory = |controllers: &[&str]| Directory {
            path: "/sys/fs/cgroup".into(),
            controllers: words(controllers),
            enabled: Vec::new(),
        };
        assert!(!judge(&place, Some(&directory(&["cpuset"]))).works());
        let found = judge(&place, Some(&directory(&["cpuset", "cpu", "memory", "pids"])));
        assert!(found.works() && found.to_string().ends_with("with cpu, memory, pids"), "{found}");
    }
}
