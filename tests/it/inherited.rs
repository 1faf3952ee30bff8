//! What a process inherits besides descriptors: nothing of the host's reaches a program, by birth or through /proc.

// A fixture is a group of calls on this process, and one comment says what makes them sound.
#![allow(clippy::multiple_unsafe_ops_per_block)]

use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;

use belljar::{Inherit, Namespaces, Sandbox, Stdio};

use crate::again::{again, is_again, output};
use crate::harness::{host, is_root, sh, token};
use crate::probe::{Told, inside, outside};

/// Everything that /proc tells of processes, with the names of what they have open.
const LOOK: &str = "for p in $1; do cat $p/environ $p/cmdline $p/maps $p/comm $p/stack $p/auxv $p/mountinfo \
                    $p/task/*/comm; ls -l $p/fd $p/map_files $p/cwd $p/root $p/exe; done 2>&1; env; cat /proc/keys; true";

#[test]
fn nothing_of_the_host_process_can_be_read_inside() {
    const NAME: &str = "inherited::nothing_of_the_host_process_can_be_read_inside";
    if !is_again() {
        // In the environment, and among the arguments: a filter that matches no test.
        let word = token();
        let output = output(NAME, &["env"], |command| {
            command.env("BELLJAR_TEST_SECRET", &word).arg(format!("argument-{word}"));
        });
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}\n{told}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let word = std::env::var("BELLJAR_TEST_SECRET").unwrap();
    // Among the open files, in the name of a thread, and as the working directory.
    let dir = crate::harness::temp_dir();
    let path = dir.path().join(&word);
    fs::create_dir(&path).unwrap();
    std::env::set_current_dir(&path).unwrap();
    let _file = File::create(path.join(&word)).unwrap();
    let thread = std::thread::Builder::new().name(word[..15].to_owned()).spawn(std::thread::park).unwrap();
    let here = format!("/proc/{}", std::process::id());
    let seen = Command::new("sh").args(["-c", LOOK, "sh", &here]).output().unwrap();
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.matches(&word).count() >= 4 && seen.contains(&word[..15]), "the control: {seen}");
    let without_pid = || Sandbox::new().namespaces(Namespaces::default() - Namespaces::PID);
    for sandbox in [host(), host().user(0, 0), without_pid().rootfs(belljar::Rootfs::host())] {
        let output = sandbox.command("sh").args(["-c", LOOK, "sh", "/proc/[0-9]*"]).output().unwrap();
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(told.contains("HOME=/tmp"), "it has looked: {told}");
        assert!(!told.contains(&word[..15]), "{told}");
        assert!(!told.contains("BELLJAR_TEST"), "{told}");
    }
    thread.thread().unpark();
    thread.join().unwrap();
}

#[test]
fn the_environment_is_the_documented_minimum_and_what_is_set() {
    let mut expected = vec!["HOME=/tmp", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
    let env = |command: &mut belljar::Command| {
        let output = command.output().unwrap();
        let mut lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(env(&mut host().command("/usr/bin/env")), expected);
    assert!(std::env::vars_os().count() > 2, "the control: the host has more");
    expected.push("X=y=z");
    let mut command = host().command("/usr/bin/env");
    assert_eq!(env(command.env("X", "old").env("X", "y=z")), expected);
    assert_eq!(env(command.env_remove("HOME").env_remove("PATH")), ["X=y=z"]);
    assert_eq!(env(command.env_clear().envs([("A", "1"), ("B", "2")])), ["A=1", "B=2"]);
    for name in ["", "A=B"] {
        let error = host().command("true").env(name, "x").spawn().unwrap_err();
        assert_eq!(error.kind(), belljar::ErrorKind::InvalidPolicy, "{error}");
    }
}

/// Changes everything of this process that a child inherits; returns what could not be changed.
fn disturb() {
    let path = |name: &str| format!("/proc/self/{name}");
    // SAFETY: Calls on this process alone, which is here for this test; the structures outlive the calls.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut mask);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const mask, std::ptr::null_mut());
        for signal in (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD].contains(signal)) {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::umask(0o077);
        libc::prctl(libc::PR_SET_TIMERSLACK, 5_000_000);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
        let none = libc::sched_param { sched_priority: 0 };
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none);
        libc::syscall(libc::SYS_ioprio_set, 1, 0, 3 << 13);
        libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong | libc::READ_IMPLIES_EXEC as libc::c_ulong);
        libc::alarm(1000);
        for resource in [libc::RLIMIT_NOFILE, libc::RLIMIT_STACK, libc::RLIMIT_CORE, libc::RLIMIT_FSIZE] {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::getrlimit(resource, &raw mut limit);
            limit.rlim_cur = limit.rlim_cur.min(limit.rlim_max) / 2;
            limit.rlim_cur = limit.rlim_cur.clamp(200.min(limit.rlim_max), 1 << 22);
            libc::setrlimit(resource, &raw const limit);
        }
    }
    one_processor();
    let _ = fs::write(path("oom_score_adj"), "7");
}

/// Leaves this thread one processor.
pub(crate) fn one_processor() {
    // SAFETY: The structure outlives the call, which is about this thread alone.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(first_processor(), &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

fn first_processor() -> usize {
    // SAFETY: The structure outlives the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        (0..1024).find(|cpu| libc::CPU_ISSET(*cpu, &set)).unwrap()
    }
}

#[test]
fn a_program_is_born_the_same_whatever_the_host_has_set() {
    const NAME: &str = "inherited::a_program_is_born_the_same_whatever_the_host_has_set";
    if !is_again() {
        again(NAME, &["env"]);
        return;
    }
    let before = inside(&Sandbox::new(), &["state"]);
    disturb();
    let after = inside(&Sandbox::new(), &["state"]);
    assert_eq!(after.0, before.0);
    // The values that are promised, and the control: a program of the host's has what was set.
    let plain = outside(&["state"]);
    for (name, promised) in [
        ("umask", "22"),
        ("nice", "0"),
        ("policy", "0"),
        ("ioprio", "0"),
        ("slack", "50000"),
        ("personality", "0"),
        ("pdeathsig", "0"),
        ("session", "1"),
        ("oom_score_adj", "500"),
        ("timer", "0"),
        ("rlimit4", "1"),
        ("rlimit7", "1024"),
    ] {
        assert_eq!(after.one(name), promised, "{name}");
    }
    assert_eq!(after.all("ignored"), Vec::<&str>::new());
    assert_eq!(after.all("blocked"), Vec::<&str>::new());
    for name in ["policy", "umask", "ioprio", "slack", "personality", "session", "oom_score_adj", "rlimit7"] {
        assert_ne!(plain.one(name), after.one(name), "the control: {name}");
    }
    assert!(plain.all("ignored").len() > 50, "the control: {plain:?}");
    // The same for a program that changes its ids, which is cloned in another way.
    let other = inside(&Sandbox::new().namespaces(Namespaces::all()), &["state"]);
    assert_eq!(other.0, before.0);
    if is_root() {
        let map = belljar::IdMap::new(0, 100_000, 65_536);
        assert_eq!(inside(&Sandbox::new().uid_map(map).gid_map(map), &["state"]).0, before.0);
    }
}

/// The signals that a program ignores.
fn ignored(command: &mut belljar::Command) -> Vec<String> {
    let output = command.arg("state").output().unwrap();
    assert!(output.outcome.success(), "{:?}", output.outcome);
    let told = Told(String::from_utf8(output.stdout).unwrap());
    assert_eq!(told.all("blocked"), Vec::<&str>::new());
    told.all("ignored").into_iter().map(str::to_owned).collect()
}

#[test]
fn ignored_signals_are_kept_by_name() {
    const NAME: &str = "inherited::ignored_signals_are_kept_by_name";
    if !is_again() {
        again(NAME, &["env"]);
        return;
    }
    let all = Namespaces::default();
    let mut policies = vec![
        Sandbox::new(),
        Sandbox::new().user(5, 5),
        Sandbox::new().namespaces(Namespaces::all()),
        Sandbox::new().namespaces(all - Namespaces::PID),
        Sandbox::new().program_is_init(),
    ];
    if is_root() {
        let map = belljar::IdMap::new(0, 100_000, 65_536);
        policies.push(Sandbox::new().uid_map(map).gid_map(map));
        policies.push(Sandbox::new().namespaces(all - Namespaces::USER).user(1000, 1000));
    }
    let policies: Vec<_> =
        policies.into_iter().map(|sandbox| sandbox.bind_ro(crate::probe::program(), "/probe")).collect();
    disturb();
    // One that is caught, as good as any other.
    extern "C" fn caught(_: libc::c_int) {}
    // SAFETY: The handler does nothing.
    unsafe { libc::signal(libc::SIGUSR2, caught as *const () as libc::sighandler_t) };
    // Started by std, which takes SIGPIPE for what Rust's runtime has done.
    let plain = outside(&["state"]);
    let kept = plain.all("ignored");
    assert!(kept.len() > 50 && kept.contains(&"1") && !kept.contains(&"12") && !kept.contains(&"13"), "{kept:?}");
    for sandbox in policies {
        assert!(ignored(&mut sandbox.command("/probe")).is_empty(), "by default none of them: {sandbox:?}");
        let sandbox = sandbox.inherit(Inherit::IGNORED_SIGNALS);
        assert_eq!(ignored(&mut sandbox.command("/probe")), kept, "{sandbox:?}");
        let Ok(prepared) = sandbox.prepare() else { continue };
        assert_eq!(ignored(&mut prepared.command("/probe")), kept, "prepared: {sandbox:?}");
        let Ok(pool) = prepared.pool(1) else { continue };
        assert_eq!(ignored(&mut pool.command("/probe")), kept, "in a pool: {sandbox:?}");
    }
    let sandbox = Sandbox::new().bind_ro(crate::probe::program(), "/probe").inherit(Inherit::IGNORED_SIGNALS);
    assert!(sandbox.prepare().unwrap().pool(1).is_ok(), "the control");
    let child = crate::probe::waiting(&sandbox);
    assert!(ignored(&mut child.command("/probe")).is_empty(), "what enters has the default actions");
}

#[test]
fn a_program_that_ignores_its_children_like_the_host_is_waited_for() {
    crate::alone::alone("inherited::a_program_that_ignores_its_children_like_the_host_is_waited_for", || {
        let sandbox = host().bind_ro(crate::probe::program(), "/probe");
        // SAFETY: No handler is installed.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        assert!(ignored(&mut sandbox.command("/probe")).is_empty(), "by default");
        let sandbox = sandbox.inherit(Inherit::IGNORED_SIGNALS);
        // And what else the caller of the tests has them ignore: a shell its background jobs, for example.
        assert!(ignored(&mut sandbox.command("/probe")).contains(&libc::SIGCHLD.to_string()));
        assert_eq!(sandbox.command("sh").args(["-c", "exit 7"]).status().unwrap().code(), Some(7));
    });
}

#[test]
fn the_host_keeps_what_it_has_set() {
    const NAME: &str = "inherited::the_host_keeps_what_it_has_set";
    if !is_again() {
        again(NAME, &["env"]);
        return;
    }
    // Made before the mask of modes is changed.
    crate::probe::program();
    disturb();
    let state = || {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let names = [
            "Umask:",
            "SigBlk",
            "SigIgn",
            "SigCgt",
            "Cap",
            "NoNewPrivs:",
            "Uid:",
            "Gid:",
            "Groups:",
            "Cpus_allowed:",
            "Seccomp:",
        ];
        let known = |line: &&str| names.iter().any(|name| line.starts_with(name));
        let lines: Vec<_> = status.lines().filter(known).map(str::to_owned).collect();
        // SAFETY: No pointers.
        let calls = unsafe {
            [
                libc::prctl(libc::PR_GET_DUMPABLE),
                libc::prctl(libc::PR_GET_TIMERSLACK),
                libc::prctl(libc::PR_GET_SECUREBITS),
                libc::getsid(0),
                libc::getpgrp(),
            ]
        };
        let files = ["oom_score_adj", "limits", "personality", "cgroup"];
        let files = files.map(|name| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default());
        (lines, calls, files, std::env::current_dir().unwrap())
    };
    let before = state();
    let mut policies = vec![Sandbox::new(), Sandbox::new().user(5, 5), Sandbox::new().namespaces(Namespaces::all())];
    if is_root() {
        let map = belljar::IdMap::new(0, 100_000, 65_536);
        policies.push(Sandbox::new().uid_map(map).gid_map(map));
        policies.push(Sandbox::new().namespaces(Namespaces::default() - Namespaces::USER).user(1000, 1000));
    }
    for sandbox in policies {
        inside(&sandbox, &["ids"]);
        // A start that fails at the last step has been through all others.
        sandbox.command("/missing").spawn().unwrap_err();
        assert_eq!(state(), before, "{sandbox:?}");
    }
}

/// A new terminal: its master, and its slave, opened without becoming anybody's.
fn terminal() -> (OwnedFd, OwnedFd) {
    // SAFETY: The calls take descriptors and a buffer that outlives them; the descriptors are new and owned here.
    unsafe {
        let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(master >= 0 && libc::grantpt(master) == 0 && libc::unlockpt(master) == 0);
        let mut name = [0; 64];
        assert_eq!(libc::ptsname_r(master, name.as_mut_ptr(), name.len()), 0);
        let slave = libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(slave >= 0);
        (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    }
}

#[test]
fn a_terminal_of_the_host_is_no_controlling_one_and_takes_no_input() {
    const NAME: &str = "inherited::a_terminal_of_the_host_is_no_controlling_one_and_takes_no_input";
    if !is_again() {
        again(NAME, &["env"]);
        return;
    }
    let (_master, slave) = terminal();
    // SAFETY: No pointers but to a structure that outlives the calls. The end of a terminal hangs its session up.
    let (group, control) = unsafe {
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        assert!(libc::setsid() > 0, "this process leads no group");
        assert_eq!(libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0), 0);
        let mut modes: libc::termios = std::mem::zeroed();
        libc::tcgetattr(slave.as_raw_fd(), &raw mut modes);
        libc::cfmakeraw(&raw mut modes);
        libc::tcsetattr(slave.as_raw_fd(), libc::TCSANOW, &raw const modes);
        let tty = libc::open(c"/dev/tty".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        let word = b'x';
        let pushed = libc::ioctl(slave.as_raw_fd(), libc::TIOCSTI, &raw const word);
        if pushed == 0 {
            assert_eq!(waiting_input(&slave), 1, "the control: a byte was put in");
            libc::tcflush(slave.as_raw_fd(), libc::TCIFLUSH);
        }
        (libc::tcgetpgrp(slave.as_raw_fd()), tty)
    };
    assert!(control >= 0, "the control: this process has the terminal");
    for sandbox in [Sandbox::new(), Sandbox::new().user(0, 0)] {
        let copy = || Stdio::from(slave.try_clone().unwrap());
        let sandbox = sandbox.bind_ro(crate::probe::program(), "/probe");
        let output = sandbox.command("/probe").arg("terminal").stdin(copy()).stderr(copy()).output().unwrap();
        let told = Told(String::from_utf8(output.stdout).unwrap());
        for name in ["sti", "sctty", "sctty-steal", "setpgrp"] {
            assert!([libc::EPERM, libc::EIO, libc::ENOTTY].contains(&told.errno(name)), "{name}: {told:?}");
        }
        assert_eq!(told.errno("tty"), libc::ENXIO);
        assert_eq!(told.one("session"), "1");
        assert_eq!(waiting_input(&slave), 0, "nothing was put in");
        // SAFETY: No pointers.
        assert_eq!(unsafe { libc::tcgetpgrp(slave.as_raw_fd()) }, group, "the foreground is as it was");
    }
    // Without a terminal among its streams, there is none at all.
    let told = inside(&Sandbox::new(), &["terminal"]);
    assert_eq!(told.errno("tty"), libc::ENXIO);
    // The filter refuses the request whatever it is made of.
    assert!([libc::ENOTTY, libc::EPERM].contains(&told.errno("sti")), "{told:?}");
}

fn waiting_input(terminal: &OwnedFd) -> i32 {
    let mut count = 0;
    // SAFETY: The kernel writes one int.
    assert_eq!(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::FIONREAD, &raw mut count) }, 0);
    count
}

#[test]
fn a_sandbox_has_terminals_of_its_own() {
    let script = "perl -e 'use Fcntl; sysopen(my $m, \"/dev/ptmx\", O_RDWR) or die \"$!\"; print -t $m ? 1 : 0; \
                  opendir(my $d, \"/dev/pts\"); print \" \", join(\",\", sort grep !/^\\./, readdir $d)'";
    // The first of its own is number 0, whatever the host has.
    assert_eq!(sh(&host(), script), "1 0,ptmx");
}
