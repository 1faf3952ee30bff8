//! Processes of a start that somebody outside kills at any moment: `spawn` and `wait` return, with the truth, and nothing
//! is left.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use belljar::{Cause, ErrorKind};

use crate::alone::{Random, alone, watch};
use crate::harness::{children, host, sh};

/// The processes that any thread of this process has as children.
fn own_children() -> Vec<libc::pid_t> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let read = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("children")).ok();
    tasks
        .filter_map(read)
        .flat_map(|text| text.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn a_start_whose_processes_are_killed_returns_and_leaves_nothing() {
    alone("killed::a_start_whose_processes_are_killed_returns_and_leaves_nothing", || {
        watch(Duration::from_secs(60));
        let over = AtomicBool::new(false);
        let (mut good, mut bad) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random(7);
                while !over.load(Ordering::Relaxed) {
                    for pid in own_children().into_iter().filter(|_| random.below(3) == 0) {
                        // SAFETY: No pointers. The process is a child, or has ended: ids are not used again so soon.
                        unsafe { libc::kill(pid, libc::SIGKILL) };
                    }
                    std::thread::sleep(Duration::from_micros(random.below(700)));
                }
            });
            let start = Instant::now();
            // An emulated processor takes longer for as many.
            while start.elapsed() < Duration::from_secs(3) || bad <= 50 {
                match host().command("true").status() {
                    Ok(_) => good += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Os, "{error}");
                        bad += 1;
                    }
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(bad > 50, "the control: {good} have gone well, and {bad} have not");
        assert_eq!(children(), Vec::<String>::new());
        assert_eq!(sh(&host(), "echo fine"), "fine\n");
    });
}

#[test]
fn what_ended_by_itself_was_not_killed() {
    let mut child = host().command("sh").args(["-c", "kill -SEGV $$"]).spawn().unwrap();
    // Its pidfd tells the end without reaping.
    let mut fds = [libc::pollfd {
        fd: std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&child)),
        events: libc::POLLIN,
        revents: 0,
    }];
    // SAFETY: The kernel reads and writes one structure, which outlives the call.
    assert_eq!(unsafe { libc::poll(fds.as_mut_ptr(), 1, 10_000) }, 1);
    child.kill().unwrap();
    let outcome = child.wait().unwrap();
    assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGSEGV), Cause::Signaled));
    let mut child = host().command("sleep").arg("1000").spawn().unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().cause(), Cause::Killed, "the control");
}

#[test]
fn the_handle_of_a_sandbox_is_no_stream_of_the_next() {
    alone("killed::the_handle_of_a_sandbox_is_no_stream_of_the_next", || {
        // SAFETY: This process writes nothing to standard input.
        unsafe { libc::close(0) };
        let first = host().command("sleep").arg("1000").spawn().unwrap();
        let streams = sh(&host(), "readlink /proc/self/fd/0");
        assert_eq!(streams, "/dev/null\n");
        assert!(!fs::read_link("/proc/self/fd/0").is_ok_and(|link| link.to_string_lossy().contains("pidfd")));
        drop(first);
    });
}
