//! The wall time of a sandbox: it ends what runs and what is still being set up, whether somebody waits or not.

use std::fs::{self, File};
use std::io::{self, Read};
use std::time::{Duration, Instant};

use belljar::{Cause, Child, Error, ErrorKind, IdMap, Layer, Limits, Namespaces, Rootfs, Sandbox, Stdio, Tmpfs};

use crate::alone::{alone, pipe};
use crate::for_root;
use crate::harness::{children, compile_static, host, open_fds, real, temp_dir, with_program};

/// A program that does as its arguments say, and whose descendants hold standard output open.
fn program() -> std::path::PathBuf {
    compile_static(
        "late",
        r#"
        #include <signal.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        static void leave(int signal) { (void)signal; _exit(7); }
        int main(int argc, char **argv) {
            for (int i = 1; i < argc; i++) {
                if (!strcmp(argv[i], "ignore")) signal(SIGTERM, SIG_IGN);
                if (!strcmp(argv[i], "leave")) signal(SIGTERM, leave);
                if (!strcmp(argv[i], "daemon")) if (fork() == 0) { setsid(); signal(SIGTERM, SIG_IGN); for (;;) pause(); }
                if (!strcmp(argv[i], "spin")) for (int j = 0; j < 8; j++) if (fork() == 0) for (;;) ;
                if (!strcmp(argv[i], "stop")) raise(SIGSTOP);
                if (!strcmp(argv[i], "sleep")) usleep(atoi(argv[++i]) * 1000);
                if (!strcmp(argv[i], "exit")) _exit(atoi(argv[++i]));
            }
            for (;;) pause();
        }
        "#,
    )
}

fn limited(limits: Limits) -> Sandbox {
    with_program(&program()).limits(limits)
}

/// So many milliseconds; of a virtual machine, whose clock outruns its processor, more.
fn ms(count: u32) -> Duration {
    Duration::from_millis(if std::env::var_os("BELLJAR_TEST_VM").is_some() { 20 } else { 1 }) * count
}

/// Starts until it is in time: on a busy machine, time may be up before the program runs.
fn in_time<T>(start: impl Fn() -> Result<T, Error>) -> T {
    let late =
        |result: &Result<T, Error>| matches!(result, Err(error) if error.raw_os_error() == Some(libc::ETIMEDOUT));
    (0..20).map(|_| start()).find(|result| !late(result)).expect("one of many is in time").unwrap()
}

/// A program that writes to a pipe, and when it was started.
fn piped(sandbox: &Sandbox, args: &[&str]) -> (File, (Child, Instant)) {
    in_time(|| {
        let ((reader, writer), started) = (pipe(), Instant::now());
        let child = sandbox.command("/program").args(args).stdout(Stdio::from(writer)).spawn()?;
        Ok((reader, (child, started)))
    })
}

#[test]
fn time_is_up_for_the_whole_tree() {
    let sandbox = limited(Limits::new().wall_time(ms(800)));
    let (mut reader, (mut child, started)) = piped(&sandbox, &["ignore", "daemon", "spin", "stop"]);
    let outcome = child.wait().unwrap();
    assert_eq!((outcome.cause(), outcome.signal()), (Cause::TimedOut, Some(libc::SIGKILL)));
    assert!(started.elapsed() >= ms(800) && outcome.usage().wall_time() >= ms(800), "{:?}", outcome.usage());
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "everything has ended");
}

#[test]
fn time_is_up_though_nobody_waits() {
    let (mut reader, (mut child, _)) = piped(&limited(Limits::new().wall_time(ms(800))), &["daemon"]);
    // Blocks as long as one of them lives.
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    assert_eq!(child.wait().unwrap().cause(), Cause::TimedOut);
}

#[test]
fn a_detached_sandbox_ends_in_time_too() {
    let (mut reader, (child, _)) = piped(&limited(Limits::new().wall_time(ms(800))), &["daemon"]);
    child.detach().unwrap();
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_program_that_ends_in_time_has_ended_by_itself() {
    let sandbox = limited(Limits::new().wall_time(Duration::from_secs(60)));
    let outcome = sandbox.command("/program").args(["exit", "5"]).status().unwrap();
    assert_eq!((outcome.cause(), outcome.code()), (Cause::Exited, Some(5)));
    let mut child = sandbox.command("/program").spawn().unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().cause(), Cause::Killed);
}

#[test]
fn whoever_exits_at_the_last_moment_has_exited_and_whoever_does_not_was_late() {
    let sandbox = limited(Limits::new().wall_time(ms(30)));
    let mut seen = [0, 0];
    // On a busy machine the time is up before most programs run.
    for turn in (0..40).cycle().take(1000) {
        if turn == 0 && seen[1] > 0 {
            break;
        }
        let sleep = ms(10 + turn).as_millis().to_string();
        let outcome = sandbox.command("/program").args(["sleep", &sleep, "exit", "0"]).status();
        match outcome.map(|outcome| (outcome.cause(), outcome.code(), outcome.signal())) {
            Ok((Cause::Exited, Some(0), None)) => seen[0] += 1,
            Ok((Cause::TimedOut, None, Some(libc::SIGKILL))) => seen[1] += 1,
            // On a busy machine, time may be up before the program runs.
            Err(error) if error.raw_os_error() == Some(libc::ETIMEDOUT) => {}
            other => panic!("{turn}: {other:?}"),
        }
    }
    assert!(seen[1] > 0, "{seen:?}: none was late, and 40 ms of sleep do not end in 30");
}

#[test]
fn a_grace_asks_before_it_kills() {
    let limits = Limits::new().wall_time(ms(600)).term_grace(Duration::from_secs(60));
    // By default a SIGTERM ends it.
    let outcome = in_time(|| limited(limits.clone()).command("/program").status());
    assert_eq!((outcome.cause(), outcome.signal()), (Cause::TimedOut, Some(libc::SIGTERM)));
    let outcome = in_time(|| limited(limits.clone()).command("/program").arg("leave").status());
    assert_eq!((outcome.cause(), outcome.code()), (Cause::TimedOut, Some(7)));
    // Whoever has ended before was not asked.
    let outcome = in_time(|| limited(limits.clone()).command("/program").args(["exit", "7"]).status());
    assert_eq!((outcome.cause(), outcome.code()), (Cause::Exited, Some(7)));
    let limits = limits.term_grace(ms(100));
    let started = Instant::now();
    let outcome = in_time(|| limited(limits.clone()).command("/program").arg("ignore").status());
    assert_eq!((outcome.cause(), outcome.signal()), (Cause::TimedOut, Some(libc::SIGKILL)));
    assert!(started.elapsed() >= ms(700));
    // What does not run can't act on a SIGTERM.
    let outcome = in_time(|| limited(limits.clone()).command("/program").arg("stop").status());
    assert_eq!((outcome.cause(), outcome.signal()), (Cause::TimedOut, Some(libc::SIGKILL)));
}

#[test]
fn a_program_of_another_id_is_asked_too() {
    for_root!();
    let limits = Limits::new().wall_time(ms(600)).term_grace(Duration::from_secs(60));
    let sandbox = limited(limits).uid_map(IdMap::new(0, 0, 1)).uid_map(IdMap::new(7, 70_007, 1)).user(7, 0);
    for sandbox in [sandbox.clone(), sandbox.gid_map(IdMap::new(0, 0, 1)).gid_map(IdMap::new(7, 70_007, 1)).user(7, 7)]
    {
        let outcome = in_time(|| sandbox.command("/program").arg("leave").status());
        assert_eq!((outcome.cause(), outcome.code()), (Cause::TimedOut, Some(7)));
    }
}

#[test]
fn setting_up_is_counted() {
    alone("wall_time::setting_up_is_counted", slow_to_set_up);
}

fn slow_to_set_up() {
    let source = temp_dir();
    for index in 0..3000 {
        fs::write(source.path().join(format!("file-{index}")), "content").unwrap();
    }
    let (fds, before) = (open_fds(), children());
    let out = temp_dir();
    let sandbox = host().copy_in(real(source.path()), Tmpfs::new("/copy")).bind(real(out.path()), "/out");
    // The control: it can be set up.
    assert!(sandbox.command("true").status().unwrap().success());
    let mut command = sandbox.limits(Limits::new().wall_time(Duration::from_millis(8))).command("sh");
    let error = command.args(["-c", "echo ran >/out/ran"]).spawn().map(drop).unwrap_err();
    assert_eq!((error.layer(), error.kind()), (Layer::Limits, ErrorKind::Os), "{error}");
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
    assert!(error.step().starts_with("wall_time "), "{error}");
    assert!(error.to_string().contains("the time was up while the sandbox was set up"), "{error}");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
    assert!(!out.path().join("ran").exists());
    assert_eq!((open_fds(), children()), (fds, before), "nothing is left");
}

#[test]
fn a_time_that_is_up_at_once_starts_nothing() {
    let error = host().limits(Limits::new().wall_time(Duration::from_nanos(1))).command("true").spawn().unwrap_err();
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
}

#[test]
fn without_an_init_there_is_nobody_to_end_it() {
    let sandbox = Sandbox::new().namespaces(Namespaces::empty()).limits(Limits::new().wall_time(ms(100)));
    let error = sandbox.command("/bin/true").spawn().unwrap_err();
    assert_eq!((error.layer(), error.kind()), (Layer::Limits, ErrorKind::InvalidPolicy));
    assert!(error.to_string().contains("Namespaces::PID"), "{error}");
}

#[test]
fn in_a_pool_time_counts_from_the_start_of_the_program() {
    let pool = limited(Limits::new().wall_time(ms(1000)).open_files(8)).prepare().unwrap().pool(1).unwrap();
    // Longer than a program may run.
    std::thread::sleep(ms(1100));
    let outcome = in_time(|| pool.command("/program").args(["sleep", "1", "exit", "3"]).status());
    assert_eq!((outcome.cause(), outcome.code()), (Cause::Exited, Some(3)));
    let outcome = in_time(|| pool.command("/program").args(["ignore", "daemon"]).status());
    assert_eq!((outcome.cause(), outcome.signal()), (Cause::TimedOut, Some(libc::SIGKILL)));
}

#[test]
fn every_stream_and_a_lock_of_the_root_leave_room_for_the_timer() {
    let base = temp_dir();
    crate::harness::removable(base.path());
    let root = Rootfs::dir("/").overlay(real(base.path()));
    drop(File::open("/dev/null"));
    let sandbox = Sandbox::new().rootfs(root).limits(Limits::new().wall_time(ms(800)));
    match sandbox.command("/bin/sleep").arg("60").status() {
        Ok(outcome) => assert_eq!(outcome.cause(), Cause::TimedOut),
        // The directory is no place for an overlay's changes on this host.
        Err(error) => assert_eq!(error.layer(), Layer::Mount, "{error}"),
    }
}
