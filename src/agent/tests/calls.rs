//! What an agent does inside.

use crate::agent::*;
use crate::{Landlock, Seccomp};

fn number(number: i64) -> Arg {
    Arg::Number(number)
}

#[test]
fn an_agent_makes_calls_inside_and_tells_which_has_failed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let mut agent = Agent::start(&Sandbox::new().bind(&dir, "/dir")).unwrap();
    for name in ["one", "two"] {
        let mut calls = Calls::default();
        let path = calls.data(format!("/dir/{name}\0").as_bytes());
        calls.attempt(libc::SYS_unlinkat, [libc::AT_FDCWD.into(), path, number(0)]);
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY;
        calls.call(libc::SYS_openat, [libc::AT_FDCWD.into(), path, flags.into(), number(0o644)]);
        let text = calls.data(b"hello");
        calls.call(libc::SYS_write, [number(4), text, number(5)]);
        calls.call(libc::SYS_close, [number(4)]);
        assert_eq!(agent.run(&calls, &[]).unwrap(), Ok(()));
        assert_eq!(std::fs::read(dir.join(name)).unwrap(), b"hello");
    }
    let mut calls = Calls::default();
    let path = calls.data(b"/etc/passwd\0");
    calls.call(libc::SYS_getpid, []);
    calls.call(libc::SYS_openat, [libc::AT_FDCWD.into(), path, number(0), number(0)]);
    calls.call(libc::SYS_exit_group, [number(1)]);
    assert_eq!(agent.run(&calls, &[]).unwrap(), Err((1, Errno(libc::ENOENT))));
    assert_eq!(agent.run(&Calls::default(), &[]).unwrap(), Ok(()), "it is still there");
}

#[test]
fn an_agent_gets_descriptors_and_long_messages() {
    let mut agent = Agent::start(&Sandbox::new()).unwrap();
    let (read, write) = nix::unistd::pipe().unwrap();
    let mut calls = Calls::default();
    let text = calls.data(&vec![b'x'; 60_000]);
    calls.call(libc::SYS_write, [number(4), text, number(60_000)]);
    for _ in 0..500 {
        calls.call(libc::SYS_getppid, []);
    }
    calls.call(libc::SYS_close, [number(4)]);
    assert_eq!(agent.run(&calls, &[write.as_fd()]).unwrap(), Ok(()));
    drop(write);
    let read = std::io::read_to_string(std::fs::File::from(read)).unwrap();
    assert_eq!(read.len(), 60_000);
}

#[test]
fn an_agent_hands_descriptors_out_and_tells_of_writes_cut_short() {
    let mut agent = Agent::start(&Sandbox::new().tmpfs(crate::Tmpfs::new("/t").size(8192))).unwrap();
    let mut calls = Calls::default();
    let path = calls.data(b"/t/file\0");
    let flags = libc::O_CREAT | libc::O_RDWR;
    calls.call(libc::SYS_openat, [libc::AT_FDCWD.into(), path, flags.into(), number(0o600)]);
    let text = calls.data(&vec![b'x'; 10_000]);
    calls.whole(libc::SYS_write, [number(4), text, number(4000)], 4000);
    calls.whole(libc::SYS_write, [number(4), text, number(10_000)], 10_000);
    assert_eq!(agent.run(&calls, &[]).unwrap(), Err((2, Errno(libc::ENOSPC))));
    let file = std::fs::File::from(agent.take_fd(4).unwrap());
    assert_eq!(file.metadata().unwrap().len(), 8192);
    assert!(agent.take_fd(4).is_err(), "it was closed");
    assert_eq!(agent.run(&Calls::default(), &[]).unwrap(), Ok(()));
}

#[test]
fn an_agent_executes_a_program() {
    let mut agent = Agent::start(&Sandbox::new().rootfs(crate::Rootfs::host())).unwrap();
    let mut calls = Calls::default();
    let path = calls.data(b"/bin/sh\0");
    let args = [b"sh\0".as_slice(), b"-c\0", b"exit 7\0"].map(|arg| calls.data(arg));
    let argv = calls.words(&[args[0], args[1], args[2], number(0)]);
    let envp = calls.words(&[number(0)]);
    calls.call(libc::SYS_execve, [path, argv, envp]);
    agent.send(&calls, &[]).unwrap();
    assert!(agent.answer().is_err(), "there is no agent any more");
    assert_eq!(agent.child().wait().unwrap().code(), Some(7));
}

#[test]
fn an_agent_is_confined_and_ends_with_its_handle() {
    let mut agent = Agent::start(&Sandbox::new()).unwrap();
    let mut calls = Calls::default();
    calls.call(libc::SYS_mount, [number(0); 5]);
    assert_eq!(agent.run(&calls, &[]).unwrap(), Err((0, Errno(libc::EPERM))));
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.child().id())).unwrap();
    assert!(status.contains("Seccomp:\t2"), "{status}");
    let pid = agent.child().id();
    drop(agent);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    let alone = Sandbox::new().landlock(Landlock::off()).seccomp(Seccomp::off());
    assert_eq!(Agent::start(&alone).unwrap().run(&Calls::default(), &[]).unwrap(), Ok(()));
}

#[test]
fn an_agent_hands_descriptors_out_while_signals_come() {
    extern "C" fn ignore(_: libc::c_int) {}
    // SAFETY: All zeroes is a value of this plain structure: no flags, and so no SA_RESTART.
    #[allow(unsafe_code)]
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ignore as *const () as usize;
    // SAFETY: The handler does nothing. Nobody else here uses this signal.
    #[allow(unsafe_code)]
    let set = unsafe { libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    // SAFETY: No pointers.
    #[allow(unsafe_code)]
    let thread = unsafe { libc::gettid() };
    let process = std::process::id();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                // SAFETY: No pointers; the thread waits for this one.
                #[allow(unsafe_code)]
                unsafe {
                    libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGURG)
                };
                std::thread::sleep(std::time::Duration::from_micros(20));
            }
        });
        let mut agent = Agent::start(&Sandbox::new()).unwrap();
        let taken = (0..2000).try_for_each(|_| {
            let mut calls = Calls::default();
            let path = calls.data(b"/\0");
            calls.call(libc::SYS_openat, [libc::AT_FDCWD.into(), path, libc::O_DIRECTORY.into(), number(0)]);
            assert_eq!(agent.run(&calls, &[])?, Ok(()));
            agent.take_fd(4).map(drop)
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        taken.unwrap();
    });
}
