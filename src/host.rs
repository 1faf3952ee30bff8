//! What this host can do for a sandbox, and the remedy where it can't.
//!
//! Some hosts forbid user namespaces, which everything without root rests on: containers do by a seccomp filter,
//! Ubuntu by AppArmor, others by a sysctl. [`probe`] tells before a sandbox fails for it, and says what helps.

mod cgroup;
mod denied;
mod finding;
mod idmap;
mod kernel;
mod kind;
mod trial;

use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) use denied::{Refused, why_denied};

use crate::layer::ids::Caller;
use crate::layer::namespaces::Namespaces;
use finding::Finding;
use kind::KINDS;

/// Looks at what this host gives to the calling thread.
///
/// What can be tried is tried: each kind of namespace, an overlay and a new /proc are made by a short-lived process
/// of their own, with the very steps that a sandbox takes. The calling process is not changed, and nothing is left
/// over. It takes some milliseconds. The answers are for this thread, now: as another user, in a container or under
/// a seccomp filter they may be others.
///
/// # Examples
///
/// ```
/// use belljar::{Namespaces, host};
///
/// let probe = host::probe();
/// println!("{probe}");
/// if !probe.namespaces().contains(Namespaces::USER | Namespaces::MOUNT) {
///     eprintln!("no root file system of its own on this host: the table says why");
/// }
/// ```
pub fn probe() -> Probe {
    let root = Caller::current().privileged();
    let mut table = Vec::new();
    let mut add = |item: String, finding: Finding| {
        let works = finding.works();
        table.push((item, finding));
        works
    };
    let (kernel, finding) = kernel::release();
    add("kernel".into(), finding);

    let user = trial::namespaces(Namespaces::USER);
    let base = trial::Base::new(user.works(), root);
    let mut namespaces = Namespaces::empty();
    for kind in &KINDS {
        let finding = if kind.flag == Namespaces::USER { user.clone() } else { base.namespaces(kind.flag) };
        if add(format!("{} namespace", kind.name), finding) {
            namespaces |= kind.flag;
        }
    }
    let id_ranges = idmap::findings(root).map(|(item, finding)| add(item.into(), finding)).iter().all(|works| *works);
    let overlay = add("overlay".into(), base.overlay());
    let fresh_proc = add("new /proc".into(), base.proc());

    let (landlock_abi, finding) = kernel::landlock();
    add("Landlock".into(), finding);
    let seccomp = add("seccomp filters".into(), kernel::seccomp());
    add("clone3".into(), kernel::clone3());
    let (cgroup, finding) = cgroup::delegated();
    add("cgroup".into(), finding);
    Probe { kernel, namespaces, id_ranges, overlay, fresh_proc, landlock_abi, seccomp, cgroup, table }
}

/// What [`probe`] has found. Printed, it is a table for a person: a line for each item, with what helps where
/// something is missing.
///
/// The words of the table may change in any release; a program asks the methods.
#[derive(Clone, Debug)]
pub struct Probe {
    kernel: String,
    namespaces: Namespaces,
    id_ranges: bool,
    overlay: bool,
    fresh_proc: bool,
    landlock_abi: Option<u32>,
    seccomp: bool,
    cgroup: Option<PathBuf>,
    table: Vec<(String, Finding)>,
}

impl Probe {
    /// The release of the kernel, as `uname -r` prints it. This crate is made for Linux 5.15 and later.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// The namespaces that a sandbox of this caller can have, together with a user namespace where that is among them.
    pub fn namespaces(&self) -> Namespaces {
        self.namespaces
    }

    /// Whether the caller can map other ids than its own: it is root, or has newuidmap(1), newgidmap(1), and ranges
    /// in `/etc/subuid` and `/etc/subgid`.
    pub fn id_ranges(&self) -> bool {
        self.id_ranges
    }

    /// Whether a sandbox can mount an overlay.
    pub fn overlay(&self) -> bool {
        self.overlay
    }

    /// Whether a sandbox can mount a /proc of its own. In a container that masks parts of /proc the kernel forbids it,
    /// since a new one would show them.
    pub fn fresh_proc(&self) -> bool {
        self.fresh_proc
    }

    /// The version of the Landlock interface, from 1 on. None if the kernel is built without Landlock, or has it
    /// switched off.
    pub fn landlock_abi(&self) -> Option<u32> {
        self.landlock_abi
    }

    /// Whether the kernel has seccomp filters.
    pub fn seccomp(&self) -> bool {
        self.seccomp
    }

    /// The caller's own directory in the tree of cgroup version 2, if the caller may make groups in it. Its file
    /// `cgroup.controllers` names what can be limited there.
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_deref()
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.table.iter().map(|(item, _)| item.len()).max().unwrap_or_default();
        for (index, (item, finding)) in self.table.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{item:<width$}  {finding}")?;
        }
        Ok(())
    }
}
