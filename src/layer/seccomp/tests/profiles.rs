//! Tests of profiles of container engines, Debian's against ours among them.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Seccomp, SyscallArg, bpf, resolve, table};
use super::machine::run;
use crate::error::ErrorKind;
use crate::sys::AUDIT_ARCH;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

/// What a filter answers, by name and arguments.
struct Filter(Vec<crate::sys::BpfInstruction>);

impl Filter {
    fn of(seccomp: &Seccomp) -> Self {
        Self(bpf::compile(&resolve(&seccomp.rules).unwrap(), seccomp.default.unwrap()))
    }

    fn answer(&self, name: &str, args: &[u64]) -> u32 {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        run(&self.0, AUDIT_ARCH, table::number(name).unwrap(), all)
    }
}

fn errno(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

/// A profile that allows but for these entries.
fn profile(syscalls: &str) -> String {
    format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "architectures": null, "syscalls": [{syscalls}]}}"#)
}

fn filter(syscalls: &str) -> Filter {
    Filter::of(&Seccomp::from_oci_json(&profile(syscalls)).unwrap())
}

/// Debian's golang-github-containers-common.
const DEBIAN: &str = "/usr/share/containers/seccomp.json";

/// Arguments of each sort that either filter looks at.
fn samples() -> impl Iterator<Item = [u64; 6]> {
    const FIRST: [u64; 25] = [
        0,
        1,
        2,
        3,
        8,
        10,
        16,
        17,
        38,
        40,
        0x80,
        0x8000,
        0x1001,
        0x1011,
        0x5005,
        0x2_0000,
        0x2_0008,
        0x4_0000,
        0x40_0000,
        0x1000_0000,
        0x003d_0f00,
        0xffff_ffff,
        1 << 32,
        1 << 32 | 8,
        u64::MAX,
    ];
    const SECOND: [u64; 5] = [0, 0x5401, 0x5412, 0x541c, 1 << 32 | 0x5412];
    const THIRD: [u64; 5] = [0, 1, 9, 15, 1 << 32];
    FIRST
        .into_iter()
        .flat_map(|a| SECOND.into_iter().flat_map(move |b| THIRD.into_iter().map(move |c| [a, b, c, 0, 0, 0])))
}

/// What becomes of a system call, as the table of differences has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Allowed,
    Eperm,
    Enosys,
    Einval,
    Eafnosupport,
}

use Answer::{Allowed, Eafnosupport, Einval, Enosys, Eperm};

impl Answer {
    fn of(answer: u32) -> Self {
        let answers = [
            (ALLOW, Allowed),
            (errno(libc::EPERM), Eperm),
            (errno(libc::ENOSYS), Enosys),
            (errno(libc::EINVAL), Einval),
            (errno(libc::EAFNOSUPPORT), Eafnosupport),
        ];
        answers.iter().find(|(known, _)| *known == answer).unwrap_or_else(|| panic!("{answer:#x}")).1
    }
}

/// Every difference: what we answer, what Debian's profile answers, for which system calls, and why.
const DIFFERENCES: [(Answer, Answer, &str, &str); 16] = [
    (
        Eperm,
        Allowed,
        "mount umount2 pivot_root fsopen fsconfig fsmount fspick move_mount mount_setattr open_tree setns",
        "engines leave them to capabilities, for containers that run engines; here no program mounts or enters anything",
    ),
    (Eperm, Enosys, "open_tree_attr", "one of the mount family, that the profile is older than"),
    (
        Eperm,
        Allowed,
        "clone unshare",
        "with the flags of namespaces alone: within a user namespace of its own a program reaches the kernel's root-only parts; \
         and with CLONE_PARENT: the child would be the host's",
    ),
    (Enosys, Allowed, "clone3", "it has the same flags in memory, where no filter sees them; libcs fall back to clone"),
    (Eperm, Allowed, "keyctl", "keyrings belong to the user, and not to the sandbox"),
    (Eperm, Enosys, "add_key request_key", "as keyctl; refused and not missing, which says why a program fails"),
    (
        Eperm,
        Allowed,
        "ptrace process_vm_readv process_vm_writev pidfd_getfd process_mrelease",
        "they read and steer processes of the same user; a program is a child of the host, which PTRACE_TRACEME would disturb",
    ),
    (Eperm, Allowed, "ioctl", "TIOCSTI and TIOCLINUX type on the caller's terminal, if the caller hands it in"),
    (
        Eafnosupport,
        Allowed,
        "socket socketpair",
        "families with much code that few use, and vsock, which no network namespace holds back",
    ),
    (Eafnosupport, Einval, "socket", "netlink's audit: another number for what programs take as: not there"),
    (Eperm, Enosys, "personality", "refused and not missing: the call is there, for the domains that are allowed"),
    (
        Allowed,
        Enosys,
        "personality",
        "the kernel takes 32 bits, and the profile compares 64: the upper half of the question for the domain is nothing",
    ),
    (
        Eperm,
        Allowed,
        "arch_prctl modify_ldt memfd_secret syslog reboot",
        "old modes of the processor, memory that the kernel can't see, the kernel's log, and the machine: nothing for a program",
    ),
    (Eperm, Enosys, "quotactl_fd", "as quotactl"),
    (
        Enosys,
        Eperm,
        "lookup_dcookie nfsservctl query_module uselib",
        "gone from the kernel: the number that a kernel without them gives",
    ),
    (
        Enosys,
        Allowed,
        "epoll_ctl_old epoll_wait_old get_thread_area set_thread_area",
        "the kernel has none of them either",
    ),
];

/// What we allow, and the profile does not.
const ALLOWED_BY_US: [(Answer, &str, &str); 3] = [
    (Eperm, "io_pgetevents", "io_getevents, which the profile allows, with a mask of signals"),
    (
        Enosys,
        "cachestat fchmodat2 file_getattr file_setattr futex_requeue futex_wait futex_waitv futex_wake getxattrat listmount \
         listxattrat lsm_get_self_attr lsm_list_modules lsm_set_self_attr map_shadow_stack mseal removexattrat setxattrat \
         statmount",
        "newer than the profile: what older calls do as well, to the program's own files, memory and mounts",
    ),
    (
        Enosys,
        "set_mempolicy_home_node uprobe uretprobe",
        "newer than the profile: memory of the program's own; and what the kernel itself has a program under a probe call",
    ),
];

#[test]
fn every_difference_from_debians_profile_is_listed_with_its_reason() {
    let Ok(json) = std::fs::read_to_string(DEBIAN) else {
        eprintln!("SKIPPED: {}: there is no {DEBIAN}", file!());
        assert!(std::env::var_os("BELLJAR_TEST_REQUIRE").is_none(), "skipped, and everything has to run");
        return;
    };
    let (ours, theirs) = (Filter::of(&Seccomp::container()), Filter::of(&Seccomp::from_oci_json(&json).unwrap()));
    let mut found = BTreeSet::new();
    for (name, _) in table::SYSCALLS {
        for args in samples() {
            found.insert((name, Answer::of(ours.answer(name, &args)), Answer::of(theirs.answer(name, &args))));
        }
    }
    let allowed = ALLOWED_BY_US.iter().map(|(theirs, names, why)| (Allowed, *theirs, *names, *why));
    let mut listed = BTreeMap::new();
    for (ours, theirs, names, why) in DIFFERENCES.into_iter().chain(allowed) {
        assert!(!why.is_empty());
        names.split_whitespace().for_each(|name| assert!(listed.insert((name, ours, theirs), why).is_none(), "{name}"));
    }
    found.retain(|(_, ours, theirs)| ours != theirs);
    let unlisted: Vec<_> = found.iter().filter(|difference| !listed.contains_key(*difference)).collect();
    assert!(unlisted.is_empty(), "{unlisted:?}");
    let gone: Vec<_> = listed.keys().filter(|key| table::number(key.0).is_some() && !found.contains(*key)).collect();
    assert!(gone.is_empty(), "listed, and there is no such difference: {gone:?}");
    // The profile itself is understood: its default, its rules by capability, and those by argument.
    assert_eq!(theirs.answer("request_key", &[]), errno(libc::ENOSYS));
    assert_eq!(theirs.answer("bpf", &[]), errno(libc::EPERM));
    assert_eq!(theirs.answer("socket", &[16, 3, 9]), errno(libc::EINVAL));
    assert_eq!(theirs.answer("socket", &[16, 3, 0]), ALLOW);
    assert_eq!(theirs.answer("personality", &[0x2_0008]), ALLOW);
}

#[test]
fn operators_are_those_of_libseccomp() {
    let numbers = [0, 1, 41, 42, 43, 1 << 32, (1 << 32) + 42, u64::MAX];
    type Holds = fn(u64, u64) -> bool;
    let operators: [(&str, Holds); 6] = [
        ("NE", |a, b| a != b),
        ("LT", |a, b| a < b),
        ("LE", |a, b| a <= b),
        ("EQ", |a, b| a == b),
        ("GE", |a, b| a >= b),
        ("GT", |a, b| a > b),
    ];
    for (operator, holds) in operators {
        for value in numbers {
            let args = format!(r#"[{{"index": 1, "value": {value}, "op": "SCMP_CMP_{operator}"}}]"#);
            let entry = format!(r#"{{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7, "args": {args}}}"#);
            let filter = filter(&entry);
            for given in numbers {
                let expected = if holds(given, value) { errno(7) } else { ALLOW };
                assert_eq!(filter.answer("read", &[0, given]), expected, "{given} {operator} {value}");
            }
        }
    }
    // The mask first, then the value, which is masked too.
    let args = r#"[{"index": 0, "value": 240, "valueTwo": 66, "op": "SCMP_CMP_MASKED_EQ"}]"#;
    let filter = filter(&format!(r#"{{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": {args}}}"#));
    for (given, expected) in [(0x42, errno(1)), (0x4f, errno(1)), (0x1_0040, errno(1)), (0x52, ALLOW), (0, ALLOW)] {
        assert_eq!(filter.answer("read", &[given]), expected, "{given:#x}");
    }
}

#[test]
fn actions_are_those_of_the_kernel() {
    for (action, expected) in [
        (r#""SCMP_ACT_ERRNO""#, errno(1)),
        (r#""SCMP_ACT_ERRNO", "errnoRet": 38"#, errno(38)),
        (r#""SCMP_ACT_ERRNO", "errnoRet": 38, "errno": "ENOSYS""#, errno(38)),
        (r#""SCMP_ACT_KILL""#, libc::SECCOMP_RET_KILL_PROCESS),
        (r#""SCMP_ACT_KILL_THREAD""#, libc::SECCOMP_RET_KILL_PROCESS),
        (r#""SCMP_ACT_KILL_PROCESS""#, libc::SECCOMP_RET_KILL_PROCESS),
        (r#""SCMP_ACT_LOG""#, libc::SECCOMP_RET_LOG),
        (r#""SCMP_ACT_TRAP""#, libc::SECCOMP_RET_TRAP),
    ] {
        let filter = filter(&format!(r#"{{"names": ["read"], "action": {action}}}"#));
        assert_eq!(filter.answer("read", &[]), expected, "{action}");
        assert_eq!(filter.answer("write", &[]), ALLOW, "{action}");
        let default = format!(r#"{{"defaultAction": {}, "syscalls": null}}"#, action.replace("errno", "defaultErrno"));
        assert_eq!(Filter::of(&Seccomp::from_oci_json(&default).unwrap()).answer("read", &[]), expected, "{action}");
    }
}

#[test]
fn several_rules_for_one_call_come_to_what_libseccomp_makes_of_them() {
    let entry = |action: &str, rest: &str| format!(r#"{{"names": ["read"], "action": "SCMP_ACT_{action}"{rest}}}"#);
    let eq = |index: u8, value: u64| format!(r#"{{"index": {index}, "value": {value}, "op": "SCMP_CMP_EQ"}}"#);
    let when = |condition: &str| format!(r#", "args": [{condition}]"#);
    let answers = |entries: &[String], args: &[u64]| filter(&entries.join(", ")).answer("read", args);
    let (plain, other) = (entry("ERRNO", r#", "errnoRet": 5"#), entry("ERRNO", r#", "errnoRet": 6"#));
    let conditional = entry("KILL", &when(&eq(0, 1)));
    // The first without conditions, wherever it stands.
    assert_eq!(answers(&[conditional.clone(), plain.clone(), other.clone()], &[1]), errno(5));
    assert_eq!(answers(&[plain, conditional.clone(), other], &[1]), errno(5));
    // What does as the default does is ignored, with or without conditions.
    let allowed = entry("ALLOW", "");
    assert_eq!(answers(&[allowed, conditional.clone()], &[1]), libc::SECCOMP_RET_KILL_PROCESS);
    // The strictest of those whose conditions hold, in either order.
    let weaker = entry("ERRNO", &format!(r#", "errnoRet": 9{}"#, when(&eq(1, 2))));
    for entries in [[conditional.clone(), weaker.clone()], [weaker, conditional]] {
        assert_eq!(answers(&entries, &[1, 2]), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(answers(&entries, &[0, 2]), errno(9));
        assert_eq!(answers(&entries, &[1, 0]), libc::SECCOMP_RET_KILL_PROCESS);
        assert_eq!(answers(&entries, &[0, 0]), ALLOW);
    }
    // Conditions on several arguments hold together; two on one argument are alternatives.
    let both = [entry("ERRNO", &when(&format!("{}, {}", eq(0, 1), eq(1, 2))))];
    assert_eq!([[1, 2], [1, 0], [0, 2]].map(|args| answers(&both, &args)), [errno(1), ALLOW, ALLOW]);
    let either = [entry("ERRNO", &when(&format!("{}, {}", eq(0, 1), eq(0, 2))))];
    assert_eq!([[1], [2], [3]].map(|args| answers(&either, &args)), [errno(1), errno(1), ALLOW]);
}

#[test]
fn circumstances_are_those_of_a_program_without_capabilities_on_this_kernel() {
    let own = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    for (circumstances, applies) in [
        (r#""includes": {"caps": ["CAP_SYS_ADMIN"]}"#.to_owned(), false),
        (r#""excludes": {"caps": ["CAP_SYS_ADMIN"]}"#.to_owned(), true),
        (r#""includes": {}, "excludes": {"caps": null}"#.to_owned(), true),
        (format!(r#""includes": {{"arches": ["{own}", "x32"]}}"#), true),
        (r#""includes": {"arches": ["s390x"]}"#.to_owned(), false),
        (format!(r#""excludes": {{"arches": ["{own}"]}}"#), false),
        (r#""excludes": {"arches": ["s390x"]}"#.to_owned(), true),
        (r#""includes": {"minKernel": "4.8"}"#.to_owned(), true),
        (r#""includes": {"minKernel": "1000.0"}"#.to_owned(), false),
        (r#""excludes": {"minKernel": "4.8"}"#.to_owned(), false),
        (r#""excludes": {"minKernel": "1000.0"}"#.to_owned(), true),
    ] {
        let filter = filter(&format!(r#"{{"names": ["read"], "action": "SCMP_ACT_ERRNO", {circumstances}}}"#));
        assert_eq!(filter.answer("read", &[]) == errno(1), applies, "{circumstances}");
    }
}

#[test]
fn names_and_processors_that_are_others_are_left_out_and_rules_of_ones_own_win() {
    let entry = r#"{"name": "read", "names": ["socketcall", "write", "from_the_future"], "action": "SCMP_ACT_ERRNO"}"#;
    let theirs = Seccomp::from_oci_json(&profile(entry)).unwrap();
    let filter = Filter::of(&theirs.clone().allow(["read"]).deny_if("close", [SyscallArg::eq(0, 3)]));
    assert_eq!(filter.answer("read", &[]), ALLOW);
    assert_eq!(filter.answer("write", &[]), errno(1));
    assert_eq!(filter.answer("close", &[3]), errno(1));
    let of = |arches: &str| Seccomp::from_oci_json(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", {arches}}}"#));
    assert!(of(r#""architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_X86"]"#).is_ok());
    assert!(of(r#""archMap": []"#).is_ok());
    for others in [
        r#""architectures": ["SCMP_ARCH_S390X"]"#,
        r#""archMap": [{"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]}]"#,
    ] {
        assert_eq!(of(others).unwrap_err().kind(), ErrorKind::InvalidPolicy, "{others}");
    }
}

#[test]
fn what_is_not_understood_is_an_error() {
    let entry = |entry: &str| profile(&format!(r#"{{"names": ["read"], {entry}}}"#));
    let arg = |arg: &str| entry(&format!(r#""action": "SCMP_ACT_ERRNO", "args": [{arg}]"#));
    for (json, word) in [
        (String::new(), "EOF"),
        ("[]".to_owned(), "struct Profile"),
        ("{}".to_owned(), "defaultAction"),
        (r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#.to_owned(), "SCMP_ACT_MAYBE"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}"#.to_owned(), "sequence"),
        (entry(r#""args": []"#), "action"),
        (entry(r#""action": "SCMP_ACT_NOTIFY""#), "SCMP_ACT_NOTIFY"),
        (entry(r#""action": "SCMP_ACT_TRACE", "errnoRet": 1"#), "SCMP_ACT_TRACE"),
        (entry(r#""action": "SCMP_ACT_ERRNO", "errnoRet": 4096"#), "4095"),
        (entry(r#""action": "SCMP_ACT_ERRNO", "errno": "EPERM""#), "EPERM"),
        (entry(r#""action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "new"}"#), "new"),
        (arg(r#"{"index": 0, "value": 1, "op": "SCMP_CMP_LIKE"}"#), "SCMP_CMP_LIKE"),
        (arg(r#"{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}"#), "argument 6"),
        (arg(r#"{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}"#), "-1"),
        (arg(r#"{"index": 0, "op": "SCMP_CMP_EQ"}"#), "value"),
        // In a rule that does not apply here, or does as the default does, too.
        (entry(r#""action": "SCMP_ACT_ALLOW", "args": [{"index": 9, "value": 1, "op": "SCMP_CMP_EQ"}]"#), "argument 9"),
    ] {
        let error = Seccomp::from_oci_json(&json).expect_err(&json);
        assert_eq!(error.kind(), ErrorKind::InvalidPolicy, "{json}");
        assert!(error.to_string().contains(word), "{json}: {error}");
    }
}
