//! The only home of unsafe system calls: one function each, no policy.
//!
//! Everything here may be called between clone and exec. The calls are raw, because libc's wrappers write
//! `errno`, which a `CLONE_VM` child shares with the thread that cloned it. Nothing allocates, locks or panics.

#![allow(unsafe_code)]

pub(crate) mod arch;
mod clone;
mod confine;
mod fd;
mod image;
mod mount;
mod process;
mod query;
mod signals;
mod strings;
mod terminal;
mod time;
mod tree;

use core::ffi::{CStr, c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd};

pub(crate) use arch::AUDIT_ARCH;
pub(crate) use clone::{
    Arena, Cloned, Return, STACKS, Sharing, Stack, Told, Words, clone, set_to_zero, wait_for_zero, wait_for_zero_until,
};
pub(crate) use confine::*;
pub(crate) use fd::*;
pub(crate) use image::{AgentData, agent_image, executable, init_image};
pub(crate) use mount::*;
pub(crate) use process::*;
pub(crate) use query::*;
pub(crate) use signals::*;
pub(crate) use strings::CStringArray;
pub(crate) use terminal::*;
pub(crate) use time::*;
pub(crate) use tree::*;

/// The error number of a failed system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) c_int);

/// What a system call comes to.
pub(crate) type Result<T> = core::result::Result<T, Errno>;

/// Stands for the working directory where a call wants a directory (`AT_FDCWD`).
// SAFETY: AT_FDCWD is no descriptor that could be closed while it is borrowed.
pub(crate) const CWD: BorrowedFd<'static> = unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) };

/// Makes one system call.
///
/// # Safety
///
/// As for the system call itself: pointers among `args` must be valid for what the kernel does with them.
#[inline]
unsafe fn call<const N: usize>(nr: c_long, args: [usize; N]) -> Result<usize> {
    let mut all = [0; 6];
    for (slot, arg) in all.iter_mut().zip(args) {
        *slot = arg;
    }
    // SAFETY: The caller vouches for the arguments; the unused ones are 0.
    let result = unsafe { arch::syscall(nr, all) };
    check(result)
}

/// Tells an error from a result: the kernel returns the error numbers as -4095 to -1.
#[inline]
fn check(result: isize) -> Result<usize> {
    match result {
        -4095..=-1 => Err(Errno(result.unsigned_abs() as c_int)),
        result => Ok(result.unsigned_abs()),
    }
}

fn raw(fd: BorrowedFd<'_>) -> usize {
    fd.as_raw_fd() as usize
}

fn ptr(string: &CStr) -> usize {
    string.as_ptr() as usize
}
