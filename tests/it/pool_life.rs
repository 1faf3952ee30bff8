//! How pools live: filled, used up, shrunk and dropped; and what they survive.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::process::Stdio as StdStdio;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use belljar::{Cause, Error, ErrorKind, Layer, Outcome, Pool, Sandbox, Stdio};

use crate::alone::{again, alone, is_role, pipe};
use crate::harness::{children, host, noop, open_fds, temp_dir, with_program};

fn small() -> Sandbox {
    with_program(&noop())
}

/// Waits until something holds, which only a hang prevents.
fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}: {:?}", children());
        thread::sleep(Duration::from_millis(1));
    }
}

fn run(pool: &Pool) {
    assert!(pool.command("/program").status().unwrap().success());
}

/// The waiting agents, by process id.
fn agents() -> Vec<libc::pid_t> {
    let pid = |child: &String| child.split(' ').next()?.parse().ok();
    let is_agent = |pid: &libc::pid_t| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == "belljar-agent\0")
    };
    children().iter().filter_map(pid).filter(is_agent).collect()
}

fn kill(pid: libc::pid_t, signal: i32) {
    // SAFETY: No pointers. The process is a child that nobody has reaped.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// Ends agents, and waits for that: one that is killed after it has its order counts as a program that was killed.
fn end(all: &[libc::pid_t], signal: i32) {
    all.iter().for_each(|pid| kill(*pid, signal));
    until("they have ended", || !agents().iter().any(|pid| all.contains(pid)));
}

#[test]
fn a_pool_is_filled_used_up_and_filled_again() {
    let by_hand = small().prepare().unwrap().pool_by_hand(2).unwrap();
    assert_eq!(by_hand.ready(), 2);
    for left in [1, 0, 0, 0] {
        run(&by_hand);
        assert_eq!(by_hand.ready(), left, "what is missing is built for one start alone");
    }
    by_hand.refill().unwrap();
    by_hand.refill().unwrap();
    assert_eq!(by_hand.ready(), 2);
    let pool = small().prepare().unwrap().pool(3).unwrap();
    for _ in 0..20 {
        run(&pool);
    }
    until("its thread fills it", || pool.ready() == 3);
    let error = small().prepare().unwrap().pool(0).unwrap_err();
    assert_eq!((error.kind(), error.layer()), (ErrorKind::InvalidPolicy, Layer::Process));
    // What can't be built is told at once.
    let impossible = Sandbox::new().bind("/missing/source", "/x");
    let plain = impossible.command("/x").spawn().unwrap_err();
    assert_eq!(impossible.prepare().unwrap_err().to_string(), plain.to_string());
}

#[test]
fn an_idle_pool_shrinks_to_one_and_grows_with_the_next_start() {
    let pool = small().prepare().unwrap().pool(4).unwrap().idle_timeout(Duration::from_millis(30));
    until("it shrinks", || pool.ready() == 1);
    run(&pool);
    // It shrinks again, so the whole size may be seen only for a moment.
    let pool = pool.idle_timeout(Duration::MAX);
    run(&pool);
    until("it grows", || pool.ready() == 4);
}

#[test]
fn a_drop_ends_what_waits_and_leaves_what_runs() {
    alone("pool_life::a_drop_ends_what_waits_and_leaves_what_runs", || {
        let sandbox = host();
        sandbox.command("true").status().unwrap();
        let before = (open_fds(), children());
        for by_hand in [true, false] {
            let prepared = sandbox.prepare().unwrap();
            let pool = if by_hand { prepared.pool_by_hand(3) } else { prepared.pool(3) }.unwrap();
            let mut command = pool.command("sh");
            command.args(["-c", "echo here; read x; exit 4"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut running = command.spawn().unwrap();
            let done = pool.command("true").status().unwrap();
            assert!(done.success());
            drop(pool);
            assert_eq!(agents(), Vec::<i32>::new());
            assert_eq!(children().len(), 2, "one program with its init: {:?}", children());
            running.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
            assert_eq!(running.wait().unwrap().code(), Some(4));
            // A command may outlive its pool.
            let mut child = command.spawn().unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(4));
            // What starts have in common is the last one's to close.
            drop((command, child, running, prepared));
            assert_eq!((open_fds(), children()), before);
        }
    });
}

#[test]
fn a_detached_program_leaves_the_pool() {
    alone("pool_life::a_detached_program_leaves_the_pool", || {
        let pool = host().prepare().unwrap().pool_by_hand(1).unwrap();
        let (mut reader, writer) = pipe();
        let mut command = pool.command("sh");
        let child = command.args(["-c", "read x; echo over"]).stdin(Stdio::piped()).stdout(writer).spawn().unwrap();
        let mut child = child;
        let stdin = child.stdin.take();
        child.detach().unwrap();
        drop((pool, command));
        drop(stdin);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "over\n");
    });
}

#[test]
fn what_a_program_leaves_behind_ends_though_wait_does_not_wait_for_it() {
    let pool = host().prepare().unwrap().pool_by_hand(1).unwrap();
    let (mut reader, writer) = pipe();
    let script = "trap '' TERM HUP; (sleep 1000 & sleep 1000) & exit 3";
    let outcome = pool.command("sh").args(["-c", script]).stdout(writer).status().unwrap();
    assert_eq!((outcome.code(), pool.ready()), (Some(3), 0));
    // Blocks as long as one of them lives.
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn sandboxes_that_were_killed_while_they_waited_are_noticed() {
    alone("pool_life::sandboxes_that_were_killed_while_they_waited_are_noticed", || {
        let pool = small().prepare().unwrap().pool_by_hand(3).unwrap();
        let all = agents();
        assert_eq!(all.len(), 3);
        // Some by their agents; all by their inits.
        end(&all[..1], libc::SIGKILL);
        end(&all[1..2], libc::SIGTERM);
        for _ in 0..3 {
            run(&pool);
        }
        assert_eq!(pool.ready(), 0);
        pool.refill().unwrap();
        assert_eq!(pool.ready(), 3);
        for child in children() {
            let pid: libc::pid_t = child.split(' ').next().unwrap().parse().unwrap();
            if !agents().contains(&pid) {
                kill(pid, libc::SIGKILL);
            }
        }
        until("all have ended", || agents().is_empty());
        for _ in 0..3 {
            run(&pool);
        }
        // With the thread at work, at any moment.
        let pool = small().prepare().unwrap().pool(4).unwrap();
        for turn in 0..100 {
            if turn % 3 == 0 {
                end(&agents(), libc::SIGKILL);
            }
            let outcome = pool.command("/program").status().unwrap();
            assert!(outcome.success(), "{outcome:?}");
        }
        until("it is whole again", || pool.ready() == 4);
        drop(pool);
    });
}

#[test]
fn the_thread_survives_a_host_without_descriptors_and_recovers() {
    alone("pool_life::the_thread_survives_a_host_without_descriptors_and_recovers", || {
        let pool = small().prepare().unwrap().pool(4).unwrap();
        let limit = |soft: u64| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: The kernel writes one structure.
            assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
            let old = limit.rlim_cur;
            limit.rlim_cur = soft;
            // SAFETY: The kernel reads one structure.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
            old
        };
        let old = limit(3);
        // What waits can be started; what has to be built can't, and says so.
        let results: Vec<_> = (0..12).map(|_| pool.command("/program").status()).collect();
        limit(old);
        let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert!(!failed.is_empty() && failed.len() < 12, "{results:?}");
        assert!(failed.iter().all(|error| error.raw_os_error() == Some(libc::EMFILE)), "{failed:?}");
        until("it recovers", || pool.ready() == 4);
        run(&pool);
    });
}

#[test]
fn no_signal_of_the_hosts_is_taken_by_the_thread() {
    alone("pool_life::no_signal_of_the_hosts_is_taken_by_the_thread", || {
        let pool = small().prepare().unwrap().pool(2).unwrap();
        for _ in 0..10 {
            run(&pool);
        }
        let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let own = tasks.filter(|task| fs::read_to_string(task.join("comm")).unwrap() == "belljar-pool\n");
        let own: Vec<_> = own.collect();
        assert_eq!(own.len(), 1);
        let status = fs::read_to_string(own[0].join("status")).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
        // All but SIGKILL and SIGSTOP, which can't be; and the C library's own two.
        let blocked = u64::from_str_radix(blocked, 16).unwrap();
        let kept = [libc::SIGKILL, libc::SIGSTOP, 32, 33].map(|signal| 1_u64 << (signal - 1)).iter().sum::<u64>();
        assert_eq!(blocked | kept, u64::MAX);
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("SigBlk:\t0000000000000000"), "this thread's own mask is as it was: {status}");
    });
}

#[test]
fn a_host_that_ignores_sigchld_gets_true_results() {
    alone("pool_life::a_host_that_ignores_sigchld_gets_true_results", || {
        // SAFETY: The disposition is of this process, which has no other test.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        assert_true_results();
    });
}

#[test]
fn a_host_with_no_cldwait_gets_true_results() {
    alone("pool_life::a_host_with_no_cldwait_gets_true_results", || {
        // SAFETY: All zeroes is a value of this plain structure: the default action.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_flags = libc::SA_NOCLDWAIT;
        // SAFETY: The structure outlives the call; the disposition is of this process, which has no other test.
        assert_eq!(unsafe { libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut()) }, 0);
        assert_true_results();
    });
}

/// Whatever is told of programs in a pool, and of others that enter their sandboxes, is true; and nothing is left.
fn assert_true_results() {
    let pool = host().prepare().unwrap().pool(2).unwrap();
    let check = |outcome: Result<Outcome, Error>, code| match outcome {
        Ok(outcome) => assert_eq!(outcome.code(), Some(code)),
        // Before Linux 6.15 the status is lost, which is told.
        Err(error) => assert_eq!((error.layer(), error.step()), (Layer::Process, "wait")),
    };
    for code in 0..20 {
        let exit = format!("exit {code}");
        check(pool.command("sh").args(["-c", &exit]).status(), code);
        let mut child = pool.command("sh").args(["-c", "read x; exit 7"]).stdin(Stdio::piped()).spawn().unwrap();
        check(child.command("sh").args(["-c", &exit]).status(), code);
        drop(child.stdin.take());
        check(child.wait(), 7);
    }
    drop(pool);
    assert_eq!(children(), Vec::<String>::new());
}

#[test]
fn a_fork_of_the_host_does_not_touch_the_pool() {
    alone("pool_life::a_fork_of_the_host_does_not_touch_the_pool", || {
        let pool = small().prepare().unwrap().pool(2).unwrap();
        until("it rests", || pool.ready() == 2);
        // SAFETY: No pointers. The thread of the pool rests, and holds no lock that this one needs.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let started = pool.command("/program").status().is_ok_and(|outcome| outcome.success());
            let empty = pool.refill().is_ok() && pool.ready() == 0;
            drop(pool);
            // SAFETY: Ends the process.
            unsafe { libc::_exit(if started && empty { 7 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: The kernel writes one number.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!((libc::WIFEXITED(status), libc::WEXITSTATUS(status)), (true, 7));
        assert_eq!(agents().len(), 2);
        run(&pool);
    });
}

#[test]
fn the_death_of_the_host_ends_what_waits() {
    const TEST: &str = "pool_life::the_death_of_the_host_ends_what_waits";
    const HOST: &str = "a host with a pool";
    if is_role(HOST) {
        let pool = host().prepare().unwrap().pool(4).unwrap();
        // A program with a child, which hold standard output.
        let _child = pool.command("sh").args(["-c", "sleep 1000 & sleep 1000"]).spawn().unwrap();
        println!("ready");
        loop {
            drop(pool.command("true").spawn());
        }
    }
    alone(TEST, || {
        // SAFETY: No pointers. What loses its parent comes here.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }, 0);
        for turn in 0..20 {
            let mut host = again(TEST, HOST).stdout(StdStdio::piped()).stderr(StdStdio::piped()).spawn().unwrap();
            let mut stdout = host.stdout.take().unwrap();
            let mut text = Vec::new();
            while !text.ends_with(b"ready\n") {
                let mut byte = [0];
                stdout.read_exact(&mut byte).unwrap();
                text.push(byte[0]);
            }
            thread::sleep(Duration::from_millis(turn));
            host.kill().unwrap();
            host.wait().unwrap();
            stdout.read_to_end(&mut Vec::new()).unwrap();
            until("nothing survives", || {
                // SAFETY: A null pointer is allowed for the status.
                while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) } > 0 {}
                children().is_empty()
            });
        }
    });
}

#[test]
fn many_threads_start_at_once_beside_others_that_allocate() {
    const THREADS: usize = 16;
    let pool = host().prepare().unwrap().pool(4).unwrap();
    let barrier = Barrier::new(THREADS);
    let running = AtomicUsize::new(THREADS);
    let hostnames = thread::scope(|scope| {
        for seed in 1..=2_usize {
            let running = &running;
            scope.spawn(move || {
                let mut size = seed;
                while running.load(Ordering::Relaxed) > 0 {
                    size = (size * 1_103_515_245 + 12_345) % 300_000;
                    let kept = std::hint::black_box(vec![seed as u8; size]);
                    assert!(kept.iter().all(|byte| *byte == seed as u8));
                }
            });
        }
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (pool, barrier, running) = (&pool, &barrier, &running);
                scope.spawn(move || {
                    barrier.wait();
                    let mut seen = Vec::new();
                    for turn in 0..8 {
                        let code = (thread * 8 + turn) as i32;
                        let script = format!("read x; echo $x; readlink /proc/self/ns/mnt >&2; exit {code}");
                        let mut command = pool.command("sh");
                        command.args(["-c", &script]).stdin(Stdio::piped());
                        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
                        std::io::Write::write_all(child.stdin.as_mut().unwrap(), format!("{code}\n").as_bytes())
                            .unwrap();
                        let output = child.wait_with_output().unwrap();
                        assert_eq!(output.outcome.code(), Some(code));
                        assert_eq!(output.stdout, format!("{code}\n").into_bytes());
                        seen.push(String::from_utf8(output.stderr).unwrap());
                    }
                    running.fetch_sub(1, Ordering::Relaxed);
                    seen
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(hostnames.len(), THREADS * 8);
    assert!(hostnames.iter().all(|link| link.starts_with("mnt:")));
}

#[test]
fn tasks_of_a_runtime_share_a_pool() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    runtime.block_on(async {
        let pool = std::sync::Arc::new(host().prepare().unwrap().pool(4).unwrap());
        let tasks: Vec<_> = (0..24)
            .map(|code: i32| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    let mut command = pool.command("sh");
                    (code, command.args(["-c", &format!("exit {code}")]).status().unwrap().code())
                })
            })
            .collect();
        for task in tasks {
            let (asked, told) = task.await.unwrap();
            assert_eq!(told, Some(asked));
        }
    });
}

#[test]
fn clones_of_one_prepared_policy_start_from_many_threads() {
    let dir = temp_dir();
    let prepared = host().bind(crate::harness::real(dir.path()), "/out").prepare().unwrap();
    thread::scope(|scope| {
        for number in 0..8 {
            let prepared = prepared.clone();
            scope.spawn(move || {
                let script = format!("echo {number} >/out/{number}");
                assert!(prepared.command("sh").args(["-c", &script]).status().unwrap().success());
            });
        }
    });
    let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.collect::<BTreeSet<_>>().len(), 8);
    let mut child = prepared.command("sleep").arg("1000").spawn().unwrap();
    drop(prepared);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().cause(), Cause::Killed);
}
