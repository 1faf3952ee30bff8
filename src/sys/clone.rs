//! Starting a child that runs a function of ours on a stack of its own.

use core::ffi::{c_int, c_void};
use core::mem::size_of;
use core::ptr::NonNull;
use std::os::fd::RawFd;

use super::process::{map_guarded, unmap_guarded};
use super::{Errno, Fd, Result, arch, check, exit};

/// Stack of a child. The deepest path of `postfork` needs a sixth of it in a build without optimisation.
const STACK: usize = 128 * 1024;

/// A stack for one child, with a guard page below it.
#[derive(Debug)]
pub(crate) struct Stack(NonNull<u8>);

impl Stack {
    pub(crate) fn new() -> Result<Self> {
        let start = map_guarded(STACK, libc::MAP_PRIVATE | libc::MAP_STACK)?;
        NonNull::new(start).map(Self).ok_or(Errno(libc::ENOMEM))
    }

    fn bottom(&self) -> usize {
        self.0.as_ptr() as usize
    }

    fn top(&self) -> usize {
        self.bottom() + STACK
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        unmap_guarded(self.0.as_ptr(), STACK);
    }
}

/// A value that stays shared with children that do not share the parent's memory.
#[derive(Debug)]
pub(crate) struct Shared<T>(NonNull<T>);

impl<T: Default> Shared<T> {
    pub(crate) fn new() -> Result<Self> {
        const { assert!(align_of::<T>() <= 4096) };
        let start = map_guarded(size_of::<T>(), libc::MAP_SHARED)?.cast::<T>();
        let start = NonNull::new(start).ok_or(Errno(libc::ENOMEM))?;
        // SAFETY: The mapping is fresh, page-aligned, writable and large enough.
        unsafe { start.write(T::default()) };
        Ok(Self(start))
    }
}

impl<T> core::ops::Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `new` has initialised the value, and the mapping lives as long as `self`.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        unmap_guarded(self.0.as_ptr().cast(), size_of::<T>());
    }
}

/// A child, seen from the process that cloned it.
#[derive(Debug)]
pub(crate) struct Cloned {
    pub(crate) pid: libc::pid_t,
    pub(crate) pidfd: Fd,
}

/// `struct clone_args` of clone3(2), as it was first (Linux 5.3).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

/// Clones a child that runs `child` and ends in exec or exit; returns when it has done either.
///
/// The exit signal is 0, so that a child that never reaches exec sends no SIGCHLD. `CLONE_VFORK` and `CLONE_PIDFD`
/// are added to `flags`. Where clone3(2) is not to be had (ENOSYS, as container engines' filters say; EPERM, as
/// others do), clone(2) serves, which differs in nothing for flags below 2^32.
///
/// # Safety
///
/// `child` must be sound to run in a new process: with `CLONE_VM` in this memory while the calling thread is
/// suspended, else in a copy of it. It must not allocate, lock, panic or touch thread-local storage, and must not
/// return.
pub(crate) unsafe fn clone<F: Fn()>(flags: u64, stack: &Stack, child: &F) -> Result<Cloned> {
    let flags = flags | (libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64;
    let mut pidfd: RawFd = -1;
    let pidfd_at = &raw mut pidfd as usize;
    let closure = core::ptr::from_ref(child).cast_mut().cast::<c_void>();
    let args = CloneArgs {
        flags,
        pidfd: pidfd_at as u64,
        stack: stack.bottom() as u64,
        stack_size: STACK as u64,
        ..CloneArgs::default()
    };
    let clone3 = [&raw const args as usize, size_of::<CloneArgs>(), 0, 0, 0];
    // SAFETY: `args` outlives the call, and so do the stack and the closure, since the parent stays suspended
    // until the child has left them. The caller vouches for the rest.
    let mut result = check(unsafe { arch::clone(libc::SYS_clone3, clone3, trampoline::<F>, closure) });
    if let Err(Errno(libc::ENOSYS | libc::EPERM)) = result {
        let clone = [flags as usize, stack.top(), pidfd_at, 0, 0];
        // SAFETY: As above. clone(2) puts the pidfd where it would else put the parent's copy of the tid.
        result = check(unsafe { arch::clone(libc::SYS_clone, clone, trampoline::<F>, closure) });
    }
    let pid = result?;
    Ok(Cloned { pid: pid as libc::pid_t, pidfd: Fd::new(pidfd as c_int as usize) })
}

extern "C" fn trampoline<F: Fn()>(closure: *mut c_void) -> ! {
    // SAFETY: `clone` passes a pointer to an `F` that outlives the child's use of it.
    let closure = unsafe { &*closure.cast::<F>() };
    closure();
    exit(127)
}
