//! What is held by whoever traces it: it may not end when it is killed, and the host does not wait for ever even so.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use belljar::{Cause, Child, Command, Layer, Limits, Namespaces, Sandbox, Seccomp, Stdio};

use crate::harness::{compile_static, with_program};
use crate::skip;

/// So long that only a hang lasts longer.
const AGES: Duration = Duration::from_secs(60);

/// A program that is traced by its child, whose id it writes. With the argument `end` it ends, as a zombie that is not let
/// go; with `stop` it stops at its end until it is let go; with `both` it traces its child too, so that neither ends. With `waits` it
/// does nothing, and with `writes` that alone.
fn held() -> PathBuf {
    compile_static(
        "held",
        r#"
        #include <stdio.h>
        #include <string.h>
        #include <sys/prctl.h>
        #include <sys/ptrace.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            int ready[2], go[2], stops = strcmp(argv[1], "end");
            char byte;
            if (!strcmp(argv[1], "waits") || !strcmp(argv[1], "writes")) {
                prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
                while (write(1, "!", 1) == 1 && !strcmp(argv[1], "writes"));
                for (;;) pause();
            }
            if (pipe(ready) || pipe(go)) return 1;
            prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
            pid_t traced = getpid();
            pid_t tracer = fork();
            if (tracer == 0) {
                prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
                if (ptrace(PTRACE_SEIZE, traced, 0, stops ? PTRACE_O_TRACEEXIT : 0)) _exit(1);
                if (write(ready[1], "!", 1) == 1) for (;;) pause();
            }
            close(ready[1]);
            if (read(ready[0], &byte, 1) != 1) return 2;
            if (!strcmp(argv[1], "both") && ptrace(PTRACE_SEIZE, tracer, 0, PTRACE_O_TRACEEXIT)) return 3;
            dprintf(1, "%d\n", tracer);
            while (stops) pause();
            return 15;
        }
        "#,
    )
}

fn command(namespaces: Namespaces, how: &str, limits: Limits) -> Command {
    let sandbox = with_program(&held()).namespaces(namespaces).seccomp(Seccomp::container().allow(["ptrace"]));
    let mut command = sandbox.limits(limits).command("/program");
    command.arg(how).stdout(Stdio::piped());
    command
}

/// Starts it; returns the id of its tracer, as the program sees it.
fn start(namespaces: Namespaces, how: &str) -> (Child, i32) {
    start_limited(namespaces, how, Limits::new())
}

fn start_limited(namespaces: Namespaces, how: &str, limits: Limits) -> (Child, i32) {
    let mut child = command(namespaces, how, limits).spawn().unwrap();
    let mut tracer = String::new();
    while !tracer.ends_with('\n') {
        let mut byte = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        tracer.push(byte[0].into());
    }
    (child, tracer.trim().parse().unwrap())
}

fn kill(pid: i32) {
    // SAFETY: No pointers; the process waits for this.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

/// Drops a handle in a thread of its own. False means that it waits for ages.
fn drops(child: Child) -> bool {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(child);
        sender.send(())
    });
    receiver.recv_timeout(AGES).is_ok()
}

#[test]
fn a_wait_ends_in_time_though_the_program_can_t_be_reaped() {
    // Init would take the tracer along.
    let (mut child, tracer) = start(Namespaces::all() - Namespaces::PID, "end");
    let (sender, receiver) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        sender.send(child.wait_timeout(Duration::from_millis(50))).unwrap();
        child.wait()
    });
    let waited = receiver.recv_timeout(AGES);
    kill(tracer);
    assert_eq!(waited.unwrap().unwrap(), None);
    assert_eq!(waiter.join().unwrap().unwrap().code(), Some(15));
}

#[test]
fn a_drop_does_not_wait_for_who_holds_the_program_at_its_end() {
    let (child, tracer) = start(Namespaces::all() - Namespaces::PID, "stop");
    let pid = i32::try_from(child.id()).unwrap();
    let dropped = drops(child);
    kill(tracer);
    assert!(dropped);
    let mut status = 0;
    // SAFETY: The kernel writes the status, which outlives the call. Nobody else waits for the program any more.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(std::process::ExitStatus::from_raw(status).signal(), Some(libc::SIGKILL));
}

#[test]
fn a_program_at_its_end_is_let_go_by_the_end_of_the_sandbox() {
    let (mut child, _) = start(Namespaces::all(), "stop");
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert!(drops(start(Namespaces::all(), "stop").0));
}

/// Holds a program at its end from outside, as nobody inside can once all are killed. It is let go when this is dropped.
struct Holding(std::process::Child);

impl Holding {
    fn new(child: &Child) -> Self {
        let program = compile_static(
            "holding",
            r#"
            #include <stdlib.h>
            #include <sys/ptrace.h>
            #include <unistd.h>
            int main(int argc, char **argv) {
                char byte = '!';
                if (ptrace(PTRACE_SEIZE, atoi(argv[1]), 0, PTRACE_O_TRACEEXIT)) return 1;
                if (write(1, &byte, 1) != 1) return 2;
                return read(0, &byte, 1);
            }
            "#,
        );
        let pipe = std::process::Stdio::piped;
        let mut tracer = std::process::Command::new(program);
        let mut tracer = tracer.arg(child.id().to_string()).stdin(pipe()).stdout(pipe()).spawn().unwrap();
        tracer.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(tracer)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// A program that runs until it is killed, and may be traced from outside.
fn endless(sandbox: &Sandbox, how: &str) -> Child {
    let mut child = sandbox.command("/program").arg(how).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

#[test]
fn a_wait_for_who_is_held_is_an_error_once_everything_is_killed() {
    let sandbox = with_program(&held());
    let limited = sandbox.clone().limits(Limits::new().wall_time(Duration::from_secs(2)));
    let with_time = limited.clone().namespaces(Namespaces::all());
    let single = sandbox.clone().namespaces(Namespaces::default() - Namespaces::PID);
    for (sandbox, kills, cause) in [
        (&sandbox, true, Cause::Killed),
        (&limited, false, Cause::TimedOut),
        (&with_time, false, Cause::TimedOut),
        (&single, true, Cause::Killed),
    ] {
        let mut child = endless(sandbox, "waits");
        let holding = Holding::new(&child);
        if kills {
            child.kill().unwrap();
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            let forwarding = |child: &mut Child| child.wait_forwarding([libc::SIGUSR2]).map(Some);
            sender.send([child.wait().map(Some), child.wait_timeout(AGES), forwarding(&mut child)]).unwrap();
            child
        });
        let waited = receiver.recv_timeout(AGES);
        drop(holding);
        for result in waited.expect("a wait that does not end") {
            let error = result.unwrap_err();
            assert_eq!((error.layer(), error.raw_os_error()), (Layer::Process, Some(libc::EDEADLK)), "{error}");
            assert!(error.hint().unwrap().contains("ptrace"), "{error}");
        }
        // It is let go, and the same handle tells of it.
        let outcome = waiter.join().unwrap().wait().unwrap();
        assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGKILL), cause));
    }
}

#[test]
fn what_is_collected_ends_though_the_program_is_held() {
    let limits = Limits::new().output(1000);
    let child = endless(&with_program(&held()).limits(limits), "writes");
    let holding = Holding::new(&child);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()).unwrap());
    let waited = receiver.recv_timeout(AGES);
    drop(holding);
    assert_eq!(waited.unwrap().unwrap_err().raw_os_error(), Some(libc::EDEADLK));
}

/// The kernel tells a tracer's threads of each stop, asked or not.
#[test]
fn a_stop_of_a_program_that_this_process_traces_is_not_its_end() {
    let mut child = endless(&with_program(&held()), "waits");
    let pid = i32::try_from(child.id()).unwrap();
    let (seized, is_seized) = std::sync::mpsc::channel();
    let (over, is_over) = std::sync::mpsc::channel::<()>();
    // With the end of the thread nobody is traced any more.
    let tracer = std::thread::spawn(move || {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: No memory is read or written; the options are a number.
        let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, null, libc::PTRACE_O_TRACEEXIT) };
        seized.send(result).unwrap();
        let _ = is_over.recv();
    });
    assert_eq!(is_seized.recv().unwrap(), 0);
    child.signal(libc::SIGTERM).unwrap();
    let waited = child.wait_timeout(Duration::from_millis(200));
    drop(over);
    tracer.join().unwrap();
    assert_eq!(waited.unwrap(), None);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
}

#[test]
#[ignore = "leaves processes that only the end of the machine ends: tests/vm/inside runs it in a virtual machine"]
fn two_that_hold_each_other_do_not_hold_the_host() {
    if std::env::var_os("BELLJAR_TEST_VM").is_none() {
        skip!("this is no virtual machine of tests/vm/boot");
    }
    for namespaces in [Namespaces::all(), Namespaces::all() - Namespaces::PID] {
        assert!(drops(start(namespaces, "both").0), "{namespaces:?}");
    }
    // It has not ended, and a wait says so; however often it is asked.
    let (mut child, _) = start(Namespaces::all(), "both");
    child.kill().unwrap();
    assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        sender.send((child.wait(), child.wait_timeout(AGES), child.terminate(AGES), drops(child))).unwrap();
    });
    let (first, second, third, dropped) = receiver.recv_timeout(AGES).unwrap();
    for error in [first.unwrap_err(), second.unwrap_err(), third.unwrap_err()] {
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Process, Some(libc::EDEADLK)), "{error}");
        assert!(error.hint().unwrap().contains("ptrace"), "{error}");
    }
    assert!(dropped);
    // Nobody has called kill: time is up, or somebody else in the sandbox has ended it.
    let limits = Limits::new().wall_time(Duration::from_secs(3));
    for (namespaces, kill) in [(Namespaces::all(), false), (Namespaces::all() - Namespaces::PID, true)] {
        let limits = if kill { Limits::new() } else { limits.clone() };
        let (mut child, _) = start_limited(namespaces, "both", limits);
        if kill {
            child.kill().unwrap();
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait_with_output()).unwrap());
        let error = receiver.recv_timeout(AGES).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EDEADLK), "{error}");
    }
    #[cfg(feature = "tokio")]
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let mut child = command(Namespaces::all(), "both", Limits::new()).spawn_async().unwrap();
        tokio::io::AsyncReadExt::read_u8(child.stdout.as_mut().unwrap()).await.unwrap();
        let killed = tokio::time::timeout(AGES, child.kill()).await.unwrap();
        assert_eq!(killed.unwrap_err().raw_os_error(), Some(libc::EDEADLK));
        assert_eq!(child.wait().await.unwrap_err().raw_os_error(), Some(libc::EDEADLK));
    });
    // In another command, they do not keep the sandbox from being told as it is.
    let mut child = with_program(&held()).seccomp(Seccomp::container().allow(["ptrace"])).command("/program");
    let mut child = child.arg("waits").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut entered = child.command("/program").arg("both").stdout(Stdio::piped()).spawn().unwrap();
    entered.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child.kill().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send((child.wait(), drops(entered))));
    let (outcome, dropped) = receiver.recv_timeout(AGES).unwrap();
    assert_eq!(outcome.unwrap().cause(), Cause::Killed);
    assert!(dropped);
}
