//! AArch64: see syscall(2), *Architecture calling conventions*.

use core::arch::asm;
use core::ffi::{c_long, c_void};

use super::AgentData;

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

/// The start and the end of init's code, position-independent, with no data and two descriptors: 0, the lifeline, and 2,
/// a timer, if there is one.
///
/// It waits for one byte, which says that the program runs as process 2; then it waits for the first of: the
/// end of process 2, the end of the lifeline, and the timer. It exits, and the kernel ends the cell. Every further
/// byte on the lifeline is a signal, which it sends to all processes of the cell; but 0 means that the program was
/// detached from its host: then the lifeline counts no more.
///
/// A timer with an interval sends SIGTERM to everything the first time, and only the second time is the end. The exit
/// code is 1 if time was up before the program had ended, and else 0.
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
            "sub sp, sp, #64",
            // Whether time was up.
            "mov x19, #0",
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
            // struct pollfd { fd, events = POLLIN } [3] at sp: the program, then the lifeline, then the timer.
            "mov w9, #1",
            "stp w0, w9, [sp]",
            "stp wzr, w9, [sp, #8]",
            // fcntl(2, F_DUPFD, 3): negative if there is no timer, which ppoll(2) passes over.
            "mov x8, #25",
            "mov x0, #2",
            "mov x1, #0",
            "mov x2, #3",
            "svc #0",
            "mov w9, #1",
            "stp w0, w9, [sp, #16]",
            // ppoll(sp, 3, NULL, NULL, 0)
            "22:",
            "mov x8, #73",
            "mov x0, sp",
            "mov x1, #3",
            "mov x2, #0",
            "mov x3, #0",
            "mov x4, #0",
            "svc #0",
            "cmn x0, #4",
            "b.eq 22b",
            "tbnz x0, #63, 28f",
            "ldrh w9, [sp, #6]",
            "cbnz w9, 28f",
            "ldrh w9, [sp, #22]",
            "cbnz w9, 24f",
            // The lifeline: a byte is a signal for all or, if it is 0, detaches; its end ends the cell.
            "mov x8, #63",
            "mov x0, #0",
            "add x1, sp, #24",
            "mov x2, #1",
            "svc #0",
            "cmn x0, #4",
            "b.eq 22b",
            "cmp x0, #1",
            "b.ne 28f",
            "ldrb w1, [sp, #24]",
            "cbz w1, 26f",
            // kill(-1, signal): everything in the PID namespace but init itself.
            "mov x8, #129",
            "mov x0, #-1",
            "svc #0",
            "b 22b",
            "26:",
            "mov w9, #-1",
            "str w9, [sp, #8]",
            "b 22b",
            // The timer: read(2, sp + 32, 8) for how many times it has expired; more than once, or once again, is the end.
            "24:",
            "mov x8, #63",
            "mov x0, #2",
            "add x1, sp, #32",
            "mov x2, #8",
            "svc #0",
            "cmn x0, #4",
            "b.eq 22b",
            "mov x9, x19",
            "mov x19, #1",
            "cbnz x9, 28f",
            "ldr x9, [sp, #32]",
            "cmp x9, #1",
            "b.ne 28f",
            // timerfd_gettime(2, sp + 32): so is one without an interval, which comes first in the structure.
            "mov x8, #87",
            "mov x0, #2",
            "add x1, sp, #32",
            "svc #0",
            "ldp x9, x10, [sp, #32]",
            "orr x9, x9, x10",
            "cbz x9, 28f",
            // kill(-1, SIGTERM)
            "mov x8, #129",
            "mov x0, #-1",
            "mov x1, #15",
            "svc #0",
            "b 22b",
            // exit_group(x19)
            "28:",
            "mov x8, #94",
            "mov x0, x19",
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

/// The start and the end of the agent's code, position-independent; `sys/image.rs` has the layout of its data.
///
/// It receives a message on descriptor 3, makes the system calls that are listed in it, each with the number and six
/// arguments, stops at the first that fails, and answers with where it stopped and the result there; then it
/// waits for the next message, on the descriptor that the last one has named. At the end of the stream it exits.
pub(crate) fn agent_code() -> (*const u8, *const u8) {
    let start: *const u8;
    let end: *const u8;
    // SAFETY: The code between the labels is jumped over: only its addresses are taken.
    unsafe {
        asm!(
            "adr {start}, 20f",
            "adr {end}, 29f",
            "b 29f",
            "20:",
            "movz x19, #({data} >> 16), lsl #16",
            "mov x20, #3",
            // recvmsg(socket, header, MSG_CMSG_CLOEXEC), again after a signal (EINTR).
            "21:",
            "mov x9, #{control_length}",
            "str x9, [x19, #({header} + 40)]",
            "mov x8, #212",
            "mov x0, x20",
            "add x1, x19, #{header}",
            "mov x2, #0x40000000",
            "svc #0",
            "cmn x0, #4",
            "b.eq 21b",
            "cmp x0, #0",
            "b.le 28f",
            "add x21, x19, #{message}",
            "ldr x20, [x21], #8",
            // The calls: number, six arguments, and what has to come of it: 0 for no error, -1 for anything, or just this.
            // A negative number is the end.
            "22:",
            "ldr x8, [x21]",
            "tbnz x8, #63, 25f",
            "ldp x0, x1, [x21, #8]",
            "ldp x2, x3, [x21, #24]",
            "ldp x4, x5, [x21, #40]",
            "svc #0",
            "ldr x9, [x21, #56]",
            "cmp x0, x9",
            "b.eq 23f",
            "cmn x9, #1",
            "b.eq 23f",
            "cbnz x9, 24f",
            "cmn x0, #4095",
            "b.hs 24f",
            "23:",
            "add x21, x21, #64",
            "b 22b",
            "24:",
            "str x0, [x21, #56]",
            // sendto(socket, answer, 16, MSG_NOSIGNAL, NULL, 0)
            "25:",
            "ldr x9, [x21, #56]",
            "str x21, [x19, #{answer}]",
            "str x9, [x19, #({answer} + 8)]",
            "26:",
            "mov x8, #206",
            "mov x0, x20",
            "add x1, x19, #{answer}",
            "mov x2, #16",
            "mov x3, #0x4000",
            "mov x4, #0",
            "mov x5, #0",
            "svc #0",
            "cmn x0, #4",
            "b.eq 26b",
            "b 21b",
            // exit_group(0)
            "28:",
            "mov x8, #94",
            "mov x0, #0",
            "svc #0",
            "brk #1",
            "29:",
            start = out(reg) start,
            end = out(reg) end,
            data = const AgentData::AT,
            header = const AgentData::HEADER,
            control_length = const AgentData::CONTROL_LENGTH,
            message = const AgentData::MESSAGE,
            answer = const AgentData::ANSWER,
            options(nomem, nostack),
        );
    }
    (start, end)
}
