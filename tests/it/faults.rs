//! Every system call of a spawn fails once.
//!
//! The thread that spawns, and its children with it, has a seccomp filter that asks a supervisor, another thread of
//! the same process, about each call that steps are made of (seccomp_unotify(2)). The supervisor lets all of them go
//! on but one, which gets an error instead: first the first, then the second, until a process of the spawn has no more;
//! and so for each of its processes, because some run at the same time, in no order. Each time the caller must be told the layer, the step and the error; the program must not have run; and nothing may be left over.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_long};
use std::fs;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};

use belljar::{Command, Error, IdMap, Layer, Limits, Namespaces, Network, Rootfs, Sandbox, Seccomp, Stdio, Tmpfs};

use crate::alone::alone;
use crate::harness::{compile_static, mounts, open_fds, real, temp_dir};

/// What steps are made of, and what the host does for a spawn.
const CALLS: [c_long; 78] = [
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_mkdirat,
    libc::SYS_symlinkat,
    libc::SYS_readlinkat,
    libc::SYS_write,
    libc::SYS_fstat,
    libc::SYS_pivot_root,
    libc::SYS_umount2,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_sendto,
    libc::SYS_ioctl,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_setsid,
    libc::SYS_pipe2,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_close_range,
    libc::SYS_sched_setattr,
    libc::SYS_ioprio_set,
    libc::SYS_sched_setaffinity,
    libc::SYS_personality,
    libc::SYS_prlimit64,
    libc::SYS_prctl,
    libc::SYS_capset,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
    libc::SYS_seccomp,
    libc::SYS_setgroups,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_fchdir,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_memfd_create,
    libc::SYS_fchmod,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_getcwd,
    libc::SYS_umask,
    libc::SYS_pread64,
    libc::SYS_pidfd_open,
    libc::SYS_mount,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_flock,
    libc::SYS_fsetxattr,
    libc::SYS_fremovexattr,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_sendfile,
    libc::SYS_utimensat,
    libc::SYS_keyctl,
    libc::SYS_statx,
    libc::SYS_clock_gettime,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timer_create,
    libc::SYS_timer_settime,
];

/// What the host does through libc. The rest of libc's calls are std's and the allocator's own.
const THROUGH_LIBC: [c_long; 5] =
    [libc::SYS_openat, libc::SYS_write, libc::SYS_socketpair, libc::SYS_pipe2, libc::SYS_fcntl];

/// `struct seccomp_notif` of seccomp_unotify(2).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    instruction_pointer: u64,
    args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

const RECEIVE: u64 = 3 << 30 | (size_of::<Notification>() as u64) << 16 | 0x2100;
const SEND: u64 = 3 << 30 | (size_of::<Response>() as u64) << 16 | 0x2101;
const SET_FLAGS: u64 = 1 << 30 | 8 << 16 | 0x2104;
const CONTINUE: u32 = 1;

/// The call that has been made to fail.
#[derive(Clone, Debug)]
struct Hit {
    nr: c_long,
    /// Whether the host's own thread has made it, not a child.
    host: bool,
    /// The file that was to be opened, or what was to be written.
    text: String,
}

/// A call of a spawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// The process, counted from 0 as they come to make calls (the host is the first), and its call, counted from 1.
    Call(usize, u32),
    /// The first time that a process waits for another, if one does: it depends on which is faster.
    Wait,
}

/// What the supervisor is to do, and what it has done.
#[derive(Debug, Default)]
struct Orders {
    /// The call that fails; none while nothing is to be counted.
    target: Option<Target>,
    errno: i32,
    /// Whether the process is killed instead, before it makes the call.
    kill: bool,
    /// The processes that have made calls, and how many: init before the program, whichever is faster.
    seen: Vec<(u32, u32)>,
    hit: Option<Hit>,
}

impl Orders {
    /// Counts a call, and says which one it is.
    fn count(&mut self, call: &Notification) -> Target {
        if c_long::from(call.nr) == libc::SYS_futex {
            return Target::Wait;
        }
        let known = self.seen.iter().position(|(pid, _)| *pid == call.pid);
        let process = known.unwrap_or_else(|| self.place(call.pid));
        self.seen[process].1 += 1;
        Target::Call(process, self.seen[process].1)
    }
}

impl Orders {
    const NONE: Self = Self { target: None, errno: 0, kill: false, seen: Vec::new(), hit: None };

    /// The place of a process that has made no call before.
    fn place(&mut self, pid: u32) -> usize {
        const INIT: (u32, u32) = (0, 0);
        let kept = self.seen.iter().position(|seen| *seen == INIT);
        match (number_inside(pid), kept) {
            (Some(1), Some(kept)) => {
                self.seen[kept].0 = pid;
                return kept;
            }
            (Some(2), None) if !self.seen.iter().any(|(seen, _)| number_inside(*seen) == Some(1)) => {
                self.seen.push(INIT);
            }
            _ => {}
        }
        self.seen.push((pid, 0));
        self.seen.len() - 1
    }
}

/// The process id in a PID namespace below this process's own.
fn number_inside(pid: u32) -> Option<u32> {
    let numbers = |process: &str| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        line.split_whitespace().map(|number| number.parse().unwrap()).collect::<Vec<u32>>()
    };
    let inside = numbers(&pid.to_string());
    inside.get(numbers("self").len()).copied()
}

static ORDERS: Mutex<Orders> = Mutex::new(Orders::NONE);

/// The thread that spawns.
static SPAWNER: AtomicI32 = AtomicI32::new(0);

/// The code of this binary and of libc, in memory: a program that is executed has other addresses.
struct Text {
    own: Vec<Range<u64>>,
    libc: Vec<Range<u64>>,
}

impl Text {
    fn find() -> Self {
        let exe = std::env::current_exe().unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let ranges = |wanted: &dyn Fn(&str) -> bool| {
            let lines = maps.lines().filter(|line| line.contains(" r-xp ") && wanted(line));
            let hex = |number: &str| u64::from_str_radix(number, 16).unwrap();
            let range = |line: &str| {
                let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
                hex(start)..hex(end)
            };
            lines.map(range).collect::<Vec<_>>()
        };
        let text = Self {
            own: ranges(&|line| line.ends_with(exe.to_str().unwrap())),
            libc: ranges(&|line| line.contains("/libc.so") || line.contains("/libc-")),
        };
        assert!(!text.own.is_empty() && !text.libc.is_empty(), "{maps}");
        text
    }

    /// Whether a call counts: one of this crate's own, or made for it by libc.
    fn counts(&self, call: &Notification, host: bool) -> bool {
        let at = |ranges: &[Range<u64>]| ranges.iter().any(|range| range.contains(&call.instruction_pointer));
        // These look whether something is there, and go by the answer; or can't fail.
        const LOOKS: [c_long; 2] = [libc::SYS_fstat, libc::SYS_umask];
        match host {
            true => (at(&self.own) && !LOOKS.contains(&call.nr.into())) || (at(&self.libc) && through_libc(call)),
            false => at(&self.own) && c_long::from(call.nr) != libc::SYS_umask,
        }
    }
}

fn through_libc(call: &Notification) -> bool {
    // std looks at what it is about to close, in a build with checks.
    let looks = call.nr == libc::SYS_fcntl as i32 && call.args[1] == libc::F_GETFD as u64;
    THROUGH_LIBC.contains(&call.nr.into()) && !looks
}

/// Installs the filter in the calling thread: it asks about `CALLS`, and about a futex(2) as the cell waits on, which is
/// neither libc's nor std's: theirs are private. It allows the rest.
fn install_filter() -> OwnedFd {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let (allow, ask) = (line(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW), line(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF));
    // The number of the call; for a futex, the low half of the second argument.
    let mut filter = vec![line(LOAD, 0, 0, 0), line(JUMP, 0, 4, libc::SYS_futex as u32)];
    filter.extend([line(LOAD, 0, 0, 24), line(JUMP, 0, 1, libc::FUTEX_WAIT as u32), ask, allow]);
    for (index, call) in CALLS.iter().enumerate() {
        filter.push(line(JUMP, (CALLS.len() - index) as u8, 0, *call as u32));
    }
    filter.extend([allow, ask]);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: No pointers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: The program and its instructions outlive the call, and their number is given.
    let listener = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    assert!(listener >= 0, "seccomp: {}", std::io::Error::last_os_error());
    // SAFETY: The kernel has just made this descriptor, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(listener as i32) }
}

/// Answers until the process ends.
fn supervise(listener: &OwnedFd, text: &Text) {
    let fd = listener.as_raw_fd();
    // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (Linux 6.6) saves time, and nothing depends on it.
    // SAFETY: The flags are the argument itself.
    unsafe { libc::ioctl(fd, SET_FLAGS, 1) };
    loop {
        let mut call = Notification::default();
        // SAFETY: The kernel writes one structure, whose size the request has.
        if unsafe { libc::ioctl(fd, RECEIVE, &raw mut call) } != 0 {
            // The process that has asked has been killed.
            continue;
        }
        let error = decide(&call, text);
        let flags = if error == 0 { CONTINUE } else { 0 };
        let response = Response { id: call.id, value: 0, error: -error, flags };
        // SAFETY: The kernel reads one structure, whose size the request has.
        unsafe { libc::ioctl(fd, SEND, &raw const response) };
    }
}

/// The path that a call opens.
fn path_of(call: &Notification) -> &CStr {
    // SAFETY: The child shares this memory, or has a copy of it, and its parent waits: so the string that it
    // refers to is here too, and ends in a zero byte.
    unsafe { CStr::from_ptr(call.args[1] as *const c_char) }
}

/// The error for a call, or 0 to let it go on.
fn decide(call: &Notification, text: &Text) -> i32 {
    let mut orders = ORDERS.lock().unwrap();
    let host = call.pid == SPAWNER.load(SeqCst) as u32;
    let Some(target) = orders.target.filter(|_| text.counts(call, host)) else { return 0 };
    if orders.count(call) != target || orders.hit.is_some() {
        // What calls there are must not depend on what else the machine is doing.
        let asks_for_load = host && call.nr == libc::SYS_openat as i32 && path_of(call) == c"/proc/loadavg";
        return if asks_for_load { libc::ENOENT } else { 0 };
    }
    let text = match call.nr.into() {
        libc::SYS_openat | libc::SYS_openat2 => path_of(call).to_owned(),
        // SAFETY: As above, for a set of signals. All of them are blocked first, and later the old ones.
        libc::SYS_rt_sigprocmask if unsafe { *(call.args[1] as *const u64) } == u64::MAX => c"block".into(),
        libc::SYS_sched_setaffinity if call.args[0] != 0 => c"of another".into(),
        // SAFETY: As above, for the effective capabilities below 32, which are the first in the structure.
        libc::SYS_capset if unsafe { *(call.args[1] as *const u32) } == KILL | SET_BITS => FOR_INIT.into(),
        libc::SYS_prctl if call.args[..3] == RAISE_KILL => FOR_INIT.into(),
        // SAFETY: As above, for bytes whose number is given.
        libc::SYS_write if unsafe { written(call) } == OOM_SCORE.to_bytes() => OOM_SCORE.into(),
        _ => CString::default(),
    };
    orders.hit = Some(Hit { nr: call.nr.into(), host, text: text.to_string_lossy().into_owned() });
    if orders.kill {
        // SAFETY: No pointers. The process waits for the answer.
        unsafe { libc::kill(call.pid as i32, libc::SIGKILL) };
    }
    orders.errno
}

/// What a write(2) is to write.
///
/// # Safety
///
/// The call must come from this memory, or from a copy of it.
unsafe fn written(call: &Notification) -> &[u8] {
    // SAFETY: The caller vouches for the address; the process waits, and so does its memory.
    unsafe { std::slice::from_raw_parts(call.args[1] as *const u8, call.args[2] as usize) }
}

/// The score that makes a program the first to be killed for want of memory.
const OOM_SCORE: &CStr = c"500";

/// What init gets to be able to signal all: `CAP_KILL`, by way of `CAP_SETPCAP`, and then in the ambient set.
const FOR_INIT: &CStr = c"for init";
const KILL: u32 = 1 << 5;
const SET_BITS: u32 = 1 << 8;
const RAISE_KILL: [u64; 3] = [libc::PR_CAP_AMBIENT as u64, libc::PR_CAP_AMBIENT_RAISE as u64, 5];

/// A sandbox, and the outside that it is judged by.
struct Case {
    name: &'static str,
    sandbox: Sandbox,
    configure: fn(&mut Command),
    /// The file that the program makes.
    canary: PathBuf,
}

impl Case {
    fn command(&self) -> Command {
        let mut command = self.sandbox.command("/bin/program");
        command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::piped());
        (self.configure)(&mut command);
        command
    }

    /// Spawns with the call `target` failing. Returns that call, and what came of the spawn.
    fn run(&self, target: Target, errno: i32) -> (Option<Hit>, Result<(), Error>) {
        let mut command = self.command();
        *ORDERS.lock().unwrap() = Orders { target: Some(target), errno, ..Orders::NONE };
        let spawned = command.spawn();
        let hit = std::mem::take(&mut *ORDERS.lock().unwrap()).hit;
        let result = spawned.map(|child| {
            if hit.as_ref().is_some_and(|hit| hit.text.as_bytes() == FOR_INIT.to_bytes()) {
                let report = child.report().to_string();
                assert!(report.contains("no signal reaches all processes"), "{}: {report}", self.name);
            }
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.outcome.code(), Some(0), "{}: {hit:?}", self.name);
            assert!(self.canary.exists());
            fs::remove_file(&self.canary).unwrap();
        });
        (hit, result)
    }
}

/// Checks what it can of itself, and leaves a trace.
fn program() -> PathBuf {
    compile_static(
        "traced",
        r#"
        #define _GNU_SOURCE
        #include <fcntl.h>
        #include <sys/prctl.h>
        #include <sys/stat.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            if (open("/out/ran", O_CREAT | O_WRONLY, 0666) < 0) return 10;
            if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 11;
            if (getsid(0) != getpid()) return 12;
            if (umask(0) != 022) return 13;
            int writes = argc > 1 && *argv[1] == 'w';
            if ((open("/written", O_CREAT | O_WRONLY, 0666) >= 0) != writes) return 14;


            return 0;
        }
        "#,
    )
}

fn no_children() -> bool {
    // SAFETY: A null pointer is allowed for the status.
    unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) == -1 }
}

/// Where a spawn may succeed though this call has failed: what the documentation calls best effort, what is only a
/// look whether something is there already, and what has a second way.
fn may_succeed(hit: &Hit, errno: i32) -> bool {
    match (hit.nr, hit.host) {
        // What can't be told of groups counts as leave to leave them: the call itself tells.
        // Where the load can't be told, init is left where the scheduler puts it.
        (libc::SYS_openat, true) => ["/proc/self/setgroups", "/proc/loadavg"].contains(&&*hit.text),
        // Where /proc/sys can't be written, the filter alone is left, and the report says so.
        (libc::SYS_openat2, false) if hit.text.ends_with("sys/user/max_user_namespaces") => errno == libc::EPERM,
        // Which processes a program has made the host's, if any, is not known then.
        (libc::SYS_newfstatat, false) => true,
        // Where a file can't be told to be missing, it is not made there, but mounted.
        (libc::SYS_openat2, false) => ["/proc/self/oom_score_adj", "/etc/motd"].contains(&&*hit.text),
        // The cell would have init run elsewhere; a program that can't be given all processors is another matter.
        (libc::SYS_sched_setaffinity, false) => hit.text == "of another",
        // Whether the root directory has a place: if that is not known, it gets a private layer.
        (libc::SYS_openat2, true) => ["/proc", "proc", "/dev", "/tmp", "/out", "/bin/program"].contains(&&*hit.text),
        // Best effort, as its documentation says. A map of ids, say, is not.
        (libc::SYS_write, false) => hit.text.as_bytes() == OOM_SCORE.to_bytes(),
        // Nobody is left to tell when the mask can't be restored, which has no way to fail.
        (libc::SYS_rt_sigprocmask, true) => hit.text != "block",
        // What the kernel does not tell to have is left out of the default policy, and the report says so.
        (libc::SYS_landlock_create_ruleset | libc::SYS_seccomp, true) => true,
        // Whoever waits for the word looks again.
        (libc::SYS_futex, _) => true,
        // A kernel, or a filter around the host process, that has no keyrings for the host has none for the program.
        (libc::SYS_keyctl, false) => errno == libc::EPERM,
        (libc::SYS_clone3, _) => errno == libc::EPERM,
        // Init goes without the capability to signal all, and the report says so.
        (libc::SYS_prctl | libc::SYS_capset, false) => {
            errno == libc::EPERM && hit.text.as_bytes() == FOR_INIT.to_bytes()
        }
        (libc::SYS_sched_setattr, _) => errno == libc::EPERM,
        _ => false,
    }
}

/// Steps of which no call can be made to fail, or that go on then: see proc(5) and umask(2).
fn never_fails(step: &str) -> bool {
    ["umask ", "oom_score_adj ", "ready", "wait ", "stat pid "].iter().any(|word| step.starts_with(word))
}

/// Fails every call of a spawn, and then each once more with another error.
fn fail_every_call(case: &Case) {
    let before = (open_fds(), mounts());
    let failures = Mutex::new(BTreeSet::new());
    let attempt = |target, errno| {
        let (hit, result) = case.run(target, errno);
        let at = || format!("{}: {target:?}, {hit:?}", case.name);
        assert!(no_children(), "{}", at());
        assert_eq!((open_fds(), mounts()), before, "{}", at());
        // Init is told last: when that fails, the program has been started, and is killed.
        let late = hit.as_ref().is_some_and(|hit| hit.nr == libc::SYS_sendto);
        assert!(late || !case.canary.exists(), "{}: the program has run", at());
        let _ = fs::remove_file(&case.canary);
        match (&hit, result) {
            (None, result) => {
                result.unwrap_or_else(|error| panic!("{}: {error}", at()));
                return false;
            }
            (Some(hit), Ok(())) => assert!(may_succeed(hit, errno), "{}: nobody has told", at()),
            (Some(_), Err(error)) => {
                assert_eq!(error.raw_os_error(), Some(errno), "{}: {error}", at());
                assert!(!error.step().is_empty(), "{}", at());
                failures.lock().unwrap().insert((error.layer().to_string(), error.step().to_owned()));
            }
        }
        true
    };
    let calls = |process| (1..).map(move |call| Target::Call(process, call));
    let of_process = |process| calls(process).take_while(|target| attempt(*target, libc::EIO)).collect::<Vec<_>>();
    let processes: Vec<_> = (0..).map(of_process).take_while(|calls| !calls.is_empty()).collect();
    let calls = processes.concat();
    for (target, errno) in calls.iter().zip([libc::EPERM, libc::ENOMEM].into_iter().cycle()) {
        attempt(*target, errno);
    }
    for errno in [libc::EIO, libc::EPERM, libc::EINTR] {
        attempt(Target::Wait, errno);
    }
    assert!(calls.len() > 100, "{} calls", calls.len());
    println!("{}: {} calls of {} processes have failed", case.name, calls.len(), processes.len());
    assert_every_step_failed(case, &failures.into_inner().unwrap());
}

/// Compares the failures with the plan: each line has the layer and the step.
fn assert_every_step_failed(case: &Case, failures: &BTreeSet<(String, String)>) {
    let plan = case.command().plan().unwrap().to_string();
    let steps = plan.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(' '));
    for (layer, step) in steps.map(|(layer, step)| (layer, step.trim_start())) {
        // The step that writes both maps is told by the half that has failed.
        // An error has no arguments of the program's.
        let without_arguments = step.split_once(" [").map_or(step, |(step, _)| step);
        let is = |failed: &str| failed == without_arguments || (failed.starts_with("write ") && step.contains(failed));
        let failed = failures.iter().any(|(failed_layer, failed)| failed_layer == layer && is(failed));
        assert!(failed || never_fails(step), "{}: {layer}: {step} never failed\n{failures:#?}", case.name);
    }
    let kinds: BTreeSet<_> = failures.iter().map(|(layer, _)| layer.as_str()).collect();
    for layer in [Layer::Namespaces, Layer::Mount, Layer::Fds, Layer::Limits, Layer::Process, Layer::Exec] {
        assert!(kinds.contains(layer.to_string().as_str()), "{}: {layer} never failed", case.name);
    }
}

/// What all cases have: a directory of programs, one that can be written to, and a place for a root.
struct Site {
    _dir: tempfile::TempDir,
    path: PathBuf,
    bin: PathBuf,
}

impl Drop for Site {
    fn drop(&mut self) {
        crate::harness::removable(&self.path.join("kept"));
    }
}

impl Site {
    fn new() -> Self {
        let dir = temp_dir();
        let path = real(dir.path());
        for (name, mode) in [("out", 0o777), ("root", 0o755), ("root/bin", 0o755)] {
            fs::create_dir(path.join(name)).unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        Self { _dir: dir, path, bin: program() }
    }

    /// A policy with the program in it.
    fn sandbox(&self, root: Rootfs) -> Sandbox {
        Sandbox::new().rootfs(root).bind(self.path.join("out"), "/out").bind_ro(&self.bin, "/bin/program")
    }

    fn root(&self) -> Rootfs {
        Rootfs::dir(self.path.join("root"))
    }

    /// A root directory that has all the places that are needed.
    fn complete_root(&self) -> Rootfs {
        let root = self.path.join("root");
        for dir in ["dev", "tmp", "proc", "out"] {
            fs::create_dir(root.join(dir)).unwrap();
        }
        fs::write(root.join("bin/program"), "").unwrap();
        Rootfs::dir(root)
    }

    fn case(&self, name: &'static str, sandbox: Sandbox, configure: fn(&mut Command)) -> Case {
        Case { name, sandbox, configure, canary: self.path.join("out/ran") }
    }
}

/// Runs one case in a process of its own: a filter can't be taken off again.
fn fail(test: &str, case: impl Fn(&Site) -> Case + Send + Sync) {
    supervised(test, case, fail_every_call);
}

fn supervised<T: Send + Sync>(test: &str, case: impl Fn(&Site) -> T + Send + Sync, body: impl Fn(&T) + Send + Sync) {
    alone(test, || {
        let site = Site::new();
        let case = case(&site);
        let text = Text::find();
        let (sender, receiver) = std::sync::mpsc::channel::<OwnedFd>();
        std::thread::spawn(move || {
            let listener = receiver.recv().unwrap();
            supervise(&listener, &text);
        });
        std::thread::scope(|scope| {
            let spawner = scope.spawn(|| {
                // SAFETY: No arguments, and it never fails.
                SPAWNER.store(unsafe { libc::gettid() }, SeqCst);
                sender.send(install_filter()).unwrap();
                body(&case);
            });
            spawner.join().unwrap();
        });
    });
}

#[test]
fn of_a_policy_with_every_mount() {
    fail("faults::of_a_policy_with_every_mount", |site| {
        let sandbox = site.sandbox(site.root());
        let sandbox = sandbox
            .tmpfs(Tmpfs::new("/scratch").size(1 << 20))
            .dir("/a/b")
            .file("/etc/motd", "hello")
            .symlink("/etc/motd", "/a/link")
            .hostname("box")
            .network(Network::Loopback);
        site.case("every mount", sandbox.mask("/a/b"), |command| {
            let null = fs::File::open("/dev/null").unwrap();
            command.fd(9, null).current_dir("/a").env("A", "b").arg("x");
        })
    });
}

#[test]
fn of_a_policy_with_an_empty_root_and_a_time_namespace() {
    fail("faults::of_a_policy_with_an_empty_root_and_a_time_namespace", |site| {
        let all = Namespaces::default() | Namespaces::TIME;
        // Without a filter it gets a session keyring too.
        let sandbox = site.sandbox(Rootfs::empty()).namespaces(all).seccomp(Seccomp::off());
        site.case("time", sandbox, |_| ())
    });
}

/// Has the program write to its root.
fn writes(command: &mut Command) {
    command.arg("writes");
}

#[test]
fn of_a_policy_with_layers_that_can_be_written_to() {
    fail("faults::of_a_policy_with_layers_that_can_be_written_to", |site| {
        let (above, kept) = (site.path.join("above"), site.path.join("kept"));
        for dir in [&above, &kept] {
            fs::create_dir(dir).unwrap();
        }
        let root = Rootfs::layers([&site.path.join("root"), &above]).overlay(kept);
        site.case("layers", site.sandbox(root).symlink("/out", "/link").file("/etc/motd", "hello"), writes)
    });
}

#[test]
fn of_a_policy_with_a_wall_time() {
    fail("faults::of_a_policy_with_a_wall_time", |site| {
        let hour = std::time::Duration::from_secs(3600);
        let limits = Limits::new().wall_time(hour).term_grace(hour).open_files(64);
        site.case("wall time", site.sandbox(site.complete_root()).limits(limits), |_| ())
    });
}

#[test]
fn of_a_policy_with_an_ephemeral_root() {
    crate::memory!();
    fail("faults::of_a_policy_with_an_ephemeral_root", |site| {
        site.case("ephemeral", site.sandbox(site.root().ephemeral().size(1 << 20)), writes)
    });
}

#[test]
fn of_a_policy_with_a_copied_root() {
    fail("faults::of_a_policy_with_a_copied_root", |site| {
        fs::write(site.path.join("root/file"), "content").unwrap();
        std::os::unix::fs::symlink("file", site.path.join("root/link")).unwrap();
        site.case("copied", site.sandbox(site.root().copied()).copy_in(site.path.join("root"), "/in"), writes)
    });
}

#[test]
fn of_a_policy_without_a_pid_namespace() {
    fail("faults::of_a_policy_without_a_pid_namespace", |site| {
        let some = Namespaces::default() - Namespaces::PID;
        site.case("no init", site.sandbox(site.complete_root()).namespaces(some), |_| ())
    });
}

#[test]
fn of_a_policy_of_root_without_a_user_namespace() {
    crate::for_root!();
    fail("faults::of_a_policy_of_root_without_a_user_namespace", |site| {
        let some = Namespaces::default() - Namespaces::USER;
        site.case("no user namespace", site.sandbox(Rootfs::empty()).namespaces(some).user(5, 6), |_| ())
    });
}

#[test]
fn of_a_policy_of_root_with_other_ids() {
    crate::for_root!();
    fail("faults::of_a_policy_of_root_with_other_ids", |site| {
        let range = IdMap::new(0, 100_000, 1000);
        let sandbox = site.sandbox(Rootfs::empty()).uid_map(range).gid_map(range).user(5, 6);
        site.case("other ids", sandbox, |_| ())
    });
}

/// Kills each process of a start before each of its calls.
fn kill_before_every_call(make: &impl Fn() -> Command) {
    // Two network namespaces are kept where each is lent to one of two starts.
    let start = || (0..3).for_each(|_| drop(make().spawn().unwrap()));
    start();
    let before = open_fds();
    let attempt = |process, call| {
        let target = Some(Target::Call(process, call));
        *ORDERS.lock().unwrap() = Orders { target, kill: true, ..Orders::NONE };
        let spawned = make().spawn();
        let hit = std::mem::take(&mut *ORDERS.lock().unwrap()).hit;
        assert!(hit.is_some() || spawned.is_ok(), "{process}, {call}: {spawned:?}");
        drop(spawned);
        assert!(no_children(), "{process}, {call}: {hit:?}");
        // A network namespace that is kept for the next start may be gone: what is left over would grow in number.
        let left = open_fds();
        assert!(left.len() <= before.len(), "{process}, {call}: {hit:?}: {left:?}, not {before:?}");
        hit.is_some()
    };
    // The host is the first.
    let calls = |process| (1..).take_while(|call| attempt(process, *call)).count();
    let all: Vec<_> = (1..).map(calls).take_while(|number| *number > 0).collect();
    println!("killed before these numbers of calls: {all:?}");
    start();
    assert_eq!(open_fds().len(), before.len());
    assert!(all.len() >= 3 && all.iter().sum::<usize>() > 100, "the control: {all:?}");
}

#[test]
fn whoever_is_killed_leaves_nothing_open() {
    let case = |site: &Site| {
        let sandbox = site.sandbox(site.root()).namespaces(Namespaces::all()).network(Network::Loopback);
        move || sandbox.command("/bin/program")
    };
    supervised("faults::whoever_is_killed_leaves_nothing_open", case, kill_before_every_call);
}

#[test]
fn whoever_is_killed_beside_the_hosts_network_leaves_nothing_open() {
    let case = |site: &Site| {
        let sandbox = site.sandbox(site.root()).namespaces(Namespaces::default() - Namespaces::NET);
        move || sandbox.command("/bin/program")
    };
    supervised("faults::whoever_is_killed_beside_the_hosts_network_leaves_nothing_open", case, kill_before_every_call);
}

#[test]
fn whoever_is_killed_in_a_prepared_sandbox_leaves_nothing_open() {
    let case = |site: &Site| {
        let prepared = site.sandbox(site.complete_root()).prepare().unwrap();
        move || prepared.command("/bin/program")
    };
    supervised("faults::whoever_is_killed_in_a_prepared_sandbox_leaves_nothing_open", case, kill_before_every_call);
}

#[test]
fn whoever_is_killed_in_a_prepared_sandbox_with_a_loopback_leaves_nothing_open() {
    let case = |site: &Site| {
        let prepared = site.sandbox(site.complete_root()).network(Network::Loopback).prepare().unwrap();
        move || prepared.command("/bin/program")
    };
    let name = "faults::whoever_is_killed_in_a_prepared_sandbox_with_a_loopback_leaves_nothing_open";
    supervised(name, case, kill_before_every_call);
}

#[test]
fn the_supervisor_is_asked_about_real_calls() {
    // The control: without a fault the same spawn succeeds, and a path that is not there is no canary.
    let site = Site::new();
    let case = site.case("control", site.sandbox(Rootfs::empty()), |_| ());
    assert!(!Path::new(&case.canary).exists());
    assert!(case.command().spawn().unwrap().wait().unwrap().success());
    assert!(case.canary.exists());
}
