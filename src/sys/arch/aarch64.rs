//! AArch64: see syscall(2), *Architecture calling conventions*.

use core::arch::asm;
use core::ffi::{c_long, c_void};

/// `e_machine` of an ELF file for this processor.
pub(crate) const ELF_MACHINE: u16 = 183;

/// What a filter of system calls sees of this processor: `AUDIT_ARCH_AARCH64`.
pub(crate) const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Makes one system call, and returns what the kernel put into the result register.
///
/// # Safety
///
/// As for the system call itself: pointers among `args` must be valid for what the kernel does with them.
#[inline]
pub(crate) unsafe fn syscall(nr: c_long, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: The instruction changes only x0, which is declared; memory is not declared untouched, so the
    // compiler keeps no value of it across the call.
    unsafe {
        asm!(
            "svc #0",
            in("x8") nr,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            in("x5") args[5],
            options(nostack),
        );
    }
    result
}

/// Makes a `clone` or `clone3` call that gives the child a stack of its own, where it calls `child(arg)`.
///
/// # Safety
///
/// As for [`syscall`]; the arguments must name a stack whose top is 16-byte aligned, and `child` must be sound
/// to run on it in whatever the flags make of the new process.
pub(crate) unsafe fn clone(
    nr: c_long,
    args: [usize; 5],
    child: extern "C" fn(*mut c_void) -> !,
    arg: *mut c_void,
) -> isize {
    let result: isize;
    // `clone` takes the thread pointer before the child's tid here (CONFIG_CLONE_BACKWARDS); `clone3` has two
    // arguments, so that this order fits both.
    // SAFETY: The parent sees an ordinary system call. The child starts behind it with every register but x0
    // and sp unchanged, and leaves by a call of a function that does not return.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x10",
            "blr x9",
            "brk #1",
            "2:",
            in("x8") nr,
            inlateout("x0") args[0] as isize => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[4],
            in("x4") args[3],
            in("x9") child,
            in("x10") arg,
        );
    }
    result
}

/// Ends the process by an instruction that is none.
pub(crate) fn trap() -> ! {
    // SAFETY: The signal that follows ends the process: nothing goes on from here.
    unsafe { asm!("brk #1", options(noreturn)) }
}

/// The start and the end of init's code, position-independent, with no data and one descriptor: 0, the lifeline.
///
/// It waits for one byte, which says that the program runs as process 2; then it waits for the first of: the
/// end of process 2, and the end of the lifeline. Either way it exits, and the kernel ends the cell. One more
/// byte on the lifeline means that the program was detached from its host: then the lifeline counts no more.
///
/// With a second argument it stays dumpable: the caller may then write its id maps.
pub(crate) fn init_code() -> (*const u8, *const u8) {
    let start: *const u8;
    let end: *const u8;
    // SAFETY: The code between the labels is jumped over: only its addresses are taken.
    unsafe {
        asm!(
            "adr {start}, 20f",
            "adr {end}, 29f",
            "b 29f",
            "20:",
            // prctl(PR_SET_DUMPABLE, 0), unless there is a second argument: argc lies at sp.
            "ldr x9, [sp]",
            "cmp x9, #1",
            "b.ne 23f",
            "mov x8, #167",
            "mov x0, #4",
            "mov x1, #0",
            "svc #0",
            "23:",
            "sub sp, sp, #32",
            // Wait for the first byte: read(0, sp, 1), again after a signal (EINTR).
            "21:",
            "mov x8, #63",
            "mov x0, #0",
            "mov x1, sp",
            "mov x2, #1",
            "svc #0",
            "cmn x0, #4",
            "b.eq 21b",
            "cmp x0, #1",
            "b.ne 28f",
            // pidfd_open(2, 0)
            "mov x8, #434",
            "mov x0, #2",
            "mov x1, #0",
            "svc #0",
            "tbnz x0, #63, 28f",
            // struct pollfd { fd, events = POLLIN } [2] at sp: the program, then the lifeline.
            "mov w9, #1",
            "stp w0, w9, [sp]",
            "stp wzr, w9, [sp, #8]",
            // ppoll(sp, 2, NULL, NULL, 0)
            "22:",
            "mov x8, #73",
            "mov x0, sp",
            "mov x1, #2",
            "mov x2, #0",
            "mov x3, #0",
            "mov x4, #0",
            "svc #0",
            "cmn x0, #4",
            "b.eq 22b",
            "tbnz x0, #63, 28f",
            "ldrh w9, [sp, #6]",
            "cbnz w9, 28f",
            // The lifeline: one more byte detaches, its end ends the cell.
            "mov x8, #63",
            "mov x0, #0",
            "add x1, sp, #16",
            "mov x2, #1",
            "svc #0",
            "cmn x0, #4",
            "b.eq 22b",
            "cmp x0, #1",
            "b.ne 28f",
            "mov w9, #-1",
            "str w9, [sp, #8]",
            "b 22b",
            // exit_group(0)
            "28:",
            "mov x8, #94",
            "mov x0, #0",
            "svc #0",
            "brk #1",
            "29:",
            start = out(reg) start,
            end = out(reg) end,
            options(nomem, nostack),
        );
    }
    (start, end)
}
