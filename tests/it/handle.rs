//! The handle: waiting, killing, streams, and what it tells.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use belljar::{Cause, Child, ErrorKind, Layer, Stdio};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::alone::{alone, pipe};
use crate::harness::{compile_static, host, noop, temp_dir, with_program};

/// So long that only a hang lasts longer.
const AGES: Duration = Duration::from_secs(60);

/// A program that does what its first argument says, so that no shell stands between it and its status.
fn actor() -> PathBuf {
    compile_static(
        "actor",
        r#"
        #define _GNU_SOURCE
        #include <signal.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/socket.h>
        #include <unistd.h>
        static void touch_memory(size_t mib) {
            volatile char *memory = malloc(mib << 20);
            for (size_t at = 0; at < mib << 20; at += 4096) memory[at] = 1;
        }
        static int send_stdout(void) {
            char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
            struct iovec data = { &byte, 1 };
            struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control,
                                      .msg_controllen = sizeof control };
            struct cmsghdr *header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = SOL_SOCKET;
            header->cmsg_type = SCM_RIGHTS;
            header->cmsg_len = CMSG_LEN(sizeof(int));
            int out = 1;
            memcpy(CMSG_DATA(header), &out, sizeof out);
            return sendmsg(3, &message, 0) != 1;
        }
        int main(int argc, char **argv) {
            int number = argc > 2 ? atoi(argv[2]) : 0;
            if (!strcmp(argv[1], "exit")) _exit(number);
            if (!strcmp(argv[1], "kill")) return kill(getpid(), number);
            if (!strcmp(argv[1], "memory")) return touch_memory(number), 0;
            if (!strcmp(argv[1], "send")) return write(1, "sent", 4) != 4 || send_stdout();
            if (!strcmp(argv[1], "pause")) for (;;) pause();
            return 99;
        }
        "#,
    )
}

fn act(args: &[&str]) -> Child {
    with_program(&actor()).command("/program").args(args).spawn().unwrap()
}

/// Whether the pidfd becomes readable, which it is from the end of the program on.
fn ends(child: &Child, timeout: PollTimeout) -> bool {
    let mut fds = [PollFd::new(child.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).unwrap() == 1
}

fn is_alive(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

#[test]
fn every_exit_code_is_told_as_it_is() {
    for code in 0..=255 {
        let outcome = act(&["exit", &code.to_string()]).wait().unwrap();
        assert_eq!((outcome.code(), outcome.signal(), outcome.cause()), (Some(code), None, Cause::Exited));
        assert_eq!((outcome.success(), outcome.status().into_raw()), (code == 0, code << 8));
    }
}

#[test]
fn every_deadly_signal_is_told_as_it_is() {
    // signal(7): these are ignored, and stop a process; in an orphaned process group the last three do nothing.
    let ignored = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
    let stopping = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    for signal in (1..=31).filter(|signal| !stopping.contains(signal)) {
        let outcome = act(&["kill", &signal.to_string()]).wait().unwrap();
        if ignored.contains(&signal) {
            assert_eq!(outcome.code(), Some(0), "signal {signal}");
            continue;
        }
        assert_eq!((outcome.code(), outcome.signal()), (None, Some(signal)));
        let cause = if signal == libc::SIGSYS { Cause::Syscall } else { Cause::Signaled };
        assert_eq!((outcome.cause(), outcome.success()), (cause, false));
        // The limit for core files is 1 byte: none is written, and the status says so.
        assert!(!outcome.status().core_dumped(), "signal {signal}");
    }
}

#[test]
fn a_shell_that_kills_itself_reads_as_outside() {
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGABRT, libc::SIGHUP] {
        let script = format!("kill -{signal} $$; exit 3");
        let inside = host().command("sh").args(["-c", &script]).status().unwrap();
        let outside = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
        assert_eq!((inside.status().signal(), inside.signal()), (outside.signal(), Some(signal)));
    }
}

#[test]
fn a_failed_exec_is_never_an_exit_code() {
    let dir = temp_dir();
    let path = |name: &str, mode, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    path("plain", 0o644, b"#!/bin/sh\n");
    path("garbage", 0o755, b"\x01\x02\x03\x04");
    let fifo = std::ffi::CString::new(dir.path().join("fifo").into_os_string().into_encoded_bytes()).unwrap();
    // SAFETY: The path ends in a zero byte and is only read.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o755) }, 0);
    let sandbox = host().bind_ro(dir.path(), "/bad");
    for (program, errno) in [
        ("/bad/missing", libc::ENOENT),
        ("/bad/plain", libc::EACCES),
        ("/bad/garbage", libc::ENOEXEC),
        ("/bad/fifo", libc::EACCES),
        ("/bad", libc::EACCES),
    ] {
        let error = sandbox.command(program).spawn().unwrap_err();
        assert_eq!((error.layer(), error.kind(), error.raw_os_error()), (Layer::Exec, ErrorKind::Os, Some(errno)));
    }
    let long = "x".repeat(200_000);
    let error = sandbox.command("/bin/true").arg(long).spawn().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Exec, Some(libc::E2BIG)));
    // The control: exit codes that shells use for such failures are plain codes.
    for code in [1, 126, 127] {
        let outcome = sandbox.command("sh").args(["-c", &format!("exit {code}")]).status().unwrap();
        assert_eq!((outcome.code(), outcome.cause()), (Some(code), Cause::Exited));
    }
}

#[test]
fn a_running_program_is_waited_for_tried_and_killed() {
    let mut child = act(&["pause"]);
    assert!(is_alive(child.id()));
    assert_eq!(child.try_wait().unwrap(), None);
    assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
    assert_eq!(child.wait_timeout(Duration::ZERO).unwrap(), None);
    assert!(!ends(&child, PollTimeout::ZERO));
    child.kill().unwrap();
    // A timeout past all clocks is a wait without one.
    let outcome = child.wait_timeout(Duration::MAX).unwrap().unwrap();
    assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGKILL), Cause::Killed));
    // The outcome stays, and killing what has ended is fine.
    child.kill().unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap(), outcome);
    assert_eq!(child.try_wait().unwrap(), Some(outcome.clone()));
    assert_eq!(child.wait_timeout(Duration::ZERO).unwrap(), Some(outcome));
    assert!(!is_alive(child.id()));
}

#[test]
fn a_kill_that_comes_too_late_changes_nothing() {
    let mut child = act(&["exit", "3"]);
    assert!(ends(&child, PollTimeout::NONE));
    child.kill().unwrap();
    let outcome = child.wait().unwrap();
    assert_eq!((outcome.code(), outcome.cause()), (Some(3), Cause::Exited));
    let mut child = act(&["kill", "15"]);
    assert!(ends(&child, PollTimeout::NONE));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
}

#[test]
fn a_signal_from_somebody_else_is_no_kill_of_ours() {
    let mut child = act(&["pause"]);
    // SAFETY: No pointers; the process is ours and not yet reaped.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGKILL) }, 0);
    let outcome = child.wait().unwrap();
    assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGKILL), Cause::Signaled));
}

#[test]
fn the_pidfd_can_be_polled() {
    let mut child = host().command("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    assert!(!ends(&child, PollTimeout::ZERO));
    drop(child.stdin.take());
    assert!(ends(&child, PollTimeout::from(60_000_u16)));
    assert!(child.try_wait().unwrap().unwrap().success());
}

#[test]
fn a_stopped_program_is_alive_until_it_is_killed() {
    let script = "kill -STOP $$; echo continued";
    let mut child = host().command("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let stat = format!("/proc/{}/stat", child.id());
    let stopped = || std::fs::read_to_string(&stat).unwrap().rsplit_once(") ").unwrap().1.starts_with('T');
    let start = Instant::now();
    while !stopped() {
        assert!(start.elapsed() < AGES);
        assert_eq!(child.wait_timeout(Duration::from_millis(1)).unwrap(), None);
    }
    assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.outcome.signal(), output.outcome.cause()), (Some(libc::SIGKILL), Cause::Killed));
    assert!(output.stdout.is_empty());
}

#[test]
fn the_streams_are_those_of_the_program() {
    let script = "read line; echo out $line; echo err $line >&2; cat >/dev/null";
    let mut command = host().command("sh");
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "word").unwrap();
    let mut line = [0; 9];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"out word\n");
    // Waiting closes standard input, without which this program never ends.
    let output = child.wait_with_output().unwrap();
    assert!(output.outcome.success());
    assert_eq!((output.stdout, output.stderr), (vec![], b"err word\n".to_vec()));
    let mut child = command.spawn().unwrap();
    assert!(child.wait().unwrap().success() || child.stdin.is_none());
}

#[test]
fn streams_that_are_not_piped_are_not_there() {
    let child = host().command("true").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(child.stdin.is_none() && child.stdout.is_none() && child.stderr.is_none());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.stdout, output.stderr), (vec![], vec![]));
}

#[test]
fn megabytes_on_both_pipes_are_drained_without_a_deadlock() {
    // One after the other in blocks: a reader of only one pipe would block the writer of the other.
    let script =
        "i=0; while [ $i -lt 64 ]; do head -c 131072 /dev/zero; head -c 131072 /dev/zero >&2; i=$((i+1)); done";
    let output = host().command("sh").args(["-c", script]).output().unwrap();
    assert!(output.outcome.success());
    assert_eq!((output.stdout.len(), output.stderr.len()), (8 << 20, 8 << 20));
    assert!(output.stdout.iter().chain(&output.stderr).all(|byte| *byte == 0));
}

#[test]
fn standard_input_that_nobody_reads_blocks_nobody() {
    let mut child = host().command("sleep").arg("0.05").stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // As `yes |` does: fills the pipe, and ends with EPIPE when the program has gone.
    let writer = std::thread::spawn(move || while stdin.write_all(&[b'y'; 4096]).is_ok() {});
    assert!(child.wait().unwrap().success());
    writer.join().unwrap();
}

#[test]
fn a_program_that_closes_its_output_is_waited_for() {
    let script = "echo early; exec >&- 2>&-; read line; exit 9";
    let (reader, writer) = pipe();
    let mut command = host().command("sh");
    command.args(["-c", script]).stdin(Stdio::from(reader)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let output = std::thread::spawn(|| child.wait_with_output().unwrap());
    std::thread::sleep(Duration::from_millis(30));
    assert!(!output.is_finished(), "the end of the output is not the end of the program");
    drop(writer);
    let output = output.join().unwrap();
    assert_eq!((output.outcome.code(), output.stdout), (Some(9), b"early\n".to_vec()));
}

#[test]
fn a_leftover_that_holds_the_pipe_does_not_keep_the_caller_waiting() {
    let script = "(trap '' TERM HUP; setsid sleep 1000 &) ; echo early; exit 4";
    let output = host().command("sh").args(["-c", script]).output().unwrap();
    assert_eq!((output.outcome.code(), output.stdout), (Some(4), b"early\n".to_vec()));
}

#[test]
fn somebody_outside_who_holds_the_pipe_does_not_keep_the_caller_waiting() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = with_program(&actor()).command("/program");
    let child = command.arg("send").fd(3, theirs).stdout(Stdio::piped()).spawn().unwrap();
    let mut held = receive(&ours);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.outcome.code(), output.stdout), (Some(0), b"sent".to_vec()));
    // The control: it is the pipe, whose reader is gone. Children of other tests may hold a copy until they exec.
    let start = Instant::now();
    while held.write(b"x").is_ok() {
        assert!(start.elapsed() < AGES, "somebody reads what was the program's output");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_process_outside_that_has_inherited_the_pipe_does_not_keep_the_caller_waiting() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut command = with_program(&actor()).command("/program");
    let child = command.arg("send").fd(3, theirs).stdout(Stdio::piped()).spawn().unwrap();
    let held = receive(&ours);
    let mut sleep = std::process::Command::new("sleep").arg("1000").stdout(held).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.outcome.code(), output.stdout), (Some(0), b"sent".to_vec()));
    assert!(sleep.try_wait().unwrap().is_none(), "it has held the pipe all the time");
    sleep.kill().unwrap();
    sleep.wait().unwrap();
}

/// Receives a descriptor: unix(7), `SCM_RIGHTS`.
fn receive(socket: &UnixStream) -> File {
    let mut byte = [0_u8; 1];
    let mut control = [0_u64; 8];
    let mut data = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: All zeroes is a value of this plain structure.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: All that the message points to outlives the call, with the lengths given.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    assert_eq!(received, 1);
    // SAFETY: The kernel has filled the message.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    assert!(!header.is_null());
    // SAFETY: The header that the kernel has written is followed by the descriptors.
    let data = unsafe { libc::CMSG_DATA(header) }.cast::<i32>();
    // SAFETY: One descriptor was sent.
    let fd = unsafe { data.read_unaligned() };
    // SAFETY: The kernel has just made this descriptor, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }.into()
}

#[test]
fn a_handle_works_in_another_thread_and_when_its_own_has_gone() {
    let spawn = || {
        let mut command = host().command("sh");
        command.args(["-c", "read line; exit 5"]).stdin(Stdio::piped()).spawn().unwrap()
    };
    // The thread that has started the program is gone before the program ends.
    let mut child = std::thread::spawn(spawn).join().unwrap();
    assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
    let outcome = std::thread::spawn(move || child.wait().unwrap()).join().unwrap();
    assert_eq!(outcome.code(), Some(5));
}

#[test]
fn the_time_used_is_told() {
    let script = "while :; do :; done";
    let mut child = host().command("sh").args(["-c", script]).spawn().unwrap();
    let busy = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        // proc(5): utime is the twelfth field behind the name, in ticks of 10 ms.
        let ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(11).unwrap();
        Duration::from_millis(10 * ticks.parse::<u64>().unwrap())
    };
    while busy() < Duration::from_millis(200) {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    let usage = child.wait().unwrap().usage();
    assert!(usage.user_time() >= Duration::from_millis(100), "{usage:?}");
    assert!(usage.wall_time() >= Duration::from_millis(200), "{usage:?}");
    let usage = host().command("sleep").arg("0.3").status().unwrap().usage();
    assert!(usage.wall_time() >= Duration::from_millis(300), "{usage:?}");
    assert!(usage.user_time() < Duration::from_millis(200), "{usage:?}");
}

#[test]
fn the_peak_memory_is_the_programs_or_is_not_told() {
    const MIB: u64 = 1 << 20;
    alone("handle::the_peak_memory_is_the_programs_or_is_not_told", || {
        // More than what the process of all tests has had, which this one's first memory was.
        let touched = 600;
        let usage = act(&["memory", &touched.to_string()]).wait().unwrap().usage();
        let peak = usage.peak_memory().expect("the program was larger than the host");
        assert!((touched * MIB..touched * 2 * MIB).contains(&peak), "{peak}");
        // A host that has been larger than that.
        let host = std::hint::black_box(vec![1_u8; 700 << 20]);
        assert!(host.iter().all(|byte| *byte == 1));
        let peak = || with_program(&noop()).command("/program").status().unwrap().usage().peak_memory();
        assert!(peak().is_none_or(|peak| peak < 50 * MIB), "{:?} is the host's", peak());
        drop(host);
        assert!(peak().is_none_or(|peak| peak < 50 * MIB), "{:?} is what the host has had", peak());
    });
}

#[test]
fn a_dropped_handle_leaves_no_process() {
    let mut command = host().command("sh");
    let (mut reader, writer) = pipe();
    command.args(["-c", "sleep 1000 & setsid sleep 1000 & echo up; wait"]).stdout(Stdio::from(writer));
    let child = command.spawn().unwrap();
    drop(command);
    let mut up = [0; 3];
    reader.read_exact(&mut up).unwrap();
    let pid = child.id();
    assert!(is_alive(pid));
    drop(child);
    assert!(!is_alive(pid), "reaped");
    // The end of the pipe: nobody holds it any more.
    assert_eq!(reader.read(&mut up).unwrap(), 0);
}
