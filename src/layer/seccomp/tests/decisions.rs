//! What the default filter decides, by the machine that the kernel has for it: every system call, every mode.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::super::bpf::TOO_LARGE;
use super::super::{Seccomp, SyscallArg, bpf, resolve, table};
use super::machine::{constant, longest_path, run};
use crate::sys::{AUDIT_ARCH, BpfInstruction};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

fn errno(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

fn compiled(seccomp: &Seccomp) -> Vec<BpfInstruction> {
    bpf::compile(&resolve(&seccomp.rules).unwrap(), seccomp.default.unwrap())
}

/// What the default decides of a system call, by its name and first arguments.
fn decides(program: &[BpfInstruction], name: &str, args: &[u64]) -> u32 {
    let number = table::number(name).unwrap_or_else(|| panic!("{name}"));
    let mut all = [0x1234_5678_9abc_def0; 6];
    all[..args.len()].copy_from_slice(args);
    run(program, AUDIT_ARCH, number, all)
}

/// System calls that are refused whatever the arguments, with the error number that programs get.
const REFUSED: [(i32, &str); 2] = [
    (
        libc::EPERM,
        "add_key keyctl request_key bpf perf_event_open userfaultfd kexec_load kexec_file_load init_module finit_module \
         delete_module reboot iopl ioperm swapon swapoff acct syslog quotactl quotactl_fd vhangup mount umount2 pivot_root \
         chroot fsopen fsconfig fsmount fspick open_tree open_tree_attr move_mount mount_setattr setns ptrace \
         process_vm_readv process_vm_writev pidfd_getfd kcmp process_madvise process_mrelease open_by_handle_at \
         fanotify_init clock_settime settimeofday sethostname setdomainname memfd_secret modify_ldt ustat sysfs \
         migrate_pages move_pages vmsplice",
    ),
    (
        libc::ENOSYS,
        "io_uring_setup io_uring_enter io_uring_register clone3 uselib _sysctl create_module get_kernel_syms query_module \
         nfsservctl getpmsg putpmsg afs_syscall tuxcall security set_thread_area get_thread_area lookup_dcookie \
         epoll_ctl_old epoll_wait_old vserver",
    ),
];

/// What other processors lack of them.
const ONLY_X86: &str = "iopl ioperm modify_ldt ustat sysfs uselib _sysctl create_module get_kernel_syms query_module getpmsg \
                        putpmsg afs_syscall tuxcall security set_thread_area get_thread_area epoll_ctl_old epoll_wait_old vserver";

/// System calls whose arguments decide.
const BY_ARGUMENT: [&str; 7] = ["clone", "unshare", "ioctl", "personality", "socket", "socketpair", "arch_prctl"];

/// What libcs, older and newer, start programs and threads with.
const NEEDED: &str = "read write close mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn execve execveat \
    exit exit_group wait4 waitid kill tgkill futex futex_waitv futex_wake futex_wait futex_requeue rseq set_robust_list \
    get_robust_list set_tid_address statx newfstatat fstat faccessat faccessat2 fchmodat fchmodat2 renameat renameat2 \
    openat openat2 close_range map_shadow_stack mseal getrandom membarrier prlimit64 getrlimit setrlimit sched_getaffinity \
    sched_setaffinity clock_gettime clock_nanosleep pidfd_open pidfd_send_signal epoll_pwait2 copy_file_range \
    memfd_create preadv2 pwritev2 pkey_alloc pkey_mprotect pkey_free mlock2 seccomp prctl landlock_create_ruleset \
    landlock_add_rule landlock_restrict_self cachestat getcpu sync_file_range file_getattr file_setattr setxattrat \
    getxattrat listxattrat removexattrat statmount listmount restart_syscall mbind get_mempolicy";

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace()
}

/// Arguments that look like anything: zeros, ones, flags of namespaces, small numbers.
fn samples() -> Vec<[u64; 6]> {
    let mut samples: Vec<_> =
        [0, 1, 2, 16, 0x11, 0x5412, 0x1000_0000, 0xffff_ffff, 1 << 32, u64::MAX].map(|n| [n; 6]).into();
    samples.push([3, 0x5401, 7, 0, 0, 0]);
    samples
}

#[test]
fn every_system_call_of_the_table_is_decided_as_it_is_listed_here() {
    let program = compiled(&Seccomp::container());
    let mut refused = BTreeMap::new();
    for (errno, names) in REFUSED {
        refused.extend(words(names).map(|name| (name, errno)));
    }
    for (name, number) in table::SYSCALLS {
        if BY_ARGUMENT.contains(&name) {
            assert_eq!(constant(&program, AUDIT_ARCH, number), None, "{name}");
            continue;
        }
        let expected = refused.get(name).map_or(ALLOW, |number| errno(*number));
        for args in samples() {
            assert_eq!(run(&program, AUDIT_ARCH, number, args), expected, "{name} {args:x?}");
        }
        assert_eq!(constant(&program, AUDIT_ARCH, number), Some(expected), "{name}");
    }
    // A name that is written wrong would refuse nothing.
    let only_x86: BTreeSet<_> = words(ONLY_X86).collect();
    for name in refused.keys().copied().chain(words(NEEDED)) {
        let known = table::number(name).is_some();
        assert!(known || (!cfg!(target_arch = "x86_64") && only_x86.contains(name)), "{name}");
    }
}

#[test]
fn what_libcs_need_is_allowed() {
    let program = compiled(&Seccomp::container());
    for name in words(NEEDED) {
        assert_eq!(decides(&program, name, &[]), ALLOW, "{name}");
    }
}

#[test]
fn arguments_decide_where_flags_and_families_are_what_counts() {
    let program = compiled(&Seccomp::container());
    let high = 0xdead_beef_u64 << 32;
    let eperm = errno(libc::EPERM);
    let flags = |flags: i32| u64::from(flags as u32);
    // Threads, fork, vfork and posix_spawn.
    for allowed in [0x003d_0f00, flags(libc::SIGCHLD), 0x4111, 0x0120_0011] {
        assert_eq!(decides(&program, "clone", &[allowed]), ALLOW, "{allowed:x}");
    }
    let namespaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    for namespace in namespaces {
        for also in [0, flags(libc::SIGCHLD), high] {
            assert_eq!(decides(&program, "clone", &[flags(namespace) | also]), eperm, "{namespace:x}");
            assert_eq!(decides(&program, "unshare", &[flags(namespace) | also]), eperm, "{namespace:x}");
        }
    }
    assert_eq!(
        decides(&program, "clone", &[flags(libc::CLONE_PARENT | libc::SIGCHLD)]),
        eperm,
        "a child of the host's"
    );
    assert_eq!(decides(&program, "unshare", &[0x80]), eperm, "CLONE_NEWTIME");
    for allowed in [0, flags(libc::CLONE_FILES), flags(libc::CLONE_FS), flags(libc::CLONE_SYSVSEM)] {
        assert_eq!(decides(&program, "unshare", &[allowed]), ALLOW, "{allowed:x}");
    }
    for upper in [0, 1 << 32, high] {
        assert_eq!(decides(&program, "ioctl", &[0, 0x5412 | upper]), eperm, "TIOCSTI");
        assert_eq!(decides(&program, "ioctl", &[0, 0x541c | upper]), eperm, "TIOCLINUX");
        assert_eq!(decides(&program, "ioctl", &[0, 0x5401 | upper]), ALLOW, "TCGETS");
        for domain in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
            assert_eq!(decides(&program, "personality", &[domain | upper]), ALLOW, "{domain:x}");
        }
        for domain in [0x4_0000, 0x40_0000, 0x10_0000, 0x800_0000, 1, 6] {
            assert_eq!(decides(&program, "personality", &[domain | upper]), eperm, "{domain:x}");
        }
        for name in ["socket", "socketpair"] {
            for family in 0..64 {
                let expected = if [1, 2, 10].contains(&family) { ALLOW } else { errno(libc::EAFNOSUPPORT) };
                assert_eq!(decides(&program, name, &[family | upper, 1, 3]), expected, "{name} {family}");
            }
        }
        let netlink = |protocol: u64| decides(&program, "socket", &[16 | upper, 3, protocol | upper]);
        assert_eq!(netlink(0), ALLOW, "NETLINK_ROUTE");
        (1..32).for_each(|protocol| assert_eq!(netlink(protocol), errno(libc::EAFNOSUPPORT), "{protocol}"));
    }
    #[cfg(target_arch = "x86_64")]
    for code in (0x1000..0x6000).chain([0, high | 0x1001]) {
        let low = code & 0xffff_ffff;
        let needed = [0x1001..=0x1004, 0x1021..=0x1023, 0x3001..=0x3001, 0x5001..=0x5003, 0x5005..=0x5005];
        let expected = if needed.iter().any(|range| range.contains(&low)) { ALLOW } else { eperm };
        assert_eq!(decides(&program, "arch_prctl", &[code]), expected, "{code:x}");
    }
}

#[test]
fn what_is_newer_or_of_another_mode_is_not_there() {
    let enosys = errno(libc::ENOSYS);
    for seccomp in [Seccomp::container(), Seccomp::container().allow(["ptrace", "io_uring_setup"])] {
        let program = compiled(&seccomp);
        for args in samples() {
            for number in (470..=1100).chain([u32::MAX, u32::MAX - 1, i32::MAX as u32, TOO_LARGE - 1]) {
                assert_eq!(run(&program, AUDIT_ARCH, number, args), enosys, "{number}");
            }
            // x32: every number, which includes the denied ones; and the numbers that only that mode has.
            for number in 0..=1100 {
                assert_eq!(run(&program, AUDIT_ARCH, number | TOO_LARGE, args), enosys, "{number}");
            }
            // i386, Arm, and the other byte order.
            for arch in [0x4000_0003, 0x4000_0028, 0, u32::MAX, AUDIT_ARCH ^ 0x4000_0000, AUDIT_ARCH ^ 0x8000_0000] {
                (0..500).for_each(|number| assert_eq!(run(&program, arch, number, args), enosys, "{arch:x} {number}"));
            }
        }
    }
}

/// The kernel runs the filter for some 460 numbers when it is installed, as far as the first load of an argument, and
/// once for every call that is not always allowed.
#[test]
fn the_default_filter_is_short_and_shallow() {
    let program = compiled(&Seccomp::container());
    assert!(program.len() <= 140, "{} instructions", program.len());
    assert!(longest_path(&program) <= 26, "{} instructions on the longest path", longest_path(&program));
    // The longest path is through the list of arch_prctl's codes; what reads no argument is decided sooner.
    let tree =
        compiled(&Seccomp::container().allow(BY_ARGUMENT.into_iter().filter(|name| table::number(name).is_some())));
    assert!(longest_path(&tree) <= 14, "{} instructions on the longest path of the tree", longest_path(&tree));
}

#[test]
fn rules_that_say_something_else_than_they_seem_to_are_refused() {
    let refused = |seccomp: Seccomp| resolve(&seccomp.rules).unwrap_err();
    let error = refused(Seccomp::off().deny_if("ioctl", [SyscallArg::masked_eq(1, 0xff, 0x5412)]));
    assert!(error.to_string().contains("never holds"), "{error}");
}

/// A conditional jump goes 255 instructions far, and a rule may be longer.
#[test]
fn a_long_rule_looks_at_all_its_conditions() {
    // Each is the longest condition that there is.
    for wrong in 0..=6 {
        let conditions = (0..50).flat_map(|_| 0..6);
        let conditions = conditions.map(|n| SyscallArg { mask: !(1 << 33 | 1), ..SyscallArg::ge(n, 1 << 32 | 8) });
        let program = compiled(&Seccomp::off().deny_if("socket", conditions));
        let mut args = [1 << 32 | 8; 6];
        if wrong < 6 {
            args[wrong] = 1 << 32 | 7;
        }
        let expected = if wrong < 6 { ALLOW } else { errno(libc::EPERM) };
        assert_eq!(run(&program, AUDIT_ARCH, table::number("socket").unwrap(), args), expected);
    }
}

/// The numbers of a header, by name; some names are defined with a prefix that is not for the processor's own mode.
fn header(path: &Path) -> Option<BTreeMap<String, u32>> {
    let mut numbers = BTreeMap::new();
    for line in fs::read_to_string(path).ok()?.lines() {
        let Some(rest) = line.strip_prefix("#define __NR") else { continue };
        let (prefix, rest) = rest.split_once('_')?;
        if let (["" | "3264"], Some((name, number))) = ([prefix], rest.split_once(char::is_whitespace)) {
            numbers.extend(number.trim().parse().ok().map(|number| (name.to_owned(), number)));
        }
    }
    Some(numbers)
}

/// The kernel's headers for this processor, if they are here.
fn own_header() -> Option<BTreeMap<String, u32>> {
    if cfg!(target_arch = "x86_64") {
        let dirs = ["/usr/include/x86_64-linux-gnu/asm", "/usr/include/asm"];
        return dirs.iter().find_map(|dir| header(&Path::new(dir).join("unistd_64.h")));
    }
    let mut numbers = header(Path::new("/usr/include/asm-generic/unistd.h"))?;
    // Not this processor's: 32-bit times, and what stands for a range or for others.
    numbers.retain(|name, number| {
        !(403..=423).contains(number) && !["syscalls", "arch_specific_syscall"].contains(&&**name)
    });
    numbers.remove("sync_file_range2");
    let fstatat = numbers.remove("fstatat");
    numbers.extend(fstatat.map(|number| ("newfstatat".to_owned(), number)));
    Some(numbers)
}

#[test]
fn the_table_has_the_numbers_of_the_kernels_headers() {
    assert!(table::SYSCALLS.windows(2).all(|pair| pair[0].1 < pair[1].1), "sorted, and no number twice");
    let Some(numbers) = own_header() else {
        eprintln!("SKIPPED: {}: the kernel's headers are not here", file!());
        assert!(std::env::var_os("BELLJAR_TEST_REQUIRE").is_none(), "skipped, and everything has to run");
        return;
    };
    assert!(numbers.len() > 300, "{} system calls", numbers.len());
    for (name, number) in &numbers {
        // Headers that are newer than the table.
        if *number < 470 {
            assert_eq!(table::number(name), Some(*number), "{name}");
        }
    }
    for (name, number) in table::SYSCALLS {
        // The headers may be older than the table, from Linux 5.15 on.
        let newer = number > 448 || ["uretprobe", "uprobe"].contains(&name);
        assert!(newer || numbers.get(name) == Some(&number), "{name}");
    }
}
