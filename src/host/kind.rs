//! The kinds of namespaces, as the kernel names them.

use std::fs;
use std::path::Path;

use crate::layer::namespaces::Namespaces;

/// One kind of namespace.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) flag: Namespaces,
    /// What `Namespaces` calls it.
    pub(super) name: &'static str,
    /// What /proc calls it.
    pub(super) proc_name: &'static str,
    /// The option that the kernel is built with.
    pub(super) config: &'static str,
}

const fn kind(flag: Namespaces, name: &'static str, proc_name: &'static str, config: &'static str) -> Kind {
    Kind { flag, name, proc_name, config }
}

/// Every kind; the user namespace first, since the others depend on it.
pub(super) static KINDS: [Kind; 8] = [
    kind(Namespaces::USER, "user", "user", "CONFIG_USER_NS"),
    kind(Namespaces::MOUNT, "mount", "mnt", "CONFIG_NAMESPACES"),
    kind(Namespaces::PID, "pid", "pid", "CONFIG_PID_NS"),
    kind(Namespaces::NET, "net", "net", "CONFIG_NET_NS"),
    kind(Namespaces::IPC, "ipc", "ipc", "CONFIG_IPC_NS"),
    kind(Namespaces::UTS, "uts", "uts", "CONFIG_UTS_NS"),
    kind(Namespaces::CGROUP, "cgroup", "cgroup", "CONFIG_CGROUPS"),
    kind(Namespaces::TIME, "time", "time", "CONFIG_TIME_NS"),
];

impl Kind {
    /// How many of them one user may have, as the caller's user namespace says: namespaces(7).
    pub(super) fn limit(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/sys/user/max_{}_namespaces", self.proc_name)).ok()?;
        text.trim().parse().ok()
    }

    /// Whether the kernel is built without them. Where there is no /proc, that can't be known.
    pub(super) fn is_missing(&self) -> bool {
        let dir = Path::new("/proc/self/ns");
        dir.is_dir() && fs::symlink_metadata(dir.join(self.proc_name)).is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_there_once() {
        let all: Namespaces = KINDS.iter().map(|kind| kind.flag).collect();
        assert_eq!(all, Namespaces::all());
        assert!(!KINDS[0].is_missing() && KINDS[0].limit().is_some());
    }
}
