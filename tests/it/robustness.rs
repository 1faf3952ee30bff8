//! A host that runs out of something: descriptors, processes, address space, room in a file system, namespaces. A start
//! fails with an error that says what, leaves nothing, and can be made again; and what the host process is under a sandbox
//! that takes the machine's memory, or a terminal's interrupt.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command as StdCommand, Stdio as StdStdio};
use std::time::{Duration, Instant};

use belljar::{Error, Layer, Network, Rootfs, Sandbox, Stdio, Tmpfs};

use crate::again::{again, is_again, own_mounts, works};
use crate::alone::{self, alone, is_role};
use crate::harness::{children, host, in_memory, is_root, mounts, noop, open_fds, real, temp_dir, with_program};
use crate::skip;

/// Sets the soft limit of this process, and returns the old one.
pub(crate) fn limit(resource: u32, soft: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: The kernel writes one structure.
    assert_eq!(unsafe { libc::getrlimit(resource, &raw mut limit) }, 0);
    let old = limit.rlim_cur;
    limit.rlim_cur = soft.min(limit.rlim_max);
    // SAFETY: The kernel reads one structure.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
    old
}

/// What a start must leave as it was.
fn state() -> (BTreeSet<String>, String, Vec<String>) {
    (open_fds(), mounts(), children())
}

/// Starts a program, and waits for it.
fn run(sandbox: &Sandbox) -> Result<(), Error> {
    let mut command = sandbox.command("/program");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn()?.wait_with_output()?;
    assert!(output.outcome.success(), "{:?}", output.outcome);
    Ok(())
}

/// Policies that differ in the processes and files that they take.
pub(crate) fn policies(dir: &Path) -> Vec<Sandbox> {
    let plain = with_program(&noop());
    let layers = in_memory(Rootfs::dir(dir)).map(|root| plain.clone().rootfs(root));
    let more = plain.clone().tmpfs(Tmpfs::new("/scratch")).file("/etc/motd", "hello").network(Network::Loopback);
    [Some(plain), layers, Some(more)].into_iter().flatten().collect()
}

/// Has starts fail at one bound after the other, until one succeeds: all fail with `errno`, and leave nothing. Returns the
/// steps that have failed.
pub(crate) fn until_it_succeeds(
    sandbox: &Sandbox,
    errno: i32,
    bounds: impl Iterator<Item = u64>,
    set: impl Fn(u64) -> u64,
) -> BTreeSet<String> {
    run(sandbox).unwrap();
    let before = state();
    let mut failed = BTreeSet::new();
    for bound in bounds {
        let old = set(bound);
        let result = run(sandbox);
        set(old);
        assert_eq!(state(), before, "{bound}: {result:?}");
        match result {
            Ok(()) => {
                run(sandbox).unwrap();
                return failed;
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(errno), "{bound}: {error}");
                failed.insert(format!("{}: {}", error.layer(), error.step()));
            }
        }
        run(sandbox).unwrap();
    }
    panic!("no bound is enough: {failed:?}");
}

#[test]
fn descriptors_may_run_out_at_every_count() {
    alone("robustness::descriptors_may_run_out_at_every_count", || {
        let dir = temp_dir();
        for sandbox in policies(&real(dir.path())) {
            let first = File::open("/dev/null").unwrap().as_raw_fd() as u64;
            let failed = until_it_succeeds(&sandbox, libc::EMFILE, first.., |soft| limit(libc::RLIMIT_NOFILE, soft));
            assert!(failed.len() > 4, "different steps fail: {failed:?}");
        }
    });
}

#[test]
fn processes_may_run_out_at_every_count() {
    const TEST: &str = "robustness::processes_may_run_out_at_every_count";
    if is_again() {
        crate::alone::watch(Duration::from_secs(180));
        let dir = temp_dir();
        let own = fs::read_dir("/proc/self/task").unwrap().count() as u64;
        for sandbox in policies(&real(dir.path())) {
            let bounds = own..own + 1000;
            let failed = until_it_succeeds(&sandbox, libc::EAGAIN, bounds, |soft| limit(libc::RLIMIT_NPROC, soft));
            assert!(failed.iter().all(|step| step.contains("clone")) && failed.len() > 1, "{failed:?}");
        }
        return;
    }
    // Root is not bound: setrlimit(2). The processes of a user that nobody else is are counted, or, since a user namespace has
    // counts of its own (Linux 5.14), those of this user in one that nobody else is in.
    let wrapper: &[&str] = match is_root() {
        true => &["setpriv", "--reuid=64999", "--regid=64999", "--clear-groups", "env", "HOME=/"],
        false => &["unshare", "--user", "--map-current-user"],
    };
    if !works(&[wrapper, &["true"]].concat()) {
        skip!("{wrapper:?} does not work here");
    }
    again(TEST, wrapper);
}

#[test]
fn address_space_may_run_out() {
    alone("robustness::address_space_may_run_out", || {
        let sandbox = with_program(&noop());
        run(&sandbox).unwrap();
        let before = state();
        // In a thread that has not started anything yet, the memory of the children is mapped.
        let starts = || run(&sandbox);
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let thread = scope.spawn(move || {
                // What the allocator has to hand, so that it needs no more.
                drop((0..2000).map(|_| vec![1_u8; 500]).collect::<Vec<_>>());
                receiver.recv().unwrap();
                starts()
            });
            std::thread::sleep(Duration::from_millis(100));
            let old = limit(libc::RLIMIT_AS, 1 << 20);
            sender.send(()).unwrap();
            let error = thread.join().unwrap().unwrap_err();
            limit(libc::RLIMIT_AS, old);
            assert_eq!(
                (error.layer(), error.step(), error.raw_os_error()),
                (Layer::Process, "mmap", Some(libc::ENOMEM))
            );
        });
        assert_eq!(state(), before);
        run(&sandbox).unwrap();
    });
}

#[test]
fn a_file_system_may_be_full_at_every_step() {
    const TEST: &str = "robustness::a_file_system_may_be_full_at_every_step";
    if !is_again() {
        crate::memory!();
        if !works(&[own_mounts(), &["true"]].concat()) {
            skip!("unshare(1) makes no mount namespace here");
        }
        again(TEST, own_mounts());
        return;
    }
    let dir = temp_dir();
    let path = real(dir.path());
    let mount =
        |words: &[&str]| assert!(StdCommand::new(words[0]).args(&words[1..]).arg(&path).status().unwrap().success());
    mount(&["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=200", "none"]);
    let (kept, filler) = (path.join("kept"), path.join("filler"));
    for dir in [&path.join("root"), &kept, &filler] {
        fs::create_dir(dir).unwrap();
    }
    let sandbox = with_program(&noop()).rootfs(Rootfs::dir(path.join("root")).overlay(&kept));
    run(&sandbox).unwrap();
    let before = (open_fds(), children());
    let fill = |number: u32| File::create(filler.join(number.to_string())).map(drop);
    let clear = |number: u32| fs::remove_file(filler.join(number.to_string())).is_ok();
    for room in 0..100 {
        fs::remove_dir_all(&kept).unwrap();
        fs::create_dir(&kept).unwrap();
        let full = (0..).find(|number| fill(*number).is_err()).unwrap();
        assert!((0..room).all(clear), "{full} files");
        let result = run(&sandbox);
        assert_eq!((open_fds(), children()), before);
        // With room, the same directory serves.
        let left = (room..full).filter(|number| clear(*number)).count();
        assert_eq!(left, (full - room) as usize);
        run(&sandbox).unwrap();
        match result {
            Ok(()) => {
                assert!(room > 2, "the control");
                return mount(&["umount"]);
            }
            Err(error) => assert_eq!((error.layer(), error.raw_os_error()), (Layer::Mount, Some(libc::ENOSPC))),
        }
    }
    panic!("100 files are not enough");
}

/// Namespaces are counted for each user, and a start fails where there are too many: namespaces(7). The kernel takes a
/// network namespace apart later.
#[test]
fn no_namespace_is_left() {
    const TEST: &str = "robustness::no_namespace_is_left";
    const MOST: usize = 16;
    if !is_again() {
        let wrapper = ["unshare", "--user", "--map-root-user"];
        if !works(&[&wrapper[..], &["true"]].concat()) {
            skip!("unshare(1) makes no user namespace here");
        }
        again(TEST, &wrapper);
        return;
    }
    for kind in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        fs::write(format!("/proc/sys/user/max_{kind}_namespaces"), MOST.to_string()).unwrap();
    }
    let sandbox = Sandbox::new().bind_ro(noop(), "/program");
    // ENOSPC while the kernel is still at it.
    let retried = |start: &dyn Fn() -> Result<(), Error>| {
        let begun = Instant::now();
        while let Err(error) = start() {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
            assert!(begun.elapsed() < Duration::from_secs(30), "they do not come back");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let waits = host();
    let at_once =
        |number| (0..number).map(|_| waits.command("sleep").arg("1000").spawn()).collect::<Result<Vec<_>, _>>();
    for _ in 0..10 * MOST {
        retried(&|| run(&sandbox));
        sandbox.command("/missing").spawn().unwrap_err();
    }
    // Of hundreds, those that have ended hold few, if any: a start takes no more than two of a kind.
    retried(&|| at_once(MOST / 2).map(drop));
    assert_eq!(at_once(MOST + 1).unwrap_err().raw_os_error(), Some(libc::ENOSPC), "the control");
}

#[test]
fn the_out_of_memory_killer_takes_the_program_first() {
    let mut child = host().command("sleep").arg("1000").spawn().unwrap();
    let score = |process: &str| {
        let text = fs::read_to_string(format!("/proc/{process}/oom_score_adj")).unwrap();
        text.trim().parse::<i32>().unwrap()
    };
    assert!(score(&child.id().to_string()) > score("self"), "no more than the host: proc_pid_oom_score_adj(5)");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A terminal, its own side and the host's.
fn terminal() -> (File, File) {
    let (mut own, mut hosts) = (-1, -1);
    let (none, empty, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
    // SAFETY: The kernel writes two numbers; null pointers are allowed for the rest.
    assert_eq!(unsafe { libc::openpty(&raw mut own, &raw mut hosts, none, empty, size) }, 0);
    let file = |fd: i32| {
        // SAFETY: No pointers.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        // SAFETY: The kernel has just made this descriptor, and nobody else knows it.
        unsafe { File::from_raw_fd(fd) }
    };
    (file(own), file(hosts))
}

/// How a terminal is set: tcgetattr(3).
fn settings(terminal: &File) -> [u32; 4] {
    // SAFETY: All zeroes is a value of this plain structure.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: The kernel writes one structure.
    assert_eq!(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings) }, 0);
    [settings.c_iflag, settings.c_oflag, settings.c_cflag, settings.c_lflag]
}

/// Makes the terminal at standard input the controlling one of a new session, whose signals end who does not mind them.
fn take_terminal() -> std::io::Result<()> {
    // What a shell starts in the background ignores it.
    // SAFETY: No handler is installed.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
    // SAFETY: No arguments.
    let session = unsafe { libc::setsid() };
    // SAFETY: No pointers.
    let taken = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
    if session > 0 && taken == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn an_interrupt_at_the_terminal_ends_both_and_leaves_it_as_it_was() {
    const TEST: &str = "robustness::an_interrupt_at_the_terminal_ends_both_and_leaves_it_as_it_was";
    const HOST: &str = "a host at a terminal";
    if is_role(HOST) {
        let script = "trap 'echo interrupted' INT; echo ready >&2; while :; do sleep 1; done";
        host().command("sh").args(["-c", script]).stdin(Stdio::inherit()).stderr(Stdio::inherit()).status().unwrap();
        return;
    }
    alone(TEST, || {
        let (mut own, hosts) = terminal();
        let before = settings(&hosts);
        let (mut stderr, writer) = alone::pipe();
        let mut command = alone::again(TEST, HOST);
        command.stdin(hosts.try_clone().unwrap()).stdout(StdStdio::null()).stderr(writer);
        // SAFETY: Three system calls.
        unsafe { command.pre_exec(take_terminal) };
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut told = Vec::new();
        while !told.ends_with(b"ready\n") {
            let mut byte = [0];
            stderr.read_exact(&mut byte).unwrap();
            told.push(byte[0]);
        }
        own.write_all(b"\x03").unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGINT));
        // The program holds the other end for as long as it lives.
        told.clear();
        stderr.read_to_end(&mut told).unwrap();
        assert_eq!(told, b"", "the signal is the host's alone");
        assert_eq!(settings(&hosts), before);
    });
}
