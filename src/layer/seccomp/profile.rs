//! The default filter: what is refused, and why.
//!
//! Everything that the table knows and that is not named here is allowed: it works on the program's own files, memory,
//! processes and sockets, or asks for a capability that the program does not have.

use super::{Action, Rule, SyscallArg, table};

const EPERM: Action = Action::Errno(libc::EPERM as u16);
const ENOSYS: Action = Action::Errno(libc::ENOSYS as u16);

/// What becomes of system calls that the table does not know: they are newer, and libcs then fall back to older ones.
pub(super) const UNKNOWN: Action = ENOSYS;

/// What is refused, whatever the arguments.
const REFUSED: [(&str, Action, &[&str]); 15] = [
    ("keyrings are shared with other processes of the user", EPERM, &["add_key", "keyctl", "request_key"]),
    ("code in the kernel", EPERM, &["bpf"]),
    ("measures other processes", EPERM, &["perf_event_open"]),
    ("lets one win races in the kernel", EPERM, &["userfaultfd"]),
    (
        "makes system calls that no filter sees; programs fall back",
        ENOSYS,
        &["io_uring_setup", "io_uring_enter", "io_uring_register"],
    ),
    (
        "the kernel and the machine",
        EPERM,
        &[
            "kexec_load",
            "kexec_file_load",
            "init_module",
            "finit_module",
            "delete_module",
            "reboot",
            "iopl",
            "ioperm",
            "swapon",
            "swapoff",
            "acct",
            "syslog",
            "quotactl",
            "quotactl_fd",
            "vhangup",
        ],
    ),
    (
        "mounts, which need capabilities that only a new user namespace gives",
        EPERM,
        &[
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "open_tree",
            "open_tree_attr",
            "move_mount",
            "mount_setattr",
        ],
    ),
    ("namespaces of others", EPERM, &["setns"]),
    (
        "traces, reads and steers other processes; and PTRACE_TRACEME would stop before the host",
        EPERM,
        &[
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "pidfd_getfd",
            "kcmp",
            "process_madvise",
            "process_mrelease",
        ],
    ),
    ("files by handles that outlive every restriction", EPERM, &["open_by_handle_at"]),
    ("watches other processes' files", EPERM, &["fanotify_init"]),
    ("clocks and names of the machine", EPERM, &["clock_settime", "settimeofday", "sethostname", "setdomainname"]),
    ("memory that the kernel can't see", EPERM, &["memfd_secret"]),
    (
        "obsolete, or needed by nobody, and a risk in the past",
        EPERM,
        &["modify_ldt", "ustat", "sysfs", "migrate_pages", "move_pages", "vmsplice"],
    ),
    (
        "numbers of what newer kernels have no more, or none has ever had",
        ENOSYS,
        &[
            "uselib",
            "_sysctl",
            "create_module",
            "get_kernel_syms",
            "query_module",
            "nfsservctl",
            "getpmsg",
            "putpmsg",
            "afs_syscall",
            "tuxcall",
            "security",
            "set_thread_area",
            "get_thread_area",
            "lookup_dcookie",
            "epoll_ctl_old",
            "epoll_wait_old",
            "vserver",
        ],
    ),
];

/// Flags of clone(2) and unshare(2) that make namespaces.
const NAMESPACES: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u64
    | libc::CLONE_NEWTIME as u64;

/// clone(2) takes the signal of the child's end in the bits that CLONE_NEWTIME is one of.
const CLONE_NAMESPACES: u64 = NAMESPACES & !(libc::CLONE_NEWTIME as u64);

/// Makes a child of the host's, which the host would have to reap, and get the signal for.
const CLONE_PARENT: u64 = libc::CLONE_PARENT as u64;

/// The kernel takes these arguments as 32 bits.
const LOW: u64 = 0xffff_ffff;

/// What types input that the caller's shell would read: TIOCSTI, and the pasting of TIOCLINUX.
const TYPING: [u64; 2] = [0x5412, 0x541c];

/// Execution domains: PER_LINUX and PER_LINUX32, each also with UNAME26, and the question for the current one. None of them
/// weakens the program's memory as ADDR_NO_RANDOMIZE and READ_IMPLIES_EXEC do.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, LOW];

/// What arch_prctl(2) is needed for: thread pointers (ARCH_SET_GS to ARCH_GET_GS), AMX (ARCH_GET_XCOMP_SUPP to
/// ARCH_REQ_XCOMP_PERM), and what dynamic linkers do about shadow stacks (ARCH_CET_STATUS; ARCH_SHSTK_ENABLE, DISABLE for a
/// library without, LOCK, STATUS).
#[cfg(target_arch = "x86_64")]
const ARCH_PRCTL: [u64; 12] =
    [0x1001, 0x1002, 0x1003, 0x1004, 0x1021, 0x1022, 0x1023, 0x3001, 0x5001, 0x5002, 0x5003, 0x5005];

/// Sockets of these families: Unix, IPv4, IPv6.
const FAMILIES: [i32; 3] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];

/// The rules of the default filter.
pub(super) fn rules() -> Vec<Rule> {
    let rule = |name: &str, args: &[SyscallArg], action| Rule {
        name: name.to_owned(),
        args: args.to_vec(),
        action,
        lenient: true,
    };
    let mut rules: Vec<Rule> = table::SYSCALLS.iter().map(|(name, _)| rule(name, &[], Action::Allow)).collect();
    for (_, action, names) in REFUSED {
        rules.extend(names.iter().map(|name| rule(name, &[], action)));
    }
    // No new namespaces: inside one, a program has every capability over a kernel that was not built for that. The
    // flags of clone3 lie in memory, where a filter can't look: ENOSYS has libcs fall back to clone.
    rules.push(rule("clone", &[], EPERM));
    rules.push(rule("clone", &[SyscallArg::masked_eq(0, CLONE_NAMESPACES | CLONE_PARENT, 0)], Action::Allow));
    rules.push(rule("clone3", &[], ENOSYS));
    rules.push(rule("unshare", &[], EPERM));
    rules.push(rule("unshare", &[SyscallArg::masked_eq(0, NAMESPACES, 0)], Action::Allow));
    for request in TYPING {
        rules.push(rule("ioctl", &[SyscallArg::masked_eq(1, LOW, request)], EPERM));
    }
    rules.push(rule("personality", &[], EPERM));
    for domain in PERSONALITIES {
        rules.push(rule("personality", &[SyscallArg::masked_eq(0, LOW, domain)], Action::Allow));
    }
    for name in ["socket", "socketpair"] {
        // vsock reaches the hypervisor, packet every frame, alg the kernel's ciphers. The number is the one of a kernel
        // without the family, on which programs go on.
        rules.push(rule(name, &[], Action::Errno(libc::EAFNOSUPPORT as u16)));
        for family in FAMILIES {
            rules.push(rule(name, &[SyscallArg::masked_eq(0, LOW, family as u64)], Action::Allow));
        }
    }
    let route = [
        SyscallArg::masked_eq(0, LOW, libc::AF_NETLINK as u64),
        SyscallArg::masked_eq(2, LOW, libc::NETLINK_ROUTE as u64),
    ];
    rules.push(rule("socket", &route, Action::Allow));
    #[cfg(target_arch = "x86_64")]
    {
        rules.push(rule("arch_prctl", &[], EPERM));
        let code = |code| [SyscallArg::masked_eq(0, LOW, code)];
        rules.extend(ARCH_PRCTL.map(|number| rule("arch_prctl", &code(number), Action::Allow)));
    }
    rules
}
