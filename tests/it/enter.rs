//! Other commands in a sandbox that is in use.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use belljar::{
    Capabilities, Cause, Child, Command, ErrorKind, IdMap, Inherit, Landlock, Layer, Limits, Namespaces, Network,
    PtySize, Rootfs, Sandbox, Seccomp, Stdio,
};

use crate::again::{again, is_again};
use crate::alone::{alone, pipe};
use crate::for_root;
use crate::harness::{
    children, compile_static, host, in_memory, is_root, mounts, namespaces_alone, noop, open_fds, real, temp_dir, token,
};

/// A sandbox whose program waits for the end of its standard input.
fn waiting(sandbox: &Sandbox) -> Child {
    sandbox.command("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// Runs a script in a sandbox that is in use, and returns what it wrote. It must succeed.
fn sh(child: &Child, script: &str) -> String {
    let output = child.command("sh").args(["-ec", script]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.outcome.success(), "{script}: {:?}\n{stderr}", output.outcome);
    String::from_utf8(output.stdout).unwrap()
}

/// Policies that start in different ways.
fn policies() -> Vec<(&'static str, Sandbox)> {
    let all = Namespaces::default();
    let plain = host();
    let mut policies = vec![
        ("default", plain.clone()),
        ("user", plain.clone().user(1, 1)),
        ("loopback", plain.clone().network(Network::Loopback)),
        ("host network", plain.clone().network(Network::Host)),
        ("time", plain.clone().namespaces(all | Namespaces::TIME)),
        ("no landlock, no filter", namespaces_alone(&plain)),
        ("capabilities", plain.clone().user(0, 0).capabilities(Capabilities::CHOWN | Capabilities::SYS_ADMIN)),
        ("a filter of the caller's", plain.clone().seccomp(Seccomp::container().deny(["uname"]))),
        ("keyrings", plain.clone().seccomp(Seccomp::container().allow(["keyctl"]))),
        ("no mounts", Sandbox::new().namespaces(all - Namespaces::MOUNT)),
    ];
    policies.extend(in_memory(Rootfs::host()).map(|root| ("writable", Sandbox::new().rootfs(root))));
    if is_root() {
        let range = IdMap::new(0, 100_000, 1000);
        policies.extend([
            ("mapped", plain.clone().uid_map(range).gid_map(range).user(5, 6)),
            ("shifted", plain.clone().uid_map(IdMap::new(0, 0, 1000)).gid_map(IdMap::new(0, 0, 1000)).user(5, 6)),
            ("no user namespace", plain.clone().namespaces(all - Namespaces::USER)),
            ("no user namespace, other ids", plain.namespaces(all - Namespaces::USER).user(5, 6)),
        ]);
    } else if let Some(range) = subordinate() {
        let (uid, gid) = crate::ids::own_ids();
        let sandbox = plain.uid_map(IdMap::new(0, uid, 1)).uid_map(IdMap::new(1, range, 1000));
        let sandbox = sandbox.gid_map(IdMap::new(0, gid, 1)).gid_map(IdMap::new(1, range, 1000));
        policies.extend([("helper", sandbox.clone()), ("helper, other ids", sandbox.user(7, 8))]);
    }
    policies
}

/// The first id that /etc/subuid gives to the caller.
fn subordinate() -> Option<u32> {
    let (uid, _) = crate::ids::own_ids();
    let name = fs::read_to_string("/etc/passwd").ok()?;
    let name =
        name.lines().find(|line| line.split(':').nth(2) == Some(&uid.to_string()))?.split(':').next()?.to_owned();
    let ranges = fs::read_to_string("/etc/subuid").ok()?;
    let line = ranges.lines().find(|line| line.split(':').next() == Some(&name))?;
    line.split(':').nth(1)?.parse().ok()
}

#[test]
fn what_only_the_sandbox_itself_has_is_refused() {
    let mut server = waiting(&host());
    let mut command = server.command("true");
    command.pty(PtySize::default());
    for error in [command.spawn().map(drop), command.status().map(drop), command.output().map(drop)] {
        let error = error.unwrap_err();
        assert_eq!((error.layer(), error.kind()), (Layer::Process, ErrorKind::InvalidPolicy), "{error}");
        assert!(error.to_string().contains("terminal"), "{error}");
    }
    let mut other = server.command("sleep").arg("1000").spawn().unwrap();
    for error in [other.signal_all(libc::SIGTERM), other.pause(), other.resume()] {
        let error = error.unwrap_err();
        assert_eq!((error.layer(), error.kind()), (Layer::Process, ErrorKind::InvalidPolicy), "{error}");
        assert!(error.to_string().contains("another command") && error.hint().is_some(), "{error}");
    }
    // The sandbox's own reaches it.
    server.signal_all(libc::SIGUSR1).unwrap();
    assert_eq!(other.wait().unwrap().signal(), Some(libc::SIGUSR1));
    assert_eq!(server.wait().unwrap().signal(), Some(libc::SIGUSR1));
}

#[test]
fn a_command_runs_beside_the_program_and_ends_by_itself() {
    let mut child = waiting(&host());
    assert_eq!(sh(&child, "echo one > /tmp/note; cat /tmp/note"), "one\n");
    assert_eq!(sh(&child, "cat /tmp/note"), "one\n", "it is the same root");
    let outcome = child.command("sh").args(["-c", "exit 7"]).status().unwrap();
    assert_eq!(outcome.code(), Some(7));
    let outcome = child.command("sh").args(["-c", "kill -TERM $$"]).status().unwrap();
    assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGTERM), Cause::Signaled));
    assert!(child.try_wait().unwrap().is_none(), "the program does not mind");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let error = child.command("true").spawn().unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Os, Some(libc::ESRCH)), "{error}");
}

/// What a process has on, in the words of its own /proc. `$$` is left out, and what differs by nature.
const WORN: &str = "
    for kind in user mnt pid net ipc uts cgroup time pid_for_children; do readlink /proc/self/ns/$kind || true; done
    grep -E '^(Umask|Uid|Gid|Groups|Sig(Ign|Blk|Cgt)|Cap|NoNewPrivs|Seccomp|Cpus_allowed|Speculation)' /proc/self/status
    cat /proc/self/limits /proc/self/oom_score_adj /proc/self/cgroup /proc/self/uid_map /proc/self/gid_map
    cat /proc/self/mountinfo /proc/self/personality 2>&1 || true
    nice; hostname; pwd -P; env | sort; ls /proc/self/fd | wc -l; ls -a /
    readlink /proc/self/fd/0 /proc/self/fd/2
    stat -c '%d %i' / /tmp /proc /dev /dev/null
    unshare -U true 2>&1 | tail -c 30; chroot / true 2>&1 | tail -c 30
    [ \"$(cut -d ' ' -f 6 /proc/$$/stat)\" = $$ ] && echo a session
    exit 0";

/// What it may write to. Not without mounts of its own: there, what root may write are the host's files.
const WRITES: &str = "
    for file in /proc/self/comm /tmp/x /dev/x /x /etc/passwd /dev/null; do (echo x > $file) 2>&1 | tail -c 20; done
    chown 1 /tmp/x 2>&1 | tail -c 30; rm -f /x /tmp/x";

#[test]
fn a_command_wears_what_the_program_wears() {
    let once = policies().into_iter().map(|(name, sandbox)| (name, sandbox.command("sh")));
    let prepared = policies().into_iter().map(|(name, sandbox)| (name, sandbox.prepare().unwrap().command("sh")));
    for (name, mut command) in once.chain(prepared) {
        let writes = if name == "no mounts" { "" } else { WRITES };
        let mut child = command
            .args(["-c", &format!("({writes}\n{WORN}) 2>&1; echo over; exec cat")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut worn = Vec::new();
        let mut stdout = child.stdout.take().unwrap();
        while !worn.ends_with(b"over\n") {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{name}");
            worn.push(byte[0]);
        }
        let mut entered = child.command("sh");
        let entered = entered.args(["-c", &format!("({writes}\n{WORN}) 2>&1; echo over")]).stdin(Stdio::piped());
        let entered = entered.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let entered = entered.unwrap_or_else(|error| panic!("{name}: {error} {:?}", error.hint()));
        assert_eq!(entered.report(), child.report(), "{name}");
        let output = entered.wait_with_output().unwrap();
        let lines = |text: Vec<u8>| {
            let text = String::from_utf8(text).unwrap();
            let same = |line: &&str| !line.starts_with("/proc/self/fd") && !line.starts_with("pipe:");
            text.lines().filter(same).map(str::to_owned).collect::<Vec<_>>()
        };
        let (worn, output) = (lines(worn), lines(output.stdout));
        assert!(worn.len() > 40, "{name}: {worn:#?}");
        for (program, entered) in worn.iter().zip(&output) {
            assert_eq!(program, entered, "{name}");
        }
        assert_eq!(worn.len(), output.len(), "{name}");
        // In the host's /proc it has another number.
        let is_session = worn.iter().any(|line| line == "a session");
        assert_eq!(is_session, name != "no mounts", "{name}: {worn:#?}");
        assert_eq!(worn.iter().any(|line| line == "Seccomp:\t2"), !name.contains("no filter"), "{name}");
    }
}

/// What is kept of root's own groups, or left, is so for both.
#[test]
fn a_command_has_the_groups_of_the_program_whatever_those_of_root_are() {
    const NAME: &str = "enter::a_command_has_the_groups_of_the_program_whatever_those_of_root_are";
    for_root!();
    if !is_again() {
        for groups in
            [&["--clear-groups"][..], &["--groups", "0"], &["--groups", "54321,54322"], &["--groups", "0,54321"]]
        {
            again(NAME, &[&["setpriv"][..], groups].concat());
        }
        return;
    }
    let groups =
        |status: String| status.lines().find(|line| line.starts_with("Groups:")).unwrap().trim_end().to_owned();
    let own = groups(fs::read_to_string("/proc/self/status").unwrap());
    for (name, sandbox) in policies() {
        let prepared = sandbox.prepare().unwrap();
        let pool = prepared.pool_by_hand(1).unwrap();
        for mut command in [sandbox.command("cat"), prepared.command("cat"), pool.command("cat")] {
            let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            let entered = child.command("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
            // As the host's namespace has them: inside, a group that is not mapped looks like any other.
            let [program, command] =
                [&child, &entered].map(|child| fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap());
            assert_eq!(groups(program.clone()), groups(command), "{name}, {own}");
            let gid = program.lines().find_map(|line| line.strip_prefix("Gid:\t")).unwrap().split('\t').next().unwrap();
            let kept = ["Groups:".to_owned(), format!("Groups:\t{gid}")];
            assert!(kept.contains(&groups(program.clone())), "{name}, {own}: {program}");
        }
    }
}

#[test]
fn a_command_has_its_own_streams_descriptors_environment_and_directory() {
    let work = temp_dir();
    let child = waiting(&host().bind(real(work.path()), "/work"));
    let (mut reader, writer) = pipe();
    let mut command = child.command("sh");
    command.args(["-ec", "cat; echo err >&2; echo seven >&7; echo thirty > /dev/fd/30; pwd; echo $A-$HOME-$PATH; ls /proc/self/fd | tr '\\n' ' '"]);
    let file = fs::File::create(work.path().join("thirty")).unwrap();
    command.env("A", "b").current_dir("/work").fd(7, OwnedFd::from(writer)).fd(30, file);
    let mut entered = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    entered.stdin.take().unwrap().write_all(b"in\n").unwrap();
    let output = entered.wait_with_output().unwrap();
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("in\n/work\nb-/tmp-{path}\n0 1 2 3 30 7 "));
    assert_eq!(output.stderr, b"err\n");
    let mut seven = String::new();
    reader.read_to_string(&mut seven).unwrap();
    assert_eq!(seven, "seven\n");
    assert_eq!(fs::read_to_string(work.path().join("thirty")).unwrap(), "thirty\n");
    // A passed file may be opened once more, for what it is open for, and for no more.
    let given = fs::File::open(work.path().join("thirty")).unwrap();
    let mut command = child.command("sh");
    command.args(["-c", "cat /dev/fd/3; (echo more >> /dev/fd/3) 2>/dev/null && echo written"]).fd(3, given);
    let outside = temp_dir();
    fs::write(outside.path().join("file"), "content\n").unwrap();
    assert_eq!(command.output().unwrap().stdout, b"thirty\nwritten\n", "it lies below a writable bind");
    command = child.command("sh");
    command.args(["-c", "cat /dev/fd/3; (echo more >> /dev/fd/3) 2>/dev/null && echo written"]);
    command.fd(3, fs::File::open(outside.path().join("file")).unwrap());
    assert_eq!(command.output().unwrap().stdout, b"content\n");
    // What is given to nobody is the sandbox's own /dev/null.
    assert_eq!(sh(&child, "[ /dev/null -ef /dev/fd/0 ] && stat -L -c %d:%i /dev/null /dev/fd/0 | uniq | wc -l"), "1\n");
}

#[test]
fn bad_commands_are_typed_errors() {
    let child = waiting(&host().tmpfs("/t"));
    let fails = |command: &mut belljar::Command| {
        let error = command.spawn().unwrap_err();
        (error.layer(), error.kind(), error.raw_os_error(), error.hint().unwrap_or_default())
    };
    let (layer, kind, errno, hint) = fails(&mut child.command("no-such-program"));
    assert_eq!((layer, kind, errno), (Layer::Exec, ErrorKind::Os, Some(libc::ENOENT)));
    assert!(hint.contains("inside the sandbox"), "{hint}");
    sh(
        &child,
        "printf '#!/no/interpreter\\n' > /t/script; printf '\\177ELF' > /t/elf; : > /t/plain; chmod +x /t/script /t/elf",
    );
    let (layer, _, errno, hint) = fails(&mut child.command("/t/script"));
    assert_eq!((layer, errno), (Layer::Exec, Some(libc::ENOENT)));
    assert!(hint.contains("/no/interpreter"), "{hint}");
    assert_eq!(fails(&mut child.command("/t/elf")).2, Some(libc::ENOEXEC));
    assert_eq!(fails(&mut child.command("/t/plain")).2, Some(libc::EACCES));
    assert_eq!(fails(&mut child.command("/tmp")).2, Some(libc::EACCES));
    assert_eq!(fails(child.command("true").current_dir("/nowhere")).2, Some(libc::ENOENT));
    assert_eq!(fails(child.command("true").current_dir("relative")).1, ErrorKind::InvalidPolicy);
    assert_eq!(fails(child.command("true").arg("a\0b")).1, ErrorKind::InvalidPolicy);
    assert_eq!(fails(child.command("true").current_dir("/proc/self/cwd")).2, Some(libc::ELOOP));
    let long = "x".repeat(100_000);
    let output = child.command("sh").args(["-c", "echo $# ${#16}", "sh"]).args([&long; 16]).output().unwrap();
    assert_eq!(output.stdout, b"16 100000\n");
    assert_eq!(fails(child.command("true").args([&long; 30])).2, Some(libc::E2BIG));
    // What the agent leaves for a link of /proc is nothing to execute.
    sh(&child, "ln -s /proc/self/exe /t/self");
    assert_eq!(fails(&mut child.command("/t/self")).2, Some(libc::EACCES));
    assert_eq!(sh(&child, "echo fine"), "fine\n");
    let single = Sandbox::new().namespaces(Namespaces::default() - Namespaces::PID).rootfs(Rootfs::host());
    let (layer, kind, ..) = fails(&mut waiting(&single).command("true"));
    assert_eq!((layer, kind), (Layer::Namespaces, ErrorKind::InvalidPolicy));
}

#[test]
fn a_kill_or_a_drop_means_the_command_alone() {
    let mut child = waiting(&host());
    let mut one = child.command("sleep").arg("1000").spawn().unwrap();
    let two = child.command("sleep").arg("1000").spawn().unwrap();
    assert_ne!(one.id(), two.id());
    one.kill().unwrap();
    let outcome = one.wait().unwrap();
    assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGKILL), Cause::Killed));
    assert!(one.wait_timeout(Duration::ZERO).unwrap().is_some());
    let id = two.id();
    drop(two);
    assert!(!Path::new(&format!("/proc/{id}")).exists());
    assert!(child.try_wait().unwrap().is_none());
    // From the handle of an ended command, another can be started: the sandbox is the program's.
    assert_eq!(sh(&one, "echo still"), "still\n");
    let (mut reader, writer) = pipe();
    let mut command = child.command("sh");
    command.args(["-c", "read x; echo over"]).stdin(Stdio::piped()).stdout(OwnedFd::from(writer));
    let mut detached = command.spawn().unwrap();
    drop(command);
    let stdin = detached.stdin.take();
    detached.detach().unwrap();
    drop(stdin);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "over\n");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn commands_end_with_the_program_and_their_outcome_is_true() {
    alone("enter::commands_end_with_the_program_and_their_outcome_is_true", || {
        waiting(&host()).kill().unwrap();
        let before = (open_fds(), children(), mounts());
        for turn in 0..6 {
            let mut child = waiting(&host());
            let cause = if turn == 0 { Cause::Signaled } else { Cause::Killed };
            let mut sleeping: Vec<Child> =
                (0..3).map(|_| child.command("sleep").arg("1000").spawn().unwrap()).collect();
            let mut done = child.command("sh").args(["-c", "exit 9"]).spawn().unwrap();
            let command = child.command("true");
            match turn % 3 {
                // The program by itself.
                0 => drop(child.stdin.take()),
                1 => child.kill().unwrap(),
                _ => {}
            }
            if turn % 3 != 2 && turn < 3 {
                // Before somebody waits for the program: the kernel has killed them.
                assert_eq!(sleeping.pop().unwrap().wait().unwrap().signal(), Some(libc::SIGKILL));
                child.wait().unwrap();
            } else {
                drop(child);
            }
            for mut entered in sleeping {
                let outcome = entered.wait().unwrap();
                // Of what ends by itself just when the handle is dropped, either may be told.
                let causes = if turn == 3 { [Cause::Signaled, cause] } else { [cause; 2] };
                assert_eq!(outcome.signal(), Some(libc::SIGKILL));
                assert!(causes.contains(&outcome.cause()), "{turn}: {outcome:?}");
            }
            let code = done.wait().unwrap();
            assert!(code.code() == Some(9) || code.signal() == Some(libc::SIGKILL), "{code:?}");
            for _ in 0..2 {
                let error = command.clone().spawn().unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ESRCH), "{error}");
            }
        }
        assert_eq!((open_fds(), children(), mounts()), before);
    });
}

#[test]
fn many_commands_enter_at_once_and_nothing_is_left() {
    alone("enter::many_commands_enter_at_once_and_nothing_is_left", || {
        sh(&waiting(&host()), "true");
        let before = (open_fds(), children(), mounts());
        let child = waiting(&host());
        // Whether one of them sleeps already is no matter.
        let alive = || children().iter().map(|child| child.rsplit_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>();
        let with_child = (open_fds(), alive());
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for thread in 0..8 {
                let (child, count) = (&child, &count);
                scope.spawn(move || {
                    for turn in 0..10 {
                        let text = format!("{thread}-{turn}");
                        let output = child.command("echo").arg(&text).output().unwrap();
                        assert_eq!(output.stdout, format!("{text}\n").into_bytes());
                        child.command("/missing").spawn().unwrap_err();
                        drop(child.command("sleep").arg("1000").spawn().unwrap());
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 80);
        assert_eq!((open_fds(), alive()), with_child);
        assert!(sh(&child, "cd /proc; ls -d [0-9]* | wc -l").trim().parse::<u32>().unwrap() < 8);
        drop(child);
        assert_eq!((open_fds(), children(), mounts()), before);
    });
}

#[test]
fn a_pooled_sandbox_is_entered_too() {
    for sandbox in [host(), host().seccomp(Seccomp::container().deny(["uname"]))] {
        let plain = sandbox.command("sh").args(["-c", WORN]).output().unwrap();
        let pool = sandbox.prepare().unwrap().pool_by_hand(1).unwrap();
        let mut child = pool.command("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        assert_eq!(pool.ready(), 0, "it comes from the pool");
        let output = child.command("sh").args(["-c", WORN]).output().unwrap();
        let kept = |text: Vec<u8>| {
            let text = String::from_utf8(text).unwrap();
            let same = |line: &&str| line.starts_with("Seccomp") || line.starts_with("Cap") || line.starts_with("No");
            text.lines().filter(same).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(kept(plain.stdout), kept(output.stdout));
        let mut entered = child.command("sleep").arg("1000").spawn().unwrap();
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        assert_eq!(entered.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(child.command("true").spawn().unwrap_err().raw_os_error(), Some(libc::ESRCH));
        pool.refill().unwrap();
    }
}

/// A rule is about a file, whatever its name leads to later.
#[test]
fn a_rule_that_was_turned_to_something_else_gives_nothing() {
    let work = temp_dir();
    let work = real(work.path());
    for name in ["out", "other"] {
        fs::create_dir(work.join(name)).unwrap();
    }
    let landlock = Landlock::new().allow_execute("/").allow_write("/work/out").allow_write("/dev/null");
    let sandbox = host().bind(&work, "/work").landlock(landlock);
    let child = waiting(&sandbox);
    let write = "for dir in out other; do (echo x > /work/$dir/x) 2>/dev/null && echo $dir; done; true";
    assert_eq!(sh(&child, write), "out\n");
    fs::rename(work.join("out"), work.join("kept")).unwrap();
    symlink("other", work.join("out")).unwrap();
    assert_eq!(sh(&child, write), "", "it would be the other");
    let fresh = sandbox.command("sh").args(["-c", write]).output().unwrap();
    assert_eq!(fresh.stdout, b"out\nother\n", "the control: it is what a new start goes by");
    fs::remove_file(work.join("out")).unwrap();
    fs::rename(work.join("kept"), work.join("out")).unwrap();
    assert_eq!(sh(&child, write), "out\n");
}

/// Goes through every process that it sees, and looks for a word in its memory, its environment and its descriptors; tells
/// what it has found of others, and of a child of its own, which has the word.
const SPY: &str = r#"
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static char word[64];
static char buffer[1 << 20];
static pid_t own;

static int has(const char *data, ssize_t length) {
    return length > 0 && memmem(data, length, word, strlen(word)) != NULL;
}

static int memory(pid_t pid) {
    char path[64], line[512];
    int found = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "r");
    if (!maps) return 0;
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        char access[8];
        if (sscanf(line, "%lx-%lx %7s", &start, &end, access) != 3 || access[0] != 'r') continue;
        for (; start < end; start += sizeof buffer) {
            size_t length = end - start < sizeof buffer ? end - start : sizeof buffer;
            struct iovec local = { buffer, length }, remote = { (void *)start, length };
            ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);
            found |= has(buffer, got);
            memset(buffer, 0, length);
        }
    }
    fclose(maps);
    return found;
}

static int file(const char *path) {
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    if (fd < 0) return 0;
    ssize_t got = pread(fd, buffer, sizeof buffer, 0);
    if (got < 0) got = read(fd, buffer, sizeof buffer);
    close(fd);
    int found = has(buffer, got);
    memset(buffer, 0, sizeof buffer);
    return found;
}

static int descriptors(pid_t pid) {
    char path[64];
    int found = 0, pidfd = syscall(SYS_pidfd_open, pid, 0);
    for (int fd = 0; fd < 70; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
        found |= file(path);
        int copy = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
        if (copy >= 0) {
            ssize_t got = pread(copy, buffer, sizeof buffer, 0);
            found |= has(buffer, got);
            close(copy);
        }
    }
    close(pidfd);
    return found;
}

static void look(pid_t pid) {
    char path[64];
    const char *who = pid == own ? "own" : "other";
    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    if (file(path)) printf("%s environ\n", who);
    if (memory(pid)) printf("%s memory\n", who);
    if (descriptors(pid)) printf("%s descriptor\n", who);
    if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
        printf("%s traced\n", who);
        if (memory(pid)) printf("%s memory\n", who);
        ptrace(PTRACE_INTERRUPT, pid, 0, 0);
        waitpid(pid, NULL, __WALL);
        ptrace(PTRACE_DETACH, pid, 0, 0);
    }
    fflush(stdout);
}

int main(int argc, char **argv) {
    /* In halves, so that the own memory has it only where it is put together. */
    snprintf(word, sizeof word, "%s%s", argv[1], argv[2]);
    int fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);
    dup2(fd, 60);
    dprintf(60, "%s", word);
    own = fork();
    if (own == 0) for (;;) pause();
    close(fd);
    close(60);
    for (long turn = 0;; turn++) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;
        while ((entry = readdir(proc))) {
            pid_t pid = atoi(entry->d_name);
            if (pid > 0 && pid != getpid() && (pid != own || turn == 0)) look(pid);
        }
        closedir(proc);
        if (turn == 0) { printf("ready\n"); fflush(stdout); }
    }
}
"#;

/// Hazard 1: the program gets nothing of the host's from those who come in.
#[test]
fn a_program_that_looks_at_everybody_finds_nothing_of_the_host() {
    let spy = compile_static("spy", SPY);
    let word = token();
    let held = temp_dir();
    fs::write(held.path().join("secret"), &word).unwrap();
    // In an open file that is not closed by an exec, and in memory.
    let secret = fs::File::open(held.path().join("secret")).unwrap();
    nix::fcntl::fcntl(&secret, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    for capable in [false, true] {
        let sandbox = namespaces_alone(&host()).bind_ro(&spy, "/spy").bind_ro(noop(), "/noop");
        let sandbox = match capable {
            // Over all that is in the sandbox's user namespace.
            true => sandbox.capabilities(Capabilities::SYS_PTRACE | Capabilities::KILL),
            false => sandbox,
        };
        let (first, second) = word.split_at(20);
        let mut child = sandbox.command("/spy").args([first, second]).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut told = Vec::new();
        while !told.ends_with(b"ready\n") {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1);
            told.push(byte[0]);
        }
        let told = String::from_utf8(told).unwrap();
        let found: BTreeSet<_> = told.lines().collect();
        assert!(found.is_superset(&BTreeSet::from(["own memory", "own descriptor", "own traced"])), "{found:?}");
        let reader = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).unwrap();
            text
        });
        let mut ran = 0;
        for _ in 0..100 {
            // Tracing it may stop it, or keep it from starting: that is no business of this test.
            if let Ok(mut entered) = child.command("/noop").stdin(Stdio::null()).spawn() {
                ran += 1;
                entered.wait_timeout(Duration::from_millis(500)).unwrap();
            }
        }
        assert!(ran > 50, "{ran}");
        child.kill().unwrap();
        child.wait().unwrap();
        let text = reader.join().unwrap();
        for line in text.lines() {
            assert!(!["other memory", "other descriptor", "other environ"].contains(&line), "{line}");
        }
    }
    assert_eq!(fs::read_to_string(held.path().join("secret")).unwrap(), word);
    drop(secret);
}

/// Stops and kills every process that it sees.
const KILLER: &str = r#"
#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int signal = atoi(argv[1]);
    write(1, "x", 1);
    for (;;) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;
        while ((entry = readdir(proc))) {
            int pid = atoi(entry->d_name);
            if (pid > 2) kill(pid, signal);
        }
        closedir(proc);
    }
}
"#;

#[test]
fn a_program_that_stops_and_kills_can_not_hang_the_host() {
    let killer = compile_static("killer", KILLER);
    for signal in [libc::SIGSTOP, libc::SIGKILL] {
        let sandbox = namespaces_alone(&host()).bind_ro(&killer, "/killer");
        let mut child = sandbox.command("/killer").arg(signal.to_string()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        // Each may take half a minute.
        for _ in 0..5 {
            match child.command("/bin/sleep").arg("1000").stdin(Stdio::null()).spawn() {
                Ok(mut entered) => {
                    // The control: it is hit.
                    let stat = format!("/proc/{}/stat", entered.id());
                    let is_stopped = || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "));
                    let start = Instant::now();
                    while !is_stopped() && entered.try_wait().unwrap().is_none() {
                        assert!(start.elapsed() < Duration::from_secs(60), "nobody hits it");
                        thread::sleep(Duration::from_millis(1));
                    }
                    entered.kill().unwrap();
                    assert_eq!(entered.wait().unwrap().signal(), Some(libc::SIGKILL));
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Os, "{error}"),
            }
        }
        assert!(child.try_wait().unwrap().is_none());
    }
}

#[test]
fn names_that_change_meanwhile_lead_nowhere_else() {
    crate::memory!();
    let canary = temp_dir();
    fs::write(canary.path().join("file"), "untouched").unwrap();
    let sandbox = Sandbox::new().rootfs(Rootfs::host().ephemeral()).tmpfs("/t/mount");
    let script = "mkdir -p /a/x /b/x; ln -s /proc/self/cwd /link; cp /bin/sh /a/x/sh; cp /bin/sh /b/x/sh; echo ready
        while :; do mv /a /c; ln -s /proc/1/root /a; rm /a; ln -s /proc/self/root/b /a; rm /a; mv /c /a; done";
    let mut child = sandbox.command("sh").args(["-ec", script]).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let root = sh(&child, "stat -c %d:%i /");
    let mut ran = 0;
    for _ in 0..60 {
        let script = "stat -c %d:%i /; [ ! -e \"$0\" ] && pwd -P";
        let output = child.command("/a/x/sh").args(["-c", script]).arg(canary.path()).current_dir("/a/x").output();
        match output {
            Ok(output) if output.outcome.success() => {
                let text = String::from_utf8(output.stdout).unwrap();
                let (first, cwd) = text.split_once('\n').unwrap();
                assert_eq!(first, root.trim());
                assert!(["/a/x\n", "/b/x\n", "/c/x\n"].contains(&cwd), "{cwd}");
                ran += 1;
            }
            Ok(output) => assert!(output.outcome.code().is_some(), "{:?}", output.outcome),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Os, "{error}"),
        }
    }
    assert!(ran > 0);
    assert_eq!(fs::read_to_string(canary.path().join("file")).unwrap(), "untouched");
}

#[test]
fn root_enters_without_a_trace_on_the_host() {
    for_root!();
    alone("enter::root_enters_without_a_trace_on_the_host", || {
        // SAFETY: No pointers.
        let dumpable = || unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
        for (name, sandbox) in policies() {
            let child = waiting(&sandbox);
            let state = || {
                fs::read_to_string("/proc/self/status").unwrap().lines().take(12).map(str::to_owned).collect::<Vec<_>>()
            };
            let before = (state().split_off(3), dumpable());
            let entered = child.command("sh").args(["-c", "true"]).status();
            assert!(entered.unwrap_or_else(|error| panic!("{name}: {error}")).success());
            assert_eq!((state().split_off(3), dumpable()), before, "{name}");
        }
    });
}

#[test]
fn a_sandbox_of_a_pool_holds_other_commands_to_its_open_files_too() {
    let pool = host().limits(Limits::new().open_files(20)).prepare().unwrap().pool(1).unwrap();
    let mut child = pool.command("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(sh(&child, "ulimit -Sn; ulimit -Hn"), "20\n20\n");
    child.kill().unwrap();
}

#[test]
fn the_number_of_processes_binds_other_commands_where_no_cgroup_holds_it() {
    if is_root() {
        // RLIMIT_NPROC does not bind root: there it takes a cgroup, in which the clone fails.
        return;
    }
    let sandbox = host().limits(Limits::new().pids(4));
    let child = waiting(&sandbox);
    let mut others: Vec<Child> = Vec::new();
    let error = loop {
        match child.command("sleep").arg("1000").stdin(Stdio::null()).spawn() {
            Ok(other) => others.push(other),
            Err(error) => break error,
        }
        assert!(others.len() < 10, "they are bound by nothing");
    };
    assert_eq!((others.len(), error.raw_os_error()), (3, Some(libc::EAGAIN)), "{error}");
    drop(others.pop());
    assert!(child.command("true").status().unwrap().success(), "there is room again");
}

#[test]
fn a_command_that_has_used_its_processor_time_is_told_so() {
    let child = waiting(&host().limits(Limits::new().cpu_time(Duration::from_secs(1))));
    let outcome = child.command("sh").args(["-c", "while :; do :; done"]).status().unwrap();
    assert_eq!(outcome.cause(), Cause::CpuTime, "{outcome:?}");
}

#[test]
fn a_number_that_no_process_has_room_for_is_an_error_everywhere() {
    let prepared = host().prepare().unwrap();
    let pool = prepared.pool(1).unwrap();
    let child = waiting(&host());
    for number in [i32::MAX, i32::MAX - 1, i32::MAX - 3] {
        for (name, mut command) in
            [("plain", prepared.command("true")), ("pool", pool.command("true")), ("in use", child.command("true"))]
        {
            let file: OwnedFd = fs::File::open("/dev/null").unwrap().into();
            let error = command.fd(number, file).spawn().map(drop).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{name}: {error}");
        }
    }
}

#[test]
fn no_descriptor_stays_open_where_the_host_has_no_room_for_more() {
    alone("enter::no_descriptor_stays_open_where_the_host_has_no_room_for_more", || {
        let mut usual = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: The kernel writes one such structure.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut usual) }, 0);
        // SAFETY: The kernel reads one such structure.
        let set = |limit: &libc::rlimit| assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) }, 0);
        let child = waiting(&host());
        let open = open_fds();
        let mut failed = 0;
        for more in 0..60 {
            // More than the agent's socket needs, which has the limit too.
            let fill: Vec<_> = (0..70).map(|_| fs::File::open("/dev/null").unwrap()).collect();
            let room = (open.len() + fill.len()) as u64 + more;
            set(&libc::rlimit { rlim_cur: room, ..usual });
            let outcome = child.command("true").stdin(Stdio::null()).status();
            set(&usual);
            failed += usize::from(outcome.is_err());
        }
        assert!((1..60).contains(&failed), "{failed}");
        assert_eq!(open_fds(), open);
    });
}

#[test]
fn hundreds_of_descriptors_are_passed() {
    alone("enter::hundreds_of_descriptors_are_passed", || {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: The kernel writes one such structure.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: The kernel reads one such structure.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        assert!(limit.rlim_max >= 4096, "{}", limit.rlim_max);
        let work = temp_dir();
        let pass = |mut command: Command, count: i32, number: fn(i32, i32) -> i32| {
            for index in 0..count {
                let path = work.path().join(index.to_string());
                fs::write(&path, format!("{index}\n")).unwrap();
                command.fd(number(index, count), fs::File::open(path).unwrap());
            }
            let script = format!("for ((fd = 3; fd < {count} + 3; fd++)); do read -r x <&$fd && echo -n \"$x \"; done");
            command.args(["-c", &script]);
            command.output()
        };
        let orders: [fn(i32, i32) -> i32; 2] = [|index, _| 3 + index, |index, count| 2 + count - index];
        for sandbox in [host(), host().seccomp(Seccomp::container().deny(["uname"]))] {
            let prepared = sandbox.limits(Limits::new().open_files(4096)).prepare().unwrap();
            let pool = prepared.pool_by_hand(1).unwrap();
            let [plain, pooled] = [prepared.command("cat"), pool.command("cat")]
                .map(|mut command| command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
            for (count, number) in [253, 254, 1000].into_iter().flat_map(|count| orders.map(|order| (count, order))) {
                let mut all: Vec<_> = (0..count).map(|index| format!("{index} ")).collect();
                if number(0, count) != 3 {
                    all.reverse();
                }
                for command in [plain.command("bash"), pooled.command("bash"), prepared.command("bash")] {
                    let output = pass(command, count, number).unwrap();
                    assert_eq!(String::from_utf8(output.stdout).unwrap(), all.concat(), "{count}");
                }
            }
            let error = pass(plain.command("bash"), 1001, orders[0]).unwrap_err();
            assert_eq!((error.layer(), error.kind()), (Layer::Fds, ErrorKind::InvalidPolicy), "{error}");
            pool.refill().unwrap();
            let output = pass(pool.command("bash"), 300, orders[0]).unwrap();
            assert!(output.stdout.starts_with(b"0 1 2 ") && output.stdout.ends_with(b" 298 299 "));
            assert_eq!(pool.ready(), 0, "it was started in the pool's");
        }
    });
}

#[test]
fn a_command_inherits_scheduling_and_score_where_the_program_does() {
    alone("enter::a_command_inherits_scheduling_and_score_where_the_program_does", || {
        const LOOK: &str = "grep Cpus_allowed: /proc/self/status; cat /proc/self/oom_score_adj /proc/self/personality; \
                            cat /proc/self/timerslack_ns 2>/dev/null; ionice";
        let defined = sh(&waiting(&host()), LOOK);
        // SAFETY: No pointers, and it is about this thread alone.
        assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 5) }, 0);
        // SAFETY: As above.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 7_000_000) }, 0);
        crate::inherited::one_processor();
        // Less than what is set: of root's own score, a process without its capabilities can't lower any.
        fs::write("/proc/self/oom_score_adj", "300").unwrap();
        assert_eq!(sh(&waiting(&host()), LOOK), defined, "by default nothing of it");
        for what in [Inherit::SCHEDULING, Inherit::OOM_SCORE, Inherit::SCHEDULING | Inherit::OOM_SCORE] {
            let sandbox = host().inherit(what);
            let prepared = sandbox.prepare().unwrap();
            let program = String::from_utf8(sandbox.command("sh").args(["-c", LOOK]).output().unwrap().stdout).unwrap();
            assert_eq!(program.contains("\n300\n"), what.contains(Inherit::OOM_SCORE), "{program}");
            assert_eq!(program.contains("\n7000000\n"), what.contains(Inherit::SCHEDULING), "{program}");
            for mut command in [sandbox.command("cat"), prepared.command("cat")] {
                let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
                assert_eq!(sh(&child, LOOK), program, "{what:?}");
                if what.contains(Inherit::SCHEDULING) {
                    assert_eq!(sh(&child, "nice"), "5\n");
                }
            }
        }
    });
}
