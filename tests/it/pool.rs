//! Programs from a pool: what they get, see and may do is what an ordinary start gives, and two of them share nothing.

// A fixture is a group of calls on this process, and one comment says what makes them sound.
#![allow(clippy::multiple_unsafe_ops_per_block)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use belljar::{Cause, Command, Layer, Namespaces, Output, Pool, Rootfs, Sandbox, Seccomp, Stdio};

use crate::alone::alone;
use crate::harness::{compile_static, host, is_root, real, temp_dir, token};
use crate::probe::{self, Told};

/// A pool without a thread: what waits is what was built.
fn pool(sandbox: &Sandbox, size: usize) -> Pool {
    sandbox.prepare().unwrap().pool_by_hand(size).unwrap()
}

/// A command that has to be started by a parked sandbox: one is there before, and none after.
fn from_pool(sandbox: &Sandbox, set: impl FnOnce(&mut Command)) -> Output {
    let pool = pool(sandbox, 1);
    let mut command = pool.command("/probe");
    set(&mut command);
    let output = command.output().unwrap();
    assert_eq!(pool.ready(), 0, "it came from the pool");
    output
}

/// What a shell writes that a parked sandbox has started.
fn sh(sandbox: &Sandbox, script: &str) -> String {
    let pool = pool(sandbox, 1);
    let output = pool.command("sh").args(["-ec", script]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.outcome.success() && pool.ready() == 0, "{script}: {:?}\n{stderr}", output.outcome);
    String::from_utf8(output.stdout).unwrap()
}

fn with_probe(sandbox: &Sandbox) -> Sandbox {
    sandbox.clone().bind_ro(probe::program(), "/probe")
}

#[test]
fn a_program_gets_arguments_environment_and_directory() {
    let script = "pwd; printf '<%s>' \"$@\"; echo; env | sort";
    let set = |command: &mut Command| {
        let command = command.args(["-c", script, "sh", "one", "", "two words", "\u{fc}\n"]);
        command.env("NAME", "value").env_remove("HOME").current_dir("/usr/bin");
    };
    let (pool, sandbox) = (pool(&host(), 1), host());
    let mut pooled = pool.command("sh");
    set(&mut pooled);
    let mut plain = sandbox.command("sh");
    set(&mut plain);
    let (pooled, plain) = (pooled.output().unwrap(), plain.output().unwrap());
    assert_eq!(pool.ready(), 0);
    assert_eq!(String::from_utf8(pooled.stdout).unwrap(), String::from_utf8(plain.stdout).unwrap());
    assert_eq!(pooled.outcome.code(), Some(0));
    // No byte is special.
    let name: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(b"\xff\xfe".to_vec());
    let output = self::pool(&host(), 1).command("printf").arg("%s").arg(&name).output().unwrap();
    assert_eq!(output.stdout, b"\xff\xfe");
}

#[test]
fn every_end_is_told_as_it_is() {
    let sandbox = host();
    let pool = pool(&sandbox, 4);
    for (script, code, signal, cause) in [
        ("exit 0", Some(0), None, Cause::Exited),
        ("exit 255", Some(255), None, Cause::Exited),
        ("kill -TERM $$", None, Some(libc::SIGTERM), Cause::Signaled),
        ("kill -KILL $$", None, Some(libc::SIGKILL), Cause::Signaled),
    ] {
        let mut child = pool.command("sh").args(["-c", script]).spawn().unwrap();
        assert_eq!(child.report().to_string(), sandbox.command("true").spawn().unwrap().report().to_string());
        let outcome = child.wait().unwrap();
        assert_eq!((outcome.code(), outcome.signal(), outcome.cause()), (code, signal, cause), "{script}");
        assert!(outcome.usage().wall_time() > Duration::ZERO);
    }
    assert_eq!(pool.ready(), 0);
    pool.refill().unwrap();
    assert_eq!(pool.ready(), 4);
    let mut child = pool.command("sleep").arg("1000").spawn().unwrap();
    assert_eq!(child.try_wait().unwrap(), None);
    assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().cause(), Cause::Killed);
    let child = pool.command("sleep").arg("1000").spawn().unwrap();
    let pid = child.id();
    drop(child);
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "a drop reaps");
    let mut child = pool.command("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"to and fro").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"to and fro");
    assert_eq!(pool.ready(), 1);
}

#[test]
fn what_cannot_be_executed_is_the_same_error_as_without_a_pool() {
    let dir = temp_dir();
    let put = |name: &str, mode, content: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    put("plain", 0o644, b"#!/bin/sh\n");
    put("garbage", 0o755, b"\x01\x02\x03\x04");
    put("orphan", 0o755, b"#!/missing/interpreter\n");
    put("own", 0o755, b"#!/proc/self/exe\n");
    std::os::unix::fs::symlink("/proc/self/exe", dir.path().join("link")).unwrap();
    fs::create_dir(dir.path().join("later")).unwrap();
    put("later/orphan", 0o755, b"#!/bin/sh\nexit 0\n");
    let sandbox = host().bind_ro(real(dir.path()), "/bad");
    let pool = pool(&sandbox, 1);
    let same = |set: &dyn Fn(&mut Command), program: &str| {
        pool.refill().unwrap();
        let (mut pooled, mut plain) = (pool.command(program), sandbox.command(program));
        set(&mut pooled);
        set(&mut plain);
        let [pooled, plain] = [pooled, plain].map(|mut command| command.status().map_err(|error| error.to_string()));
        assert_eq!(pooled.as_ref().unwrap_err(), plain.as_ref().unwrap_err(), "{program}");
    };
    for program in ["/missing", "missing", "", "/bad/plain", "/bad/garbage", "/bad/orphan", "/bad", "/bad/own"] {
        same(&|_| (), program);
    }
    same(&|_| (), "/bad/link");
    same(&|_| (), "/proc/self/exe");
    same(
        &|command| {
            command.env("PATH", "/bad:/bad/later");
        },
        "orphan",
    );
    for directory in ["/missing", "/etc/passwd", "/proc/self/cwd", "relative", "/a\0b"] {
        same(
            &|command| {
                command.current_dir(directory);
            },
            "/bin/true",
        );
    }
    same(
        &|command| {
            command.arg("x".repeat(200_000));
        },
        "/bin/true",
    );
    same(
        &|command| {
            command.arg("a\0b");
        },
        "/bin/true",
    );
    same(
        &|command| {
            command.env("A=B", "");
        },
        "/bin/true",
    );
    same(
        &|command| {
            command.fd(2, File::open("/dev/null").unwrap());
        },
        "/bin/true",
    );
    // What comes first in PATH and can't be executed is passed over, as by a shell.
    put("later/plain", 0o755, b"#!/bin/sh\nexit 5\n");
    pool.refill().unwrap();
    let outcome = pool.command("plain").env("PATH", "/missing:/bad:/bad/later").status().unwrap();
    assert_eq!(outcome.code(), Some(5));
}

#[test]
fn an_argument_list_of_any_length_arrives() {
    let words: Vec<String> = (0..60).map(|number| format!("{number:>3000}")).collect();
    for count in [1, 20, 40, 53, 54, 60] {
        let pool = pool(&host(), 1);
        let output = pool.command("printf").arg("%s").args(&words[..count]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), words[..count].concat());
        assert_eq!(pool.ready(), usize::from(count > 53), "the longest go another way: {count}");
    }
}

/// The numbers that the probe sees open, by /proc and by trying each.
fn numbers(told: &Told) -> Vec<i32> {
    let mut tried: Vec<i32> = told.all("open").iter().map(|number| number.parse().unwrap()).collect();
    let listed = told.0.lines().filter(|line| !line.starts_with("open "));
    let mut listed: Vec<i32> = listed.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    tried.sort_unstable();
    listed.sort_unstable();
    assert_eq!(tried, listed);
    tried
}

#[test]
fn descriptors_arrive_under_their_numbers_and_nothing_else_does() {
    let dir = temp_dir();
    let open = |number: i32| -> OwnedFd {
        let path = dir.path().join(number.to_string());
        fs::write(&path, "").unwrap();
        File::open(path).unwrap().into()
    };
    let many: Vec<i32> = (3..80).collect();
    let lists: [&[i32]; 9] =
        [&[], &[3], &[9, 3, 4], &[5, 4, 3], &[100, 3], &[62, 63, 64], &[1000, 4, 100], &[1023], &many];
    for list in lists {
        let sandbox = with_probe(&Sandbox::new());
        let pool = pool(&sandbox, 1);
        let mut command = pool.command("/probe");
        command.arg("descriptors");
        list.iter().for_each(|number| {
            command.fd(*number, open(*number));
        });
        let output = command.output().unwrap();
        let told = Told(String::from_utf8(output.stdout).unwrap());
        let mut expected = [&[0, 1, 2], list].concat();
        expected.sort_unstable();
        assert_eq!(numbers(&told), expected, "{list:?}");
        for number in list {
            assert!(told.one(&number.to_string()).ends_with(&format!("/{number}")), "{list:?}: {told:?}");
        }
        assert!(pool.ready() == 0, "{list:?}");
    }
    // Beyond what a process inside can have, and more than one message carries: another way, the same result.
    // A host that may not have such a number itself can't give it to anybody.
    let high = std::fs::read_to_string("/proc/self/limits").unwrap();
    let high = high.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let limit: i32 = high.split_whitespace().next().unwrap().parse().unwrap();
    for list in [vec![5000.min(limit - 1)], (3..400).collect::<Vec<i32>>()] {
        let output = from_pool(&with_probe(&Sandbox::new()), |command| {
            command.arg("descriptors");
            list.iter().for_each(|number| {
                command.fd(*number, open(*number));
            });
        });
        let told = Told(String::from_utf8(output.stdout).unwrap());
        assert_eq!(numbers(&told).len(), list.len() + 3);
        assert!(told.one(&list[0].to_string()).ends_with(&format!("/{}", list[0])));
    }
}

#[test]
fn streams_are_what_they_are_set_to() {
    let dir = temp_dir();
    let path = dir.path().join("out");
    let both = File::create(&path).unwrap();
    let mut input = File::from(nix::sys::memfd::memfd_create(c"in", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap());
    input.write_all(b"of a file\n").unwrap();
    std::io::Seek::rewind(&mut input).unwrap();
    let pool = pool(&host(), 5);
    let mut command = pool.command("sh");
    let command =
        command.args(["-c", "cat; echo more >&2; cat <&7"]).stdin(input).fd(7, File::open("/dev/null").unwrap());
    let outcome = command.stdout(both.try_clone().unwrap()).stderr(both).status().unwrap();
    assert!(outcome.success());
    assert_eq!(fs::read_to_string(&path).unwrap(), "of a file\nmore\n");
    // The same command again, and all pipes; null in all places; one open file twice.
    let mut command = pool.command("sh");
    command.args(["-c", "cat; echo err >&2"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for text in ["first", "second"] {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.stdout, output.stderr), (text.into(), b"err\n".to_vec()));
    }
    let mut command = pool.command("sh");
    command.args(["-c", "test ! -t 0; read x || readlink /proc/self/fd/0 /proc/self/fd/2"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "/dev/null\n/dev/null\n");
    assert!(child.wait().unwrap().success());
    let (reader, writer) = crate::alone::pipe();
    let copy = writer.try_clone().unwrap();
    let script = "echo three >&3; echo four >&4; exec 3>&- 4>&-";
    pool.command("sh").args(["-c", script]).fd(3, writer).fd(4, copy).status().unwrap();
    assert_eq!(std::io::read_to_string(reader).unwrap(), "three\nfour\n");
    assert_eq!(pool.ready(), 0);
}

#[test]
fn a_host_without_standard_streams_gives_null_and_no_agents_socket() {
    alone("pool::a_host_without_standard_streams_gives_null_and_no_agents_socket", || {
        let sandbox = with_probe(&Sandbox::new());
        // SAFETY: This process writes nothing to standard input, and to the others when they are back.
        let kept = unsafe { [libc::dup(1), libc::dup(2), libc::close(0), libc::close(1), libc::close(2)] };
        let waiting = pool(&sandbox, 2);
        // Inherited streams, while another sandbox waits: its socket and pidfds must not be theirs.
        let mut child = waiting.command("/probe").arg("wait").spawn().unwrap();
        let open = |fd: i32| fs::read_link(format!("/proc/{}/fd/{fd}", child.id())).unwrap();
        let streams = [open(0), open(1), open(2)];
        let count = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count();
        child.kill().unwrap();
        child.wait().unwrap();
        let output = waiting.command("/probe").arg("descriptors").output().unwrap();
        // SAFETY: The numbers are free.
        unsafe { [libc::dup2(kept[0], 1), libc::dup2(kept[1], 2)] };
        assert_eq!((streams, count), ([(); 3].map(|()| PathBuf::from("/dev/null")), 3));
        assert_eq!(numbers(&Told(String::from_utf8(output.stdout).unwrap())), [0, 1, 2]);
    });
}

/// What does not depend on the process: everything but times, ids of processes, addresses and inode numbers.
const LOOK: &str = "
    grep -Ev '^(Vm|Rss|.*ctxt|Hugetlb|CoreDump|Cpus|Mems|Threads|SigQ|NSpid|N?S?p?Pid|PPid|Tgid|Ngid|NS)' /proc/self/status
    cat /proc/self/limits /proc/self/oom_score_adj /proc/self/timerslack_ns /proc/self/personality /proc/self/cgroup
    sed 's/^[0-9]* [0-9]* [0-9]*:[0-9]* //; s/size=[^,]*//; s/dir=[0-9:]*//g' /proc/self/mountinfo | sort
    umask; nice; hostname; id; env | sort; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups
    cat /proc/sys/user/max_user_namespaces; set -- /proc/[0-9]*; echo $#; ls -l / /dev | cut -c1-10
    cut -d' ' -f4-8 /proc/self/stat; ls -A /proc/self/task | wc -l";

#[test]
fn a_program_sees_what_it_sees_without_a_pool() {
    let named = Seccomp::container().deny(["kcmp"]);
    let allowing = Seccomp::container().allow(["unshare"]);
    let mut policies = vec![host(), host().hostname("box"), host().seccomp(named), host().seccomp(allowing)];
    policies.extend([host().seccomp(Seccomp::off()), host().user(0, 0), host().network(belljar::Network::Loopback)]);
    policies.extend(crate::harness::in_memory(Rootfs::host()).map(|root| Sandbox::new().rootfs(root)));
    for sandbox in policies {
        let plain = crate::harness::sh(&sandbox, LOOK);
        let pooled = sh(&sandbox, LOOK);
        for (pooled, plain) in pooled.lines().zip(plain.lines()) {
            assert_eq!(pooled, plain, "{sandbox:?}");
        }
        assert_eq!(pooled.lines().count(), plain.lines().count());
        assert!(pooled.contains("NoNewPrivs:\t1") && pooled.contains("CapBnd:"), "{pooled}");
        let [plain, pooled] = [sandbox.command("true"), pool(&sandbox, 1).command("true")]
            .map(|mut command| command.spawn().unwrap().report().to_string());
        assert_eq!(pooled, plain);
    }
}

#[test]
fn a_program_is_born_the_same_and_is_refused_the_same() {
    let sandbox = with_probe(&Sandbox::new());
    for what in ["state", "ids", "trace-child"] {
        let plain = sandbox.command("/probe").arg(what).output().unwrap();
        let pooled = from_pool(&sandbox, |command| {
            command.arg(what);
        });
        assert_eq!(String::from_utf8_lossy(&pooled.stdout), String::from_utf8_lossy(&plain.stdout), "{what}");
        assert!(!pooled.stdout.is_empty());
    }
    // Landlock is in force: nothing above a bind that is read-only can be written, whatever the mounts say.
    let dir = temp_dir();
    fs::write(dir.path().join("file"), "").unwrap();
    let sandbox =
        host().bind(real(dir.path()), "/out").landlock(belljar::Landlock::new().allow_read("/").allow_execute("/"));
    assert_eq!(sh(&sandbox, "if (echo x >/out/file); then echo written; else echo denied; fi"), "denied\n");
    let allowed = sandbox.landlock(belljar::Landlock::off());
    assert_eq!(sh(&allowed, "if (echo x >/out/file); then echo written; else echo denied; fi"), "written\n");
}

#[test]
fn namespaces_are_those_of_no_other() {
    let pool = pool(&host(), 2);
    let script = "for ns in user mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$ns; done";
    let run = || String::from_utf8(pool.command("sh").args(["-c", script]).output().unwrap().stdout).unwrap();
    let (first, second) = (run(), run());
    let outside = std::process::Command::new("sh").args(["-c", script]).output().unwrap();
    let outside = String::from_utf8(outside.stdout).unwrap();
    for lines in first.lines().zip(second.lines()).zip(outside.lines()) {
        let ((first, second), outside) = lines;
        assert!(first != second && first != outside && second != outside, "{lines:?}");
    }
    assert_eq!(first.lines().count(), 7);
}

/// A static program that tries each system call that its arguments name, and exits with the number of those refused.
fn caller() -> PathBuf {
    compile_static(
        "caller",
        r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <stdlib.h>
        #include <unistd.h>
        #include <sys/syscall.h>
        int main(int argc, char **argv) {
            int refused = 0;
            for (int i = 1; i < argc; i++) {
                errno = 0;
                syscall(atoi(argv[i]), -1, 0, 0, 0, 0, 0);
                refused += errno == EPERM;
            }
            syscall(SYS_exit_group, refused);
        }
        "#,
    )
}

#[test]
fn a_filter_of_the_callers_own_binds_the_program_and_not_the_agent() {
    let agents = ["recvmsg", "sendto", "dup3", "openat2", "fchdir", "close", "seccomp", "mmap"];
    let numbers = [libc::SYS_recvmsg, libc::SYS_sendto, libc::SYS_dup3, libc::SYS_openat2].map(|nr| nr.to_string());
    let sandbox = Sandbox::new().bind_ro(caller(), "/caller");
    let run = |seccomp: Seccomp| {
        let pool = pool(&sandbox.clone().seccomp(seccomp), 1);
        let mut command = pool.command("/caller");
        let output =
            command.args(&numbers).fd(3, File::open("/dev/null").unwrap()).current_dir("/tmp").output().unwrap();
        assert_eq!(pool.ready(), 0);
        output.outcome
    };
    assert_eq!(run(Seccomp::off()).code(), Some(0), "the control");
    assert_eq!(run(Seccomp::container().deny(agents)).code(), Some(4));
    assert_eq!(run(Seccomp::off().deny(agents)).code(), Some(4));
    let needed =
        ["execve", "exit_group", "brk", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "readlinkat"];
    let needed = needed.into_iter().chain(["readlink", "getrandom", "mprotect", "arch_prctl", "uname", "fstat"]);
    let needed: Vec<_> =
        needed.filter(|name| cfg!(target_arch = "x86_64") || !["readlink", "arch_prctl"].contains(name)).collect();
    assert_eq!(run(Seccomp::new().allow(&needed)).code(), Some(4));
    let killed = run(Seccomp::container().kill(["recvmsg"]));
    assert_eq!((killed.signal(), killed.cause()), (Some(libc::SIGSYS), Cause::Syscall));
    // One instruction, which allows everything, as a program of the caller's.
    let allow = [6_u64 | 0x7fff_0000 << 32].map(u64::to_le_bytes).concat();
    assert_eq!(run(Seccomp::off().bpf(allow)).code(), Some(0));
    // The agent can't tell that the program is missing: it is known even so.
    for seccomp in [Seccomp::new().allow(&needed), Seccomp::container().kill(["sendto", "recvmsg"])] {
        let sandbox = sandbox.clone().seccomp(seccomp);
        for program in ["/missing", "/tmp"] {
            let error = pool(&sandbox, 1).command(program).spawn().unwrap_err();
            assert_eq!(error.to_string(), sandbox.command(program).spawn().unwrap_err().to_string());
            assert_eq!(error.layer(), Layer::Exec);
        }
    }
    // Without execve no start can succeed, with or without a pool.
    for seccomp in [Seccomp::container().deny(["execve"]), Seccomp::container().kill(["execve"])] {
        let sandbox = sandbox.clone().seccomp(seccomp);
        let plain = sandbox.command("/caller").status().map_err(|error| error.to_string());
        let pooled = pool(&sandbox, 1).command("/caller").status().map_err(|error| error.to_string());
        assert_eq!(pooled.is_err(), plain.is_err(), "{pooled:?} {plain:?}");
    }
}

#[test]
fn two_programs_of_a_pool_share_nothing() {
    let word = token();
    let script = format!(
        "echo {word} >/tmp/left; echo {word} >/dev/shm/left; ipcmk -Q >/dev/null || true; ipcs -q | grep -c 0x || true; ls /tmp /dev/shm"
    );
    let pool = pool(&host(), 2);
    let first = pool.command("sh").args(["-c", &script]).output().unwrap();
    assert!(String::from_utf8_lossy(&first.stdout).matches("left").count() == 2, "{first:?}");
    let look = "ls -A /tmp /dev/shm; ipcs -q; set -- /proc/[0-9]*; echo $#; cat /proc/net/unix";
    let second = pool.command("sh").args(["-c", look]).output().unwrap();
    let (second, fresh) = (String::from_utf8(second.stdout).unwrap(), crate::harness::sh(&host(), look));
    // An abstract name of a sibling's would be a line more.
    let lines = |text: &str| {
        text.lines().map(|line| line.split_once(": ").map_or(line, |(_, rest)| rest).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(lines(&second), lines(&fresh));
    assert_eq!(pool.ready(), 0, "each is used once");
}

#[test]
fn a_passed_file_can_be_used_and_not_opened_once_more() {
    let dir = temp_dir();
    let file = File::create(dir.path().join("out")).unwrap();
    let pool = pool(&host(), 1);
    let script = "echo direct; (echo again >/dev/stdout) 2>/dev/null; true";
    assert!(pool.command("sh").args(["-c", script]).stdout(file).status().unwrap().success());
    assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), "direct\n", "as Pool's documentation says");
}

/// The agent that waits in a pool of one, by its process id.
fn agent_of(pool: &Pool) -> i32 {
    assert_eq!(pool.ready(), 1);
    let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let all = fs::read_to_string("/proc/thread-self/children").unwrap();
    let all: Vec<i32> = all.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    let agents: Vec<i32> = all.into_iter().filter(|pid| name(pid) == "belljar-agent\0").collect();
    assert_eq!(agents.len(), 1);
    agents[0]
}

#[test]
fn a_waiting_agent_has_nothing_of_the_host_and_is_out_of_reach_for_other_sandboxes() {
    const TEST: &str = "pool::a_waiting_agent_has_nothing_of_the_host_and_is_out_of_reach_for_other_sandboxes";
    alone(TEST, || {
        let pool = pool(&host(), 1);
        let pid = agent_of(&pool);
        // Not dumpable: its files in /proc are root's.
        assert_eq!(fs::metadata(format!("/proc/{pid}/mem")).map(|file| file.uid()).unwrap(), 0);
        if is_root() {
            let [environ, maps] =
                ["environ", "maps"].map(|name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap());
            let own: Vec<_> = maps.lines().filter(|line| !line.contains("[v")).collect();
            assert!(environ.is_empty() && own.len() <= 5, "its file, its data and its stack: {maps}");
        } else {
            // To the owner of its user namespace, outside, it shows no more than what all agents have.
            for name in ["mem", "environ"] {
                assert!(fs::read(format!("/proc/{pid}/{name}")).is_err(), "{name}");
            }
        }
        // Another sandbox, which sees the host's processes, and has no other layer.
        let other = crate::harness::namespaces_alone(&Sandbox::new());
        let other = other.namespaces(Namespaces::default() - Namespaces::PID);
        probe::inside(&other, &["trace", &pid.to_string()]).refused(&[libc::EPERM, libc::EACCES, libc::ENOENT], &[]);
    });
}

#[test]
fn peak_memory_is_the_programs_own_or_none() {
    alone("pool::peak_memory_is_the_programs_own_or_none", || {
        // What a process has used at most starts with what its parent had.
        let host_peak = || own_peak() / 1024;
        let base = host_peak();
        let program = compile_static(
            "toucher",
            "#include <stdlib.h>\nint main(int c, char **v) { size_t n = (size_t)atoi(v[1]) << 20; \
             volatile char *m = malloc(n); for (size_t i = 0; i < n; i += 4096) m[i] = 1; return 0; }",
        );
        let sandbox = crate::harness::with_program(&program);
        let peak = |pool: &Pool, mib: u64| {
            let outcome = pool.command("/program").arg(mib.to_string()).status().unwrap();
            assert!(outcome.success());
            outcome.usage().peak_memory().map(|bytes| bytes >> 20)
        };
        let early = pool(&sandbox, 2);
        let mut memory = vec![0_u8; (base as usize + 300) << 20];
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        std::hint::black_box(&memory);
        // Parked while the host was small: what is told is the program's.
        let told = peak(&early, base + 50).unwrap();
        assert!((base + 50..base + 100).contains(&told), "{told} MiB of {base}");
        // Parked when it was large: none is known, unless it is more.
        let late = pool(&sandbox, 2);
        assert_eq!(peak(&late, base + 50), None);
        let told = peak(&late, base + 400).unwrap();
        assert!((base + 400..base + 450).contains(&told), "{told} MiB of {base}");
        assert!(host_peak() >= base + 300, "the control");
    });
}

/// The most memory that this process has used, in KiB.
fn own_peak() -> u64 {
    // SAFETY: All zeroes is a value of this plain structure.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: The kernel writes one structure.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) }, 0);
    usage.ru_maxrss.unsigned_abs()
}

#[cfg(feature = "image")]
#[test]
fn an_image_s_user_environment_and_directory_hold_in_a_pool() {
    let settings = serde_json::json!({
        "Env": ["A=image"], "WorkingDir": "/not/there", "User": "5:6", "Volumes": { "/data": {} },
    });
    let layout = crate::image_made::Layout::of(&settings);
    let image = belljar::Image::open(layout.path()).unwrap();
    let sandbox = Sandbox::from_image(&image).rootfs(Rootfs::host());
    let script = "echo $A; pwd; id -u; id -g; touch /data/new";
    assert_eq!(sh(&sandbox, script), "image\n/not/there\n5\n6\n");
    let pool = pool(&sandbox, 2);
    for directory in ["/", "/not"] {
        let output = pool.command("pwd").current_dir(directory).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{directory}\n"));
    }
    assert_eq!(pool.ready(), 0);
}
