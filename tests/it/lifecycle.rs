//! How sandboxes end: with their program, with their handle, and with their host, however that dies.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::Stdio as StdStdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use belljar::{Cause, Child, Layer, Stdio};

use crate::alone::{Random, again, alone, is_role, pipe, watch};
use crate::harness::{children, compile_static, host, temp_dir, with_program};

/// A program with descendants that let nothing end them but a SIGKILL, and that all hold standard output open:
/// the end of that pipe proves that all of them are dead.
fn tree() -> PathBuf {
    compile_static(
        "tree",
        r#"
        #include <fcntl.h>
        #include <signal.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/wait.h>
        #include <unistd.h>
        /* Starts itself again whenever it ends: two processes that watch each other. */
        static void hydra(void) {
            for (;;) {
                pid_t child = fork();
                if (child == 0) { setsid(); pause(); _exit(0); }
                if (child > 0) waitpid(child, 0, 0); else usleep(1000);
            }
        }
        static void daemon_process(void (*body)(void)) {
            if (fork() == 0) {
                setsid();
                if (fork() == 0) { body(); _exit(0); }
                _exit(0);
            }
            wait(0);
        }
        static void stop(void) { raise(SIGSTOP); pause(); }
        static void sleep_on(void) { for (;;) pause(); }
        static void touch(void) {
            for (;;) { int fd = open("/out/touched", O_WRONLY | O_CREAT | O_APPEND, 0666); write(fd, "x", 1); close(fd); }
        }
        int main(int argc, char **argv) {
            signal(SIGTERM, SIG_IGN); signal(SIGINT, SIG_IGN); signal(SIGHUP, SIG_IGN);
            if (!strcmp(argv[1], "hydra")) for (int i = 0; i < 25; i++) daemon_process(hydra);
            if (!strcmp(argv[1], "stop")) for (int i = 0; i < 5; i++) daemon_process(stop);
            if (!strcmp(argv[1], "daemon")) daemon_process(sleep_on);
            if (!strcmp(argv[1], "touch")) daemon_process(touch);
            write(1, "!", 1);
            if (argc > 2 && !strcmp(argv[2], "exit")) _exit(6);
            if (!strcmp(argv[1], "stop")) raise(SIGSTOP);
            sleep_on();
        }
        "#,
    )
}

/// Starts the tree, waits until all of it is there, and returns the reading end of the pipe that it holds.
fn plant(args: &[&str]) -> (Child, File) {
    let (mut reader, writer) = pipe();
    let child = with_program(&tree()).command("/program").args(args).stdout(Stdio::from(writer)).spawn().unwrap();
    reader.read_exact(&mut [0]).unwrap();
    (child, reader)
}

fn assert_all_dead(mut reader: File) {
    // Blocks as long as one of them lives.
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_kill_ends_a_tree_that_resists() {
    let (mut child, reader) = plant(&["hydra"]);
    child.kill().unwrap();
    assert_all_dead(reader);
    let outcome = child.wait().unwrap();
    assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGKILL), Cause::Killed));
}

#[test]
fn a_drop_ends_a_tree_that_resists() {
    let (child, reader) = plant(&["hydra"]);
    drop(child);
    assert_all_dead(reader);
}

#[test]
fn stopped_processes_end_like_others() {
    let (mut child, reader) = plant(&["stop"]);
    assert_eq!(child.wait_timeout(Duration::from_millis(50)).unwrap(), None);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().cause(), Cause::Killed);
    assert_all_dead(reader);
    let (child, reader) = plant(&["stop"]);
    drop(child);
    assert_all_dead(reader);
}

#[test]
fn what_the_program_leaves_behind_ends_with_it_though_nobody_waits() {
    let (child, reader) = plant(&["daemon", "exit"]);
    assert_all_dead(reader);
    // Only now is it waited for.
    let mut child = child;
    assert_eq!(child.wait().unwrap().code(), Some(6));
}

#[test]
fn a_daemon_stops_touching_a_shared_file() {
    let dir = temp_dir();
    let (reader, writer) = pipe();
    let mut command = with_program(&tree()).bind(dir.path(), "/out").command("/program");
    let mut child = command.args(["touch"]).stdout(Stdio::from(writer)).spawn().unwrap();
    drop(command);
    let touched = dir.path().join("touched");
    let length = || std::fs::metadata(&touched).map_or(0, |metadata| metadata.len());
    // The control: it does touch the file.
    while length() < 10 {
        assert_eq!(child.wait_timeout(Duration::from_millis(1)).unwrap(), None);
    }
    // SAFETY: No pointers; the process is ours and not yet reaped. Only the program ends, and nobody waits for it.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGKILL) }, 0);
    let mut rest = Vec::new();
    (&reader).read_to_end(&mut rest).unwrap();
    let before = length();
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(length(), before);
    assert_eq!(child.wait().unwrap().cause(), Cause::Signaled);
}

#[test]
fn a_program_can_do_nothing_to_init_or_to_its_own_status() {
    let program = compile_static(
        "regicide",
        r#"
        #include <errno.h>
        #include <signal.h>
        #include <unistd.h>
        int main(void) {
            if (getpid() != 2) return 50;
            int signals[] = { SIGTERM, SIGSTOP, SIGKILL, SIGINT, SIGHUP, SIGSEGV };
            for (int i = 0; i < 6; i++) kill(1, signals[i]);
            for (int fd = 0; fd < 1024; fd++) close(fd);
            kill(-1, SIGKILL);
            usleep(50000);
            /* Init is still there: one that may not be signaled is, too. */
            return kill(1, 0) && errno != EPERM ? 51 : 7;
        }
        "#,
    );
    let outcome = with_program(&program).command("/program").status().unwrap();
    assert_eq!((outcome.code(), outcome.cause()), (Some(7), Cause::Exited));
}

/// A program that gives process 1 the lowest priority and limits, by every call that there is, and then keeps every
/// processor busy.
fn steering() -> PathBuf {
    compile_static(
        "steering",
        r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <sched.h>
        #include <signal.h>
        #include <stdint.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/resource.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        static void report(const char *name, long result) { printf("%s %d\n", name, result < 0 ? errno : 0); }
        /* To the filter pid_t and int are 32 bits: the kernel does not look at the others. */
        static void steer(uint64_t init) {
            struct { uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t rest[7]; } idle = { 48, SCHED_IDLE };
            struct sched_param none = { 0 };
            struct { uint64_t soft, hard; } files = { 5, 5 };
            cpu_set_t set;
            CPU_ZERO(&set); CPU_SET(0, &set);
            report("prlimit", syscall(SYS_prlimit64, init, RLIMIT_NOFILE, &files, 0));
            report("affinity", syscall(SYS_sched_setaffinity, init, sizeof set, &set));
            report("nice", syscall(SYS_setpriority, PRIO_PROCESS, init, 19));
            report("ioprio", syscall(SYS_ioprio_set, 1, init, 3 << 13));
            report("user", syscall(SYS_setpriority, (init & ~1ull) | PRIO_USER, 0, 19));
            report("ioprio-user", syscall(SYS_ioprio_set, (init & ~1ull) | 3, getuid(), 3 << 13));
            report("param", syscall(SYS_sched_setparam, init, &none));
            report("attr", syscall(SYS_sched_setattr, init, &idle, 0));
            /* From SCHED_IDLE to SCHED_IDLE is fine, and back is not. */
            report("scheduler", syscall(SYS_sched_setscheduler, init, SCHED_IDLE, &none));
        }
        int main(int argc, char **argv) {
            signal(SIGTERM, SIG_IGN);
            steer(1);
            steer(1ull << 32 | 1);
            fflush(stdout);
            if (argc < 2) return 0;
            for (int i = 0; i < 64; i++) if (fork() == 0) { setsid(); for (;;) ; }
            write(1, "!", 1);
            if (!strcmp(argv[1], "exit")) _exit(6);
            for (;;) ;
        }
        "#,
    )
}

#[test]
fn init_can_not_be_slowed_down_from_inside() {
    let told = |sandbox: &belljar::Sandbox| {
        let output = sandbox.command("/program").output().unwrap();
        crate::probe::Told(String::from_utf8(output.stdout).unwrap())
    };
    let sandbox = with_program(&steering());
    for policy in [sandbox.clone(), sandbox.clone().user(0, 0), sandbox.clone().user(5, 5)] {
        let refused = told(&policy);
        assert_eq!(refused.all("prlimit").len(), 2);
        refused.refused(&[libc::EPERM], &[]);
        // The control.
        told(&policy.seccomp(belljar::Seccomp::off())).granted(&[]);
    }
}

#[test]
fn a_busy_tree_ends_though_init_was_given_no_time() {
    alone("lifecycle::a_busy_tree_ends_though_init_was_given_no_time", || {
        // An idle init would wait for minutes.
        watch(Duration::from_secs(60));
        let filtered = with_program(&steering());
        for sandbox in [filtered.clone(), filtered.seccomp(belljar::Seccomp::off())] {
            for how in ["exit", "stay"] {
                let start = || {
                    let (mut reader, writer) = pipe();
                    let mut command = sandbox.command("/program");
                    let child = command.arg(how).stdout(Stdio::from(writer)).spawn().unwrap();
                    let mut byte = [0];
                    while byte != *b"!" {
                        reader.read_exact(&mut byte).unwrap();
                    }
                    (child, reader)
                };
                let (mut child, reader) = start();
                child.kill().unwrap();
                child.wait().unwrap();
                assert_all_dead(reader);
                let (child, reader) = start();
                drop(child);
                assert_all_dead(reader);
                if how == "exit" {
                    let (mut child, reader) = start();
                    assert_eq!(child.wait().unwrap().code(), Some(6));
                    assert_all_dead(reader);
                }
            }
        }
    });
}

#[test]
fn no_child_that_a_program_makes_of_the_hosts_is_left_or_waited_for() {
    const NAME: &str = "lifecycle::no_child_that_a_program_makes_of_the_hosts_is_left_or_waited_for";
    if !crate::again::is_again() {
        // The children of this process are looked at, and it has other tests.
        crate::again::again(NAME, &["env"]);
        return;
    }
    let program = compile_static(
        "stray",
        r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <sched.h>
        #include <signal.h>
        #include <stdlib.h>
        #include <sys/prctl.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            if (argc > 1) prctl(PR_SET_DUMPABLE, 0);
            for (int i = 0; i < 10; i++) {
                long child = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
                if (child < 0) return errno;
                if (child == 0 && i == 9) pause();
                if (child == 0) _exit(1);
            }
            return 0;
        }
        "#,
    );
    let sandbox = with_program(&program);
    assert_eq!(sandbox.command("/program").status().unwrap().code(), Some(libc::EPERM));
    assert_eq!(children(), [""; 0]);
    // Without the filter they are made: the status comes, and nobody is left.
    let open = sandbox.seccomp(belljar::Seccomp::off());
    assert_eq!(open.command("/program").status().unwrap().code(), Some(0));
    drop(open.command("/program").spawn().unwrap());
    assert_eq!(children(), [""; 0]);
    // A filter around the host's thread may keep it from poll(2), and it looks for the end by itself.
    let in_filter = || {
        watch(Duration::from_secs(60));
        let child = open.command("/program").spawn().unwrap();
        #[cfg(target_arch = "x86_64")]
        crate::filter::filter(libc::SYS_poll, libc::EPERM);
        #[cfg(not(target_arch = "x86_64"))]
        crate::filter::filter(libc::SYS_ppoll, libc::EPERM);
        drop(child);
    };
    std::thread::scope(|scope| scope.spawn(in_filter).join().unwrap());
    assert_eq!(children(), [""; 0]);
    // Who may not look into them, does not wait for them either.
    let outcome = open.command("/program").arg("hidden").status().unwrap();
    assert_eq!(outcome.code(), Some(0));
    assert!(children().iter().all(|child| child.ends_with('Z') || !crate::harness::is_root()));
}

#[test]
fn orphans_are_reaped_inside() {
    let program = compile_static(
        "orphans",
        r#"
        #define _GNU_SOURCE
        #include <dirent.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/wait.h>
        #include <unistd.h>
        static int others(void) {
            DIR *proc = opendir("/proc");
            int count = 0;
            for (struct dirent *entry; (entry = readdir(proc));)
                count += entry->d_name[0] >= '1' && entry->d_name[0] <= '9';
            closedir(proc);
            return count - 2;
        }
        int main(void) {
            for (int i = 0; i < 1000; i++) {
                pid_t middle = vfork();
                if (middle < 0) return 60;
                if (middle == 0) {
                    for (int j = 0; j < 5; j++) if (vfork() == 0) _exit(0);
                    _exit(0);
                }
                waitpid(middle, 0, 0);
            }
            for (int i = 0; i < 1000 && others(); i++) usleep(10000);
            printf("%d", others());
            return 0;
        }
        "#,
    );
    let output = with_program(&program).command("/program").output().unwrap();
    assert_eq!((output.outcome.code(), output.stdout), (Some(0), b"0".to_vec()));
}

/// Makes this process the parent of whatever loses its own, so that it can tell whether anything has survived.
fn adopt_orphans() {
    // SAFETY: No pointers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }, 0);
}

/// Reaps every child, own or adopted, and returns how many there were. Fails when one does not end.
fn reap_all() -> usize {
    let start = Instant::now();
    let mut count = 0;
    loop {
        // SAFETY: A null pointer is allowed for the status.
        match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) } {
            -1 => return count,
            0 => std::thread::sleep(Duration::from_millis(1)),
            _ => count += 1,
        }
        assert!(start.elapsed() < Duration::from_secs(20), "survivors: {:?}", children());
    }
}

#[test]
fn a_detached_sandbox_outlives_its_handle_and_its_host() {
    const TEST: &str = "lifecycle::a_detached_sandbox_outlives_its_handle_and_its_host";
    const HOST: &str = "a host that detaches";
    if is_role(HOST) {
        let script = "read line; echo got $line; exit 0";
        let child = host().command("sh").args(["-c", script]).stdin(Stdio::inherit()).spawn().unwrap();
        child.detach().unwrap();
        // The handle is gone; the sandbox is there still.
        return;
    }
    alone(TEST, || {
        adopt_orphans();
        let mut host = again(TEST, HOST);
        let mut host = host.stdin(StdStdio::piped()).stdout(StdStdio::piped()).spawn().unwrap();
        let (mut stdin, mut stdout) = (host.stdin.take().unwrap(), host.stdout.take().unwrap());
        assert!(host.wait().unwrap().success());
        let orphans = children();
        assert_eq!(orphans.len(), 2, "program and init have come here: {orphans:?}");
        writeln!(stdin, "word").unwrap();
        let mut text = String::new();
        // To the end: nobody holds the pipe any more.
        stdout.read_to_string(&mut text).unwrap();
        assert!(text.contains("got word"), "{text}");
        assert_eq!(reap_all(), 2);
    });
}

#[test]
fn a_sandbox_that_is_not_detached_ends_with_its_host() {
    const TEST: &str = "lifecycle::a_sandbox_that_is_not_detached_ends_with_its_host";
    const HOST: &str = "a host that ends";
    if is_role(HOST) {
        let child = with_program(&tree()).command("/program").arg("hydra").spawn().unwrap();
        std::mem::forget(child);
        std::process::exit(0);
    }
    alone(TEST, || {
        adopt_orphans();
        tree();
        let mut host = again(TEST, HOST);
        let mut host = host.stdout(StdStdio::piped()).spawn().unwrap();
        let mut stdout = host.stdout.take().unwrap();
        assert!(host.wait().unwrap().success());
        stdout.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(reap_all(), 2);
    });
}

#[test]
fn no_process_survives_a_host_that_is_killed_at_any_moment() {
    const TEST: &str = "lifecycle::no_process_survives_a_host_that_is_killed_at_any_moment";
    const HOST: &str = "a host that is killed";
    if is_role(HOST) {
        // The harness compiles once for each process: this one uses what its parent has compiled.
        let program = std::env::var_os("BELLJAR_TEST_PROGRAM").unwrap();
        let sandbox = with_program(program.as_ref());
        let mut kept = Vec::new();
        loop {
            eprintln!("starting");
            let child = sandbox.command("/program").arg("daemon").spawn().unwrap();
            kept.push(child);
            if kept.len() > 3 {
                kept.clear();
            }
        }
    }
    alone(TEST, || {
        adopt_orphans();
        let program = tree();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for turn in 0..250 {
            let mut host = again(TEST, HOST);
            host.env("BELLJAR_TEST_PROGRAM", &program);
            let mut host = host.stdout(StdStdio::piped()).stderr(StdStdio::piped()).spawn().unwrap();
            let (mut stdout, stderr) = (host.stdout.take().unwrap(), host.stderr.take().unwrap());
            let mut stderr = BufReader::new(stderr);
            let mut line = String::new();
            while line != "starting\n" {
                line.clear();
                assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "the host has started something");
            }
            // Most of the time the very first spawn is under way.
            let limit = if turn % 3 == 0 { 50_000 } else { 4_000 };
            std::thread::sleep(Duration::from_micros(random.below(limit)));
            host.kill().unwrap();
            host.wait().unwrap();
            // Every program and its daemon hold standard output.
            stdout.read_to_end(&mut Vec::new()).unwrap();
            reap_all();
        }
    });
}

/// Whether the kernel tells the status of a process that somebody else has reaped.
fn tells_status_of_the_reaped() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|char: char| !char.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 15)
}

/// Statuses are exact, or known to be lost and told as a typed error; never wrong.
fn assert_true_statuses(turns: i32) {
    let exact = |result: belljar::Outcome, code, signal| {
        assert_eq!((result.code(), result.signal()), (code, signal));
    };
    let spawn = |script: &str| host().command("sh").args(["-c", script]).spawn().unwrap();
    for turn in 0..turns {
        let code = turn % 256;
        let kill = ("kill -KILL $$".to_owned(), None, Some(libc::SIGKILL));
        for (script, code, signal) in [(format!("exit {code}"), Some(code), None), kill] {
            let mut child = spawn(&script);
            match child.wait() {
                Ok(outcome) => exact(outcome, code, signal),
                Err(error) => {
                    assert!(!tells_status_of_the_reaped(), "{error}");
                    assert_eq!((error.layer(), error.step()), (Layer::Process, "wait"));
                    assert!(error.hint().is_some());
                }
            }
        }
        // Nobody reaps what fails before it is a program; and its error is exact.
        let error = host().command("/missing").spawn().unwrap_err();
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Exec, Some(libc::ENOENT)));
        drop(spawn("sleep 1000"));
    }
    assert_eq!(children(), Vec::<String>::new());
}

#[test]
fn a_host_that_ignores_sigchld_gets_true_statuses() {
    alone("lifecycle::a_host_that_ignores_sigchld_gets_true_statuses", || {
        // SAFETY: The disposition is of this process, which has no other test.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        assert_true_statuses(20);
    });
}

#[test]
fn a_host_with_no_cldwait_gets_true_statuses() {
    alone("lifecycle::a_host_with_no_cldwait_gets_true_statuses", || {
        // SAFETY: All zeroes is a value of this plain structure: the default action.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_flags = libc::SA_NOCLDWAIT;
        // SAFETY: The structure outlives the call; the disposition is of this process, which has no other test.
        assert_eq!(unsafe { libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut()) }, 0);
        assert_true_statuses(20);
    });
}

#[test]
fn a_host_that_waits_for_any_child_gets_true_statuses() {
    const TEST: &str = "lifecycle::a_host_that_waits_for_any_child_gets_true_statuses";
    static STOLEN: AtomicUsize = AtomicUsize::new(0);
    static STOP: AtomicBool = AtomicBool::new(false);
    alone(TEST, || {
        for flags in [0, libc::__WALL] {
            STOP.store(false, Ordering::Relaxed);
            let thief = std::thread::spawn(move || {
                while !STOP.load(Ordering::Relaxed) {
                    // SAFETY: A null pointer is allowed for the status.
                    if unsafe { libc::waitpid(-1, std::ptr::null_mut(), flags) } > 0 {
                        STOLEN.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            assert_true_statuses(50);
            STOP.store(true, Ordering::Relaxed);
            thief.join().unwrap();
            // The control: this thread does reap what is not its own.
            assert!(STOLEN.swap(0, Ordering::Relaxed) > 0);
        }
    });
}
