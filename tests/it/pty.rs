//! A terminal of the program's own.

#![allow(clippy::multiple_unsafe_ops_per_block)]

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use belljar::{Cause, Child, ErrorKind, IdMap, Layer, Limits, Namespaces, Pty, PtySize, Rootfs, Sandbox, Stdio};

use crate::again::{again, is_again};
use crate::alone::alone;
use crate::harness::{host, in_memory, is_root, namespaces_alone, open_fds, temp_dir};
use crate::probe::Told;

const SIZE: PtySize = PtySize { rows: 31, columns: 97 };

/// Starts a shell script on a terminal.
fn shell(sandbox: &Sandbox, script: &str) -> (Child, Pty) {
    let mut child = sandbox.command("sh").args(["-c", script]).pty(SIZE).spawn().unwrap();
    let pty = child.pty.take().unwrap();
    (child, pty)
}

/// Reads until a word is shown; returns all that was.
fn read_until(mut pty: &Pty, word: &str) -> String {
    let mut shown = String::new();
    while !shown.contains(word) {
        let mut bytes = [0; 256];
        let read = pty.read(&mut bytes).unwrap();
        assert_ne!(read, 0, "the end comes before {word:?}: {shown:?}");
        shown.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    shown
}

fn read_all(mut pty: impl Read) -> String {
    let mut shown = String::new();
    pty.read_to_string(&mut shown).unwrap();
    shown
}

/// Sandboxes on the host's userland that differ in who opens the terminal, and where.
fn policies() -> Vec<Sandbox> {
    let mut policies = vec![
        host(),
        host().user(0, 0),
        host().user(1000, 1000),
        namespaces_alone(&host()),
        host().namespaces(Namespaces::default() - Namespaces::PID),
        Sandbox::new().namespaces(Namespaces::default() - Namespaces::MOUNT),
        Sandbox::new().namespaces(Namespaces::empty()),
    ];
    policies.extend(in_memory(Rootfs::host()).map(|root| host().rootfs(root)));
    if is_root() {
        let map = IdMap::new(0, 100_000, 65_536);
        policies.extend([
            host().uid_map(map).gid_map(map),
            host().uid_map(map).gid_map(map).user(1000, 1000),
            host().namespaces(Namespaces::default() - Namespaces::USER).user(1000, 1000),
        ]);
    }
    policies
}

#[test]
fn the_program_has_a_controlling_terminal_of_its_own_on_every_stream() {
    let script = "for fd in 0 1 2; do test -t $fd || echo no $fd; done; stty size; \
                  echo named >\"$(tty)\"; echo controlling >/dev/tty; stty size </dev/tty >/dev/tty";
    for sandbox in policies() {
        let (mut child, pty) = shell(&sandbox, script);
        let shown = read_until(&pty, "controlling\r\n31 97\r\n");
        assert_eq!(shown, "31 97\r\nnamed\r\ncontrolling\r\n31 97\r\n", "{sandbox:?}");
        assert!(child.wait().unwrap().success());
        assert_eq!(read_all(pty), "");
    }
}

#[test]
fn the_terminal_is_the_sandbox_s_first_and_its_session_the_program_s() {
    let script = "tty; read pid comm state ppid group session tty foreground rest </proc/self/stat; \
                  test $session = $$ && test $foreground = $group && echo leads";
    let output = host().command("sh").args(["-c", script]).pty(SIZE).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "/dev/pts/0\r\nleads\r\n");
}

#[test]
fn what_is_typed_arrives_and_signals_do() {
    let (mut child, mut pty) = shell(&host(), "read line; echo got $line; exec sleep 1000");
    pty.write_all(b"a word\n").unwrap();
    let shown = read_until(&pty, "got a word\r\n");
    assert_eq!(shown, "a word\r\ngot a word\r\n", "what is typed is echoed");
    // Ctrl-C.
    (&pty).write_all(b"\x03").unwrap();
    let outcome = child.wait().unwrap();
    assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGINT), Cause::Signaled));
}

#[test]
fn a_new_size_is_told() {
    let script = "trap 'stty size; exit 4' WINCH; stty size; while :; do sleep 0.01; done";
    let (mut child, pty) = shell(&host(), script);
    read_until(&pty, "31 97\r\n");
    pty.resize(PtySize::new(50, 132)).unwrap();
    read_until(&pty, "50 132\r\n");
    assert_eq!(child.wait().unwrap().code(), Some(4));
}

#[test]
fn streams_that_are_set_are_not_the_terminal() {
    let script = "test -t 0 && ! test -t 1 && ! test -t 2 && echo out && echo err >&2 && echo terminal >/dev/tty";
    let mut command = host().command("sh");
    let output = command.args(["-c", script]).pty(SIZE).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    assert!(output.outcome.success());
    assert_eq!((&*output.stdout, &*output.stderr), (&b"out\n"[..], &b"err\n"[..]));
    let mut child = command.spawn().unwrap();
    assert_eq!(read_all(child.pty.as_ref().unwrap()), "terminal\r\n");
    assert!(child.wait().unwrap().success());
    assert!(host().command("true").spawn().unwrap().pty.is_none());
}

#[test]
fn captured_it_ends_with_the_program_and_not_with_its_last_use() {
    // Nobody has it open for a while: to hang it up then would end the program.
    let script = "cat; echo one; exec <&- >&- 2>&-; sleep 0.2; echo two >/dev/tty; exit 3";
    let output = host().command("sh").args(["-c", script]).pty(SIZE).output().unwrap();
    assert_eq!((output.outcome.code(), &*output.stdout), (Some(3), &b"one\r\ntwo\r\n"[..]));
    assert!(output.stderr.is_empty() && !output.truncated);
    let script = "head -c 300000 /dev/zero; exit 5";
    let output = host().command("sh").args(["-c", script]).pty(SIZE).output().unwrap();
    assert_eq!((output.outcome.code(), output.stdout.len()), (Some(5), 300_000));
    assert_eq!(host().command("sh").args(["-c", script]).pty(SIZE).status().unwrap().code(), Some(5));
    let sandbox = host().limits(Limits::new().output(1000));
    let output = sandbox.command("yes").pty(SIZE).output().unwrap();
    assert_eq!((output.outcome.cause(), output.stdout.len(), output.truncated), (Cause::OutputLimit, 1000, true));
}

#[test]
fn a_dropped_terminal_hangs_up() {
    let (mut child, pty) = shell(&host(), "echo ready; exec sleep 1000");
    read_until(&pty, "ready");
    drop(pty);
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGHUP));
}

#[test]
fn a_drop_of_the_handle_ends_the_sandbox_and_the_terminal() {
    let (child, pty) = shell(&host(), "trap '' HUP TERM; echo ready; setsid sleep 1000 & sleep 1000");
    read_until(&pty, "ready");
    drop(child);
    read_all(pty);
}

#[test]
fn pools_and_prepared_sandboxes_give_terminals() {
    let prepared = host().prepare().unwrap();
    let pool = prepared.pool(1).unwrap();
    pool.refill().unwrap();
    for mut command in [prepared.command("tty"), pool.command("tty")] {
        let output = command.pty(SIZE).output().unwrap();
        assert_eq!((output.outcome.code(), &*output.stdout), (Some(0), &b"/dev/pts/0\r\n"[..]));
    }
}

#[test]
fn what_is_no_ptmx_is_refused_before_the_program_starts() {
    let fifo = temp_dir();
    let path = std::ffi::CString::new(fifo.path().join("ptmx").into_os_string().into_encoded_bytes()).unwrap();
    // SAFETY: The path ends in a zero byte and is only read.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o666) }, 0);
    for (sandbox, errnos) in [
        (host().tmpfs("/dev"), [libc::ENOENT; 2]),
        (host().tmpfs("/dev").file("/dev/ptmx", b"file"), [libc::EROFS, libc::EACCES]),
        (host().tmpfs("/dev").symlink("/proc/self/fd/0", "/dev/ptmx"), [libc::ELOOP; 2]),
        (host().bind(fifo.path(), "/dev"), [libc::ENOTTY; 2]),
    ] {
        let error = sandbox.command("/bin/true").pty(SIZE).stdin(Stdio::null()).spawn().unwrap_err();
        assert_eq!((error.layer(), error.step(), error.kind()), (Layer::Fds, "pty 31x97", ErrorKind::Os), "{error}");
        assert!(errnos.contains(&error.raw_os_error().unwrap()), "{error}");
        assert_eq!(error.path(), Some("/dev/ptmx".as_ref()), "{error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn the_plan_tells_of_the_terminal() {
    let mut command = host().command("true");
    let without = command.plan().unwrap().to_string();
    let with = command.pty(SIZE).plan().unwrap().to_string();
    let session = with.find("  process       setsid\n").unwrap();
    let lines = "  fds           pty 31x97
  fds           controlling terminal pty
  fds           hand pty over
  fds           dup pty -> 0
  fds           dup pty -> 1
  fds           dup pty -> 2
";
    assert!(with[session..].contains(lines), "{with}");
    assert!(!without.contains(" pty"), "{without}");
    let with = command.stdout(Stdio::null()).plan().unwrap().to_string();
    assert!(with.contains("dup pty -> 0\n  fds           dup null -> 1\n  fds           dup pty -> 2\n"), "{with}");
}

#[test]
fn no_descriptor_is_left() {
    alone("pty::no_descriptor_is_left", || {
        let run = || assert!(host().command("true").pty(SIZE).status().unwrap().success());
        run();
        let fds = open_fds();
        run();
        let _ = host().command("/missing").pty(SIZE).spawn().unwrap_err();
        let _ = host().tmpfs("/dev").command("/bin/true").pty(SIZE).spawn().unwrap_err();
        assert_eq!(open_fds(), fds);
    });
}

#[test]
fn a_host_without_standard_streams_gives_terminals() {
    alone("pty::a_host_without_standard_streams_gives_terminals", || {
        // SAFETY: No pointers; nothing here uses the streams until they are back.
        let saved = [0, 1, 2].map(|fd| unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 100) });
        for fd in 0..3 {
            // SAFETY: As above.
            unsafe { libc::close(fd) };
        }
        let run = |stdout: Option<Stdio>| {
            let mut command = host().command("sh");
            command.args(["-c", "test -t 0 && test -t 2 && stty size"]).pty(SIZE);
            if let Some(stdout) = stdout {
                command.stdout(stdout);
            }
            command.output()
        };
        let plain = run(None);
        let piped = run(Some(Stdio::piped()));
        for (fd, saved) in (0..3).zip(saved) {
            // SAFETY: As above.
            unsafe { libc::dup2(saved, fd) };
        }
        assert_eq!(plain.unwrap().stdout, b"31 97\r\n");
        assert_eq!(piped.unwrap().stdout, b"31 97\n");
    });
}

/// A new terminal of the host's, which this process makes its own: its master, and its slave.
fn own_terminal() -> (OwnedFd, OwnedFd) {
    // SAFETY: The calls take descriptors and a buffer that outlives them; the descriptors are new and owned here.
    unsafe {
        let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(master >= 0 && libc::grantpt(master) == 0 && libc::unlockpt(master) == 0);
        let mut name = [0; 64];
        assert_eq!(libc::ptsname_r(master, name.as_mut_ptr(), name.len()), 0);
        let slave = libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        assert!(slave >= 0);
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        assert!(libc::setsid() > 0, "this process leads no group");
        assert_eq!(libc::ioctl(slave, libc::TIOCSCTTY, 0), 0);
        (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    }
}

/// What a program could change of a terminal: modes, foreground and size; and what was shown on it.
fn look(master: &OwnedFd, slave: &OwnedFd) -> (Vec<u8>, i32, [u16; 2], i32) {
    // SAFETY: The calls fill structures that outlive them.
    unsafe {
        let mut modes: libc::termios = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(slave.as_raw_fd(), &raw mut modes), 0);
        let mut size: libc::winsize = std::mem::zeroed();
        assert_eq!(libc::ioctl(slave.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size), 0);
        let mut shown = 0;
        assert_eq!(libc::ioctl(master.as_raw_fd(), libc::FIONREAD, &raw mut shown), 0);
        let flags = [modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag];
        let modes = flags.iter().flat_map(|flag| flag.to_ne_bytes()).chain(modes.c_cc).collect();
        (modes, libc::tcgetpgrp(slave.as_raw_fd()), [size.ws_row, size.ws_col], shown)
    }
}

#[test]
fn the_caller_s_terminal_is_left_as_it_was() {
    const NAME: &str = "pty::the_caller_s_terminal_is_left_as_it_was";
    if !is_again() {
        again(NAME, &["env"]);
        return;
    }
    let (master, slave) = own_terminal();
    let before = look(&master, &slave);
    let script = "stty raw -echo rows 5; echo canary >/dev/tty; set -m; (stty -a >/dev/null; sleep 1000) & \
                  kill -STOP $!; echo ready; fg";
    let (mut child, pty) = shell(&host(), script);
    read_until(&pty, "ready");
    assert_eq!(look(&master, &slave), before);
    assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(look(&master, &slave), before);
    let sandbox = host().bind_ro(crate::probe::program(), "/probe");
    let output = sandbox.command("/probe").arg("terminal").pty(SIZE).stdout(Stdio::piped()).output().unwrap();
    let told = Told(String::from_utf8(output.stdout).unwrap());
    // Nothing is put in, not even at its own terminal; and that is the one it has.
    assert_eq!((told.errno("sti"), told.errno("tty"), told.one("session")), (libc::EPERM, 0, "1"), "{told:?}");
    assert_eq!(look(&master, &slave), before);
}
