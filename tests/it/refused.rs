//! Hosts that lack a system call, or whose own filter refuses it, as those of container engines do.
//!
//! Each system call that a start makes is refused for good, one at a time. Then a
//! start fails with an error that names a step, or the program runs under all that it has without the filter; what it
//! lacks, the report tells. Nothing is left over, and nobody is waited for in vain.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{c_int, c_long};
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use belljar::{Child, Command, Error, Landlock, Layer, Namespaces, Network, Pool, Report, Rootfs, Sandbox, Stdio};

use crate::alone::alone;
use crate::filter::filter;
use crate::harness::{children, compile, mounts, open_fds, real, temp_dir};

/// What a thread of this process needs to live and to end, whatever it does; and what gives back what it has: nothing can be
/// said of a host that can't close a file, or reap a child.
///
/// And those that never fail, so that whatever they come to is true: getuid(2), umask(2).
const NEEDED: [c_long; 20] = [
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_close,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_umask,
];

/// What kernels without a call and filters say.
const ERRORS: [c_int; 2] = [libc::ENOSYS, libc::EPERM];

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// What init does: where it can't, it ends, and all others with it.
#[cfg(target_arch = "x86_64")]
const OF_INIT: [c_long; 3] = [libc::SYS_read, libc::SYS_poll, libc::SYS_pidfd_open];
#[cfg(not(target_arch = "x86_64"))]
const OF_INIT: [c_long; 3] = [libc::SYS_read, libc::SYS_ppoll, libc::SYS_pidfd_open];

/// Tells in its first argument whether Landlock lets it write to a file of /proc, and stays: without a C library, whose start
/// makes calls that could be refused, since it is under the filter too.
fn program() -> std::path::PathBuf {
    const SOURCE: &str = r#"
#include <sys/syscall.h>
#if defined(__x86_64__)
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call run\n");
static long call(long nr, long a, long b, long c) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}
#else
__asm__(".globl _start\n_start: mov x0, sp\n bl run\n");
static long call(long nr, long a, long b, long c) {
    register long x8 __asm__("x8") = nr, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}
#endif
void run(long *stack) {
    char *argument = (char *) stack[2];
    long file = call(SYS_openat, -100, (long) "/proc/self/comm", 1);
    if (file >= 0) call(SYS_close, file, 0, 0);
    *argument = file < 0 ? 'n' : 'y';
    for (;;) call(SYS_ppoll, 0, 0, 0);
}"#;
    compile("refused", SOURCE, &["-O1", "-static", "-nostdlib", "-fno-stack-protector", "-fno-pic", "-no-pie"])
}

/// The calls that `start` makes, and the programs that it starts: a supervisor sees all of them, seccomp_unotify(2).
fn calls_of(start: impl FnOnce() + Send) -> BTreeSet<c_long> {
    // `struct seccomp_notif` and `struct seccomp_notif_resp` in numbers of 64 bits: what is read and written of them is
    // the id, in both the first, the number of the call, and the flags.
    const RECEIVE: u64 = 3 << 30 | 80 << 16 | 0x2100;
    const SEND: u64 = 3 << 30 | 24 << 16 | 0x2101;
    const CONTINUE: u64 = 1;
    static LISTENER: AtomicI32 = AtomicI32::new(-1);
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        while LISTENER.load(SeqCst) < 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        loop {
            let mut call = [0_u64; 10];
            // SAFETY: The kernel writes one structure of the size that the request has.
            if unsafe { libc::ioctl(LISTENER.load(SeqCst), RECEIVE, call.as_mut_ptr()) } != 0 {
                continue;
            }
            let answer = [call[0], 0, CONTINUE << 32];
            let _ = sender.send(c_long::from(call[2] as u32 as i32));
            // SAFETY: The kernel reads one structure of the size that the request has.
            unsafe { libc::ioctl(LISTENER.load(SeqCst), SEND, answer.as_ptr()) };
        }
    });
    std::thread::scope(|scope| {
        let start = scope.spawn(move || {
            LISTENER.store(ask_about_everything(), SeqCst);
            start();
        });
        start.join().unwrap();
    });
    receiver.try_iter().collect()
}

/// Has a supervisor asked about each call of the calling thread, and of its children. Returns where to listen.
fn ask_about_everything() -> c_int {
    let mut filter = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_USER_NOTIF,
    }];
    let program = libc::sock_fprog { len: 1, filter: filter.as_mut_ptr() };
    // SAFETY: No pointers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: The program and its instruction outlive the call, and their number is given.
    unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) as c_int }
}

/// Everything of a running program that a step has made, as the host sees it.
fn seen(child: &mut Child, at: &str) -> BTreeMap<String, String> {
    let dir = format!("/proc/{}", child.id());
    let read = |name: &str| fs::read_to_string(format!("{dir}/{name}")).unwrap_or_default();
    // The program has told. Its arguments are not there yet when the process that has cloned it may go on: that is earlier.
    while !["n\0", "y\0"].iter().any(|told| read("cmdline").ends_with(told)) {
        assert!(child.try_wait().unwrap().is_none(), "{at}: it has ended");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut seen = BTreeMap::new();
    seen.insert("landlock".to_owned(), read("cmdline"));
    let kept = ["Umask", "Uid", "Gid", "Groups", "Sig", "Cap", "NoNewPrivs", "Seccomp"];
    for line in read("status").lines().filter(|line| kept.iter().any(|name| line.starts_with(name))) {
        let (name, value) = line.split_once(':').unwrap();
        // Signals that wait in a queue are the user's.
        seen.extend((name != "SigQ").then(|| (name.to_owned(), value.trim().to_owned())));
    }
    for entry in fs::read_dir(format!("{dir}/ns")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let [own, inside] = ["/proc/self", &dir].map(|process| fs::read_link(format!("{process}/ns/{name}")).unwrap());
        seen.insert(format!("namespace {name}"), (own == inside).to_string());
    }
    // Without the numbers of the mounts and their devices.
    let mounts = read("mountinfo");
    let mounts = mounts.lines().map(|line| line.split(' ').skip(4).collect::<Vec<_>>().join(" "));
    let without_options = |line: String| line.split(",lowerdir").next().unwrap_or_default().to_owned();
    seen.insert("mounts".to_owned(), mounts.map(without_options).collect::<Vec<_>>().join("\n"));
    let fds = fs::read_dir(format!("{dir}/fd")).unwrap().map(|entry| entry.unwrap().file_name());
    seen.insert("descriptors".to_owned(), format!("{:?}", fds.collect::<BTreeSet<_>>()));
    for name in ["limits", "oom_score_adj", "cgroup", "personality"] {
        seen.insert(name.to_owned(), read(name));
    }
    seen
}

/// What a start may go on without, and what tells then.
fn may_lack(name: &str, call: c_long, report: &Report, usual: &Report) -> bool {
    let told = |layer| report.layer(layer) != usual.layer(layer);
    match name {
        "landlock" => told(Layer::Landlock),
        "Seccomp" | "Seccomp_filters" => told(Layer::Seccomp),
        // Best effort, as its documentation says: a file that can't be opened.
        "oom_score_adj" => [libc::SYS_openat2, libc::SYS_write].contains(&call),
        _ => false,
    }
}

/// A policy, in a form that any thread can start.
struct Case<'a> {
    name: &'a str,
    command: &'a Make<'a>,
}

/// Makes a command, and what it comes from.
type Make<'a> = dyn Fn() -> Result<(Command, Option<Pool>), Error> + Sync + 'a;

impl Case<'_> {
    fn spawn(&self) -> Result<Child, Error> {
        let (mut command, _pool) = (self.command)()?;
        command.arg("?").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
    }

    /// Refuses a call to a thread, which starts one program to be looked at, and one to drop.
    fn refuse(&self, call: c_long, errno: c_int) -> Result<Child, Error> {
        let (sender, receiver) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                filter(call, errno);
                sender.send(self.spawn()).unwrap();
                drop(self.spawn());
                drop(sender);
            });
            let first = receiver.recv_timeout(LONG).unwrap_or_else(|_| self.hangs(call, errno));
            // The end of the thread.
            if matches!(receiver.recv_timeout(LONG), Err(RecvTimeoutError::Timeout)) {
                self.hangs(call, errno);
            }
            first
        })
    }

    fn hangs(&self, call: c_long, errno: c_int) -> ! {
        eprintln!("{}: call {call} refused with {errno}: it hangs", self.name);
        std::process::abort()
    }

    /// Judges a start: how it has ended.
    fn judge(&self, call: c_long, errno: c_int, usual: &(BTreeMap<String, String>, Report)) -> &'static str {
        let at = || format!("{}: call {call} refused with {errno}", self.name);
        let mut child = match self.refuse(call, errno) {
            Ok(child) => child,
            Err(error) => {
                assert!(!error.step().is_empty() && !error.to_string().is_empty(), "{}", at());
                assert!(error.raw_os_error().is_some() || OF_INIT.contains(&call), "{}: {error}", at());
                return "failed";
            }
        };
        if OF_INIT.contains(&call) && has_ended(&child) {
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL), "{}", at());
            return "failed";
        }
        let report = child.report().clone();
        let seen = seen(&mut child, &at());
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL), "{}", at());
        for (name, value) in &usual.0 {
            let now = &seen[name];
            // One more filter than usual: the one that refuses.
            let now =
                if name == "Seccomp_filters" { (now.parse::<u32>().unwrap() - 1).to_string() } else { now.clone() };
            // Where it can't be told that root is in its own group alone, which would be left on, it leaves all.
            let fewer = name == "Groups" && call == libc::SYS_getgroups && now.is_empty();
            assert!(
                now == *value || fewer || may_lack(name, call, &report, &usual.1),
                "{}: {name}: {now}, not {value}",
                at()
            );
        }
        "ran"
    }
}

/// Refuses every call of a start, one at a time.
fn refuse_every_call(name: &str, command: &Make<'_>) {
    let case = Case { name, command };
    // What is compiled or mapped once.
    let start = || {
        let mut child = case.spawn().unwrap();
        let seen = (seen(&mut child, name), child.report().clone());
        child.kill().unwrap();
        child.wait().unwrap();
        seen
    };
    let usual = start();
    let mut calls = calls_of(|| drop(start()));
    // Where a clock takes a system call, std itself panics without: on some virtual machines, and there not from the start.
    calls.remove(&libc::SYS_clock_gettime);
    assert!(calls.len() > 30, "{calls:?}");
    let before = (open_fds(), mounts(), children());
    let mut ends = BTreeMap::<_, usize>::new();
    for call in calls.into_iter().filter(|call| !NEEDED.contains(call)) {
        for errno in ERRORS {
            let end = case.judge(call, errno, &usual);
            *ends.entry(end).or_default() += 1;
            reap(call);
            assert_eq!((open_fds(), mounts(), children()), before, "{name}: call {call} refused with {errno}");
        }
    }
    println!("{name}: {ends:?}");
    assert!(ends.values().all(|number| *number > 20) && ends.len() == 2, "the control: {ends:?}");
    assert_eq!(start(), usual);
}

/// Whether a program ends by itself, with its init: soon, if it does.
fn has_ended(child: &Child) -> bool {
    let mut fds = [libc::pollfd { fd: child.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 }];
    // SAFETY: The kernel reads and writes one structure, which outlives the call.
    (unsafe { libc::poll(fds.as_mut_ptr(), 1, 1000) }) == 1
}

/// Ends what nobody could: where the call for that is refused, and there is no init to do it.
fn reap(call: c_long) {
    if call == libc::SYS_pidfd_send_signal {
        let pid = |child: String| child.split(' ').next().and_then(|pid| pid.parse::<i32>().ok());
        for pid in children().into_iter().filter_map(pid) {
            // SAFETY: No pointers. It is a child of this process, which nobody has reaped.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
    if [libc::SYS_pidfd_send_signal, libc::SYS_waitid].contains(&call) {
        // SAFETY: A null pointer is allowed for the status.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL) } > 0 {}
    }
}

fn sandbox() -> Sandbox {
    Sandbox::new().bind_ro(program(), "/bin/program").tmpfs("/scratch").file("/etc/motd", "hello")
}

#[test]
fn to_a_policy_with_an_empty_root() {
    alone("refused::to_a_policy_with_an_empty_root", || {
        let sandbox = sandbox().hostname("box").network(Network::Loopback);
        refuse_every_call("empty", &|| Ok((sandbox.command("/bin/program"), None)));
    });
}

#[test]
fn to_a_policy_with_a_root_that_can_be_written_to() {
    crate::memory!();
    alone("refused::to_a_policy_with_a_root_that_can_be_written_to", || {
        let dir = temp_dir();
        let sandbox = sandbox().rootfs(Rootfs::dir(real(dir.path())).ephemeral());
        refuse_every_call("ephemeral", &|| Ok((sandbox.command("/bin/program"), None)));
    });
}

#[test]
fn to_a_policy_without_namespaces() {
    alone("refused::to_a_policy_without_namespaces", || {
        let landlock = Landlock::new().allow_execute(program());
        let sandbox = Sandbox::new().namespaces(Namespaces::empty()).landlock(landlock);
        refuse_every_call("no namespaces", &|| Ok((sandbox.command(program()), None)));
    });
}

#[test]
fn to_a_pool() {
    alone("refused::to_a_pool", || {
        let sandbox = sandbox();
        let pooled = || {
            let pool = sandbox.prepare()?.pool_by_hand(1)?;
            pool.refill()?;
            Ok((pool.command("/bin/program"), Some(pool)))
        };
        refuse_every_call("pool", &pooled);
    });
}
