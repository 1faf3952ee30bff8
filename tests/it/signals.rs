//! Signals: to the program, to all of a sandbox, and to nobody else; pausing, stopping, and forwarding.

#![allow(clippy::multiple_unsafe_ops_per_block)]

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use belljar::{Capabilities, Cause, Child, ErrorKind, IdMap, Layer, Namespaces, Sandbox, Seccomp, Stdio};

use crate::again::{again, is_again};
use crate::alone::{alone, pipe};
use crate::harness::{compile_static, host, is_root, open_fds, with_program};
use crate::skip;

/// So long that only a hang lasts longer.
const AGES: Duration = Duration::from_secs(60);

/// A program with descendants. Each tells by a byte that it is there, and of every SIGUSR1; all hold standard output.
fn family() -> PathBuf {
    compile_static(
        "family",
        r#"
        #define _GNU_SOURCE
        #include <signal.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/prctl.h>
        #include <sys/ptrace.h>
        #include <sys/wait.h>
        #include <unistd.h>
        static char told;
        static void tell(int signal) { (void)signal; write(1, &told, 1); }
        static void live(char name) {
            told = name;
            signal(SIGUSR1, tell);
            write(1, ".", 1);
            for (;;) pause();
        }
        /* Never the same process for long, and never none. */
        static void run_away(void) {
            signal(SIGUSR2, SIG_DFL);
            signal(SIGCHLD, SIG_IGN);
            write(1, ".", 1);
            for (;;) if (fork() > 0) _exit(0);
        }
        static void traced(int of_program) {
            int ready[2];
            pipe(ready);
            prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
            pid_t program = getpid(), child = fork();
            if (child == 0) {
                if (!of_program) { ptrace(PTRACE_TRACEME, 0, 0, 0); raise(SIGSTOP); for (;;) pause(); }
                char ok = ptrace(PTRACE_ATTACH, program, 0, 0) ? 'x' : '.';
                if (ok == '.') waitpid(program, 0, __WALL);
                write(1, &ok, 1);
                for (;;) pause();
            }
            if (!of_program) { int status; char ok = waitpid(child, &status, 0) == child && WIFSTOPPED(status) ? '.' : 'x'; write(1, &ok, 1); }
            for (;;) pause();
        }
        int main(int argc, char **argv) {
            int count = argc > 2 ? atoi(argv[2]) : 0;
            signal(SIGTERM, SIG_IGN);
            if (!strcmp(argv[1], "tracee")) traced(0);
            if (!strcmp(argv[1], "traced")) traced(1);
            if (!strcmp(argv[1], "runaway")) {
                signal(SIGUSR2, SIG_IGN);
                for (int i = 0; i < count; i++) if (fork() == 0) run_away();
                close(1);
                for (;;) pause();
            }
            for (int i = 0; i < count; i++)
                if (fork() == 0) {
                    if (i % 3 == 1) setsid();
                    if (i % 3 == 2 && fork()) _exit(0);
                    live('c');
                }
            live('p');
        }
        "#,
    )
}

/// Starts the family, waits until `count` of it are there, and returns the reading end of the pipe that all hold.
fn start(sandbox: &Sandbox, args: &[&str], count: usize) -> (Child, File) {
    let (mut reader, writer) = pipe();
    let mut command = sandbox.clone().bind_ro(family(), "/program").command("/program");
    let child = command.args(args).stdout(Stdio::from(writer)).spawn().unwrap();
    let mut there = vec![0; count];
    reader.read_exact(&mut there).unwrap();
    assert_eq!(there, vec![b'.'; count]);
    (child, reader)
}

fn rest(mut reader: File) -> Vec<u8> {
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    rest
}

/// Sandboxes whose processes init could signal, or could not, without a capability.
fn policies() -> Vec<Sandbox> {
    let mut policies = vec![Sandbox::new(), Sandbox::new().user(0, 0)];
    if is_root() {
        let map = IdMap::new(0, 100_000, 65_536);
        let mapped = || Sandbox::new().uid_map(map).gid_map(map);
        let not_mapped = IdMap::new(5, 100_000, 10);
        policies.extend([
            mapped(),
            mapped().user(1000, 1000),
            mapped().user(1000, 1000).capabilities(Capabilities::SETUID),
            Sandbox::new().uid_map(not_mapped).gid_map(not_mapped),
            Sandbox::new().namespaces(Namespaces::default() - Namespaces::USER).user(1000, 1000),
        ]);
    }
    policies
}

#[test]
fn a_signal_reaches_the_program_and_no_other() {
    for sandbox in policies() {
        let (mut child, mut reader) = start(&sandbox, &["family", "5"], 6);
        child.signal(libc::SIGUSR1).unwrap();
        let mut told = [0];
        reader.read_exact(&mut told).unwrap();
        assert_eq!(&told, b"p");
        child.signal(libc::SIGKILL).unwrap();
        let outcome = child.wait().unwrap();
        assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGKILL), Cause::Signaled));
        assert_eq!(rest(reader), b"", "{sandbox:?}");
    }
}

/// A child of this process that leads a group, which is killed when this is dropped.
struct Group(std::process::Child);

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: No pointers. The group is that of a child that has not been waited for.
        unsafe { libc::kill(-(self.0.id() as i32), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

#[test]
fn a_signal_to_all_reaches_each_once_and_nobody_outside() {
    // Of the same user, with the same name, in the host's PID namespace, and in another sandbox.
    let (mut outside, writer) = pipe();
    let mut program = std::process::Command::new(family());
    let other = Group(program.args(["family", "1"]).stdout(writer).process_group(0).spawn().unwrap());
    drop(program);
    outside.read_exact(&mut [0; 2]).unwrap();
    let (mut neighbour, neighbours) = start(&Sandbox::new(), &["family", "2"], 3);
    for sandbox in policies() {
        let (mut child, mut reader) = start(&sandbox, &["family", "8"], 9);
        for _ in 0..3 {
            child.signal_all(libc::SIGUSR1).unwrap();
            let mut told = [0; 9];
            reader.read_exact(&mut told).unwrap();
            told.sort_unstable();
            assert_eq!(&told, b"ccccccccp", "{sandbox:?}");
        }
        child.signal_all(libc::SIGKILL).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(rest(reader), b"");
    }
    assert!(neighbour.try_wait().unwrap().is_none());
    neighbour.kill().unwrap();
    assert_eq!(rest(neighbours), b"");
    // They would have told of a signal.
    drop(other);
    assert_eq!(rest(outside), b"");
}

#[test]
fn nobody_runs_away_from_a_signal_to_all() {
    for _ in 0..10 {
        let (mut child, reader) = start(&Sandbox::new(), &["runaway", "8"], 8);
        child.signal_all(libc::SIGUSR2).unwrap();
        // Ends when the last of them has ended; the program itself ignores the signal, and holds no pipe.
        rest(reader);
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().cause(), Cause::Killed);
    }
}

#[test]
fn signals_that_there_are_not_are_refused() {
    let (mut child, _reader) = start(&Sandbox::new(), &["family"], 1);
    for signal in [0, -1, 65, i32::MAX, i32::MIN, 256 + libc::SIGKILL] {
        for error in [child.signal(signal), child.signal_all(signal), child.wait_forwarding([signal]).map(drop)] {
            let error = error.unwrap_err();
            assert_eq!((error.layer(), error.kind()), (Layer::Process, ErrorKind::InvalidPolicy), "{error}");
        }
    }
    for signal in [libc::SIGKILL, libc::SIGSTOP] {
        let error = child.wait_forwarding([libc::SIGINT, signal]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPolicy, "{error}");
    }
    assert_eq!(child.try_wait().unwrap(), None);
}

#[test]
fn what_has_ended_is_signalled_and_nobody_else() {
    let mut child = host().command("true").spawn().unwrap();
    // A zombie, which keeps its id.
    let start = Instant::now();
    while !matches!(state(child.id()), Some('Z')) {
        assert!(start.elapsed() < AGES);
    }
    child.signal(libc::SIGKILL).unwrap();
    child.signal_all(libc::SIGKILL).unwrap();
    assert!(child.wait().unwrap().success());
    // Gone: the id may be anybody's, for one that of this process.
    child.signal(libc::SIGKILL).unwrap();
    child.signal_all(libc::SIGKILL).unwrap();
    child.pause().unwrap();
    child.resume().unwrap();
    assert!(child.terminate(Duration::ZERO).unwrap().success());
}

#[test]
fn without_a_pid_namespace_only_the_program_is_known() {
    let sandbox = Sandbox::new().namespaces(Namespaces::default() - Namespaces::PID);
    let (mut child, mut reader) = start(&sandbox, &["family"], 1);
    for result in [child.signal_all(libc::SIGUSR1), child.pause(), child.resume()] {
        let error = result.unwrap_err();
        assert_eq!((error.layer(), error.kind()), (Layer::Process, ErrorKind::InvalidPolicy), "{error}");
        assert!(error.hint().is_some());
    }
    child.signal(libc::SIGUSR1).unwrap();
    let mut told = [0];
    reader.read_exact(&mut told).unwrap();
    assert_eq!(&told, b"p");
}

/// The state of a process: proc_pid_stat(5).
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The program and what it has started, as far as that has not been orphaned.
fn below(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    [pid].into_iter().chain(children).collect()
}

fn wait_until(pids: &[u32], stopped: bool) {
    let start = Instant::now();
    while pids.iter().any(|pid| (state(*pid) == Some('T')) != stopped) {
        assert!(start.elapsed() < AGES, "{pids:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_pause_stops_every_process_until_it_is_over() {
    for sandbox in policies() {
        let (mut child, mut reader) = start(&sandbox, &["family", "2"], 3);
        let pids = below(child.id());
        assert_eq!(pids.len(), 3);
        wait_until(&pids, false);
        child.pause().unwrap();
        wait_until(&pids, true);
        // It is alive, and signals wait.
        child.signal(libc::SIGUSR1).unwrap();
        assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
        wait_until(&pids, true);
        child.resume().unwrap();
        wait_until(&pids, false);
        let mut told = [0];
        reader.read_exact(&mut told).unwrap();
        assert_eq!(&told, b"p");
    }
}

#[test]
fn a_paused_or_traced_tree_ends_like_others() {
    for args in [&["family", "8"][..], &["tracee"], &["traced"], &["runaway", "8"]] {
        let count = args.get(1).map_or(1, |count| count.parse::<usize>().unwrap());
        let count = if args == ["family", "8"] { count + 1 } else { count };
        // The default filter refuses ptrace(2).
        let sandbox = Sandbox::new().seccomp(Seccomp::off());
        let (mut child, reader) = start(&sandbox, args, count);
        if args != ["traced"] {
            child.pause().unwrap();
        }
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().cause(), Cause::Killed);
        rest(reader);
        let (mut child, reader) = start(&sandbox, args, count);
        child.pause().unwrap();
        drop(child);
        rest(reader);
    }
}

#[test]
fn terminating_asks_first() {
    let run = |script: &str| {
        let mut child = host().command("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        child
    };
    let outcome = run("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done").terminate(AGES).unwrap();
    assert_eq!((outcome.code(), outcome.cause()), (Some(7), Cause::Exited));
    let outcome = run("echo ready; exec sleep 1000").terminate(AGES).unwrap();
    assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGTERM), Cause::Signaled));
    let outcome =
        run("trap '' TERM; echo ready; while :; do sleep 1; done").terminate(Duration::from_millis(50)).unwrap();
    assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGKILL), Cause::Killed));
    // A program that waits for the end of its input gets that too.
    let mut command = host().command("sh");
    command.args(["-c", "trap '' TERM; echo ready; read line; exit 3"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    assert_eq!(child.terminate(AGES).unwrap().code(), Some(3));
}

#[cfg(feature = "image")]
#[test]
fn terminating_sends_what_the_image_says() {
    let layout = crate::image_made::Layout::of(&serde_json::json!({ "StopSignal": "SIGUSR2" }));
    let image = belljar::Image::open(layout.path()).unwrap();
    let sandbox = Sandbox::from_image(&image).rootfs(belljar::Rootfs::host());
    let script = "trap 'exit 1' TERM; trap 'exit 2' USR2; echo ready; while :; do sleep 0.01; done";
    let pool = sandbox.prepare().unwrap().pool(1).unwrap();
    pool.refill().unwrap();
    for mut command in [sandbox.command("sh"), pool.command("sh")] {
        let mut child = command.args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        assert_eq!(child.terminate(AGES).unwrap().code(), Some(2));
    }
}

#[test]
fn a_pooled_program_is_signalled_like_others() {
    let pool = with_program(&family()).prepare().unwrap().pool(1).unwrap();
    pool.refill().unwrap();
    let (mut reader, writer) = pipe();
    let mut child = pool.command("/program").args(["family", "2"]).stdout(Stdio::from(writer)).spawn().unwrap();
    reader.read_exact(&mut [0; 3]).unwrap();
    child.signal_all(libc::SIGUSR1).unwrap();
    let mut told = [0; 3];
    reader.read_exact(&mut told).unwrap();
    told.sort_unstable();
    assert_eq!(&told, b"ccp");
    child.kill().unwrap();
    assert_eq!(rest(reader), b"");
}

/// What this thread has blocked.
fn blocked(status: &str) -> u64 {
    let status = fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// A shell that exits with 5 at a SIGINT, and has told that it is ready.
fn interruptible() -> Child {
    let script = "trap 'exit 5' INT; echo ready; while :; do sleep 0.01; done";
    let mut child = host().command("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    child
}

#[test]
fn a_signal_that_the_host_gets_is_forwarded() {
    alone("signals::a_signal_that_the_host_gets_is_forwarded", || {
        let before = blocked("/proc/thread-self/status");
        let mut child = interruptible();
        let fds = open_fds();
        // SAFETY: No arguments, and no failure.
        let (this, id) = unsafe { (libc::pthread_self(), libc::gettid()) };
        // A C library may block all signals while it makes a thread.
        let (is_made, wait_until_made) = std::sync::mpsc::channel();
        let sender = std::thread::spawn(move || {
            let start = Instant::now();
            wait_until_made.recv().unwrap();
            while blocked(&format!("/proc/self/task/{id}/status")) & 1 << (libc::SIGINT - 1) == 0 {
                assert!(start.elapsed() < AGES);
            }
            // SAFETY: The thread waits, and joins this one later. Unblocked, the signal would end the process.
            assert_eq!(unsafe { libc::pthread_kill(this, libc::SIGINT) }, 0);
        });
        is_made.send(()).unwrap();
        let outcome = child.wait_forwarding([libc::SIGINT, libc::SIGTERM]).unwrap();
        assert_eq!((outcome.code(), outcome.cause()), (Some(5), Cause::Exited));
        sender.join().unwrap();
        assert_eq!(blocked("/proc/thread-self/status"), before);
        drop(child.stdout.take());
        assert!(open_fds().is_subset(&fds));
    });
}

#[test]
fn a_signal_to_the_whole_host_process_is_forwarded_where_its_threads_block_it() {
    const NAME: &str = "signals::a_signal_to_the_whole_host_process_is_forwarded_where_its_threads_block_it";
    let block = &["env", "--block-signal=INT"];
    if !is_again() {
        if !crate::again::works(&["env", "--block-signal=INT", "true"]) {
            skip!("env(1) can't block signals here");
        }
        again(NAME, block);
        return;
    }
    let mut child = interruptible();
    // SAFETY: No pointers. Every thread blocks it: it waits until somebody takes it.
    assert_eq!(unsafe { libc::kill(libc::getpid(), libc::SIGINT) }, 0);
    assert_eq!(child.wait_forwarding([libc::SIGINT]).unwrap().code(), Some(5));
    assert_ne!(blocked("/proc/thread-self/status") & 1 << (libc::SIGINT - 1), 0, "the mask is as it was");
}
