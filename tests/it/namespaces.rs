//! Namespaces: each is the sandbox's own, and what it keeps apart stays apart.

// A fixture is a group of calls on this process, and one comment says what makes them sound.
#![allow(clippy::multiple_unsafe_ops_per_block)]

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use belljar::{Command, ErrorKind, Landlock, Layer, Namespaces, Sandbox, Stdio};

use crate::again::{again, is_again};
use crate::harness::{host, is_root, namespaces_alone, sh, token};
use crate::probe::{inside, outside};

const FILES: [(Namespaces, &str); 8] = [
    (Namespaces::USER, "user"),
    (Namespaces::MOUNT, "mnt"),
    (Namespaces::PID, "pid"),
    (Namespaces::NET, "net"),
    (Namespaces::IPC, "ipc"),
    (Namespaces::UTS, "uts"),
    (Namespaces::CGROUP, "cgroup"),
    (Namespaces::TIME, "time"),
];

fn namespace(process: &str, name: &str) -> String {
    let link = fs::read_link(format!("/proc/{process}/ns/{name}")).unwrap();
    link.to_str().unwrap().to_owned()
}

/// Which namespaces of a running program are not the host's, as the host sees them.
fn own_of(pid: u32) -> Namespaces {
    let own = |(_, name): &&(Namespaces, &str)| namespace(&pid.to_string(), name) != namespace("self", name);
    FILES.iter().filter(own).map(|(flag, _)| *flag).collect()
}

/// That the program gets these namespaces of its own. An execve wakes the caller when the memory is another, and changes the
/// time namespace right after that (`begin_new_exec` in fs/exec.c): a slow machine shows the moment in between.
fn assert_own(pid: u32, expected: Namespaces) {
    let turns = (0..1000).take_while(|_| own_of(pid) | Namespaces::TIME == expected && own_of(pid) != expected);
    turns.for_each(|_| std::thread::sleep(std::time::Duration::from_millis(1)));
    assert_eq!(own_of(pid), expected);
}

/// A program that waits, in a sandbox whose root needs nothing.
fn wait_in(namespaces: Namespaces) -> (belljar::Child, Command) {
    // Without a mount namespace the program is the host's own.
    let mut command = match namespaces.contains(Namespaces::MOUNT) {
        true => host().namespaces(namespaces).command("sleep"),
        false => Sandbox::new().namespaces(namespaces).command("sleep"),
    };
    let child = command.arg("1000").stdin(Stdio::null()).spawn();
    (child.unwrap_or_else(|error| panic!("{namespaces:?}: {error}")), command)
}

#[test]
fn each_namespace_is_its_own_and_none_is_silently_shared() {
    let (mut child, _) = wait_in(Namespaces::default());
    assert_own(child.id(), Namespaces::default());
    child.kill().unwrap();
    let (mut child, _) = wait_in(Namespaces::all());
    assert_own(child.id(), Namespaces::all());
    child.kill().unwrap();
    // Exactly what is asked for: leaving one out shares that one, and no other.
    for (flag, _) in FILES {
        let asked = Namespaces::all() - flag;
        if flag == Namespaces::USER && !is_root() {
            let error = host().namespaces(asked).command("true").spawn().unwrap_err();
            assert_eq!((error.layer(), error.kind()), (Layer::Namespaces, ErrorKind::InvalidPolicy), "{error}");
            continue;
        }
        let (mut child, _) = wait_in(asked);
        assert_own(child.id(), asked);
        child.kill().unwrap();
    }
}

#[test]
fn two_sandboxes_share_no_namespace() {
    let (mut a, _) = wait_in(Namespaces::all());
    let (mut b, _) = wait_in(Namespaces::all());
    for (_, name) in FILES {
        let [of_a, of_b] = [&a, &b].map(|child| namespace(&child.id().to_string(), name));
        assert_ne!(of_a, of_b, "{name}");
    }
    a.kill().unwrap();
    b.kill().unwrap();
}

#[test]
fn namespaces_of_the_host_and_of_init_can_not_be_entered() {
    let files = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];
    let paths: Vec<_> = files.iter().map(|name| format!("/proc/1/ns/{name}")).collect();
    let args: Vec<_> = ["enter"].into_iter().chain(paths.iter().map(String::as_str)).collect();
    for sandbox in [Sandbox::new(), Sandbox::new().user(0, 0)] {
        inside(&sandbox, &args).refused(&[libc::EPERM, libc::EACCES], &[]);
    }
    // Handed in by a careless caller, they are no use either.
    let host_net = fs::File::open("/proc/self/ns/net").unwrap();
    let sandbox = Sandbox::new().bind_ro(crate::probe::program(), "/probe");
    let mut command = sandbox.command("/probe");
    let output = command.args(["enter", "/proc/self/fd/5"]).fd(5, host_net).output().unwrap();
    let told = crate::probe::Told(String::from_utf8(output.stdout).unwrap());
    told.refused(&[libc::EPERM, libc::EACCES, libc::EINVAL], &[]);
}

#[test]
fn the_host_name_is_the_sandboxs_own_and_fixed() {
    let before = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let read = "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname; uname -n";
    assert_eq!(sh(&host(), read), "belljar\n(none)\nbelljar\n");
    assert_eq!(sh(&host().hostname("build"), read), "build\n(none)\nbuild\n");
    for sandbox in [Sandbox::new(), Sandbox::new().user(0, 0)] {
        let told = inside(&sandbox, &["privileges", "/nothing"]);
        assert_eq!([told.errno("sethostname"), told.errno("clock_settime")], [libc::EPERM; 2]);
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
    let shared = host().namespaces(Namespaces::default() - Namespaces::UTS);
    assert_eq!(sh(&shared, "cat /proc/sys/kernel/hostname"), before, "the control");
}

#[test]
fn the_view_of_processes_is_the_sandboxs_own() {
    let seen = sh(&host(), "echo $$; ls -d /proc/[0-9]* | wc -l; cat /proc/1/comm");
    let lines: Vec<_> = seen.lines().collect();
    // The shell, init, and ls itself; the pipe may have one more.
    assert_eq!(lines[0], "2");
    assert!(lines[1].parse::<u32>().unwrap() <= 5, "{seen}");
    assert!(fs::read_dir("/proc").unwrap().count() > 10, "the control");
    assert_eq!(sh(&host(), "cat /proc/self/cgroup | cut -d: -f3 | sort -u"), "/\n");
}

/// System V and POSIX objects of the host: made here, and taken away at the end.
struct Objects {
    key: i32,
    ids: [i32; 3],
    queue: std::ffi::CString,
    mq: i32,
}

impl Objects {
    fn new() -> Self {
        let key = 0x0be1_0000 + (std::process::id() & 0xffff) as i32 * 2;
        let flags = libc::IPC_CREAT | 0o600;
        let queue = std::ffi::CString::new(token()).unwrap();
        // SAFETY: The calls take no pointers but the name, which ends in a zero byte and is only read.
        let (ids, mq) = unsafe {
            let ids = [libc::shmget(key, 4096, flags), libc::semget(key, 1, flags), libc::msgget(key, flags)];
            let none: *const u8 = std::ptr::null();
            let mode = libc::O_CREAT | libc::O_RDWR;
            (ids, libc::syscall(libc::SYS_mq_open, queue.as_ptr(), mode, 0o600, none) as i32)
        };
        assert!(ids.iter().all(|id| *id >= 0), "{ids:?}");
        Self { key, ids, queue, mq }
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        let none: *mut libc::c_void = std::ptr::null_mut();
        // SAFETY: The objects are this test's own; the calls take no other pointers than the name.
        unsafe {
            libc::shmctl(self.ids[0], libc::IPC_RMID, none.cast());
            libc::semctl(self.ids[1], 0, libc::IPC_RMID);
            libc::msgctl(self.ids[2], libc::IPC_RMID, none.cast());
            libc::syscall(libc::SYS_mq_unlink, self.queue.as_ptr());
            libc::close(self.mq);
        }
    }
}

#[test]
fn objects_of_ipc_stay_apart() {
    let objects = Objects::new();
    let args = ["ipc", &objects.key.to_string(), objects.queue.to_str().unwrap()];
    let told = inside(&Sandbox::new(), &args);
    for name in ["shm", "sem", "msg", "mq"] {
        assert_eq!(told.errno(name), libc::ENOENT, "{name}");
    }
    for name in ["own-shm", "own-sem", "own-msg"] {
        assert_eq!(told.errno(name), 0, "{name}: the allowed");
    }
    // What was made inside is not on the host.
    // SAFETY: No pointers.
    let left = unsafe {
        let key = objects.key + 1;
        [libc::shmget(key, 0, 0), libc::semget(key, 0, 0), libc::msgget(key, 0)]
    };
    assert_eq!(left, [-1; 3]);
    // The control: without the namespace they are there. To Landlock, a queue is a file that no rule allows.
    let shared = Sandbox::new().namespaces(Namespaces::default() - Namespaces::IPC).landlock(Landlock::off());
    let told = inside(&shared, &args);
    for name in ["shm", "sem", "msg", "mq"] {
        assert_eq!(told.errno(name), 0, "{name}");
    }
    let key = objects.key + 1;
    // SAFETY: The objects are those that the control has just made; the calls take no other pointers.
    unsafe {
        libc::shmctl(libc::shmget(key, 0, 0), libc::IPC_RMID, std::ptr::null_mut());
        libc::semctl(libc::semget(key, 0, 0), 0, libc::IPC_RMID);
        libc::msgctl(libc::msgget(key, 0), libc::IPC_RMID, std::ptr::null_mut());
    }
}

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn no_signal_reaches_the_host() {
    const NAME: &str = "namespaces::no_signal_reaches_the_host";
    if !is_again() {
        again(NAME, &["env"]);
        return;
    }
    // SAFETY: The handler only adds to an atomic.
    unsafe { libc::signal(libc::SIGUSR1, count as *const () as libc::sighandler_t) };
    // In a process group of its own, since the probe signals the group.
    // SAFETY: No pointers.
    unsafe { libc::setpgid(0, 0) };
    let pid = std::process::id().to_string();
    let told = inside(&Sandbox::new(), &["signals", &pid]);
    told.refused(&[libc::ESRCH], &["parent", "kill-all"]);
    assert_eq!(told.one("parent"), "0", "the parent is not to be seen either");
    assert_eq!(SIGNALS.load(Ordering::Relaxed), 0);
    // The control. To everybody is left out there: it would reach everybody.
    let told = outside(&["trace-child"]);
    assert_eq!(told.errno("pidfd_getfd"), 0);
    let shared = Sandbox::new().namespaces(Namespaces::USER).landlock(Landlock::off());
    let mut command = shared.command("sh");
    let status = command.args(["-c", &format!("kill -USR1 {pid}")]).status().unwrap();
    assert!(status.success());
    // Another thread may be the one that handles it.
    for _ in 0..1000 {
        if SIGNALS.load(Ordering::Relaxed) == 1 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the control: no signal has come");
}

#[test]
fn a_sibling_is_not_seen_and_not_reached() {
    let word = token();
    let mut sibling = host().command("sh");
    let script = "echo $SECRET >/tmp/$SECRET; echo $SECRET >/dev/shm/$SECRET; echo ready; exec sleep 1000";
    let mut sibling = sibling.args(["-c", script]).env("SECRET", &word).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 6];
    std::io::Read::read_exact(sibling.stdout.as_mut().unwrap(), &mut line).unwrap();
    let here = format!("/proc/{}/root/tmp/{word}", sibling.id());
    assert_eq!(fs::read_to_string(here).unwrap().trim(), word, "the control: the host sees it");
    let script = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'; ls -la /tmp /dev/shm /proc/[0-9]*/cwd; \
                  cat /tmp/* /dev/shm/*; true";
    let mut other = host().command("sh");
    let output = other.args(["-c", script]).output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    assert!(!String::from_utf8_lossy(&told).contains(&word));
    // Nor by the ids that the host knows it by.
    for pid in [sibling.id(), std::process::id()] {
        let pid = pid.to_string();
        let unknown = [libc::ENOENT, libc::ESRCH];
        inside(&namespaces_alone(&Sandbox::new()), &["trace", &pid]).refused(&unknown, &[]);
        // The filter does not look who is meant.
        inside(&Sandbox::new(), &["trace", &pid]).refused(&[libc::ENOENT, libc::ESRCH, libc::EPERM], &[]);
        for sandbox in [Sandbox::new(), namespaces_alone(&Sandbox::new())] {
            inside(&sandbox, &["signals", &pid]).refused(&[libc::ESRCH], &["parent", "kill-all"]);
        }
    }
    assert!(sibling.try_wait().unwrap().is_none(), "it runs on, unharmed");
    sibling.kill().unwrap();
}

#[test]
fn the_holder_of_the_maps_ends_before_a_program_that_could_trace_it() {
    let sandbox = Sandbox::new().namespaces(Namespaces::all() - Namespaces::PID);
    let plan = sandbox.command("true").plan().unwrap().to_string();
    let at = |words: &str| plan.find(words).unwrap_or_else(|| panic!("{words} in:\n{plan}"));
    assert!(at("setns holder") < at("kill holder") && at("kill holder") < at("clone program"), "{plan}");
}

#[test]
fn init_can_not_be_read_traced_or_ended_from_inside() {
    let policies = [Sandbox::new(), Sandbox::new().user(0, 0), Sandbox::new().user(5, 5)];
    let root = Sandbox::new().namespaces(Namespaces::default() - Namespaces::USER);
    for sandbox in policies.into_iter().chain(is_root().then_some(root)) {
        inside(&sandbox, &["trace", "1"]).refused(&[libc::EPERM, libc::EACCES, libc::EROFS], &[]);
        let sandbox = namespaces_alone(&sandbox);
        inside(&sandbox, &["trace", "1"]).refused(&[libc::EPERM, libc::EACCES, libc::EROFS], &[]);
        // The control: what is its own to trace, it can, if nothing forbids tracing as such. Of root's, /proc is read-only.
        let told = inside(&sandbox, &["trace-child"]);
        let read_only = if is_root() { &["stack", "attach", "mem-write"][..] } else { &["stack", "attach"] };
        told.granted(read_only);
    }
    // Signals from inside do not end it: the program outlives the attempt.
    let script = "for s in TERM KILL HUP INT STOP CONT USR1 CHLD; do kill -$s 1 || true; done; sleep 0; \
                  test -d /proc/1 && echo alive";
    assert_eq!(sh(&host(), script), "alive\n");
    let comm = sh(&host(), "cat /proc/1/comm; cat /proc/1/cmdline | tr '\\0' '\\n'");
    assert!(!comm.contains(std::process::id().to_string().as_str()));
}
