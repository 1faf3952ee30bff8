//! Privilege: the program has none, and can't gain any, but for what is kept by name.

use crate::error::{Error, Layer, Result};
use crate::plan::Step;
use crate::sys;

bitflags::bitflags! {
    /// Capabilities that the program keeps: see capabilities(7). The default is none.
    ///
    /// What is kept is in force over the sandbox's own namespaces: in its user namespace the program is privileged only
    /// there, and over ids that are mapped. Without [`Namespaces::USER`](crate::Namespaces::USER), which takes root, it is
    /// the host's own privilege. The default filter of system calls refuses many of the calls that capabilities
    /// are for, such as mount(2), and Landlock forbids mounting: allow them by name too.
    ///
    /// With `SYS_ADMIN` and no Landlock, a program that may call mount(2) can undo what is only a mount: write where a bind
    /// is read-only, and mount a /proc of which nothing is hidden. A caller who is root has files there that matter.
    ///
    /// # Kernel
    ///
    /// Capabilities that the kernel does not have make the start fail.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Capabilities: u64 {
        /// `CAP_CHOWN`.
        const CHOWN = 1 << 0;
        /// `CAP_DAC_OVERRIDE`.
        const DAC_OVERRIDE = 1 << 1;
        /// `CAP_DAC_READ_SEARCH`.
        const DAC_READ_SEARCH = 1 << 2;
        /// `CAP_FOWNER`.
        const FOWNER = 1 << 3;
        /// `CAP_FSETID`.
        const FSETID = 1 << 4;
        /// `CAP_KILL`.
        const KILL = 1 << 5;
        /// `CAP_SETGID`.
        const SETGID = 1 << 6;
        /// `CAP_SETUID`.
        const SETUID = 1 << 7;
        /// `CAP_SETPCAP`.
        const SETPCAP = 1 << 8;
        /// `CAP_LINUX_IMMUTABLE`.
        const LINUX_IMMUTABLE = 1 << 9;
        /// `CAP_NET_BIND_SERVICE`.
        const NET_BIND_SERVICE = 1 << 10;
        /// `CAP_NET_BROADCAST`.
        const NET_BROADCAST = 1 << 11;
        /// `CAP_NET_ADMIN`.
        const NET_ADMIN = 1 << 12;
        /// `CAP_NET_RAW`.
        const NET_RAW = 1 << 13;
        /// `CAP_IPC_LOCK`.
        const IPC_LOCK = 1 << 14;
        /// `CAP_IPC_OWNER`.
        const IPC_OWNER = 1 << 15;
        /// `CAP_SYS_MODULE`.
        const SYS_MODULE = 1 << 16;
        /// `CAP_SYS_RAWIO`.
        const SYS_RAWIO = 1 << 17;
        /// `CAP_SYS_CHROOT`.
        const SYS_CHROOT = 1 << 18;
        /// `CAP_SYS_PTRACE`.
        const SYS_PTRACE = 1 << 19;
        /// `CAP_SYS_PACCT`.
        const SYS_PACCT = 1 << 20;
        /// `CAP_SYS_ADMIN`.
        const SYS_ADMIN = 1 << 21;
        /// `CAP_SYS_BOOT`.
        const SYS_BOOT = 1 << 22;
        /// `CAP_SYS_NICE`.
        const SYS_NICE = 1 << 23;
        /// `CAP_SYS_RESOURCE`.
        const SYS_RESOURCE = 1 << 24;
        /// `CAP_SYS_TIME`.
        const SYS_TIME = 1 << 25;
        /// `CAP_SYS_TTY_CONFIG`.
        const SYS_TTY_CONFIG = 1 << 26;
        /// `CAP_MKNOD`.
        const MKNOD = 1 << 27;
        /// `CAP_LEASE`.
        const LEASE = 1 << 28;
        /// `CAP_AUDIT_WRITE`.
        const AUDIT_WRITE = 1 << 29;
        /// `CAP_AUDIT_CONTROL`.
        const AUDIT_CONTROL = 1 << 30;
        /// `CAP_SETFCAP`.
        const SETFCAP = 1 << 31;
        /// `CAP_MAC_OVERRIDE`.
        const MAC_OVERRIDE = 1 << 32;
        /// `CAP_MAC_ADMIN`.
        const MAC_ADMIN = 1 << 33;
        /// `CAP_SYSLOG`.
        const SYSLOG = 1 << 34;
        /// `CAP_WAKE_ALARM`.
        const WAKE_ALARM = 1 << 35;
        /// `CAP_BLOCK_SUSPEND`.
        const BLOCK_SUSPEND = 1 << 36;
        /// `CAP_AUDIT_READ`.
        const AUDIT_READ = 1 << 37;
        /// `CAP_PERFMON`.
        const PERFMON = 1 << 38;
        /// `CAP_BPF`.
        const BPF = 1 << 39;
        /// `CAP_CHECKPOINT_RESTORE`.
        const CHECKPOINT_RESTORE = 1 << 40;
    }
}

impl Capabilities {
    /// What the calling thread has and may pass on, its permitted set; of capabilities newer than this crate nothing. Without
    /// [`Namespaces::USER`](crate::Namespaces::USER) no more than that can be kept.
    pub fn permitted() -> Self {
        Self::from_bits_truncate(sys::permitted_capabilities().unwrap_or(0))
    }
}

/// All of capabilities(7), *The securebits flags*, set and locked, but for keeping capabilities over a change of
/// ids, which is locked as off: root inside is nobody special, and no capability can be made ambient.
pub(crate) const SECUREBITS: u64 = 0b1110_1111;

/// The bits that forbid ambient capabilities, which is how kept ones come through an exec.
const NO_AMBIENT: u64 = 0b1100_0000;

/// Settings that have to come before a change of ids.
pub(crate) fn lower_first(kept: Capabilities, privileged: bool, steps: &mut Vec<Step>) {
    let forbidden = if kept.is_empty() { 0 } else { NO_AMBIENT };
    if privileged {
        steps.push(Step::Securebits { bits: SECUREBITS & !forbidden });
    }
}

/// Limits what can be gained, for whoever is cloned later too. It takes nothing that is in force.
pub(crate) fn lower_bounding_set(kept: Capabilities, privileged: bool, steps: &mut Vec<Step>) {
    if privileged {
        steps.push(Step::BoundingSet { kept: kept.bits() });
    }
}

/// Drops every capability that is not kept from the other four sets. Without privilege there is none, and no_new_privs is
/// what holds.
pub(crate) fn lower(kept: Capabilities, privileged: bool, steps: &mut Vec<Step>) -> Result<()> {
    if !privileged && !kept.is_empty() {
        let cause = "there are none to keep: they need Namespaces::USER or root";
        return Err(Error::invalid(Layer::Capabilities, "capabilities", cause).with_errno(libc::EPERM));
    }
    let kept = kept.bits();
    if privileged {
        steps.push(Step::AmbientSet);
    }
    steps.push(Step::CapabilitySets { kept });
    if kept != 0 {
        steps.push(Step::RaiseAmbient { kept });
    }
    steps.push(Step::NoNewPrivs);
    Ok(())
}
