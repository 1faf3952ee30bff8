//! What the scheme of shared memory could do to the host, and does not.
//!
//! Each of these tests has a control: the same look at a child that is not careful.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_long, c_void};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio as StdStdio;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicUsize, Ordering::SeqCst};

use belljar::{IdMap, Namespaces, Network, Rootfs, Sandbox};

use crate::alone::{Until, again, alone, is_role};
use crate::harness::{children, compile_static, host, is_root, noop, open_fds, real, sh, temp_dir, with_program};
use crate::skip;

/// Policies of all sorts of children: in shared and in copied memory, by way of a holder, and without init.
pub(crate) fn policies() -> Vec<Sandbox> {
    let plain = with_program(&noop());
    let all = Namespaces::default();
    let mut policies = vec![
        plain.clone(),
        plain.clone().user(1, 1).network(Network::Loopback),
        plain.clone().namespaces(all | Namespaces::TIME),
        plain.clone().namespaces(all - Namespaces::PID),
    ];
    if is_root() {
        let range = IdMap::new(0, 100_000, 1000);
        let mapped = plain.clone().uid_map(range).gid_map(range).user(5, 6);
        let shifted = plain.clone().uid_map(IdMap::new(0, 0, 1000)).gid_map(IdMap::new(0, 0, 1000)).user(5, 6);
        let outer = plain.namespaces(all - Namespaces::USER).user(5, 6);
        policies.extend([mapped.clone().namespaces(all - Namespaces::PID), mapped, shifted, outer]);
    }
    policies
}

/// Spawns each policy `turns` times, and as often in ways that fail at different steps.
fn spawn_and_fail(turns: usize) {
    for sandbox in policies() {
        for _ in 0..turns {
            assert!(sandbox.command("/program").status().unwrap().success());
        }
        for turn in 0..turns.div_ceil(4) {
            match turn % 3 {
                0 => sandbox.command("/missing").spawn().unwrap_err(),
                1 => sandbox.command("/program").current_dir("/nowhere").spawn().unwrap_err(),
                _ => sandbox.clone().tmpfs("/program/x").command("/program").spawn().unwrap_err(),
            };
            drop(sandbox.command("/program").spawn().unwrap());
        }
    }
}

/// Runs `body` in a child that shares the host's memory, as those of this crate do.
fn in_shared_memory(body: extern "C" fn(*mut c_void) -> c_int) {
    let mut stack = vec![0_u128; 64 * 1024];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let top = stack.as_mut_ptr_range().end.cast();
    // SAFETY: The stack outlives the child, for which this thread waits; the child makes system calls only.
    let pid = unsafe { libc::clone(body, top, flags, null_mut()) };
    assert!(pid > 0);
    // SAFETY: A null pointer is allowed for the status.
    assert_eq!(unsafe { libc::waitpid(pid, null_mut(), 0) }, pid);
}

/// Hazard 1: nothing untrusted runs in a cell that a child in shared memory enters.
#[test]
fn a_program_is_alone_with_init() {
    assert_eq!(sh(&host(), "cd /proc; echo [0-9]*").trim(), "1 2");
}

/// Hazard 2.
#[test]
fn the_dumpable_flag_of_the_host_never_changes() {
    alone("hazards::the_dumpable_flag_of_the_host_never_changes", || {
        // SAFETY: No pointers.
        let dumpable = || unsafe { libc::prctl(libc::PR_GET_DUMPABLE) };
        let stop = AtomicBool::new(false);
        let looks = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    assert_eq!(dumpable(), 1);
                    looks.fetch_add(1, SeqCst);
                }
            });
            let _until = Until(&stop);
            spawn_and_fail(50);
        });
        assert!(looks.load(SeqCst) > 1000);
        assert_eq!(dumpable(), 1);
        extern "C" fn change_ids(_: *mut c_void) -> c_int {
            // SAFETY: No pointers; the call changes this process alone.
            unsafe { libc::syscall(libc::SYS_setresuid, 5, 5, 5) as c_int }
        }
        if is_root() {
            in_shared_memory(change_ids);
            assert_ne!(dumpable(), 1, "the control");
        }
    });
}

thread_local! {
    static LOCAL: std::cell::Cell<[u64; 64]> = const { std::cell::Cell::new([0; 64]) };
}

/// Hazard 3.
#[test]
fn a_thread_keeps_its_errno_its_locals_and_its_signal_mask() {
    // Alone, no signal that another test sends interrupts a poll(2) of the host's: that would write EINTR.
    alone("hazards::a_thread_keeps_its_errno_its_locals_and_its_signal_mask", keeps_what_is_its_own);
}

fn keeps_what_is_its_own() {
    let mask = |signals: &[c_int]| {
        // SAFETY: All zeroes is a value of this plain structure.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        for signal in signals {
            // SAFETY: The set is initialised and outlives the call.
            unsafe { libc::sigaddset(&raw mut set, *signal) };
        }
        set
    };
    let blocked = move || {
        let mut set = mask(&[]);
        // SAFETY: The kernel writes one set.
        assert_eq!(unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &raw mut set) }, 0);
        // SAFETY: The set is initialised and outlives the calls.
        (1..=64).filter(|signal| unsafe { libc::sigismember(&raw const set, *signal) } == 1).collect::<Vec<_>>()
    };
    std::thread::spawn(move || {
        let set = mask(&[libc::SIGUSR2, libc::SIGRTMAX()]);
        // SAFETY: The kernel reads one set.
        assert_eq!(unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, null_mut()) }, 0);
        let before = blocked();
        assert_eq!(before, [libc::SIGUSR2, libc::SIGRTMAX()]);
        LOCAL.set([7; 64]);
        // SAFETY: No arguments, and it never fails.
        let errno = unsafe { libc::__errno_location() };
        // What errno is after `body`, if it is `UNTOUCHED` before.
        const UNTOUCHED: c_int = 4321;
        let errno_after = |body: &mut dyn FnMut()| {
            // SAFETY: The location of errno is valid for as long as the thread lives.
            unsafe { errno.write(UNTOUCHED) };
            body();
            // SAFETY: As above.
            unsafe { errno.read() }
        };
        for sandbox in policies() {
            // The calls of the host that go through libc write to it only where they fail, and none does; nor does any child,
            // however it ends.
            assert_eq!(errno_after(&mut || drop(sandbox.command("/program").plan().unwrap())), UNTOUCHED);
            let mut errors = Vec::new();
            let failed = errno_after(&mut || {
                errors.extend(sandbox.command("/missing").spawn().err());
                errors.extend(sandbox.command("/program").current_dir("/program").spawn().err());
            });
            let errors: Vec<_> = errors.iter().map(belljar::Error::raw_os_error).collect();
            assert_eq!((failed, errors), (UNTOUCHED, vec![Some(libc::ENOENT), Some(libc::ENOTDIR)]));
            let mut child = None;
            assert_eq!(errno_after(&mut || child = sandbox.command("/program").spawn().ok()), UNTOUCHED);
            assert!(child.is_some());
            drop(child);
            assert_eq!((blocked(), LOCAL.get()), (before.clone(), [7; 64]));
        }
    })
    .join()
    .unwrap();
}

/// The process whose handler may run, and how often it has run anywhere else.
static HOST: AtomicI32 = AtomicI32::new(0);
static HANDLED: AtomicPtr<[AtomicUsize; 2]> = AtomicPtr::new(null_mut());

extern "C" fn handler(_: c_int) {
    // SAFETY: No arguments, and it never fails.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) } as i32;
    // SAFETY: The mapping is made before the handler is installed, and never unmapped.
    let handled = unsafe { &*HANDLED.load(SeqCst) };
    handled[usize::from(pid != HOST.load(SeqCst))].fetch_add(1, SeqCst);
}

/// Hazard 3.
#[test]
fn no_handler_of_the_host_runs_in_a_child() {
    alone("hazards::no_handler_of_the_host_runs_in_a_child", || {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: A new mapping, at an address that the kernel picks; shared with children in copied memory too.
        let memory = unsafe { libc::mmap(null_mut(), 4096, protection, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED);
        HANDLED.store(memory.cast(), SeqCst);
        HOST.store(std::process::id() as i32, SeqCst);
        // SAFETY: The mapping is zeroed, aligned, and never unmapped.
        let handled = unsafe { &*HANDLED.load(SeqCst) };
        // A process group of its own, which the signals go to.
        // SAFETY: No pointers.
        assert_eq!(unsafe { libc::setpgid(0, 0) }, 0);
        // SAFETY: The handler makes one system call and counts.
        unsafe { libc::signal(libc::SIGUSR1, handler as *const () as usize) };
        let stop = AtomicBool::new(false);
        // What is compiled, before the compiler would be signalled too.
        let policies = policies();
        std::thread::scope(|scope| {
            let _until = Until(&stop);
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    // SAFETY: No pointers.
                    unsafe { libc::kill(0, libc::SIGUSR1) };
                }
            });
            let mut started = 0;
            for sandbox in policies.iter().cycle().take(200) {
                // A signal that comes before the child has a session of its own may end it, as any child of the host.
                if let Ok(mut child) = sandbox.command("/program").spawn() {
                    started += 1;
                    child.wait().unwrap();
                }
                assert_eq!(handled[1].load(SeqCst), 0, "a handler has run in a child");
            }
            println!("{started} of 200 programs have started");
        });
        assert!(handled[0].load(SeqCst) > 100);
        assert_eq!(children(), Vec::<String>::new());
        extern "C" fn signal_itself(_: *mut c_void) -> c_int {
            // SAFETY: No arguments, and it never fails.
            let own = unsafe { libc::syscall(libc::SYS_getpid) };
            // SAFETY: No pointers.
            unsafe { libc::syscall(libc::SYS_kill, own, libc::SIGUSR1) as c_int }
        }
        in_shared_memory(signal_itself);
        assert_eq!(handled[1].load(SeqCst), 1, "the control");
    });
}

/// Has a system call fail with this error in the calling thread and in what it starts, for good.
fn forbid(call: c_long, errno: c_int) {
    let line = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        line(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        line(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: No pointers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: The program and its instructions outlive the call, and their number is given.
    assert_eq!(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) }, 0);
}

/// Hazard 4.
#[test]
fn a_host_where_clone3_is_forbidden_spawns_all_the_same() {
    for errno in [libc::ENOSYS, libc::EPERM] {
        // A thread of its own: the filter can't be taken off again.
        let test = move || {
            let sandboxes = policies();
            forbid(libc::SYS_clone3, errno);
            // SAFETY: With a size of 0 the kernel reads nothing.
            let clone3 = unsafe { libc::syscall(libc::SYS_clone3, null_mut::<c_void>(), 0) };
            let error = std::io::Error::last_os_error().raw_os_error();
            assert_eq!((clone3, error), (-1, Some(errno)), "the control");
            for sandbox in sandboxes {
                assert!(sandbox.command("/program").status().unwrap().success());
                let error = sandbox.command("/missing").status().unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            }
            let mut child = host().command("sleep").arg("1000").spawn().unwrap();
            child.kill().unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        };
        std::thread::spawn(test).join().unwrap();
    }
}

/// Hazard 4: without any clone there is an error, and nothing else.
#[test]
fn a_host_where_every_clone_is_forbidden_gets_an_error() {
    let test = || {
        let sandbox = with_program(&noop());
        forbid(libc::SYS_clone3, libc::ENOSYS);
        forbid(libc::SYS_clone, libc::EPERM);
        let error = sandbox.command("/program").status().unwrap_err();
        assert_eq!((error.layer(), error.raw_os_error()), (belljar::Layer::Namespaces, Some(libc::EPERM)));
        assert!(error.step().starts_with("clone cell"), "{error}");
    };
    std::thread::spawn(test).join().unwrap();
}

/// Hazard 5: real root inside, with no capability, is still the owner of the files in /proc/sys.
#[test]
fn the_kernels_files_are_read_only_inside() {
    let script = "exec 2>/dev/null; find /proc/sys /proc/sysrq-trigger /proc/irq /proc/bus -type f | while read f; do \
                  if true >>$f; then echo $f; fi; done";
    // Opened, and not written to. The control: outside, root can open some.
    let outside = std::process::Command::new("sh").args(["-c", script]).output().unwrap();
    assert_eq!(is_root(), String::from_utf8(outside.stdout).unwrap().contains("/proc/sys/kernel/hostname"));
    assert_eq!(sh(&host(), script), "");
    if is_root() {
        assert_eq!(sh(&host().namespaces(Namespaces::default() - Namespaces::USER), script), "");
    }
}

/// Hazard 8: a root directory whose links lead out.
#[test]
fn nothing_is_made_through_the_links_of_a_hostile_root() {
    let dir = temp_dir();
    let (outside, root) = (real(dir.path()).join("outside"), real(dir.path()).join("root"));
    for path in [&outside, &root, &root.join("bin")] {
        fs::create_dir(path).unwrap();
    }
    let up: PathBuf = std::iter::repeat_n("..", 20).collect::<PathBuf>().join(outside.strip_prefix("/").unwrap());
    symlink(&outside, root.join("absolute")).unwrap();
    symlink(&up, root.join("relative")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    symlink(&up, root.join("tmp")).unwrap();
    symlink(&outside, root.join("dev")).unwrap();
    // The control: the links do lead there for who follows them.
    fs::write(root.join("relative/control"), "").unwrap();
    fs::remove_file(outside.join("control")).unwrap();
    let sandbox = || Sandbox::new().rootfs(Rootfs::dir(&root)).bind_ro(noop(), "/bin/program");
    for place in ["absolute", "relative", "tmp", "magic", "dev", &outside.to_string_lossy()[1..]] {
        let place = Path::new("/").join(place).join("new");
        for sandbox in [
            sandbox().file(&place, "x"),
            sandbox().dir(&place),
            sandbox().symlink("/x", &place),
            sandbox().tmpfs(&place),
            sandbox().bind_ro(noop(), &place),
            sandbox().mask(&place),
        ] {
            // It may work or fail: what counts is that the place is inside.
            let _ = sandbox.command("/bin/program").status();
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{}", place.display());
        }
    }
}

/// A program that tells which descriptors it has.
pub(crate) fn lists_descriptors() -> PathBuf {
    compile_static(
        "list",
        "#include <fcntl.h>\n#include <stdio.h>\n\
         int main(void) { for (int fd = 0; fd < 30000; fd++) if (fcntl(fd, F_GETFD) >= 0) printf(\"%d \", fd); }",
    )
}

/// Hazard 10.
#[test]
fn a_host_with_twenty_thousand_open_files_spawns() {
    // With the rest, 20,000: on some hosts that is the hard limit, even for root.
    const FILES: u64 = 19_900;
    alone("hazards::a_host_with_twenty_thousand_open_files_spawns", || {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: The kernel writes one structure.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
        if limit.rlim_max < FILES + 100 {
            skip!("the hard limit of open files is {}", limit.rlim_max);
        }
        limit.rlim_cur = FILES + 100;
        // SAFETY: The kernel reads one structure.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
        let file = fs::File::open("/dev/null").unwrap();
        for _ in 0..FILES {
            // Left open across exec, to be found inside if nobody closes them.
            // SAFETY: No pointers.
            assert!(unsafe { libc::dup(file.as_raw_fd()) } >= 0);
        }
        let program = lists_descriptors();
        for sandbox in policies() {
            let mut command = sandbox.bind_ro(&program, "/list").command("/list");
            let output = command.fd(15_000, file.try_clone().unwrap()).output().unwrap();
            assert!(output.outcome.success());
            assert_eq!(String::from_utf8(output.stdout).unwrap(), "0 1 2 15000 ");
        }
    });
}

/// Everything of the host that a spawn could have changed.
fn state_of_the_host() -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    let mut add = |name: String, value: String| assert!(state.insert(name, value).is_none());
    for entry in fs::read_dir("/proc/self/task").unwrap() {
        let task = entry.unwrap().path();
        let status = fs::read_to_string(task.join("status")).unwrap();
        let volatile = ["Vm", "Rss", "State", "voluntary", "nonvoluntary", "Hugetlb", "SigQ", "FDSize"];
        for line in status.lines().filter(|line| !volatile.iter().any(|prefix| line.starts_with(prefix))) {
            let (name, value) = line.split_once(':').unwrap();
            add(format!("{} {name}", task.display()), value.trim().to_owned());
        }
        for entry in fs::read_dir(task.join("ns")).unwrap() {
            let path = entry.unwrap().path();
            add(path.display().to_string(), fs::read_link(&path).unwrap().display().to_string());
        }
        for link in ["cwd", "root", "exe"] {
            add(format!("{} {link}", task.display()), fs::read_link(task.join(link)).unwrap().display().to_string());
        }
    }
    for file in ["mountinfo", "limits", "cgroup", "oom_score_adj", "timerslack_ns", "sessionid", "personality"] {
        // Some are for root alone.
        add(file.to_owned(), fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default());
    }
    for number in 0..8_i32 {
        const GET_KEYRING_ID: c_int = 0;
        // SAFETY: No pointers.
        let key = unsafe { libc::syscall(libc::SYS_keyctl, GET_KEYRING_ID, -number, 0) };
        add(format!("keyring -{number}"), key.to_string());
    }
    // proc(5): the process group, the session, the controlling terminal, and from the back of the line the priorities.
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    add("group and session".to_owned(), format!("{:?} {:?}", &fields[2..5], &fields[15..17]));
    for signal in 1..=64 {
        // SAFETY: All zeroes is a value of this plain structure.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: The kernel writes one structure.
        unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        add(format!("signal {signal}"), format!("{} {}", action.sa_sigaction, action.sa_flags));
    }
    add("environment".to_owned(), format!("{:?}", std::env::vars_os().collect::<Vec<_>>()));
    add("descriptors".to_owned(), format!("{:?}", open_fds()));
    add("children".to_owned(), format!("{:?}", children()));
    add("host name".to_owned(), fs::read_to_string("/proc/sys/kernel/hostname").unwrap());
    let temporary = fs::read_dir(std::env::temp_dir()).unwrap().map(|entry| entry.unwrap().path());
    add("temporary files".to_owned(), format!("{:?}", temporary.collect::<Vec<_>>()));
    state
}

#[test]
fn the_state_of_the_host_is_the_same_after_hundreds_of_spawns() {
    const TEST: &str = "hazards::the_state_of_the_host_is_the_same_after_hundreds_of_spawns";
    alone(TEST, || {
        let dir = temp_dir();
        // What is compiled, first.
        policies();
        // SAFETY: No other thread of this process reads the environment: the one that watches sleeps.
        unsafe { std::env::set_var("TMPDIR", dir.path()) };
        spawn_and_fail(1);
        let before = state_of_the_host();
        spawn_and_fail(60);
        let after = state_of_the_host();
        for (name, value) in &before {
            assert_eq!(after.get(name), Some(value), "{name}");
        }
        assert_eq!(before.len(), after.len());
        // The control: such a look does see a change.
        // SAFETY: No pointers.
        unsafe { libc::umask(0o027) };
        assert_ne!(state_of_the_host(), before);
    });
}

/// What a host leaves in a buffer of C's, and would be written by each copy of it that exits.
#[test]
fn buffers_and_exit_handlers_of_the_host_run_once() {
    const TEST: &str = "hazards::buffers_and_exit_handlers_of_the_host_run_once";
    const HOST: &str = "a host with a full buffer";
    const CONTROL: &str = "a host that forks";
    extern "C" fn at_exit() {
        // SAFETY: The string ends in a zero byte.
        unsafe { libc::printf(c"the handler has run\n".as_ptr()) };
    }
    if is_role(HOST) || is_role(CONTROL) {
        // SAFETY: The string ends in a zero byte; the buffer is not full after it.
        unsafe { libc::printf(c"the buffer was written\n".as_ptr()) };
        // SAFETY: The handler lives as long as the process.
        assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
        match is_role(HOST) {
            true => spawn_and_fail(8),
            // SAFETY: The child exits at once, as a careless one does.
            false => match unsafe { libc::fork() } {
                // SAFETY: No other thread uses what is torn down.
                0 => unsafe { libc::exit(0) },
                // SAFETY: A null pointer is allowed for the status.
                pid => assert_eq!(unsafe { libc::waitpid(pid, null_mut(), 0) }, pid),
            },
        }
        return;
    }
    for (role, times) in [(HOST, 1), (CONTROL, 2)] {
        let output = again(TEST, role).stdin(StdStdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        for sentence in ["the buffer was written", "the handler has run"] {
            assert_eq!(text.matches(sentence).count(), times, "{role}: {text}");
        }
    }
}
