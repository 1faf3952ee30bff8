//! The cgroup of a sandbox, where this host has a tree of version 2 that the caller may divide.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use belljar::{Cause, ErrorKind, IoMax, Layer, Limits, Namespaces, Rootfs, Sandbox, Stdio, UsageSource};

use crate::alone::{again, is_role, pipe};
use crate::harness::{compile_static, sh, temp_dir, with_program};
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
        int main(int argc, char **argv) {
            const char *what = argv[1];
            long amount = argc > 2 ? atol(argv[2]) : 0;
            if (!strcmp(what, "exit")) return amount;
            if (!strcmp(what, "anonymous")) {
                for (long done = 0; done < amount; done += 1 << 20) memset(malloc(1 << 20), 1, 1 << 20);
                return 0;
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
            if (!strcmp(what, "spin")) { for (long i = 1; i < amount; i++) if (fork() == 0) break; for (;;) ; }
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
