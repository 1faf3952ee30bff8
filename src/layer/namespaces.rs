//! Namespaces: which ones the sandbox has of its own, and what is set in them.

mod join;

use std::ffi::CString;

use crate::error::{Error, Layer, Result};
use crate::plan::Step;
pub(crate) use join::{Join, Joined, enter};

bitflags::bitflags! {
    /// The namespaces that a sandbox has of its own: see namespaces(7). [`Sandbox::join`](crate::Sandbox::join) takes others'.
    ///
    /// The default is every one but [`TIME`](Namespaces::TIME). Leaving one out weakens the sandbox, and is visible
    /// where it is written: `Namespaces::all() - Namespaces::NET`. Sets that can't work are refused when a command
    /// is started, for example a root file system without [`MOUNT`](Namespaces::MOUNT).
    ///
    /// # Kernel
    ///
    /// All of them are in Linux 5.6 and later. Without root, every other namespace needs
    /// [`USER`](Namespaces::USER), which some hosts forbid: see [`host::probe`](crate::host::probe).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Namespaces: u32 {
        /// User and group ids, and capabilities: user_namespaces(7). Inside, no other can be made, with or without a filter
        /// of system calls, unless [`Seccomp`](crate::Seccomp) allows `clone`, `clone3` or `unshare` by name.
        const USER = libc::CLONE_NEWUSER as u32;
        /// The mount table, and with it the root file system: mount_namespaces(7).
        const MOUNT = libc::CLONE_NEWNS as u32;
        /// Process ids: pid_namespaces(7). Without it there is no init that ends what the program leaves behind,
        /// and no /proc inside; and a process that the program has left behind to trace it can keep
        /// [`Child::wait`](crate::Child::wait) from returning.
        const PID = libc::CLONE_NEWPID as u32;
        /// Network interfaces, addresses and abstract sockets: network_namespaces(7).
        const NET = libc::CLONE_NEWNET as u32;
        /// System V IPC and POSIX message queues: ipc_namespaces(7).
        const IPC = libc::CLONE_NEWIPC as u32;
        /// Host and domain name: uts_namespaces(7).
        const UTS = libc::CLONE_NEWUTS as u32;
        /// The view of the cgroup tree: cgroup_namespaces(7).
        const CGROUP = libc::CLONE_NEWCGROUP as u32;
        /// The monotonic and boot-time clocks: time_namespaces(7). On request only: it isolates nothing by itself,
        /// and on Linux 6.1 and earlier it makes the start of the program cost as much as a fork of the host.
        const TIME = libc::CLONE_NEWTIME as u32;
    }
}

impl Default for Namespaces {
    /// Every namespace but [`TIME`](Namespaces::TIME).
    fn default() -> Self {
        Namespaces::all() - Namespaces::TIME
    }
}

/// The host name inside, unless the policy has another.
const HOSTNAME: &str = "belljar";

/// The longest host name that the kernel takes: `__NEW_UTS_LEN`.
const HOSTNAME_MAX: usize = 64;

/// The steps of the UTS namespace.
pub(crate) fn lower_names(namespaces: Namespaces, hostname: Option<&str>, steps: &mut Vec<Step>) -> Result<()> {
    let invalid = |cause: &str| Error::invalid(Layer::Namespaces, "sethostname", cause);
    if !namespaces.contains(Namespaces::UTS) {
        return match hostname {
            None => Ok(()),
            Some(_) => Err(invalid("a host name needs Namespaces::UTS: without it, the host's would be changed")),
        };
    }
    let name = hostname.unwrap_or(HOSTNAME);
    if name.is_empty() || name.len() > HOSTNAME_MAX {
        return Err(invalid("the host name must have 1 to 64 bytes").with_errno(libc::EINVAL));
    }
    if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid("the host name must be printable ASCII without spaces"));
    }
    let name = CString::new(name).map_err(|_| invalid("the host name has a zero byte"))?;
    steps.extend([Step::Hostname { name }, Step::Domainname]);
    Ok(())
}

/// Refuses sets that no kernel gives to this caller.
pub(crate) fn check(namespaces: Namespaces, privileged: bool) -> Result<()> {
    if privileged || namespaces.is_empty() || namespaces.contains(Namespaces::USER) {
        return Ok(());
    }
    let cause = "namespaces without Namespaces::USER need root";
    Err(Error::invalid(Layer::Namespaces, "clone", cause).with_errno(libc::EPERM))
}
