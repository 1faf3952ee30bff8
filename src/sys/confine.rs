//! What a process takes upon itself and its children for good: seccomp(2) and landlock(7).

use core::mem::size_of;
use std::os::fd::BorrowedFd;

use super::{Fd, Result, call, raw};

/// `struct sock_filter`: one instruction of a classic BPF program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BpfInstruction {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

/// seccomp(2) with `SECCOMP_SET_MODE_FILTER`.
pub(crate) fn add_filter(program: &[BpfInstruction]) -> Result<()> {
    /// `struct sock_fprog`.
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const BpfInstruction,
    }
    let program = Program { length: program.len() as u16, instructions: program.as_ptr() };
    let args = [libc::SECCOMP_SET_MODE_FILTER as usize, 0, &raw const program as usize];
    // SAFETY: The kernel reads the program header and as many instructions as it says; both outlive the call.
    unsafe { call(libc::SYS_seccomp, args) }.map(drop)
}

/// The instructions of a filter as the kernel reads them.
pub(crate) fn filter_bytes(program: &[BpfInstruction]) -> Vec<u8> {
    let bytes = |instruction: &BpfInstruction| {
        let [code, k] = [u64::from(instruction.code), u64::from(instruction.k)];
        let word = code | u64::from(instruction.jt) << 16 | u64::from(instruction.jf) << 24 | k << 32;
        word.to_le_bytes()
    };
    program.iter().flat_map(bytes).collect()
}

/// `struct landlock_ruleset_attr`, as of version 6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LandlockHandled {
    pub(crate) fs: u64,
    pub(crate) net: u64,
    pub(crate) scoped: u64,
}

/// landlock_create_ruleset(2). `version` is the kernel's, which says how much of the structure it knows.
pub(crate) fn landlock_create_ruleset(handled: &LandlockHandled, version: u32) -> Result<Fd> {
    let known = match version {
        0..4 => 1,
        4 | 5 => 2,
        _ => 3,
    };
    let args = [core::ptr::from_ref(handled) as usize, known * size_of::<u64>(), 0];
    // SAFETY: The kernel reads as much of `handled` as is given, and that is not more than there is.
    unsafe { call(libc::SYS_landlock_create_ruleset, args) }.map(Fd::new)
}

/// landlock_add_rule(2) with `LANDLOCK_RULE_PATH_BENEATH`.
pub(crate) fn landlock_allow_path(ruleset: BorrowedFd<'_>, path: BorrowedFd<'_>, access: u64) -> Result<()> {
    const LANDLOCK_RULE_PATH_BENEATH: usize = 1;
    /// `struct landlock_path_beneath_attr`.
    #[repr(C, packed)]
    struct PathBeneath {
        access: u64,
        parent: i32,
    }
    let rule = PathBeneath { access, parent: raw(path) as i32 };
    let args = [raw(ruleset), LANDLOCK_RULE_PATH_BENEATH, &raw const rule as usize, 0];
    // SAFETY: For this kind of rule the kernel reads one such structure, which outlives the call.
    unsafe { call(libc::SYS_landlock_add_rule, args) }.map(drop)
}

/// landlock_add_rule(2) with `LANDLOCK_RULE_NET_PORT`.
pub(crate) fn landlock_allow_port(ruleset: BorrowedFd<'_>, port: u16, access: u64) -> Result<()> {
    const LANDLOCK_RULE_NET_PORT: usize = 2;
    let rule = [access, u64::from(port)];
    let args = [raw(ruleset), LANDLOCK_RULE_NET_PORT, rule.as_ptr() as usize, 0];
    // SAFETY: For this kind of rule the kernel reads two numbers of 64 bits, which outlive the call.
    unsafe { call(libc::SYS_landlock_add_rule, args) }.map(drop)
}

/// landlock_restrict_self(2).
pub(crate) fn landlock_restrict_self(ruleset: BorrowedFd<'_>, flags: u32) -> Result<()> {
    // SAFETY: No pointers. This process has one thread.
    unsafe { call(libc::SYS_landlock_restrict_self, [raw(ruleset), flags as usize]) }.map(drop)
}
