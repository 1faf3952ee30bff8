//! Captured output: bounded, drained, and without a deadlock.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use belljar::{Cause, Limits, PtySize, Sandbox, Stdio};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::alone::{alone, pipe};
use crate::harness::{compile_static, host, with_program};

const MIB: u64 = 1 << 20;

fn limited(bytes: u64) -> Sandbox {
    host().limits(Limits::new().output(bytes))
}

fn sh(sandbox: &Sandbox, script: &str) -> belljar::Output {
    sandbox.command("sh").args(["-c", script]).output().unwrap()
}

#[test]
fn more_than_is_kept_is_read_and_forgotten() {
    // The program would wait for ever if nobody read.
    let script = "yes out | head -c 40000000; yes err | head -c 40000000 >&2; exit 3";
    let output = sh(&host(), script);
    assert_eq!((output.outcome.code(), output.outcome.cause()), (Some(3), Cause::Exited));
    assert!(output.truncated);
    for (kept, word) in [(&output.stdout, b"out\n"), (&output.stderr, b"err\n")] {
        assert_eq!(kept.len(), 32 << 20);
        assert!(kept.chunks(4).all(|chunk| chunk == word));
    }
    // As much as is kept is not more.
    let output = sh(&host(), "head -c 33554432 /dev/zero");
    assert_eq!((output.stdout.len(), output.truncated), (32 << 20, false));
}

#[test]
fn memory_is_bounded_whatever_the_program_writes() {
    alone("capture::memory_is_bounded_whatever_the_program_writes", || {
        let peak = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let before = peak();
        let output = sh(&limited(8 * MIB), "yes & yes >&2");
        assert_eq!(output.outcome.cause(), Cause::OutputLimit);
        // Whichever is first ends both.
        let kept = output.stdout.len().max(output.stderr.len()) as u64;
        assert_eq!((kept, output.truncated), (8 * MIB, true));
        // Twice: the bytes are copied when the buffer grows.
        assert!(peak() - before < 2 * 2 * 8 * 1024 + 8 * 1024, "{} KiB", peak() - before);
        let output = sh(&host(), "head -c 500000000 /dev/zero; head -c 500000000 /dev/zero >&2");
        assert!(output.truncated && output.outcome.success());
        assert!(peak() - before < 2 * 2 * 32 * 1024 + 8 * 1024, "{} KiB", peak() - before);
    });
}

#[test]
fn the_limit_ends_the_sandbox_and_keeps_the_start() {
    for (script, stream) in [("yes", 0), ("yes >&2", 1), ("(setsid yes &); sleep 1000", 0), ("trap '' TERM; yes", 0)] {
        let output = sh(&limited(100_001), script);
        assert_eq!((output.outcome.cause(), output.outcome.signal()), (Cause::OutputLimit, Some(libc::SIGKILL)));
        assert!(output.truncated && !output.outcome.success());
        let kept = [output.stdout, output.stderr];
        assert_eq!(kept[stream], "y\n".repeat(50_001).into_bytes()[..100_001], "{script}");
        assert!(kept[1 - stream].is_empty());
    }
}

#[test]
fn the_limit_is_for_each_stream_and_may_be_reached() {
    let output = sh(&limited(1000), "head -c 1000 /dev/zero; head -c 1000 /dev/zero >&2; exit 4");
    assert_eq!((output.outcome.code(), output.outcome.cause()), (Some(4), Cause::Exited));
    assert_eq!((output.stdout.len(), output.stderr.len(), output.truncated), (1000, 1000, false));
    let output = sh(&limited(1), "echo; exit 4");
    assert_eq!((output.outcome.code(), output.outcome.cause(), output.truncated), (Some(4), Cause::Exited, false));
    let output = sh(&limited(1), "echo; echo; sleep 1000");
    assert_eq!((output.outcome.cause(), output.stdout.len(), output.truncated), (Cause::OutputLimit, 1, true));
}

#[test]
fn one_byte_too_many_is_told_whoever_is_first() {
    // The program may have ended by itself before the byte is seen: the cause does not depend on it.
    for _ in 0..50 {
        let output = sh(&limited(10), "printf 0123456789x");
        assert_eq!((output.outcome.cause(), &*output.stdout), (Cause::OutputLimit, &b"0123456789"[..]));
        assert!(output.truncated);
    }
}

#[test]
fn a_packet_is_not_cut_without_a_word() {
    let program = compile_static(
        "packet",
        r#"
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <unistd.h>
        int main(void) {
            if (fcntl(1, F_SETFL, O_DIRECT)) return 1;
            return write(1, "0123456789x", 11) != 11;
        }
        "#,
    );
    let sandbox = with_program(&program).limits(Limits::new().output(10));
    let output = sandbox.command("/program").output().unwrap();
    assert_eq!((output.outcome.cause(), &*output.stdout), (Cause::OutputLimit, &b"0123456789"[..]));
    assert!(output.truncated);
}

#[test]
fn the_first_cause_is_told() {
    let (mut reader, writer) = pipe();
    let mut command = limited(10).command("sh");
    command.args(["-c", "echo 0123456789x; echo >&3; sleep 1000"]).stdout(Stdio::piped()).fd(3, writer);
    let mut child = command.spawn().unwrap();
    reader.read_exact(&mut [0]).unwrap();
    child.kill().unwrap();
    // It is over its limit too; but that was not seen before.
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.outcome.cause(), output.truncated), (Cause::Killed, true));
}

#[test]
fn pools_have_the_limit_too() {
    let pool = limited(100).prepare().unwrap().pool(1).unwrap();
    pool.refill().unwrap();
    let output = pool.command("yes").output().unwrap();
    assert_eq!((output.outcome.cause(), output.stdout.len()), (Cause::OutputLimit, 100));
}

#[test]
fn what_the_caller_reads_is_not_limited() {
    let mut child =
        limited(10).command("head").args(["-c", "100000", "/dev/zero"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut read = Vec::new();
    child.stdout.as_mut().unwrap().read_to_end(&mut read).unwrap();
    assert_eq!(read.len(), 100_000);
    assert_eq!(child.wait().unwrap().cause(), Cause::Exited);
}

#[test]
fn a_program_that_is_killed_was_not_over_its_limit() {
    let mut child = limited(MIB).command("sleep").arg("1000").stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(child.wait_timeout(Duration::from_millis(10)).unwrap(), None);
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.outcome.cause(), output.truncated), (Cause::Killed, false));
}

fn blocks(fd: &OwnedFd) -> bool {
    !OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK)
}

#[test]
fn duplicates_that_the_caller_has_made_stay_as_they_are() {
    // More than a pipe holds: when all is written, somebody reads.
    let script = "head -c 200000 /dev/zero; head -c 200000 /dev/zero >&2; echo >&4; read line <&3";
    let ((program_end, mut writer), (mut reader, teller)) = (pipe(), pipe());
    let mut command = host().command("sh");
    command.args(["-c", script]).fd(3, program_end).fd(4, teller);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let duplicates = [
        child.stdout.as_ref().unwrap().as_fd().try_clone_to_owned().unwrap(),
        child.stderr.as_ref().unwrap().as_fd().try_clone_to_owned().unwrap(),
    ];
    let waiter = std::thread::spawn(move || child.wait_with_output());
    reader.read_exact(&mut [0]).unwrap();
    let meanwhile = duplicates.each_ref().map(blocks);
    writer.write_all(b"go\n").unwrap();
    let output = waiter.join().unwrap().unwrap();
    assert_eq!((output.stdout.len(), output.stderr.len()), (200_000, 200_000));
    assert_eq!((meanwhile, duplicates.each_ref().map(blocks)), ([true; 2], [true; 2]));
    // A terminal can't be opened anew: it is as it was afterwards.
    let child = host().command("true").pty(PtySize::default()).spawn().unwrap();
    let duplicate = child.pty.as_ref().unwrap().as_fd().try_clone_to_owned().unwrap();
    child.wait_with_output().unwrap();
    assert!(blocks(&duplicate));
}

#[test]
fn what_is_no_pipe_is_captured_and_stays_as_it_is() {
    let (host_end, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut child = host().command("true").spawn().unwrap();
    let duplicate = OwnedFd::from(host_end.try_clone().unwrap());
    child.stdout = Some(OwnedFd::from(host_end).into());
    other.write_all(b"from elsewhere").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"from elsewhere");
    assert!(blocks(&duplicate));
    // A file is read from where it is.
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"before after").unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(7)).unwrap();
    let mut child = host().command("sleep").arg("0.1").spawn().unwrap();
    child.stdout = Some(OwnedFd::from(file).into());
    assert_eq!(child.wait_with_output().unwrap().stdout, b"after");
}

#[test]
fn a_program_that_reads_its_own_output_keeps_nobody_waiting() {
    let program = compile_static(
        "thief",
        r#"
        #include <fcntl.h>
        #include <unistd.h>
        int main(void) {
            char bytes[512];
            int output = open("/proc/self/fd/1", O_RDONLY | O_NONBLOCK), stolen = 0;
            if (output < 0) return 1;
            if (fork() == 0)
                for (;;) (void)!read(output, bytes, sizeof bytes);
            for (int i = 0; i < 3000; i++) {
                (void)!write(1, "x", 1);
                if (i % 2 && read(output, bytes, sizeof bytes) > 0) stolen++;
            }
            return stolen ? 17 : 2;
        }
        "#,
    );
    for _ in 0..40 {
        let mut command = with_program(&program).command("/program");
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        drop(command);
        // Somebody outside has the other end, so that the pipe does not end with the sandbox.
        let end = format!("/proc/{}/fd/1", child.id());
        let end = std::fs::File::options().write(true).open(end);
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // On a single processor a thread that waits runs at once when there is something to read, but for a batch: the
            // program would never be first.
            let none = libc::sched_param { sched_priority: 0 };
            // SAFETY: The structure outlives the call, which is about this thread alone.
            assert_eq!(unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none) }, 0);
            sender.send(child.wait_with_output()).unwrap();
        });
        let output = receiver.recv_timeout(Duration::from_secs(60));
        drop(end);
        // The control: 17 says that bytes were stolen.
        assert_eq!(output.unwrap().unwrap().outcome.code(), Some(17));
    }
}
