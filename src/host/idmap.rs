//! Whether the caller can map more ids than its own: newuidmap(1), newgidmap(1), and the ranges that they go by.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::denied::Status;
use super::finding::Finding;
use crate::layer::ids::subordinate_ranges;
use crate::spawn::{caller_names, find_helper};
use crate::sys;

/// The helpers and the ranges, by name.
pub(super) fn findings(root: bool) -> [(&'static str, Finding); 4] {
    let helpers = ["newuidmap", "newgidmap"].map(|name| (name, helper(name)));
    let ranges = [("subuid ranges", "/etc/subuid"), ("subgid ranges", "/etc/subgid")];
    let [uids, gids] = ranges.map(|(item, file)| (item, self::ranges(file)));
    let [newuidmap, newgidmap] = helpers;
    [newuidmap, newgidmap, uids, gids].map(|(item, finding)| match root {
        true => (item, Finding::unneeded("not needed: root writes any map itself")),
        false => (item, finding),
    })
}

/// Whether a helper is there, and has the privilege that it needs.
fn helper(name: &str) -> Finding {
    let Some(path) = find_helper(name) else {
        return Finding::no("not installed")
            .remedy("install the package uidmap (Debian, Ubuntu) or shadow-utils (Fedora)");
    };
    let shown = path.display();
    let Some(privilege) = privilege(&path) else {
        let remedy = format!("as root, `chmod u+s {shown}`, or install its package again");
        return Finding::no(format!("{shown} is neither set-user-ID root nor has file capabilities")).remedy(remedy);
    };
    if Status::read().no_new_privs() {
        let remedy = "start this program without no_new_privs (systemd: `NoNewPrivileges=no`)";
        return Finding::no(format!("{shown} has no effect under the no_new_privs of this process")).remedy(remedy);
    }
    Finding::yes(format!("{shown}, {privilege}"))
}

fn privilege(path: &Path) -> Option<&'static str> {
    let file = path.metadata().ok()?;
    if file.mode() & libc::S_ISUID != 0 && file.uid() == 0 {
        return Some("set-user-ID root");
    }
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    sys::xattr_size(&path, c"security.capability").ok().map(|_| "with file capabilities")
}

/// The ranges that a file like /etc/subuid gives to the caller.
fn ranges(file: &str) -> Finding {
    let names = caller_names();
    let Some(ranges) = subordinate_ranges(&names, Path::new(file)) else {
        return Finding::yes("kept elsewhere, as /etc/nsswitch.conf says: only the helper knows them");
    };
    let range = |(first, count): &(u32, u32)| format!("{count} from {first}");
    match ranges.as_slice() {
        [] => {
            let name = names.first().map_or("NAME", String::as_str);
            let remedy = format!("as root, add a line such as `{name}:100000:65536` to {file}");
            Finding::no(format!("{file} has none for {name}")).remedy(remedy)
        }
        ranges => Finding::yes(ranges.iter().map(range).collect::<Vec<_>>().join(", ")),
    }
}
