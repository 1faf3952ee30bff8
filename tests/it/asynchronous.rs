//! The handle for tasks: what a runtime, its end, and a dropped future do to it.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use belljar::{
    AsyncChild, AsyncChildStderr, AsyncChildStdin, AsyncChildStdout, AsyncPty, Cause, Command, ErrorKind, Layer,
    Limits, Namespaces, Outcome, Output, PtySize, Rootfs, Seccomp, Stdio,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

use crate::alone::{alone, pipe};
use crate::harness::{children, compile_static, host, noop, open_fds, with_program};

/// So long that only a hang lasts longer.
const AGES: Duration = Duration::from_secs(60);

/// A runtime of one thread. Its timers are off: nothing here may need them.
fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_io().build().unwrap()
}

fn many_threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap()
}

/// Runs a task as a runtime runs it, in both kinds.
fn in_both<F: Future<Output = ()> + Send + 'static>(task: impl Fn() -> F) {
    one_thread().block_on(task());
    let many = many_threads();
    many.block_on(many.spawn(task())).unwrap();
}

fn sh(script: &str) -> Command {
    let mut command = host().command("sh");
    command.args(["-c", script]);
    command
}

/// A program that runs on until it is killed, with a child that does too; and a pipe that ends with both.
fn endless() -> (AsyncChild, File) {
    let (reader, writer) = pipe();
    let child = sh("sleep 1000 & sleep 1000").fd(3, writer).spawn_async().unwrap();
    (child, reader)
}

/// Nobody in the sandbox lives any more: the last writer is gone.
fn assert_all_dead(mut reader: File) {
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

/// Polls a future once.
fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn streams_and_handle_are_what_tasks_need() {
    fn is_handle<T: Send + Sync + std::fmt::Debug + AsFd + 'static>() {}
    fn reads<T: AsyncRead + Unpin + Send + Sync + std::fmt::Debug + AsFd + 'static>() {}
    fn writes<T: AsyncWrite + Unpin + Send + Sync + std::fmt::Debug + AsFd + 'static>() {}
    fn is_task<T: Future + Send + 'static>(_: &T) {}
    is_handle::<AsyncChild>();
    writes::<AsyncChildStdin>();
    reads::<AsyncChildStdout>();
    reads::<AsyncChildStderr>();
    reads::<AsyncPty>();
    writes::<AsyncPty>();
    one_thread().block_on(async {
        // The command may go before its futures do.
        let output = sh("exit 3").output_async();
        let status = sh("exit 4").status_async();
        is_task(&output);
        is_task(&status);
        let (output, status): (Output, Outcome) = (output.await.unwrap(), status.await.unwrap());
        assert_eq!((output.outcome.code(), status.code()), (Some(3), Some(4)));
        let mut child = sh("exit 5").spawn_async().unwrap();
        is_task(&async move { child.wait().await });
    });
}

#[test]
fn a_task_talks_with_a_program_by_its_streams() {
    in_both(|| async {
        let mut command = sh("while read line; do echo \"out $line\"; echo \"err $line\" >&2; done; exit 7");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn_async().unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        for word in ["one", "two", "three"] {
            stdin.write_all(format!("{word}\n").as_bytes()).await.unwrap();
            let expected = format!("out {word}\n");
            let mut line = vec![0; expected.len()];
            stdout.read_exact(&mut line).await.unwrap();
            assert_eq!(line, expected.as_bytes());
        }
        stdin.shutdown().await.unwrap();
        drop(stdin);
        let mut errors = String::new();
        child.stderr.as_mut().unwrap().read_to_string(&mut errors).await.unwrap();
        assert_eq!(errors, "err one\nerr two\nerr three\n");
        assert_eq!(stdout.read(&mut [0]).await.unwrap(), 0);
        assert!(child.id().is_some());
        assert_eq!(child.wait().await.unwrap().code(), Some(7));
        assert_eq!(child.id(), None);
    });
}

#[test]
fn a_wait_closes_standard_input_and_tells_the_same_ever_after() {
    in_both(|| async {
        let mut child = sh("cat; exit 9").stdin(Stdio::piped()).spawn_async().unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        let outcome = child.wait().await.unwrap();
        assert_eq!((outcome.code(), outcome.cause()), (Some(9), Cause::Exited));
        assert_eq!(child.wait().await.unwrap(), outcome);
        assert_eq!(child.try_wait().unwrap(), Some(outcome));
        child.start_kill().unwrap();
        child.kill().await.unwrap();
    });
}

#[test]
fn a_kill_ends_everything_inside_and_is_told() {
    in_both(|| async {
        let (mut child, reader) = endless();
        child.kill().await.unwrap();
        assert_all_dead(reader);
        assert_eq!(child.wait().await.unwrap().cause(), Cause::Killed);
        let (mut child, reader) = endless();
        child.start_kill().unwrap();
        let outcome = child.wait().await.unwrap();
        assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGKILL), Cause::Killed));
        assert_all_dead(reader);
    });
}

#[test]
fn what_is_left_behind_is_gone_after_a_wait() {
    in_both(|| async {
        let (reader, writer) = pipe();
        let mut command = sh("sleep 1000 & exit 0");
        let mut child = command.fd(3, writer).spawn_async().unwrap();
        drop(command);
        assert!(child.wait().await.unwrap().success());
        assert_all_dead(reader);
    });
}

#[test]
fn much_is_collected_of_both_streams_at_once() {
    in_both(|| async {
        let script = "head -c 3000000 /dev/zero >&2; head -c 2000000 /dev/zero; echo end >&2; echo end";
        let output = sh(script).output_async().await.unwrap();
        assert!(output.outcome.success());
        assert_eq!((output.stdout.len(), output.stderr.len()), (2_000_004, 3_000_004));
        assert!(output.stdout.ends_with(b"\0end\n") && output.stderr.ends_with(b"\0end\n"));
    });
}

#[test]
fn what_is_collected_has_the_same_bounds_as_without_a_runtime() {
    in_both(|| async {
        let script = "head -c 40000000 /dev/zero; head -c 100 /dev/zero >&2";
        let output = sh(script).output_async().await.unwrap();
        assert_eq!((output.outcome.code(), output.truncated), (Some(0), true));
        assert_eq!((output.stdout.len(), output.stderr.len()), (32 << 20, 100));
        let limited = host().limits(Limits::new().output(1000));
        let output = limited.command("sh").args(["-c", "yes & yes"]).output_async().await.unwrap();
        assert_eq!((output.outcome.cause(), output.truncated), (Cause::OutputLimit, true));
        assert_eq!(output.stdout.len(), 1000);
        let output = limited.command("sh").args(["-c", "head -c 1000 /dev/zero"]).output_async().await.unwrap();
        assert_eq!((output.outcome.cause(), output.truncated), (Cause::Exited, false));
        assert_eq!(output.stdout.len(), 1000);
    });
}

#[test]
fn signals_reach_the_program_or_all_and_a_pause_holds_them() {
    in_both(|| async {
        let script = "trap 'echo usr1' USR1; echo ready; while :; do sleep 1000 & wait; done";
        let mut child = sh(script).stdout(Stdio::piped()).spawn_async().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut line = [0; 6];
        stdout.read_exact(&mut line).await.unwrap();
        child.signal(libc::SIGUSR1).unwrap();
        stdout.read_exact(&mut line[..5]).await.unwrap();
        assert_eq!(&line, b"usr1\n\n");
        child.pause().unwrap();
        child.resume().unwrap();
        child.signal_all(libc::SIGTERM).unwrap();
        assert_eq!(child.wait().await.unwrap().signal(), Some(libc::SIGTERM));
        child.signal(libc::SIGTERM).unwrap();
        assert_eq!(child.signal(0).unwrap_err().kind(), ErrorKind::InvalidPolicy);
    });
}

#[test]
fn a_program_is_asked_to_end_before_it_is_killed() {
    in_both(|| async {
        let outcome = sh("sleep 1000").spawn_async().unwrap().terminate(AGES).await.unwrap();
        assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGTERM), Cause::Signaled));
        for grace in [Duration::ZERO, Duration::from_millis(20)] {
            let mut child = sh("trap '' TERM; echo; sleep 1000").stdout(Stdio::piped()).spawn_async().unwrap();
            child.stdout.as_mut().unwrap().read_u8().await.unwrap();
            assert_eq!(child.terminate(grace).await.unwrap().cause(), Cause::Killed);
            assert_eq!(child.terminate(grace).await.unwrap().cause(), Cause::Killed);
        }
        // What no clock can count to is waited for.
        let outcome = sh("sleep 1000").spawn_async().unwrap().terminate(Duration::MAX).await.unwrap();
        assert_eq!(outcome.cause(), Cause::Signaled);
    });
}

#[test]
fn the_program_reads_null_and_others_run_while_its_output_is_awaited() {
    one_thread().block_on(async {
        // The second lets the first go on: one thread waits for both.
        let mut first = sh("read line; echo $line").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn_async().unwrap();
        let mut stdin = first.stdin.take().unwrap();
        let second = async move {
            assert_eq!(sh("cat").output_async().await.unwrap().stdout, b"");
            stdin.write_all(b"go\n").await.unwrap();
        };
        let (output, ()) = tokio::join!(first.wait_with_output(), second);
        assert_eq!(output.unwrap().stdout, b"go\n");
    });
}

#[test]
fn a_stream_that_is_taken_or_inherited_is_not_collected() {
    one_thread().block_on(async {
        let mut child =
            sh("echo out; echo err >&2").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn_async().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let output = child.wait_with_output().await.unwrap();
        assert_eq!((output.stdout, output.stderr), (Vec::new(), b"err\n".to_vec()));
        let mut text = String::new();
        stdout.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "out\n");
        let output = sh("true").spawn_async().unwrap().wait_with_output().await.unwrap();
        assert!(output.outcome.success());
    });
}

#[test]
fn a_dropped_wait_loses_nothing() {
    alone("asynchronous::a_dropped_wait_loses_nothing", || {
        many_threads().block_on(drop_waits());
        assert_eq!(children(), [""; 0]);
    });
}

async fn drop_waits() {
    let (mut child, reader) = endless();
    for _ in 0..50 {
        assert!(poll_once(child.wait()).is_pending());
    }
    tokio::time::timeout(Duration::from_millis(20), child.wait()).await.unwrap_err();
    assert!(child.id().is_some());
    drop(child);
    assert_all_dead(reader);
    // A wait that is dropped at any point between the ends of program and sandbox.
    for turn in 0..200 {
        let mut child = with_program(&noop()).command("/program").spawn_async().unwrap();
        let outcome = loop {
            match poll_once(child.wait()) {
                Poll::Ready(outcome) => break outcome.unwrap(),
                Poll::Pending => tokio::task::yield_now().await,
            }
        };
        assert_eq!((turn, outcome.code()), (turn, Some(0)));
    }
    // Nothing is left to detach then.
    for _ in 0..50 {
        let mut child = with_program(&noop()).command("/program").spawn_async().unwrap();
        while child.id().is_some() && poll_once(child.wait()).is_pending() {
            tokio::task::yield_now().await;
        }
        child.detach().unwrap();
    }
}

#[test]
fn a_dropped_future_that_owns_the_sandbox_kills_it() {
    in_both(|| async {
        for polled in [false, true] {
            let (reader, writer) = pipe();
            let mut status = Box::pin(sh("sleep 1000").fd(3, writer).status_async());
            if polled {
                assert!(poll_once(status.as_mut()).is_pending());
            }
            drop(status);
            assert_all_dead(reader);
            let (reader, writer) = pipe();
            let mut output = Box::pin(sh("echo word; sleep 1000").fd(3, writer).output_async());
            if polled {
                assert!(poll_once(output.as_mut()).is_pending());
            }
            drop(output);
            assert_all_dead(reader);
        }
    });
    many_threads().block_on(async {
        let (reader, writer) = pipe();
        let task = tokio::spawn(sh("sleep 1000").fd(3, writer).output_async());
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_all_dead(reader);
        let (reader, writer) = pipe();
        let output = sh("yes").fd(3, writer).output_async();
        tokio::time::timeout(Duration::from_millis(30), output).await.unwrap_err();
        assert_all_dead(reader);
    });
}

#[test]
fn what_is_killed_by_a_drop_sees_no_end_of_its_input_and_is_not_hung_up() {
    let program = compile_static(
        "async-eof",
        r#"
        #include <signal.h>
        #include <unistd.h>
        static void tell(int signal) { (void)signal; (void)!write(3, "hung up", 7); _exit(0); }
        int main(void) {
            char byte;
            signal(SIGHUP, tell);
            if (write(3, "!", 1) != 1) return 1;
            while (read(0, &byte, 1) > 0);
            (void)!write(3, "end of input", 12);
            for (;;) pause();
        }
        "#,
    );
    let sandbox = with_program(&program);
    // Where the program has a processor of its own, one in a few would win the race.
    many_threads().block_on(async {
        for turn in 0..200 {
            let (mut reader, writer) = pipe();
            let mut command = sandbox.command("/program");
            command.fd(3, writer);
            match turn % 3 {
                0 => {
                    let child = command.stdin(Stdio::piped()).spawn_async().unwrap();
                    drop(command);
                    reader.read_exact(&mut [0]).unwrap();
                    drop(child);
                }
                1 => {
                    let child = command.pty(PtySize::default()).spawn_async().unwrap();
                    drop(command);
                    reader.read_exact(&mut [0]).unwrap();
                    drop(child);
                }
                _ => {
                    // An end of file is typed at the start; what is told of it is read here.
                    let child = command.pty(PtySize::default()).spawn_async().unwrap();
                    drop(command);
                    let mut output = Box::pin(child.wait_with_output());
                    assert!(poll_once(output.as_mut()).is_pending());
                    reader.read_exact(&mut [0; 13]).unwrap();
                    drop(output);
                }
            }
            let mut told = String::new();
            reader.read_to_string(&mut told).unwrap();
            assert_eq!(told, "", "{turn}");
        }
    });
}

#[test]
fn a_program_has_a_terminal_whoever_waits() {
    in_both(|| async {
        let script = "test -t 0 && stty size; echo one; exec <&- >&- 2>&-; sleep 0.05; echo two >/dev/tty; exit 3";
        let size = PtySize::new(31, 97);
        let output = sh(script).pty(size).output_async().await.unwrap();
        let shown = &b"31 97\r\none\r\ntwo\r\n"[..];
        assert_eq!((output.outcome.code(), &*output.stdout), (Some(3), shown));
        let child = sh(script).pty(size).spawn_async().unwrap();
        assert!(child.pty.is_some());
        let output = child.wait_with_output().await.unwrap();
        assert_eq!((output.outcome.code(), &*output.stdout, output.truncated), (Some(3), shown, false));
        // More than a terminal holds: somebody reads it.
        let much = "head -c 300000 /dev/zero; exit 5";
        let output = sh(much).pty(size).output_async().await.unwrap();
        assert_eq!((output.outcome.code(), output.stdout.len()), (Some(5), 300_000));
        assert_eq!(sh(much).pty(size).status_async().await.unwrap().code(), Some(5));
        // What is taken is the caller's.
        let mut child = sh("read line; echo got $line").pty(size).spawn_async().unwrap();
        let mut pty = child.pty.take().unwrap();
        pty.write_all(b"word\n").await.unwrap();
        assert!(child.wait_with_output().await.unwrap().stdout.is_empty());
        let mut shown = String::new();
        pty.read_to_string(&mut shown).await.unwrap();
        assert_eq!(shown, "word\r\ngot word\r\n");
        let limited = host().limits(Limits::new().output(1000));
        let output = limited.command("yes").pty(size).output_async().await.unwrap();
        assert_eq!((output.outcome.cause(), output.stdout.len(), output.truncated), (Cause::OutputLimit, 1000, true));
        let pool = host().prepare().unwrap().pool(1).unwrap();
        let output = pool.command("tty").pty(size).output_async().await.unwrap();
        assert_eq!(output.stdout, b"/dev/pts/0\r\n");
    });
}

/// Reads until a word is shown; returns all that was.
async fn read_until(mut pty: &AsyncPty, word: &str) -> String {
    let mut shown = String::new();
    while !shown.contains(word) {
        let mut bytes = [0; 256];
        let read = pty.read(&mut bytes).await.unwrap();
        assert_ne!(read, 0, "the end comes before {word:?}: {shown:?}");
        shown.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    shown
}

#[test]
fn a_task_types_reads_and_resizes() {
    in_both(|| async {
        let script =
            "trap 'stty size' WINCH; echo ready; while ! read line; do :; done; echo got $line; exec sleep 1000";
        let mut child = sh(script).pty(PtySize::new(31, 97)).spawn_async().unwrap();
        let pty = child.pty.take().unwrap();
        assert_eq!(read_until(&pty, "ready\r\n").await, "ready\r\n");
        // Nothing is shown now: a dropped read takes nothing.
        assert!(poll_once((&pty).read(&mut [0])).is_pending());
        pty.resize(PtySize::new(50, 132)).unwrap();
        assert_eq!(read_until(&pty, "50 132\r\n").await, "50 132\r\n");
        (&pty).write_all(b"a word\n").await.unwrap();
        assert_eq!(read_until(&pty, "got a word\r\n").await, "a word\r\ngot a word\r\n");
        // Ctrl-C.
        (&pty).write_all(b"\x03").await.unwrap();
        let outcome = child.wait().await.unwrap();
        assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGINT), Cause::Signaled));
        let mut rest = String::new();
        (&pty).read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "^C");
    });
}

#[test]
fn much_is_typed_and_shown_at_once() {
    in_both(|| async {
        // More than a terminal holds, in both directions.
        let typed: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
        let script = "stty raw -echo; printf ready; head -c 1000000";
        let mut child = sh(script).pty(PtySize::default()).spawn_async().unwrap();
        let pty = Arc::new(child.pty.take().unwrap());
        read_until(&pty, "ready").await;
        let (to, input) = (pty.clone(), typed.clone());
        let writer = tokio::spawn(async move { (&*to).write_all(&input).await.unwrap() });
        let mut shown = Vec::new();
        (&*pty).read_to_end(&mut shown).await.unwrap();
        writer.await.unwrap();
        assert!(shown == typed, "{} bytes", shown.len());
        assert!(child.wait().await.unwrap().success());
    });
}

#[test]
fn a_dropped_terminal_of_a_task_hangs_up_and_one_that_is_given_on_blocks() {
    in_both(|| async {
        let start = || sh("echo ready; exec sleep 1000").pty(PtySize::default()).spawn_async().unwrap();
        let mut child = start();
        read_until(child.pty.as_ref().unwrap(), "ready").await;
        drop(child.pty.take());
        assert_eq!(child.wait().await.unwrap().signal(), Some(libc::SIGHUP));
        let mut child = start();
        let flags = |fd: &dyn AsRawFd| {
            nonblocking(&std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap())
        };
        let pty = child.pty.take().unwrap();
        assert_eq!(flags(&pty.as_fd()), [true], "the control");
        let fd = pty.into_owned_fd().unwrap();
        assert_eq!(flags(&fd), [false]);
        drop(fd);
        assert_eq!(child.wait().await.unwrap().signal(), Some(libc::SIGHUP));
    });
}

#[test]
fn a_task_runs_other_commands_in_its_sandbox() {
    in_both(|| async {
        let mut child = sh("read line; cat /tmp/note; exit 21");
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn_async().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let enter = |script: &str| {
            let mut command = child.command("sh");
            command.args(["-c", script]);
            command
        };
        assert_eq!(enter("exit 22").status_async().await.unwrap().code(), Some(22));
        let (mut talks, mut notes, mut leaves) =
            (enter("read line; echo got $line; exit 23"), enter("echo one > /tmp/note"), enter("exec sleep 1000"));
        // They are started while the program is awaited.
        let commands = async {
            let mut entered = talks.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn_async().unwrap();
            entered.stdin.take().unwrap().write_all(b"this\n").await.unwrap();
            let output = entered.wait_with_output().await.unwrap();
            assert_eq!((output.outcome.code(), &*output.stdout), (Some(23), &b"got this\n"[..]));
            assert!(notes.output_async().await.unwrap().outcome.success());
            // A dropped future ends the command alone.
            let (mut reader, writer) = pipe();
            let mut future = Box::pin(leaves.fd(3, writer).status_async());
            drop(leaves);
            assert!(poll_once(future.as_mut()).is_pending());
            drop(future);
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
            stdin.write_all(b"go\n").await.unwrap();
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), commands);
        let output = output.unwrap();
        assert_eq!((output.outcome.code(), &*output.stdout), (Some(21), &b"one\n"[..]));
    });
}

#[test]
fn commands_in_sandboxes_of_all_kinds_are_for_tasks_too() {
    in_both(|| async {
        let prepared = host().prepare().unwrap();
        let pool = prepared.pool_by_hand(1).unwrap();
        for mut command in [host().command("cat"), prepared.command("cat"), pool.command("cat")] {
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn_async().unwrap();
            let mut entering = child.command("sh");
            let echoes = (0..4).map(|number| {
                let echo = entering.clone().args(["-c", &format!("echo {number}; exit {number}")]).output_async();
                tokio::spawn(echo)
            });
            for (number, echo) in echoes.collect::<Vec<_>>().into_iter().enumerate() {
                let output = echo.await.unwrap().unwrap();
                assert_eq!(output.stdout, format!("{number}\n").into_bytes());
                assert_eq!(output.outcome.code(), i32::try_from(number).ok());
            }
            let mut entered = child.command("sleep").arg("1000").spawn_async().unwrap();
            // A command of a command is one of the sandbox.
            assert!(entered.command("true").status_async().await.unwrap().success());
            assert_eq!(entered.signal_all(libc::SIGTERM).unwrap_err().kind(), ErrorKind::InvalidPolicy);
            assert_eq!(entered.terminate(AGES).await.unwrap().signal(), Some(libc::SIGTERM));
            drop(child.stdin.take());
            assert!(child.wait().await.unwrap().success());
            let error = entering.args(["-c", ":"]).spawn_async().unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ESRCH), "{error}");
        }
        let single = host().namespaces(Namespaces::default() - Namespaces::PID);
        let mut child = single.command("true").spawn_async().unwrap();
        assert_eq!(child.command("true").status_async().await.unwrap_err().kind(), ErrorKind::InvalidPolicy);
        child.wait().await.unwrap();
    });
}

#[test]
fn commands_of_tasks_end_with_the_sandbox_and_nothing_is_left() {
    alone("asynchronous::commands_of_tasks_end_with_the_sandbox_and_nothing_is_left", || {
        drop(many_threads());
        let before = open_fds();
        in_both(|| async {
            let start = || async {
                let (child, reader) = endless();
                let enter = || child.command("sleep").arg("1000").spawn_async().unwrap();
                let commands = [enter(), enter(), enter()];
                (child, reader, commands)
            };
            let killed = |outcome: Result<Outcome, belljar::Error>| {
                let outcome = outcome.unwrap();
                assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGKILL), Cause::Killed));
            };
            // One waits before the sandbox is ended, one meanwhile, and one afterwards.
            let (mut child, reader, [mut first, mut second, mut third]) = start().await;
            let first = tokio::spawn(async move { first.wait().await });
            tokio::task::yield_now().await;
            let (ended, second) = tokio::join!(child.kill(), second.wait());
            ended.unwrap();
            killed(second);
            killed(third.wait().await);
            killed(first.await.unwrap());
            assert_all_dead(reader);
            // The end of it is dropped at some point.
            for polls in 0..6 {
                let (mut child, reader, commands) = start().await;
                let mut end = Box::pin(child.kill());
                for _ in 0..polls {
                    if poll_once(end.as_mut()).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                drop(end);
                drop(child);
                assert_all_dead(reader);
                for mut command in commands {
                    killed(command.wait().await);
                }
            }
        });
        assert_eq!(children(), [""; 0]);
        assert_eq!(open_fds(), before);
    });
}

#[test]
fn a_handle_may_be_dropped_anywhere() {
    let spawn = |runtime: &Runtime| runtime.block_on(async { endless() });
    for runtime in [one_thread(), many_threads()] {
        // Outside of the runtime, in another thread, where blocking is allowed, and where it is not.
        let (child, reader) = spawn(&runtime);
        drop(child);
        assert_all_dead(reader);
        let (child, reader) = spawn(&runtime);
        std::thread::spawn(move || drop(child)).join().unwrap();
        assert_all_dead(reader);
        let (child, reader) = spawn(&runtime);
        runtime.block_on(runtime.spawn_blocking(move || drop(child))).unwrap();
        assert_all_dead(reader);
        let (child, reader) = spawn(&runtime);
        runtime.block_on(async move { drop(child) });
        assert_all_dead(reader);
        // In a task that the runtime's own end drops, and after that.
        let (mut child, reader) = spawn(&runtime);
        let (later, later_reader) = spawn(&runtime);
        runtime.spawn(async move { child.wait().await });
        drop(runtime);
        assert_all_dead(reader);
        drop(later);
        assert_all_dead(later_reader);
    }
}

#[test]
fn a_wait_goes_on_in_another_runtime() {
    let mut command = sh("read line; exit 11");
    command.stdin(Stdio::piped());
    let first = one_thread();
    let mut child = first.block_on(async {
        let mut child = command.spawn_async().unwrap();
        let stdin = child.stdin.take();
        assert!(poll_once(child.wait()).is_pending());
        child.stdin = stdin;
        child
    });
    drop(first);
    assert_eq!(one_thread().block_on(child.wait()).unwrap().code(), Some(11));
}

#[test]
fn without_a_runtime_nothing_is_started() {
    let error = sh("true").spawn_async().unwrap_err();
    assert_eq!((error.kind(), error.layer()), (ErrorKind::InvalidPolicy, Layer::Process));
    assert_eq!(error.to_string(), "process: spawn: there is no tokio runtime here");
    for result in [poll_once(sh("true").status_async()), poll_once(sh("true").output_async()).map_ok(|out| out.outcome)]
    {
        let Poll::Ready(Err(error)) = result else { panic!("{result:?}") };
        assert_eq!(error.kind(), ErrorKind::InvalidPolicy);
    }
    let mut child = one_thread().block_on(async { sh("exit 12").spawn_async().unwrap() });
    let Poll::Ready(Err(error)) = poll_once(child.wait()) else { panic!("nobody could have waited") };
    assert_eq!(error.to_string(), "process: wait: there is no tokio runtime here");
    // It is as it was.
    assert_eq!(one_thread().block_on(child.wait()).unwrap().code(), Some(12));
}

#[test]
fn errors_of_the_start_are_those_of_spawn() {
    one_thread().block_on(async {
        let error = host().command("no-such-program").spawn_async().unwrap_err();
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Exec, Some(libc::ENOENT)));
        let error = host().command("no-such-program").output_async().await.unwrap_err();
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Exec, Some(libc::ENOENT)));
        let error = host().command("true").arg("a\0b").status_async().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPolicy);
    });
}

#[test]
fn several_tasks_wait_for_one_program() {
    many_threads().block_on(async {
        let mut child = sh("read line; exit 13").stdin(Stdio::piped()).spawn_async().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let child = Arc::new(tokio::sync::Mutex::new(child));
        let wait = |_| {
            let child = child.clone();
            tokio::spawn(async move { child.lock().await.wait().await.unwrap().code() })
        };
        let tasks: Vec<_> = (0..8).map(wait).collect();
        stdin.write_all(b"go\n").await.unwrap();
        for task in tasks {
            assert_eq!(task.await.unwrap(), Some(13));
        }
    });
}

#[test]
fn prepared_sandboxes_and_pools_start_for_tasks_too() {
    in_both(|| async {
        let prepared = host().prepare().unwrap();
        let pool = prepared.pool(2).unwrap();
        let by_hand = prepared.pool_by_hand(1).unwrap();
        for round in 0..4 {
            for mut command in [prepared.command("sh"), pool.command("sh"), by_hand.command("sh")] {
                command.args(["-c", &format!("cat; echo {round}; exit {round}")]);
                let output = command.output_async().await.unwrap();
                assert_eq!((output.outcome.code(), output.stdout), (Some(round), format!("{round}\n").into_bytes()));
                let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn_async().unwrap();
                child.stdin.take().unwrap().write_all(b"x").await.unwrap();
                assert_eq!(child.wait().await.unwrap().code(), Some(round));
            }
        }
        let child = pool.command("sleep").arg("1000").spawn_async().unwrap();
        drop(pool);
        drop(child);
    });
}

#[test]
fn sandboxes_and_processes_of_tokios_own_do_not_disturb_each_other() {
    in_both(|| async {
        let mut tasks = tokio::task::JoinSet::new();
        for code in 0..24 {
            let exit = format!("sleep 0.0{}; echo {code}; exit {code}", code % 7);
            let script = exit.clone();
            tasks.spawn(async move {
                let output = tokio::process::Command::new("sh").args(["-c", &script]).output().await.unwrap();
                (output.status.code(), output.stdout, code)
            });
            tasks.spawn(async move {
                let output = sh(&exit).output_async().await.unwrap();
                (output.outcome.code(), output.stdout, code)
            });
            let mut killed = tokio::process::Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
            killed.kill().await.unwrap();
            drop(tokio::process::Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap());
            drop(endless());
        }
        while let Some(task) = tasks.join_next().await {
            let (told, text, asked) = task.unwrap();
            assert_eq!((told, text), (Some(asked), format!("{asked}\n").into_bytes()));
        }
    });
}

#[test]
fn two_hundred_sandboxes_are_awaited_at_once_and_nothing_is_left() {
    alone("asynchronous::two_hundred_sandboxes_are_awaited_at_once_and_nothing_is_left", || {
        // What a runtime opens once and for all.
        drop(many_threads());
        let before = open_fds();
        for runtime in [one_thread(), many_threads()] {
            runtime.block_on(async {
                // None ends before all have been started.
                let mut children: Vec<_> = (0..200)
                    .map(|number| {
                        let mut command = sh(&format!("read line; echo $line {number}; exit {number}"));
                        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn_async().unwrap()
                    })
                    .collect();
                let inputs: Vec<_> = children.iter_mut().map(|child| child.stdin.take().unwrap()).collect();
                let waits = children.into_iter().map(|child| tokio::spawn(child.wait_with_output()));
                let waits: Vec<_> = waits.collect();
                for mut stdin in inputs {
                    stdin.write_all(b"number\n").await.unwrap();
                }
                for (number, wait) in waits.into_iter().enumerate() {
                    let output = wait.await.unwrap().unwrap();
                    assert_eq!(output.outcome.code(), i32::try_from(number).ok());
                    assert_eq!(output.stdout, format!("number {number}\n").into_bytes());
                }
            });
        }
        assert_eq!(children(), [""; 0]);
        assert_eq!(open_fds(), before);
    });
}

#[test]
fn a_process_outside_that_holds_the_pipe_does_not_keep_the_task_waiting() {
    in_both(|| async {
        // What the program leaves behind, in the same PID namespace as the host, holds its output.
        let (reader, writer) = pipe();
        let sandbox = host().namespaces(Namespaces::all() - Namespaces::PID);
        let mut command = sandbox.command("sh");
        command.args(["-c", "echo sent; cat <&3 3<&- & exit 14"]).fd(3, reader);
        let output = command.output_async().await.unwrap();
        assert_eq!((output.outcome.code(), output.stdout), (Some(14), b"sent\n".to_vec()));
        drop(writer);
    });
}

#[test]
fn the_programs_own_ends_of_the_pipes_block() {
    one_thread().block_on(async {
        let mut command = sh("sleep 0.05; cat /proc/self/fdinfo/0 /proc/self/fdinfo/1 /proc/self/fdinfo/2");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn_async().unwrap();
        let flags = |fd: &dyn AsRawFd| {
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
            nonblocking(&info)
        };
        // The control: the host's do not.
        assert_eq!(flags(&child.stdout.as_ref().unwrap().as_fd()), [true]);
        assert_eq!(flags(&child.stdin.as_ref().unwrap().as_fd()), [true]);
        let output = child.wait_with_output().await.unwrap();
        assert_eq!(nonblocking(std::str::from_utf8(&output.stdout).unwrap()), [false; 3]);
        // And what is given on blocks again.
        let mut child = sh("echo given").stdout(Stdio::piped()).spawn_async().unwrap();
        let stdout: OwnedFd = child.stdout.take().unwrap().into_owned_fd().unwrap();
        assert_eq!(flags(&stdout), [false]);
        let output = sh("cat").stdin(Stdio::from(stdout)).output_async().await.unwrap();
        assert_eq!(output.stdout, b"given\n");
        child.wait().await.unwrap();
    });
}

/// Whether O_NONBLOCK is set, of each that proc_pid_fdinfo(5) tells of.
fn nonblocking(info: &str) -> Vec<bool> {
    let flags = info.lines().filter_map(|line| line.strip_prefix("flags:"));
    flags.map(|flags| i32::from_str_radix(flags.trim(), 8).unwrap() & libc::O_NONBLOCK != 0).collect()
}

#[test]
fn a_detached_sandbox_lives_on() {
    many_threads().block_on(async {
        let (child, mut reader) = {
            let (reader, writer) = pipe();
            let mut command = sh("read line; echo $line >&3");
            (command.fd(3, writer).stdin(Stdio::piped()).spawn_async().unwrap(), reader)
        };
        let mut child = child;
        let mut stdin = child.stdin.take().unwrap();
        child.detach().unwrap();
        stdin.write_all(b"still here\n").await.unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here\n");
    });
}

#[test]
fn changes_can_be_read_when_the_wait_is_over() {
    crate::memory!();
    one_thread().block_on(async {
        let sandbox = host().rootfs(Rootfs::host().ephemeral());
        let outcome = sandbox.command("sh").args(["-c", "echo new > /new"]).status_async().await.unwrap();
        let changes = outcome.changes().unwrap();
        assert!(changes.iter().any(|change| change.path() == std::path::Path::new("/new")), "{changes:?}");
    });
}

#[test]
fn processes_that_a_program_has_made_the_hosts_children_are_reaped() {
    alone("asynchronous::processes_that_a_program_has_made_the_hosts_children_are_reaped", || {
        let program = compile_static(
            "async-adopted",
            r#"
            #define _GNU_SOURCE
            #include <errno.h>
            #include <sched.h>
            #include <signal.h>
            #include <sys/syscall.h>
            #include <unistd.h>
            int main(void) {
                for (int i = 0; i < 4; i++) {
                    long child = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
                    if (child < 0) return errno;
                    if (child == 0 && i == 3) pause();
                    if (child == 0) _exit(1);
                }
                return 0;
            }
            "#,
        );
        one_thread().block_on(async {
            let sandbox = with_program(&program).seccomp(Seccomp::off());
            let outcome = sandbox.command("/program").status_async().await.unwrap();
            assert_eq!(outcome.code(), Some(0));
            assert_eq!(children(), [""; 0]);
        });
    });
}

/// Its child traces it, and does not let go of it when it has ended. It writes that child's id.
fn traced(namespaces: Namespaces) -> Command {
    let program = compile_static(
        "async-traced",
        r#"
        #include <stdio.h>
        #include <sys/prctl.h>
        #include <sys/ptrace.h>
        #include <unistd.h>
        int main(void) {
            int ready[2];
            char byte;
            if (pipe(ready)) return 1;
            prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
            pid_t traced = getpid();
            pid_t tracer = fork();
            if (tracer == 0) {
                if (ptrace(PTRACE_SEIZE, traced, 0, 0)) _exit(1);
                if (write(ready[1], "!", 1) == 1) for (;;) pause();
            }
            close(ready[1]);
            if (read(ready[0], &byte, 1) != 1) return 2;
            dprintf(1, "%d\n", tracer);
            return 15;
        }
        "#,
    );
    let sandbox = with_program(&program).namespaces(namespaces);
    sandbox.seccomp(Seccomp::container().allow(["ptrace"])).command("/program")
}

#[test]
fn a_program_that_is_traced_to_its_end_keeps_no_thread_of_the_runtime() {
    one_thread().block_on(async {
        // Init takes the tracer along.
        let (traced, other) = tokio::join!(traced(Namespaces::all()).output_async(), sh("exit 16").status_async());
        assert_eq!((traced.unwrap().outcome.code(), other.unwrap().code()), (Some(15), Some(16)));
    });
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // Without a PID namespace nobody does: the program has ended, and can't be reaped.
        let (mut child, tracer) = held().await;
        let waited = tokio::time::timeout(Duration::from_millis(100), child.wait()).await;
        kill(tracer);
        waited.unwrap_err();
        assert_eq!(child.wait().await.unwrap().code(), Some(15));
    });
}

#[test]
fn a_drop_does_not_wait_for_who_traces_a_program_that_has_ended() {
    let (child, tracer) = one_thread().block_on(held());
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(child);
        sender.send(())
    });
    let dropped = receiver.recv_timeout(AGES);
    kill(tracer);
    dropped.unwrap();
    // It was left as a zombie, which goes as nobody else may see it.
    // SAFETY: Without a place for the status, no memory is written.
    assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
}

/// A program that has ended, or is about to, and the id of who does not let go of it.
async fn held() -> (AsyncChild, i32) {
    let mut command = traced(Namespaces::all() - Namespaces::PID);
    let mut child = command.stdout(Stdio::piped()).spawn_async().unwrap();
    let mut tracer = Vec::new();
    while tracer.last() != Some(&b'\n') {
        tracer.push(child.stdout.as_mut().unwrap().read_u8().await.unwrap());
    }
    (child, std::str::from_utf8(&tracer).unwrap().trim().parse().unwrap())
}

fn kill(pid: i32) {
    // SAFETY: No pointers; the process waits for this.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

#[test]
fn a_host_that_ignores_sigchld_waits_too() {
    alone("asynchronous::a_host_that_ignores_sigchld_waits_too", || {
        // SAFETY: Ignoring a signal runs no code.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        one_thread().block_on(async {
            for _ in 0..20 {
                let (child, reader) = endless();
                let mut child = child;
                // Before Linux 6.15 the status is lost, and that is an error.
                match child.kill().await {
                    Ok(()) => assert_eq!(child.wait().await.unwrap().cause(), Cause::Killed),
                    Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ECHILD)),
                }
                assert_all_dead(reader);
            }
        });
        assert_eq!(children(), [""; 0]);
    });
}

#[test]
fn the_time_that_a_task_may_wait_is_the_callers_matter() {
    many_threads().block_on(async {
        let mut child = sh("sleep 1000").spawn_async().unwrap();
        tokio::select! {
            _ = child.wait() => panic!("it runs for ages"),
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
        child.start_kill().unwrap();
        let outcome = tokio::time::timeout(AGES, child.wait()).await.unwrap().unwrap();
        assert_eq!(outcome.cause(), Cause::Killed);
    });
}
