//! Starting a child that runs a function of ours on a stack of its own.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::size_of;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64};
use std::os::fd::RawFd;

use super::{Errno, Fd, Moment, Result, arch, call, check, exit};

/// Stack of a child. The deepest path of `postfork` needs a sixth of it in a build without optimisation.
const STACK: usize = 128 * 1024;

/// As many as run at a time: a cell, and what it clones; or a cell that clones another, which does.
pub(crate) const STACKS: usize = 4;

/// No processor here has larger pages: AArch64 may have them of this size.
const GUARD: usize = 64 * 1024;

/// The memory that the children of one start need: stacks, each above a page that no access passes, and a value for them
/// to write to. One mapping, because each call that changes the memory map of a large host is dear.
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
    const VALUE_AT: usize = STACKS * (GUARD + STACK);
    const LENGTH: usize = Self::VALUE_AT + size_of::<T>();

    pub(crate) fn new(sharing: Sharing) -> Result<Self> {
        const { assert!(align_of::<T>() <= 4096) };
        let base = map(Self::LENGTH, sharing)?;
        let base_address = NonNull::new(base).ok_or(Errno(libc::ENOMEM))?;
        let mut arena = Self { base: base_address, sharing, value: PhantomData };
        for stack in 0..STACKS {
            protect(base.wrapping_add(stack * (GUARD + STACK)), GUARD)?;
        }
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

    /// The stacks.
    pub(crate) fn stacks(&self) -> [Stack<'_>; STACKS] {
        let bottom = |stack| self.base.as_ptr() as usize + stack * (GUARD + STACK) + GUARD;
        core::array::from_fn(|stack| Stack { bottom: bottom(stack), arena: PhantomData })
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
        unmap(self.base.as_ptr(), STACKS * (GUARD + STACK) + size_of::<T>());
    }
}

/// A stack for one child at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stack<'a> {
    bottom: usize,
    arena: PhantomData<&'a ()>,
}

/// Words for the children of one start to write to, all 0 at first.
#[derive(Debug)]
pub(crate) enum Words {
    /// For children in this memory.
    Private(Vec<AtomicU64>),
    /// For children in a copy of it.
    Shared { base: NonNull<AtomicU64>, count: usize },
}

impl Words {
    pub(crate) fn new(count: usize, sharing: Sharing) -> Result<Self> {
        if count == 0 || sharing == Sharing::Private {
            return Ok(Words::Private((0..count).map(|_| AtomicU64::new(0)).collect()));
        }
        let base = map(count * size_of::<AtomicU64>(), Sharing::Shared)?;
        Ok(Words::Shared { base: NonNull::new(base.cast()).ok_or(Errno(libc::ENOMEM))?, count })
    }
}

impl core::ops::Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        match self {
            Words::Private(words) => words,
            // SAFETY: The mapping starts at a page, has room for so many words, which zeroes are, and lives as long as
            // `self`.
            Words::Shared { base, count } => unsafe { core::slice::from_raw_parts(base.as_ptr(), *count) },
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        if let Words::Shared { base, count } = self {
            unmap(base.as_ptr().cast(), *count * size_of::<AtomicU64>());
        }
    }
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

/// Where the kernel tells of a child, before that runs: so it is known even if the process that clones is killed.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// 0 for none. The descriptor counts only with this: it is written first, also if there is no child then.
    pid: AtomicI32,
    pidfd: AtomicI32,
    /// Not 0 if the child starts in the cgroup that it was to be in.
    placed: AtomicI32,
}

impl Told {
    /// The child's pidfd, for as long as there is a child that nobody has taken over.
    pub(crate) fn pidfd(&self) -> RawFd {
        self.pidfd.load(Acquire)
    }

    /// Whether the child has started in its cgroup. The child itself may ask.
    pub(crate) fn placed(&self) -> bool {
        self.placed.load(Relaxed) != 0
    }

    /// Takes the child over, if there is one.
    pub(crate) fn take(&self) -> Option<Cloned> {
        let pid = self.pid.swap(0, Acquire);
        (pid != 0).then(|| Cloned { pid, pidfd: Fd::new(self.pidfd.load(Acquire) as usize) })
    }
}

/// `CLONE_INTO_CGROUP`: libc has it too small.
const INTO_CGROUP: u64 = 1 << 33;

/// `struct clone_args` of clone3(2), as it is since Linux 5.7.
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
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
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

/// Clones a child that runs `child` and ends in exec or exit. Returns its process id; `told` has the pidfd too.
///
/// The exit signal is 0, so that a child that never reaches exec sends no SIGCHLD. Where clone3(2) is not to be had
/// (ENOSYS, as container engines' filters say; EPERM, as others do), clone(2) serves, which differs in that it tells the
/// process id only when it returns, and knows no cgroup: then [`Told::placed`] says so.
///
/// # Safety
///
/// `child` must be sound to run in a new process: with `CLONE_VM` in this memory while the calling thread is
/// suspended, else in a copy of it. It must not allocate, lock, panic or touch thread-local storage, and must not
/// return. With [`Return::AtOnce`], the stack and the closure must stay until the word is 0, or the child is reaped.
pub(crate) unsafe fn clone<F: Fn()>(
    flags: u64,
    cgroup: Option<RawFd>,
    stack: Stack<'_>,
    returns: Return<'_>,
    told: &Told,
    child: &F,
) -> Result<libc::pid_t> {
    let (extra, tid) = match returns {
        Return::AfterExec => (libc::CLONE_VFORK, 0),
        Return::AtOnce(word) => {
            word.store(1, Relaxed);
            (libc::CLONE_CHILD_CLEARTID, word.as_ptr() as usize)
        }
    };
    let flags = flags | (extra | libc::CLONE_PIDFD) as u64;
    let pidfd = told.pidfd.as_ptr() as usize;
    let closure = core::ptr::from_ref(child).cast_mut().cast::<c_void>();
    let args = CloneArgs {
        flags: flags | libc::CLONE_PARENT_SETTID as u64 | if cgroup.is_some() { INTO_CGROUP } else { 0 },
        pidfd: pidfd as u64,
        child_tid: tid as u64,
        parent_tid: told.pid.as_ptr() as u64,
        stack: stack.bottom as u64,
        stack_size: STACK as u64,
        cgroup: cgroup.unwrap_or(0) as u64,
        ..CloneArgs::default()
    };
    told.placed.store(i32::from(cgroup.is_some()), Relaxed);
    let clone3 = [&raw const args as usize, size_of::<CloneArgs>(), 0, 0, 0];
    // SAFETY: `args` and `told` outlive the call, and the stack and the closure outlive the child's use of them: the
    // parent is suspended until then, or waits for the word. The caller vouches for the rest.
    let mut result = check(unsafe { arch::clone(libc::SYS_clone3, clone3, trampoline::<F>, closure) });
    if let Err(Errno(libc::ENOSYS | libc::EPERM)) = result {
        told.placed.store(0, Relaxed);
        let clone = [flags as usize, stack.bottom + STACK, pidfd, tid, 0];
        // SAFETY: As above. clone(2) puts the pidfd where it would else put the process id.
        result = check(unsafe { arch::clone(libc::SYS_clone, clone, trampoline::<F>, closure) });
        told.pid.store(result.map_or(0, |pid| pid as libc::pid_t), Release);
    }
    if let (Err(_), Return::AtOnce(word)) = (result, returns) {
        word.store(0, Relaxed);
    }
    result.map(|pid| pid as libc::pid_t)
}

/// futex(2): waits until the word is 0, or until `deadline`: false.
pub(crate) fn wait_for_zero_until(word: &AtomicU32, deadline: Moment) -> bool {
    let until = deadline.timespec();
    loop {
        let value = word.load(Acquire);
        if value == 0 {
            return true;
        }
        let (op, all) = (libc::FUTEX_WAIT_BITSET as usize, u32::MAX as usize);
        let args = [word.as_ptr() as usize, op, value as usize, &raw const until as usize, 0, all];
        // SAFETY: The kernel reads the word and the time, which outlive the call.
        if let Err(Errno(libc::ETIMEDOUT)) = unsafe { call(libc::SYS_futex, args) } {
            return false;
        }
    }
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

/// Makes the word 0, and wakes who waits for that: futex(2).
pub(crate) fn set_to_zero(word: &AtomicU32) {
    word.store(0, Release);
    let args = [word.as_ptr() as usize, libc::FUTEX_WAKE as usize, i32::MAX as usize];
    // SAFETY: The kernel takes the address as the name of the word, and reads nothing.
    let _ = unsafe { call(libc::SYS_futex, args) };
}

extern "C" fn trampoline<F: Fn()>(closure: *mut c_void) -> ! {
    // SAFETY: `clone` passes a pointer to an `F` that outlives the child's use of it.
    let closure = unsafe { &*closure.cast::<F>() };
    closure();
    exit(127)
}
