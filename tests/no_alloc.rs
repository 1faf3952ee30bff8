//! Nothing is allocated or freed between clone and exec: the allocator of this binary ends a child that does.

#![allow(clippy::unwrap_used, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::{c_int, c_void};
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::ptr::{null_mut, without_provenance_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering::Relaxed};

use belljar::{IdMap, Layer, Namespaces, Network, Rootfs, Sandbox, Stdio, Tmpfs};

/// What a child that calls the allocator exits with.
const CAUGHT: c_int = 99;

/// The process that may allocate; 0 before it has.
static HOST: AtomicI32 = AtomicI32::new(0);

/// How often a child was caught, in memory that is shared even with children in copied memory.
static COUNT: AtomicPtr<AtomicUsize> = AtomicPtr::new(null_mut());

struct Detector;

#[global_allocator]
static DETECTOR: Detector = Detector;

/// Ends a process that is not the host. In shared memory too a child has a process id of its own.
fn check() {
    // SAFETY: No arguments; this call never fails, and so writes no errno.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) } as i32;
    if HOST.compare_exchange(0, pid, Relaxed, Relaxed).is_ok_and(|_| true) || HOST.load(Relaxed) == pid {
        return;
    }
    let count = COUNT.load(Relaxed);
    if !count.is_null() {
        // SAFETY: The pointer is null or that of a mapping which lives to the end of the process.
        unsafe { &*count }.fetch_add(1, Relaxed);
    }
    // SAFETY: No pointers; the call does not return.
    unsafe { libc::syscall(libc::SYS_exit_group, CAUGHT) };
}

// SAFETY: Everything is done by the system's allocator.
unsafe impl GlobalAlloc for Detector {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: As the caller vouches for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        check();
        // SAFETY: As the caller vouches for.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: As the caller vouches for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check();
        // SAFETY: As the caller vouches for.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

/// One test at a time: they share the count.
static TURN: Mutex<()> = Mutex::new(());

fn count() -> &'static AtomicUsize {
    if COUNT.load(Relaxed).is_null() {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: A new mapping, at an address that the kernel picks.
        let memory = unsafe { libc::mmap(null_mut(), size_of::<AtomicUsize>(), protection, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED);
        COUNT.store(memory.cast(), Relaxed);
    }
    // SAFETY: The mapping is zeroed, aligned, and never unmapped.
    unsafe { &*COUNT.load(Relaxed) }
}

/// Runs `body`, and returns how many children called the allocator.
fn caught(body: impl FnOnce()) -> usize {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    count().store(0, Relaxed);
    body();
    count().load(Relaxed)
}

extern "C" fn allocate(_: *mut c_void) -> c_int {
    drop(std::hint::black_box(vec![1_u8; 100]));
    0
}

extern "C" fn free(vec: *mut c_void) -> c_int {
    // SAFETY: It is the pointer to a vector that `in_shared_memory` has made, and this call does not return.
    drop(unsafe { vec.cast::<Vec<u8>>().read() });
    0
}

/// Runs a function in a child like those of this crate: in the host's memory, which waits meanwhile.
fn in_shared_memory(body: extern "C" fn(*mut c_void) -> c_int) {
    let mut stack = vec![0_u128; 64 * 1024];
    let mut vec = std::mem::ManuallyDrop::new(vec![1_u8; 100]);
    let top = stack.as_mut_ptr_range().end.cast();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: The stack outlives the child, for which this thread waits; the child does as little as possible.
    let pid = unsafe { libc::clone(body, top, flags, (&raw mut vec).cast()) };
    assert_exit(pid, CAUGHT);
}

fn assert_exit(pid: libc::pid_t, code: c_int) {
    assert!(pid > 0);
    let mut status = 0;
    // SAFETY: The status is one integer.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status));
    assert_eq!(libc::WEXITSTATUS(status), code);
}

#[test]
fn the_detector_catches_children_that_allocate_or_free() {
    assert_eq!(caught(|| in_shared_memory(allocate)), 1);
    assert_eq!(caught(|| in_shared_memory(free)), 1);
    let in_copied_memory = || {
        // SAFETY: The child makes one call that the detector ends it in.
        match unsafe { libc::fork() } {
            0 => {
                allocate(without_provenance_mut(0));
                // SAFETY: The call does not return.
                unsafe { libc::_exit(0) }
            }
            pid => assert_exit(pid, CAUGHT),
        }
    };
    assert_eq!(caught(in_copied_memory), 1);
    assert_eq!(caught(|| drop(std::hint::black_box(vec![1_u8; 100]))), 0);
}

/// A directory with a static program that does nothing.
fn workshop() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let source = dir.path().join("noop.c");
    std::fs::write(&source, "int main(void) { return 0; }").unwrap();
    let program = dir.path().join("noop");
    // Where a compiler takes long, or there is none: what another run has compiled.
    match std::env::var_os("BELLJAR_TEST_PROGRAMS").map(|made| Path::new(&made).join("noop")) {
        Some(made) => drop(std::fs::copy(made, program).unwrap()),
        None => {
            let compiled = Command::new("cc").arg("-static").arg("-o").arg(program).arg(&source).status();
            assert!(compiled.unwrap().success());
        }
    }
    dir
}

/// Policies that take every kind of step between them.
fn policies(dir: &Path, kept: &Path) -> Vec<Sandbox> {
    let all = Namespaces::default();
    let empty = Sandbox::new().bind_ro(dir, "/bin");
    let full = empty
        .clone()
        .bind(dir, "/work/deep/er")
        .tmpfs(Tmpfs::new("/scratch").size(1 << 20))
        .dir("/a/b/c")
        .file("/etc/motd", "hello")
        .symlink("/etc/motd", "/link")
        .mask("/bin/noop.c")
        .hostname("box")
        .network(Network::Loopback);
    let mut policies = vec![
        empty.clone().user(1, 2),
        empty.clone().namespaces(all | Namespaces::TIME),
        empty.clone().namespaces(all - Namespaces::PID),
        empty.clone().namespaces(all - Namespaces::PID - Namespaces::NET).network(Network::Host),
        full.clone(),
        full.clone().rootfs(Rootfs::dir(dir)),
        full.clone().rootfs(Rootfs::empty().overlay(kept)),
        full.clone().rootfs(Rootfs::layers([dir, kept]).copied()),
        Sandbox::new().rootfs(Rootfs::host()).bind_ro(dir.join("noop"), "/tmp/noop"),
        empty.clone(),
    ];
    // Before Linux 6.6 an overlay can't keep its changes on a tmpfs.
    let memory = full.rootfs(Rootfs::dir(dir).ephemeral());
    if memory.command("/missing").status().is_err_and(|error| error.layer() == Layer::Exec) {
        policies.push(memory);
    }
    // SAFETY: No arguments, and it never fails.
    if unsafe { libc::geteuid() } == 0 {
        let range = |sandbox: Sandbox, first| {
            sandbox.uid_map(IdMap::new(0, first, 1000)).gid_map(IdMap::new(0, first, 1000)).user(7, 7)
        };
        policies.push(empty.clone().namespaces(all - Namespaces::USER).user(1, 1));
        policies.push(range(empty.clone(), 0));
        policies.push(range(empty.clone(), 100_000));
        policies.push(range(empty, 100_000).namespaces(all - Namespaces::PID));
    }
    policies
}

#[test]
fn no_child_of_a_spawn_allocates_or_frees() {
    let (dir, scratch) = (workshop(), tempfile::tempdir().unwrap());
    let kept = scratch.path().canonicalize().unwrap();
    let count = caught(|| {
        for sandbox in policies(&dir.path().canonicalize().unwrap(), &kept) {
            let (mut succeeded, mut failed) = (0, 0);
            let passed = File::open("/dev/null").unwrap();
            for program in ["/bin/noop", "/tmp/noop", "noop", "/missing", "/bin", "/bin/noop.c"] {
                let mut command = sandbox.command(program);
                command.arg("x").env("A", "b").fd(7, passed.try_clone().unwrap()).stdin(Stdio::null());
                match command.output() {
                    Ok(output) if output.outcome.success() => succeeded += 1,
                    Ok(output) => panic!("{program}: {:?}", output.outcome),
                    Err(_) => failed += 1,
                }
            }
            // The template, and starts from it.
            let prepared = sandbox.prepare().unwrap();
            for program in ["noop", "/missing"] {
                let started = prepared.command(program).stdin(Stdio::null()).output();
                failed += usize::from(started.is_err());
            }
            // Steps that fail in the middle: of the root, of the program, and of both their places.
            let broken = [
                sandbox.clone().bind_ro(dir.path(), "/proc/self/nothing"),
                sandbox.clone().file("/proc/version/x", ""),
                sandbox.clone().symlink("/x", "/proc/x"),
                sandbox.clone().tmpfs("/dev/null/x"),
            ];
            for sandbox in broken {
                failed += usize::from(sandbox.command("/bin/noop").status().is_err());
                failed += usize::from(sandbox.prepare().is_err());
            }
            failed += usize::from(sandbox.command("/bin/noop").current_dir("/nowhere").status().is_err());
            // The control: there were children of both sorts.
            assert!(succeeded >= 1 && failed >= 5, "{succeeded} and {failed} of {sandbox:?}");
        }
    });
    // Overlayfs makes a directory that nobody may enter, which would stay.
    let _ = std::fs::set_permissions(kept.join("work/work"), PermissionsExt::from_mode(0o700));
    assert_eq!(count, 0, "a child has called the allocator");
}
