//! The filter of system calls: what the program tells of its attempts under it, and without it as a control.

use std::collections::BTreeMap;
use std::io::Read;

use belljar::{Cause, ErrorKind, Landlock, Layer, Output, Sandbox, Seccomp, Stdio, SyscallArg};

use crate::harness::{compile_static, host};
use crate::probe::Told;

const EPERM: i32 = libc::EPERM;
const ENOSYS: i32 = libc::ENOSYS;
const EAFNOSUPPORT: i32 = libc::EAFNOSUPPORT;

/// A sandbox in which nothing but the filter, namespaces and the lack of capabilities refuses anything.
fn with(seccomp: Option<Seccomp>) -> Sandbox {
    let program = compile_static("seccomp_probe", include_str!("seccomp_probe.c"));
    let sandbox = Sandbox::new().bind_ro(program, "/probe").landlock(Landlock::off());
    match seccomp {
        Some(seccomp) => sandbox.seccomp(seccomp),
        None => sandbox,
    }
}

/// For controls: nothing is refused, new user namespaces included.
fn nothing_refused() -> Sandbox {
    with(Some(Seccomp::off().allow(["unshare"])))
}

fn run(sandbox: &Sandbox, args: &[&str]) -> Output {
    sandbox.command("/probe").args(args).output().unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

fn told(sandbox: &Sandbox, args: &[&str]) -> Told {
    let output = run(sandbox, args);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.outcome.success(), "{args:?}: {:?}\n{told}", output.outcome);
    Told(told)
}

fn attempts(told: &Told) -> BTreeMap<&str, i32> {
    told.attempts().into_iter().collect()
}

/// Runs one set of attempts under the default filter, and without any as a control.
///
/// Each must fail with EPERM, or what `but` says; and must come to something else in the control, where the kernel is
/// reached, if it is not in `alike`, which lists what this kernel may refuse as well.
#[track_caller]
fn refused(set: &str, but: &[(&str, i32)], alike: &[&str]) {
    // Within a user namespace that maps nobody there can be no other.
    let control = if set == "namespaces" { vec![set] } else { vec![set, "capable"] };
    let (inside, control) = (told(&with(None), &[set]), told(&nothing_refused(), &control));
    let (inside, control) = (attempts(&inside), attempts(&control));
    assert!(inside.keys().eq(control.keys()), "{inside:?} {control:?}");
    for (name, errno) in inside {
        let expected = but.iter().find(|(known, _)| *known == name).map_or(EPERM, |(_, errno)| *errno);
        assert_eq!(errno, expected, "{name}");
        assert!(alike.contains(&name) || control[name] != errno, "{name}: {errno} without the filter too");
    }
}

#[test]
fn the_kernels_own_interfaces_are_refused() {
    // What takes a capability over the host itself, which not even the control has.
    let privileged = [
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "delete_module",
        "reboot",
        "swapon",
        "swapoff",
        "acct",
        "syslog",
        "open_by_handle_at",
        // Where the administrator has switched them off, or the kernel is built without them.
        "bpf",
        "userfaultfd",
        "fanotify_init",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
    ];
    let io_uring = ["io_uring_setup", "io_uring_enter", "io_uring_register"].map(|name| (name, ENOSYS));
    refused("kernel", &io_uring, &privileged);
    // The control has reached keyrings, performance events and personalities; here it is said of io_uring, where it is.
    let control = told(&nothing_refused(), &["kernel"]);
    assert_eq!(control.errno("keyctl"), 0);
    assert_eq!(control.errno("personality"), 0);
    assert_eq!(control.errno("perf_event_open"), libc::EFAULT);
    if std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|value| value.trim() == "0") {
        assert_eq!(control.errno("io_uring_setup"), libc::EFAULT);
        assert_eq!(control.errno("io_uring_enter"), libc::EBADF);
    }
}

#[test]
fn the_mount_family_is_refused() {
    refused("mounts", &[], &[]);
}

#[test]
fn namespaces_are_refused_by_every_call_that_makes_or_enters_them() {
    refused("namespaces", &[("clone3", ENOSYS)], &[]);
    // The control has made them; of what the kernel can't, `refused` would not know.
    let control = told(&nothing_refused(), &["namespaces"]);
    for name in ["unshare-user", "clone-user", "unshare-net", "clone-mnt", "clone-pid", "clone-upper", "clone3"] {
        assert_eq!(control.errno(name), 0, "{name}");
    }
    // The sandbox's own user namespace has no other below, whatever the filter: namespaces(7) has the error.
    let unfiltered = told(&with(Some(Seccomp::off())), &["namespaces"]);
    for name in ["unshare-user", "clone-user", "clone3"] {
        assert_eq!(unfiltered.errno(name), libc::ENOSPC, "{name}");
    }
    // Nested sandboxes are to be had by name.
    let seccomp = Seccomp::container().allow(["unshare", "clone", "clone3"]);
    let allowed = told(&with(Some(seccomp)), &["namespaces"]);
    assert_eq!(["unshare-user", "clone-user", "clone3", "setns"].map(|name| allowed.errno(name)), [0, 0, 0, EPERM]);
}

#[test]
fn other_processes_are_not_traced_read_or_compared() {
    refused("others", &[], &["kcmp"]);
    let control = told(&nothing_refused(), &["others"]);
    for name in ["process_vm_readv", "process_vm_writev", "pidfd_getfd", "ptrace"] {
        assert_eq!(control.errno(name), 0, "{name}");
    }
}

#[test]
fn a_program_that_asks_its_parent_to_trace_it_does_not_hang_the_host() {
    assert_eq!(told(&with(None), &["traceme"]).errno("traceme"), EPERM);
    // Allowed by name, the host is the parent that is asked; it is still told of the end, and the true one.
    let output = run(&with(Some(Seccomp::container().allow(["ptrace"]))), &["traceme"]);
    assert!(output.outcome.success(), "{:?}", output.outcome);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "traceme 0\n");
}

#[test]
fn sockets_are_unix_inet_and_routing_netlink() {
    let (inside, control) = (told(&with(None), &["sockets"]), told(&nothing_refused(), &["sockets", "capable"]));
    for name in ["vsock", "packet", "alg", "uevent", "audit", "upper"] {
        assert_eq!(inside.errno(name), EAFNOSUPPORT, "{name}");
    }
    for name in ["unix", "inet", "route", "pair"] {
        assert_eq!(inside.errno(name), 0, "{name}");
    }
    assert_eq!(inside.errno("inet6"), control.errno("inet6"), "as the kernel is built");
    for name in ["packet", "uevent", "upper"] {
        assert_eq!(control.errno(name), 0, "{name}");
    }
}

#[test]
fn nothing_is_typed_into_a_terminal() {
    refused("terminal", &[("ioctl-other", libc::ENOTTY)], &["ioctl-other"]);
}

#[test]
fn what_is_newer_or_of_another_mode_is_not_there() {
    let (inside, control) = (told(&with(None), &["modes"]), told(&nothing_refused(), &["modes"]));
    assert_eq!(inside.one("newer"), "0");
    for name in ["minus", "most"] {
        assert_eq!(inside.errno(name), ENOSYS, "{name}");
    }
    if cfg!(target_arch = "x86_64") {
        assert_eq!(inside.errno("x32"), ENOSYS);
        // A kernel without 32-bit calls ends whoever makes one.
        match control.one("compat") {
            "0" => assert_eq!(inside.errno("compat"), ENOSYS),
            without => assert_eq!(inside.one("compat"), without),
        }
    }
}

#[test]
fn threads_and_processes_start_although_clone3_does_not() {
    let expected = "threads 0\nspawn 0\nspawned 0\nvfork 7\nfork 8\nunshare-files 0\nquery 0\n";
    assert_eq!(told(&with(None), &["starts"]).0, expected);
    assert_eq!(told(&nothing_refused(), &["starts"]).0, expected);
}

#[test]
fn programs_may_have_filters_of_their_own() {
    let expected = "nested 42\nnested-kill signal-31\nnotify 38\n";
    assert_eq!(told(&with(None), &["nested"]).0, expected);
    assert_eq!(told(&nothing_refused(), &["nested"]).0, expected);
    // Beside rules that kill too: the program has its own supervisor still.
    assert_eq!(told(&with(Some(Seccomp::container().kill(["umask"]))), &["nested"]).0, expected);
}

#[test]
fn a_call_whose_supervisor_is_killed_does_not_hang() {
    // Before the supervisor has taken the notification, and after.
    let expected = "pending 38\ntaken 38\n";
    for seccomp in [None, Some(Seccomp::off()), Some(Seccomp::container().kill(["umask"]))] {
        assert_eq!(told(&with(seccomp.clone()), &["supervised"]).0, expected, "{seccomp:?}");
    }
}

/// What the probe gets for one system call, by its number.
#[track_caller]
fn call(seccomp: Seccomp, number: i64, args: &[u64]) -> i32 {
    let words: Vec<_> = std::iter::once(number.to_string()).chain(args.iter().map(u64::to_string)).collect();
    let words: Vec<_> = std::iter::once("call").chain(words.iter().map(String::as_str)).collect();
    told(&with(Some(seccomp)), &words).errno("call")
}

#[test]
fn rules_deny_and_allow_by_name_and_by_argument_and_the_last_one_wins() {
    let umask = libc::SYS_umask;
    assert_eq!(call(Seccomp::container(), umask, &[0o22]), 0);
    assert_eq!(call(Seccomp::container().deny(["umask"]), umask, &[0o22]), EPERM);
    assert_eq!(call(Seccomp::off().deny(["umask"]), umask, &[0o22]), EPERM);
    assert_eq!(call(Seccomp::off().deny(["umask"]), libc::SYS_keyctl, &[0, -2_i64 as u64, 1]), 0);
    assert_eq!(call(Seccomp::container().deny(["umask"]).allow(["umask"]), umask, &[0o22]), 0);
    assert_eq!(call(Seccomp::container().allow(["umask"]).deny(["umask"]), umask, &[0o22]), EPERM);
    let only = |arg: SyscallArg| Seccomp::container().deny_if("umask", [arg]);
    for (arg, denied, allowed) in [
        (SyscallArg::eq(0, 5), 5, 6),
        (SyscallArg::ne(0, 5), 6, 5),
        (SyscallArg::ge(0, 5), 5, 4),
        (SyscallArg::gt(0, 5), 6, 5),
        (SyscallArg::le(0, 5), 5, 6),
        (SyscallArg::lt(0, 5), 4, 5),
        (SyscallArg::masked_eq(0, 0xff, 5), 1 << 32 | 5, 6),
        (SyscallArg::eq(0, 1 << 32 | 5), 1 << 32 | 5, 5),
    ] {
        assert_eq!(call(only(arg), umask, &[denied]), EPERM, "{arg:?}");
        assert_eq!(call(only(arg), umask, &[allowed]), 0, "{arg:?}");
    }
    let allowed = Seccomp::container().deny(["umask"]).allow_if("umask", [SyscallArg::eq(0, 5), SyscallArg::eq(1, 7)]);
    assert_eq!(call(allowed.clone(), umask, &[5, 7]), 0);
    assert_eq!(call(allowed, umask, &[5, 8]), EPERM);
    // What the default profile refuses can be had by name.
    let keyctl = Seccomp::container().allow(["keyctl"]);
    assert_eq!(call(keyctl, libc::SYS_keyctl, &[0, -2_i64 as u64, 1]), 0);
}

#[test]
fn a_filter_from_nothing_allows_what_is_named() {
    // What a static program of this libc starts and ends with.
    let needed = "execve brk arch_prctl set_tid_address set_robust_list rseq prlimit64 readlink readlinkat getrandom mprotect \
                  mmap munmap newfstatat fstat fcntl write exit_group uname";
    let arm = "arch_prctl readlink";
    let needed: Vec<_> = needed
        .split_whitespace()
        .filter(|name| cfg!(target_arch = "x86_64") || !arm.split(' ').any(|other| other == *name))
        .collect();
    let seccomp = Seccomp::new().allow(&needed);
    assert_eq!(call(seccomp.clone(), libc::SYS_umask, &[0o22]), EPERM);
    assert_eq!(call(seccomp.clone().allow(["umask"]), libc::SYS_umask, &[0o22]), 0);
    // It is found by its name, though the filter refuses to look at what is there.
    let mut named = with(Some(seccomp.clone())).command("probe");
    named.args(["call", &libc::SYS_umask.to_string(), "18"]).env("PATH", "/nowhere:/usr/bin:/");
    let output = named.output().unwrap();
    assert_eq!(output.outcome.code(), Some(0), "{output:?}");
    // Execution itself is to be allowed; the failure is told as any other.
    let error = with(Some(seccomp.deny(["execve"]))).command("/probe").spawn().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Exec, Some(EPERM)), "{error}");
    let error = with(Some(Seccomp::new())).command("/probe").spawn().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Exec, Some(EPERM)), "{error}");
}

#[test]
fn a_violation_that_kills_is_told_as_such_and_ends_everything() {
    let seccomp = Seccomp::container().kill(["umask"]);
    let words = ["call", &libc::SYS_umask.to_string(), "18"].map(str::to_owned);
    let words = words.each_ref().map(String::as_str);
    let output = run(&with(Some(seccomp.clone())), &words);
    assert_eq!(output.outcome.signal(), Some(libc::SIGSYS));
    assert_eq!(output.outcome.cause(), Cause::Syscall);
    assert!(output.stdout.is_empty());
    // The same by a filter that the program has brought, and nothing that it has left behind runs on.
    let mut child = with(None).command("/probe").arg("violate").stdout(Stdio::piped()).spawn().unwrap();
    let mut told_by_all = String::new();
    child.stdout.take().unwrap().read_to_string(&mut told_by_all).unwrap();
    assert_eq!((told_by_all.as_str(), child.wait().unwrap().cause()), ("left behind\n", Cause::Syscall));
    // In a grandchild the program goes on, and its parent is told.
    let words = ["grandchild", words[1], words[2]];
    assert_eq!(told(&with(Some(seccomp)), &words).one("grandchild"), "31");
    assert_eq!(told(&with(None), &words).one("grandchild"), "0");
}

/// A filter of raw instructions, by code, jumps and operand.
fn raw(instructions: &[(u16, u8, u8, u32)]) -> Vec<u8> {
    let bytes = |&(code, jt, jf, k): &(u16, u8, u8, u32)| {
        let [a, b] = code.to_ne_bytes();
        let [c, d, e, f] = k.to_ne_bytes();
        [a, b, jt, jf, c, d, e, f]
    };
    instructions.iter().flat_map(bytes).collect()
}

#[test]
fn raw_filters_are_installed_as_they_are_and_the_strictest_answer_counts() {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let allow = (RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);
    let answer =
        |number: i64, action: u32| raw(&[(LOAD, 0, 0, 0), (EQUAL, 0, 1, number as u32), (RETURN, 0, 0, action), allow]);
    let umask = answer(libc::SYS_umask, libc::SECCOMP_RET_ERRNO | 77);
    assert_eq!(call(Seccomp::off().bpf(umask.clone()), libc::SYS_umask, &[0o22]), 77);
    assert_eq!(call(Seccomp::off().bpf(umask.clone()), libc::SYS_keyctl, &[0, -2_i64 as u64, 1]), 0);
    // Beside the default, and beside each other.
    let both = Seccomp::container().bpf(umask).bpf(answer(libc::SYS_getuid, libc::SECCOMP_RET_ERRNO | 78));
    assert_eq!(call(both.clone(), libc::SYS_umask, &[0o22]), 77);
    assert_eq!(call(both.clone(), libc::SYS_getuid, &[]), 78);
    assert_eq!(call(both, libc::SYS_keyctl, &[0, -2_i64 as u64, 1]), EPERM);
    // As long as there may be.
    assert_eq!(call(Seccomp::off().bpf(raw(&[allow; 4096])), libc::SYS_umask, &[0o22]), 0);
    // What the kernel does not take is its error, and nothing has started.
    let error = with(Some(Seccomp::off().bpf(raw(&[(0xffff, 0, 0, 0), allow])))).command("/probe").spawn().unwrap_err();
    let told = (error.layer(), error.kind(), error.raw_os_error());
    assert_eq!(told, (Layer::Seccomp, ErrorKind::Os, Some(libc::EINVAL)), "{error}");
}

#[test]
fn filters_that_can_not_be_are_errors_before_anything_starts() {
    let allow = (0x06, 0, 0, libc::SECCOMP_RET_ALLOW);
    let twisted = SyscallArg::masked_eq(1, 0xff, 0x5412);
    for (seccomp, words) in [
        (Seccomp::container().deny(["opne"]), "no system call \"opne\""),
        (Seccomp::off().allow([""]), "no system call \"\""),
        (Seccomp::off().kill(["socketcall"]), "socketcall"),
        (Seccomp::container().deny_if("socket", [SyscallArg::eq(6, 1)]), "argument 6"),
        (Seccomp::container().allow_if("socket", [SyscallArg::eq(0, 1), SyscallArg::eq(255, 1)]), "argument 255"),
        (Seccomp::container().deny_if("socket", (0..1500).map(|n| SyscallArg::ne(0, n))), "1 to 4096"),
        (Seccomp::container().deny_if("ioctl", [twisted]), "never holds"),
        (Seccomp::off().bpf([]), "1 to 4096"),
        (Seccomp::off().bpf([6, 0, 0]), "8 bytes"),
        (Seccomp::container().bpf(vec![0; 8 * 2 + 7]), "8 bytes"),
        (Seccomp::off().bpf(raw(&[allow; 4097])), "1 to 4096"),
    ] {
        for error in [
            with(Some(seccomp.clone())).command("/probe").spawn().unwrap_err(),
            with(Some(seccomp.clone())).command("/probe").plan().unwrap_err(),
        ] {
            assert_eq!((error.layer(), error.kind()), (Layer::Seccomp, ErrorKind::InvalidPolicy), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
    // Conditions that are rules of their own are too many for the kernel, and not for us to say which count.
    let many = (0..1500).fold(Seccomp::container(), |all, n| all.deny_if("socket", [SyscallArg::eq(0, n)]));
    let error = with(Some(many)).command("/probe").spawn().unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InvalidPolicy, Some(libc::EINVAL)), "{error}");
}

#[test]
fn the_filter_is_the_last_step_before_the_program() {
    let plan = |seccomp: Option<Seccomp>| {
        let sandbox = seccomp.into_iter().fold(host(), Sandbox::seccomp);
        sandbox.command("true").plan().unwrap().to_string()
    };
    let words = |plan: &str| -> Vec<String> {
        let lines = plan.lines().filter_map(|line| line.strip_prefix("  "));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let default = words(&plan(None));
    let exec = default.iter().rposition(|line| line.starts_with("exec ")).unwrap();
    assert!(default[exec - 1].starts_with("seccomp filter of "), "{default:?}");
    assert_eq!(default.iter().filter(|line| line.starts_with("seccomp ")).count(), 1);
    assert!(default[..exec].iter().any(|line| line.contains("no_new_privs")), "{default:?}");
    // Raw ones before it, since it may refuse to install another.
    let raw = words(&plan(Some(Seccomp::container().bpf(vec![6, 0, 0, 0, 0, 0, 0xff, 0x7f]))));
    let exec = raw.iter().rposition(|line| line.starts_with("exec ")).unwrap();
    assert_eq!(raw[exec - 2], "seccomp filter of 1 instructions");
    assert_eq!(raw[exec - 1], default[default.iter().rposition(|line| line.starts_with("exec ")).unwrap() - 1]);
    assert!(!plan(Some(Seccomp::off())).contains("seccomp"));
}

#[cfg(feature = "oci")]
#[test]
fn a_container_engines_profile_is_in_force() {
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["umask"], "action": "SCMP_ACT_ERRNO", "errnoRet": 55,
         "args": [{"index": 0, "value": 255, "valueTwo": 18, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#;
    let seccomp = Seccomp::from_oci_json(profile).unwrap();
    assert_eq!(call(seccomp.clone(), libc::SYS_umask, &[1 << 32 | 18]), 55);
    assert_eq!(call(seccomp, libc::SYS_umask, &[19]), 0);
    let Ok(json) = std::fs::read_to_string("/usr/share/containers/seccomp.json") else {
        crate::skip!("golang-github-containers-common is not installed");
    };
    let sandbox = with(Some(Seccomp::from_oci_json(&json).unwrap()));
    let kernel = told(&sandbox, &["kernel"]);
    assert_eq!(["bpf", "userfaultfd", "swapon"].map(|name| kernel.errno(name)), [EPERM; 3]);
    assert_eq!(["io_uring_setup", "add_key"].map(|name| kernel.errno(name)), [ENOSYS; 2]);
    assert_eq!(kernel.errno("keyctl"), 0);
    assert_eq!(told(&sandbox, &["starts"]).errno("threads"), 0);
}
