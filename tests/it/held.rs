//! What is held by whoever traces it: it may not end when it is killed, and the host does not wait for ever even so.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use belljar::{Child, Namespaces, Seccomp, Stdio};

use crate::harness::{compile_static, with_program};
use crate::skip;

/// So long that only a hang lasts longer.
const AGES: Duration = Duration::from_secs(60);

/// A program that is traced by its child, whose id it writes. With the argument `end` it ends, as a zombie that is not let
/// go; with `stop` it stops at its end until it is let go; with `both` it traces its child too, so that neither ends.
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

/// Starts it; returns the id of its tracer, as the program sees it.
fn start(namespaces: Namespaces, how: &str) -> (Child, i32) {
    let sandbox = with_program(&held()).namespaces(namespaces).seccomp(Seccomp::container().allow(["ptrace"]));
    let mut child = sandbox.command("/program").arg(how).stdout(Stdio::piped()).spawn().unwrap();
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

#[test]
#[ignore = "leaves processes that only the end of the machine ends: tests/vm/inside runs it in a virtual machine"]
fn two_that_hold_each_other_do_not_hold_the_host() {
    if std::env::var_os("BELLJAR_TEST_VM").is_none() {
        skip!("this is no virtual machine of tests/vm/boot");
    }
    for namespaces in [Namespaces::all(), Namespaces::all() - Namespaces::PID] {
        assert!(drops(start(namespaces, "both").0), "{namespaces:?}");
    }
    // It has not ended, and a wait says so.
    let (mut child, _) = start(Namespaces::all(), "both");
    child.kill().unwrap();
    assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None);
    assert!(drops(child));
}
