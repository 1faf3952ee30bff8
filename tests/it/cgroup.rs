//! The cgroup of a sandbox, where this host has a tree of version 2 that the caller may divide.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use belljar::{Cause, Child, Error, ErrorKind, IoMax, Layer, Limits, Namespaces, Rootfs, Sandbox, Stdio, UsageSource};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::alone::{again, is_role, pipe};
use crate::filter::filter;
use crate::harness::{compile_static, real, sh, temp_dir, with_program};
use crate::{for_root, skip};

/// A directory of a tree of version 2 that is the test's own, and is removed with it.
struct Delegated(PathBuf);

impl Delegated {
    /// None where there is no such tree, or it is not the caller's.
    fn new(name: &str, controllers: &[&str]) -> Option<Self> {
        let above = match std::env::var_os("BELLJAR_TEST_CGROUP") {
            Some(named) => PathBuf::from(named),
            None => mount_point()?,
        };
        let has = fs::read_to_string(above.join("cgroup.controllers")).ok()?;
        if !controllers.iter().all(|name| has.split_whitespace().any(|known| known == *name)) {
            return None;
        }
        let enable: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
        fs::write(above.join("cgroup.subtree_control"), enable.join(" ")).ok()?;
        let path = above.join(format!("belljar-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    /// The groups of sandboxes in it.
    fn groups(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for group in self.groups() {
            let _ = fs::remove_dir(group);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

/// Where version 2 is mounted.
fn mount_point() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = text.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

macro_rules! delegated {
    ($name:literal, $controllers:expr) => {{
        let controllers: &[&str] = &$controllers;
        match Delegated::new($name, controllers) {
            Some(directory) => directory,
            None if std::env::var_os("BELLJAR_TEST_CGROUP").is_some() => skip!("{controllers:?} are not delegated"),
            // What a host gives is its administrator's choice: the virtual machines of the tests have it all.
            None => {
                eprintln!("SKIPPED: no cgroup of version 2 with {controllers:?} that this caller may divide");
                return;
            }
        }
    }};
}

fn program() -> PathBuf {
    compile_static(
        "greedy",
        r#"
        #define _GNU_SOURCE
        #include <signal.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <fcntl.h>
        #include <sys/mman.h>
        #include <sys/wait.h>
        #include <unistd.h>
        static void leave(int signal) { (void)signal; _exit(9); }
        int main(int argc, char **argv) {
            const char *what = argv[1];
            long amount = argc > 2 ? atol(argv[2]) : 0;
            if (!strcmp(what, "exit")) return amount;
            if (!strcmp(what, "anonymous")) {
                for (long done = 0; done < amount; done += 1 << 20) memset(malloc(1 << 20), 1, 1 << 20);
                return 0;
            }
            if (!strcmp(what, "disk")) { /* past the page cache, and then it waits */
                int fd = open("/out/file", O_WRONLY | O_CREAT | O_DIRECT | O_SYNC, 0600);
                void *data;
                if (fd < 0 || posix_memalign(&data, 4096, 1 << 16)) return 5;
                memset(data, 1, 1 << 16);
                for (long done = 0; done < amount; done += 1 << 16) if (write(fd, data, 1 << 16) != 1 << 16) return 6;
                write(1, ".", 1);
                for (;;) pause();
            }
            if (!strcmp(what, "child")) { /* the child is killed: is it alone? */
                if (fork() == 0) { for (;;) memset(malloc(1 << 20), 1, 1 << 20); }
                wait(0); return 3;
            }
            if (!strcmp(what, "tmpfs") || !strcmp(what, "memfd")) {
                int fd = *what == 't' ? open("/tmp/file", O_WRONLY | O_CREAT, 0600) : memfd_create("file", 0);
                static char data[1 << 20];
                for (long done = 0; done < amount; done += sizeof data) if (write(fd, data, sizeof data) < 0) return 4;
                return 0;
            }
            if (!strcmp(what, "fork")) {
                int made = 0;
                for (long i = 0; i < amount; i++) { pid_t pid = fork(); if (pid == 0) for (;;) pause(); made += pid > 0; }
                printf("%d\n", made); return 0;
            }
            if (!strcmp(what, "spin")) { signal(SIGUSR1, leave); for (long i = 1; i < amount; i++) if (fork() == 0) break; for (;;) ; }
            if (!strcmp(what, "daemon")) { if (fork() == 0) { setsid(); for (;;) pause(); } return 0; }
            for (;;) pause();
        }
        "#,
    )
}

fn sandbox(directory: &Delegated, limits: Limits) -> Sandbox {
    with_program(&program()).cgroup(&directory.0).limits(limits)
}

#[test]
fn every_sandbox_has_a_group_and_leaves_none() {
    let directory = delegated!("leaves", []);
    let sandbox = sandbox(&directory, Limits::new());
    let mut child = sandbox.command("/program").arg("wait").spawn().unwrap();
    let groups = directory.groups();
    assert_eq!(groups.len(), 1, "{groups:?}");
    let inside = fs::read_to_string(groups[0].join("cgroup.procs")).unwrap();
    assert_eq!(inside.trim(), child.id().to_string(), "the program alone is in it");
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().cause(), Cause::Killed);
    assert_eq!(directory.groups().len(), 0);
    for code in 0..5 {
        let outcome = sandbox.command("/program").args(["exit", &code.to_string()]).status().unwrap();
        assert_eq!((outcome.cause(), outcome.code()), (Cause::Exited, Some(code)));
        assert_eq!(outcome.usage().time_source(), UsageSource::Cgroup);
    }
    sandbox.command("/missing").spawn().unwrap_err();
    drop(sandbox.command("/program").arg("wait").spawn().unwrap());
    assert_eq!(directory.groups().len(), 0);
}

#[test]
fn without_an_init_the_group_ends_what_is_left() {
    for_root!();
    let directory = delegated!("single", []);
    let (mut reader, writer) = pipe();
    let all = Namespaces::default() - Namespaces::PID;
    let mut command = sandbox(&directory, Limits::new()).namespaces(all).command("/program");
    let outcome = command.arg("daemon").stdout(Stdio::from(writer)).status().unwrap();
    drop(command);
    assert!(outcome.success());
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the daemon has ended");
    // A group whose last process is slow to end is removed with the next.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !directory.groups().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", directory.groups());
        sandbox(&directory, Limits::new()).command("/program").args(["exit", "0"]).status().unwrap();
    }
}

#[test]
fn the_program_is_at_the_root_of_its_cgroup_namespace_and_can_write_nothing_of_it() {
    let directory = delegated!("namespace", []);
    let sandbox = Sandbox::new().rootfs(Rootfs::host()).cgroup(&directory.0);
    let text = sh(&sandbox, "cat /proc/self/cgroup");
    assert!(text.lines().any(|line| line == "0::/"), "{text}");
    assert_eq!(sh(&sandbox, "find / -name cgroup.procs 2>/dev/null | wc -l").trim(), "0");
}

#[test]
fn processor_time_is_of_the_whole_tree() {
    let directory = delegated!("cpu-time", []);
    let limits = Limits::new().cpu_time(Duration::from_millis(400)).wall_time(Duration::from_secs(60));
    let outcome = sandbox(&directory, limits.clone()).command("/program").args(["spin", "8"]).status().unwrap();
    assert_eq!((outcome.cause(), outcome.success()), (Cause::CpuTime, false), "{outcome:?}");
    let used = outcome.usage().user_time() + outcome.usage().system_time();
    assert!(used >= Duration::from_millis(300), "{used:?}");
    // Output is collected, and so it is waited for.
    let output = sandbox(&directory, limits).command("/program").args(["spin", "8"]).output().unwrap();
    assert_eq!(output.outcome.cause(), Cause::CpuTime, "{:?}", output.outcome);
}

#[test]
fn processes_are_counted_exactly_for_every_caller() {
    let directory = delegated!("pids", ["pids"]);
    let output = sandbox(&directory, Limits::new().pids(7)).command("/program").args(["fork", "100"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "6", "and the program itself");
    let child = sandbox(&directory, Limits::new().pids(1)).command("/program").args(["exit", "0"]).status().unwrap();
    assert!(child.success());
}

#[test]
fn memory_is_bounded_whatever_it_is_used_for() {
    let directory = delegated!("memory", ["memory"]);
    let sandbox = sandbox(&directory, Limits::new().memory(24 << 20));
    for what in ["anonymous", "tmpfs", "memfd", "child"] {
        let outcome = sandbox.command("/program").args([what, "200000000"]).status().unwrap();
        assert_eq!((outcome.cause(), outcome.signal()), (Cause::OutOfMemory, Some(libc::SIGKILL)), "{what}");
    }
    let outcome = sandbox.command("/program").args(["anonymous", "8000000"]).status().unwrap();
    assert_eq!((outcome.cause(), outcome.code()), (Cause::Exited, Some(0)));
    if outcome.usage().peak_memory_source() == Some(UsageSource::Cgroup) {
        let peak = outcome.usage().peak_memory().unwrap();
        assert!((8_000_000..=24 << 20).contains(&peak), "{peak}");
    }
    // Too little to execute anything in: the host goes on.
    let error = with_program(&program()).cgroup(&directory.0).limits(Limits::new().memory(4096));
    match error.command("/program").args(["exit", "0"]).status() {
        Ok(outcome) => assert_eq!(outcome.cause(), Cause::OutOfMemory),
        Err(error) => assert!(error.hint().unwrap_or_default().contains("memory"), "{error:?}"),
    }
    assert_eq!(directory.groups().len(), 0);
}

/// The whole device that a directory is on, with its number. None for a partition, or for memory.
fn device_of(path: &Path) -> Option<(PathBuf, String)> {
    let device = fs::metadata(path).unwrap().dev();
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    let link = fs::canonicalize(format!("/sys/dev/block/{number}")).ok()?;
    let whole = !link.join("partition").exists();
    whole.then(|| (Path::new("/dev").join(link.file_name().unwrap()), number))
}

/// The line of a group's file for a device.
fn line_of(group: &Path, file: &str, number: &str) -> String {
    let text = fs::read_to_string(group.join(file)).unwrap();
    text.lines().find_map(|line| line.strip_prefix(number)).unwrap_or_else(|| panic!("{number} in {text}")).into()
}

#[test]
fn the_use_of_a_disk_is_bounded() {
    const RATE: u64 = 1 << 20;
    const SECONDS: u64 = 4;
    let directory = delegated!("io", ["io"]);
    let dir = temp_dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let Some((device, device_number)) = device_of(dir.path()) else { skip!("the directory is on no whole device") };
    // So that the kernel counts without a limit too.
    fs::write(directory.0.join("cgroup.subtree_control"), "+io").unwrap();
    let max = IoMax::new(&device).write_bytes(RATE).read_bytes(3 << 20).write_operations(100_000);
    let plain = sandbox(&directory, Limits::new()).bind(real(dir.path()), "/out");
    let limited = sandbox(&directory, Limits::new().io_max(max)).bind(real(dir.path()), "/out");
    for (sandbox, expected) in [(&plain, None), (&limited, Some(" rbps=3145728 wbps=1048576 riops=max wiops=100000"))] {
        let (mut reader, writer) = pipe();
        let started = Instant::now();
        let mut command = sandbox.command("/program");
        let mut child =
            command.args(["disk", &(SECONDS * RATE).to_string()]).stdout(Stdio::from(writer)).spawn().unwrap();
        drop(command);
        let group = group_of(&directory, &child);
        match expected {
            Some(expected) => assert_eq!(line_of(&group, "io.max", &device_number), expected),
            None => assert_eq!(fs::read_to_string(group.join("io.max")).unwrap(), ""),
        }
        reader.read_exact(&mut [0]).unwrap();
        let took = started.elapsed();
        let counted = line_of(&group, "io.stat", &device_number);
        let written = counted.split(' ').find_map(|word| word.strip_prefix("wbytes=")?.parse::<u64>().ok()).unwrap();
        assert!(written >= SECONDS * RATE, "it has gone to the disk: {counted}");
        // The kernel lets through what a slice of time, a tenth of a second, has room for, and then keeps to the rate.
        let least = Duration::from_secs(if expected.is_some() { SECONDS - 1 } else { 0 });
        assert!(took >= least, "{SECONDS} seconds' worth in {took:?}");
        println!("{expected:?}: {took:?}");
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().cause(), Cause::Killed);
    }
}

#[test]
fn a_share_of_the_disks_is_what_was_asked_for_or_an_error() {
    let directory = delegated!("weight", ["io"]);
    // A kernel may know none: then the groups have no such file.
    let known = directory.0.join("io.weight").exists();
    match sandbox(&directory, Limits::new().io_weight(50)).command("/program").arg("wait").spawn() {
        Ok(child) => {
            let text = fs::read_to_string(group_of(&directory, &child).join("io.weight")).unwrap();
            assert_eq!((text.as_str(), known), ("default 50\n", true));
        }
        Err(error) => {
            assert_eq!((error.layer(), error.raw_os_error()), (Layer::Limits, Some(libc::ENOENT)), "{error}");
            assert_eq!((error.kind(), known), (ErrorKind::Unsupported, false), "{error}");
            assert!(error.to_string().contains("io.weight"), "{error}");
        }
    }
    assert_eq!(directory.groups().len(), 0);
}

#[test]
fn a_kill_for_memory_is_of_all_and_is_told() {
    const MOST: u64 = 24 << 20;
    let directory = delegated!("oom", ["memory"]);
    let sandbox = sandbox(&directory, Limits::new().memory(MOST));
    for what in ["anonymous", "child"] {
        let mut child = sandbox.command("/program").args([what, "200000000"]).spawn().unwrap();
        let group = group_of(&directory, &child);
        assert_eq!(fs::read_to_string(group.join("memory.max")).unwrap().trim(), MOST.to_string());
        assert_eq!(fs::read_to_string(group.join("memory.swap.max")).unwrap().trim(), "0");
        let mut fds = [PollFd::new(child.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::try_from(AGES).unwrap()), Ok(1), "it ends");
        // Nobody has waited for it yet: the group is there with what the kernel has counted.
        assert!(number(&group, "memory.events", "oom_kill") >= if what == "child" { 2 } else { 1 });
        assert_eq!(number(&group, "memory.events", "oom_group_kill"), 1);
        let outcome = child.wait().unwrap();
        assert_eq!((outcome.cause(), outcome.signal()), (Cause::OutOfMemory, Some(libc::SIGKILL)), "{what}");
        assert_eq!(outcome.usage().peak_memory_source(), Some(UsageSource::Cgroup));
        let peak = outcome.usage().peak_memory().unwrap();
        assert!((MOST - (1 << 20)..=MOST).contains(&peak), "{what}: {peak}");
    }
}

#[test]
fn other_commands_say_that_memory_or_processor_time_has_ended_their_sandbox() {
    let directory = delegated!("fate", ["memory"]);
    let sandbox = sandbox(&directory, Limits::new().memory(24 << 20));
    for turn in 0..3 {
        let mut child = sandbox.command("/program").arg("wait").spawn().unwrap();
        let mut other = child.command("/program").arg("wait").spawn().unwrap();
        let mut greedy = child.command("/program").args(["anonymous", "200000000"]).spawn().unwrap();
        let told = |child: &mut Child| (child.wait().unwrap().signal(), child.wait().unwrap().cause());
        let oom = (Some(libc::SIGKILL), Cause::OutOfMemory);
        match turn {
            0 => assert_eq!([told(&mut child), told(&mut other), told(&mut greedy)], [oom; 3]),
            1 => assert_eq!([told(&mut greedy), told(&mut other), told(&mut child)], [oom; 3]),
            _ => {
                let mut fds = [PollFd::new(child.as_fd(), PollFlags::POLLIN)];
                assert_eq!(poll(&mut fds, PollTimeout::try_from(AGES).unwrap()), Ok(1), "it ends");
                // The group goes with the handle, and nobody has asked.
                drop(child);
                assert_eq!([told(&mut greedy), told(&mut other)], [oom; 2]);
            }
        }
    }
    let limits = Limits::new().cpu_time(Duration::from_secs(1));
    let mut child = self::sandbox(&directory, limits).command("/program").args(["spin", "4"]).spawn().unwrap();
    let mut other = child.command("/program").arg("wait").spawn().unwrap();
    assert_eq!(child.wait().unwrap().cause(), Cause::CpuTime);
    assert_eq!(other.wait().unwrap().cause(), Cause::CpuTime);
}

/// So long that only a hang lasts longer.
const AGES: Duration = Duration::from_secs(60);

/// The group that a program is in. One of an earlier sandbox may take a moment to go.
fn group_of(directory: &Delegated, child: &Child) -> PathBuf {
    let pid = child.id().to_string();
    let holds = |group: &PathBuf| {
        fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|text| text.lines().any(|line| line == pid))
    };
    let groups: Vec<_> = directory.groups().into_iter().filter(holds).collect();
    assert_eq!(groups.len(), 1, "{pid}: {groups:?}");
    groups[0].clone()
}

/// The number behind a key of one of a group's files.
fn number(group: &Path, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(group.join(file)).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{key} in {text}")).parse().unwrap()
}

/// Waits until the processes of a group have used more processor time than now.
fn await_use(group: &Path) {
    let (start, before) = (Instant::now(), number(group, "cpu.stat", "usage_usec"));
    while number(group, "cpu.stat", "usage_usec") <= before {
        assert!(start.elapsed() < AGES, "it does not run");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Pauses four processes that spin, and looks whether they use time.
fn pause(group: &Path, child: &mut Child) {
    await_use(group);
    child.pause().unwrap();
    assert_eq!(number(group, "cgroup.events", "frozen"), 1, "it returns when all have stopped");
    // Who is in the kernel for that counts as stopped some microseconds before, which on a busy machine may come late.
    let pause = Duration::from_millis(100);
    let used = || number(group, "cpu.stat", "usage_usec");
    let rests = || (used(), std::thread::sleep(pause)).0 == used();
    assert!((0..20).any(|_| rests() && rests()), "none of them runs");
}

type End = fn(&mut Child) -> Result<(), Error>;

#[test]
fn a_pause_freezes_the_group_and_what_is_frozen_ends_like_others() {
    let directory = delegated!("freeze", []);
    let plain = sandbox(&directory, Limits::new());
    let without_init = plain.clone().namespaces(Namespaces::default() - Namespaces::PID);
    for sandbox in [&plain, &without_init] {
        let mut child = sandbox.command("/program").args(["spin", "4"]).spawn().unwrap();
        let group = group_of(&directory, &child);
        for _ in 0..3 {
            pause(&group, &mut child);
            // Already so, and that is fine.
            child.pause().unwrap();
            child.resume().unwrap();
            await_use(&group);
        }
        pause(&group, &mut child);
        // What the program handles waits.
        child.signal(libc::SIGUSR1).unwrap();
        assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None);
        child.resume().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(9));
        let ends: [(End, _); 3] = [
            (Child::kill, libc::SIGKILL),
            (|child| child.signal(libc::SIGKILL), libc::SIGKILL),
            // Nobody handles it.
            (|child| child.signal(libc::SIGTERM), libc::SIGTERM),
        ];
        for (end, signal) in ends {
            let mut child = sandbox.command("/program").args(["spin", "4"]).spawn().unwrap();
            pause(&group_of(&directory, &child), &mut child);
            end(&mut child).unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(signal));
            child.pause().unwrap();
        }
        let mut child = sandbox.command("/program").args(["spin", "4"]).spawn().unwrap();
        pause(&group_of(&directory, &child), &mut child);
        drop(child);
    }
    let limits = Limits::new().wall_time(Duration::from_secs(if std::env::var_os("BELLJAR_TEST_VM").is_some() {
        20
    } else {
        1
    }));
    let mut child = plain.limits(limits).command("/program").args(["spin", "4"]).spawn().unwrap();
    pause(&group_of(&directory, &child), &mut child);
    assert_eq!(child.wait().unwrap().cause(), Cause::TimedOut);
}

#[test]
fn nothing_enters_what_is_frozen() {
    let directory = delegated!("frozen", []);
    let mut child = sandbox(&directory, Limits::new()).command("/program").arg("wait").spawn().unwrap();
    child.pause().unwrap();
    let error = child.command("/program").args(["exit", "3"]).status().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Process, Some(libc::EAGAIN)), "{error}");
    assert!(error.to_string().contains("paused") && error.hint().unwrap().contains("resume"), "{error:?}");
    child.resume().unwrap();
    assert_eq!(child.command("/program").args(["exit", "3"]).status().unwrap().code(), Some(3));
    // What has entered stops with the rest.
    let mut other = child.command("/program").args(["spin", "4"]).spawn().unwrap();
    pause(&group_of(&directory, &child), &mut child);
    other.kill().unwrap();
    assert_eq!(other.wait().unwrap().cause(), Cause::Killed);
}

#[test]
fn without_clone3_the_program_enters_its_group_by_itself() {
    let directory = delegated!("clone3", ["pids", "memory"]);
    for errno in [libc::ENOSYS, libc::EPERM] {
        // A thread of its own: a filter can't be taken off again.
        let start = || {
            filter(libc::SYS_clone3, errno);
            let limits = Limits::new().pids(7).memory(24 << 20).wall_time(AGES);
            let plain = sandbox(&directory, limits);
            let pool = plain.prepare().unwrap().pool_by_hand(1).unwrap();
            for number in 0..3 {
                let command = || match number {
                    0 => plain.command("/program"),
                    1 => plain.prepare().unwrap().command("/program"),
                    _ => pool.refill().map(|()| pool.command("/program")).unwrap(),
                };
                let mut child = command().arg("wait").spawn().unwrap();
                group_of(&directory, &child);
                child.kill().unwrap();
                child.wait().unwrap();
                let output = command().args(["fork", "100"]).output().unwrap();
                assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "6", "{number}: and the program itself");
                let outcome = command().args(["anonymous", "200000000"]).status().unwrap();
                assert_eq!(outcome.cause(), Cause::OutOfMemory, "{number}");
            }
            let host = Sandbox::new().rootfs(Rootfs::host()).cgroup(&directory.0);
            let text = sh(&host, "cat /proc/self/cgroup");
            assert!(text.lines().any(|line| line == "0::/"), "{text}");
        };
        std::thread::scope(|scope| scope.spawn(start).join().unwrap());
    }
    assert_eq!(directory.groups().len(), 0);
}

#[test]
fn processors_are_shared_out() {
    let directory = delegated!("cpu-max", ["cpu"]);
    let tenth = Limits::new().cpu_max(Duration::from_millis(10), Duration::from_millis(100));
    let limits =
        tenth.wall_time(Duration::from_secs(if std::env::var_os("BELLJAR_TEST_VM").is_some() { 60 } else { 6 }));
    let outcome = sandbox(&directory, limits).command("/program").args(["spin", "4"]).status().unwrap();
    assert_eq!(outcome.cause(), Cause::TimedOut);
    let used = outcome.usage().user_time() + outcome.usage().system_time();
    assert!(used * 5 < outcome.usage().wall_time(), "{used:?} of a tenth of {:?}", outcome.usage());
}

#[test]
fn groups_of_dead_hosts_are_swept_and_those_of_others_are_not() {
    let name = "cgroup::groups_of_dead_hosts_are_swept_and_those_of_others_are_not";
    if is_role("dies") {
        let path = PathBuf::from(std::env::var_os("DIRECTORY").unwrap());
        let sandbox = with_program(&program()).cgroup(path);
        let _child = sandbox.command("/program").arg("wait").spawn().unwrap();
        std::process::abort();
    }
    let directory = delegated!("sweep", []);
    // With a name like ours, and processes: the sandbox's own is in a directory that sweeps too.
    let named_alike = Delegated(directory.0.join("belljar-1-1-0123abcd"));
    fs::create_dir(&named_alike.0).unwrap();
    let foreign = directory.0.join("belljar-2-2-0123abcd");
    // Somebody's who holds the lock, as a host that lives does.
    std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o1700).create(&foreign).unwrap();
    let _lock = locked(&foreign).unwrap();
    for _ in 0..3 {
        let status = again(name, "dies").env("DIRECTORY", &directory.0).output().unwrap().status;
        assert!(!status.success());
    }
    assert!(directory.groups().len() > 2, "they are left by the dead");
    // Their inits may take a moment to end.
    let kept = |group: &PathBuf| *group == foreign || *group == named_alike.0;
    let dead: Vec<_> = directory.groups().into_iter().filter(|group| !kept(group)).collect();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !dead.iter().all(|group| locked(group).is_some()) {
        assert!(Instant::now() < deadline, "{dead:?}");
    }
    let sandbox = with_program(&program()).cgroup(&directory.0);
    assert!(sandbox.command("/program").args(["exit", "0"]).status().unwrap().success());
    assert_eq!(directory.groups().iter().filter(|group| kept(group)).count(), 2);
    assert_eq!(directory.groups().len(), 2);
}

/// The directory, if nobody else has its lock.
fn locked(path: &Path) -> Option<fs::File> {
    use std::os::fd::AsRawFd;
    let file = fs::File::open(path).unwrap();
    // SAFETY: No pointers.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    (result == 0).then_some(file)
}

#[test]
fn what_is_no_directory_of_cgroups_is_refused_before_anything_starts() {
    let dir = temp_dir();
    let limits = || Limits::new().memory(64 << 20);
    let error = Sandbox::new().cgroup(dir.path()).limits(limits()).command("/x").spawn().unwrap_err();
    assert_eq!((error.layer(), error.kind()), (Layer::Limits, ErrorKind::InvalidPolicy));
    assert_eq!(error.path(), Some(dir.path()));
    let missing = dir.path().join("missing");
    let error = Sandbox::new().cgroup(&missing).limits(limits()).command("/x").spawn().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Limits, Some(libc::ENOENT)));
    let limits = Limits::new().io_max(IoMax::new("/dev/null").read_bytes(1));
    let error = Sandbox::new().limits(limits).command("/x").spawn().unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::InvalidPolicy, Some(Path::new("/dev/null"))));
}
