//! Starting a child that runs a function of ours on a stack of its own.

use core::ffi::{c_int, c_void};
use core::marker::PhantomData;
use core::mem::size_of;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use std::os::fd::RawFd;

use super::{Errno, Fd, Result, arch, call, check, exit};

/// Stack of a child. The deepest path of `postfork` needs a sixth of it in a build without optimisation.
const STACK: usize = 128 * 1024;

/// No processor here has larger pages: AArch64 may have them of this size.
const GUARD: usize = 64 * 1024;

/// The memory that the children of one start need: two stacks, each above a page that no access passes, and a value for
/// them to write to. One mapping, because each call that changes the memory map of a large host is dear.
#[derive(Debug)]
pub(crate) struct Arena<T> {
    base: NonNull<u8>,
    sharing: Sharing,
    value: PhantomData<T>,
}

/// Whether children that do not share the parent's memory share an [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// No: every child shares the parent's memory anyway.
    Private,
    /// Yes.
    Shared,
}

impl<T: Default + Sync> Arena<T> {
    const VALUE_AT: usize = 2 * (GUARD + STACK);
    const LENGTH: usize = Self::VALUE_AT + size_of::<T>();

    pub(crate) fn new(sharing: Sharing) -> Result<Self> {
        const { assert!(align_of::<T>() <= 4096) };
        let base = map(Self::LENGTH, sharing)?;
        let base_address = NonNull::new(base).ok_or(Errno(libc::ENOMEM))?;
        let mut arena = Self { base: base_address, sharing, value: PhantomData };
        protect(base, GUARD)?;
        protect(base.wrapping_add(GUARD + STACK), GUARD)?;
        arena.reset();
        Ok(arena)
    }

    /// Gives the value its default.
    pub(crate) fn reset(&mut self) {
        // SAFETY: The place is within the mapping, writable, large enough, and aligned to its page; nobody else refers
        // to it. What it holds needs no drop.
        unsafe { self.value_at().write(T::default()) };
    }

    pub(crate) fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// The two stacks.
    pub(crate) fn stacks(&self) -> [Stack<'_>; 2] {
        [GUARD, 2 * GUARD + STACK].map(|at| Stack { bottom: self.base.as_ptr() as usize + at, arena: PhantomData })
    }

    fn value_at(&self) -> *mut T {
        self.base.as_ptr().wrapping_add(Self::VALUE_AT).cast()
    }
}

impl<T: Default + Sync> core::ops::Deref for Arena<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `new` has initialised the value, and the mapping lives as long as `self`.
        unsafe { &*self.value_at() }
    }
}

impl<T> Drop for Arena<T> {
    fn drop(&mut self) {
        unmap(self.base.as_ptr(), 2 * (GUARD + STACK) + size_of::<T>());
    }
}

/// A stack for one child at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack<'a> {
    bottom: usize,
    arena: PhantomData<&'a ()>,
}

/// mmap(2) of zeroes.
fn map(length: usize, sharing: Sharing) -> Result<*mut u8> {
    let sharing = match sharing {
        Sharing::Private => libc::MAP_PRIVATE,
        Sharing::Shared => libc::MAP_SHARED,
    };
    let flags = (libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | sharing) as usize;
    let args = [0, length, (libc::PROT_READ | libc::PROT_WRITE) as usize, flags, usize::MAX, 0];
    // SAFETY: A new mapping, at an address that the kernel picks, takes no memory from anybody.
    unsafe { call(libc::SYS_mmap, args) }.map(|address| address as *mut u8)
}

/// mprotect(2): no access.
fn protect(start: *mut u8, length: usize) -> Result<()> {
    // SAFETY: The caller owns this part of a mapping, and nothing uses it.
    unsafe { call(libc::SYS_mprotect, [start as usize, length, libc::PROT_NONE as usize]) }.map(drop)
}

/// munmap(2).
fn unmap(start: *mut u8, length: usize) {
    // SAFETY: The caller owns this mapping and has stopped using it.
    let _ = unsafe { call(libc::SYS_munmap, [start as usize, length]) };
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

/// When a clone returns in the parent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Return<'a> {
    /// When the child has executed a program, or has ended: `CLONE_VFORK`.
    AfterExec,
    /// At once. The word becomes 0 when the child has executed a program, or has ended: `CLONE_CHILD_CLEARTID`. This
    /// takes a child that shares the parent's memory.
    AtOnce(&'a AtomicU32),
}

/// Clones a child that runs `child` and ends in exec or exit.
///
/// The exit signal is 0, so that a child that never reaches exec sends no SIGCHLD. `CLONE_PIDFD` is added to `flags`. Where clone3(2) is not to be had (ENOSYS, as container engines' filters say; EPERM, as
/// others do), clone(2) serves, which differs in nothing for flags below 2^32.
///
/// # Safety
///
/// `child` must be sound to run in a new process: with `CLONE_VM` in this memory while the calling thread is
/// suspended, else in a copy of it. It must not allocate, lock, panic or touch thread-local storage, and must not
/// return. With [`Return::AtOnce`], the stack and the closure must stay until the word is 0.
pub(crate) unsafe fn clone<F: Fn()>(flags: u64, stack: Stack<'_>, returns: Return<'_>, child: &F) -> Result<Cloned> {
    let (extra, tid) = match returns {
        Return::AfterExec => (libc::CLONE_VFORK, 0),
        Return::AtOnce(word) => (libc::CLONE_CHILD_CLEARTID, word.as_ptr() as usize),
    };
    let flags = flags | (extra | libc::CLONE_PIDFD) as u64;
    let mut pidfd: RawFd = -1;
    let pidfd_at = &raw mut pidfd as usize;
    let closure = core::ptr::from_ref(child).cast_mut().cast::<c_void>();
    // The kernel sets the word if there is a child, and before that runs: who is killed in the call leaves no word set
    // that nobody would clear.
    let set = if tid == 0 { 0 } else { libc::CLONE_PARENT_SETTID as u64 };
    let args = CloneArgs {
        flags: flags | set,
        pidfd: pidfd_at as u64,
        child_tid: tid as u64,
        parent_tid: tid as u64,
        stack: stack.bottom as u64,
        stack_size: STACK as u64,
        ..CloneArgs::default()
    };
    let clone3 = [&raw const args as usize, size_of::<CloneArgs>(), 0, 0, 0];
    // SAFETY: `args` outlives the call, and the stack and the closure outlive the child's use of them: the parent is
    // suspended until then, or waits for the word. The caller vouches for the rest.
    let mut result = check(unsafe { arch::clone(libc::SYS_clone3, clone3, trampoline::<F>, closure) });
    if let Err(Errno(libc::ENOSYS | libc::EPERM)) = result {
        if let Return::AtOnce(word) = returns {
            word.store(1, Relaxed);
        }
        let clone = [flags as usize, stack.bottom + STACK, pidfd_at, tid, 0];
        // SAFETY: As above. clone(2) puts the pidfd where it would else put the parent's copy of the tid.
        result = check(unsafe { arch::clone(libc::SYS_clone, clone, trampoline::<F>, closure) });
    }
    if let (Err(_), Return::AtOnce(word)) = (result, returns) {
        word.store(0, Relaxed);
    }
    let pid = result?;
    Ok(Cloned { pid: pid as libc::pid_t, pidfd: Fd::new(pidfd as c_int as usize) })
}

/// futex(2): waits until the word is 0.
pub(crate) fn wait_for_zero(word: &AtomicU32) {
    loop {
        let value = word.load(Acquire);
        if value == 0 {
            return;
        }
        let args = [word.as_ptr() as usize, libc::FUTEX_WAIT as usize, value as usize, 0];
        // SAFETY: The kernel reads the word, which outlives the call; without a time-out it reads nothing else.
        let _ = unsafe { call(libc::SYS_futex, args) };
    }
}

extern "C" fn trampoline<F: Fn()>(closure: *mut c_void) -> ! {
    // SAFETY: `clone` passes a pointer to an `F` that outlives the child's use of it.
    let closure = unsafe { &*closure.cast::<F>() };
    closure();
    exit(127)
}
