//! x86-64: see syscall(2), *Architecture calling conventions*.

use core::arch::asm;
use core::ffi::{c_long, c_void};

/// `e_machine` of an ELF file for this processor.
pub(crate) const ELF_MACHINE: u16 = 62;

/// What a filter of system calls sees of this processor: `AUDIT_ARCH_X86_64`.
pub(crate) const AUDIT_ARCH: u32 = 0xc000_003e;

/// Makes one system call, and returns what the kernel put into the result register.
///
/// # Safety
///
/// As for the system call itself: pointers among `args` must be valid for what the kernel does with them.
#[inline]
pub(crate) unsafe fn syscall(nr: c_long, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: The instruction clobbers only rax, rcx and r11, which are declared; memory is not declared
    // untouched, so the compiler keeps no value of it across the call.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
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
    // SAFETY: The parent sees an ordinary system call. The child starts behind it with every register but rax
    // and rsp unchanged, and leaves by `call` into a function that does not return.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") nr as isize => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r12") child,
            in("r13") arg,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// Ends the process by an instruction that is none.
pub(crate) fn trap() -> ! {
    // SAFETY: The signal that follows ends the process: nothing goes on from here.
    unsafe { asm!("ud2", options(noreturn)) }
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
            "lea {start}, [rip + 20f]",
            "lea {end}, [rip + 29f]",
            "jmp 29f",
            "20:",
            // prctl(PR_SET_DUMPABLE, 0), unless there is a second argument: argc lies at rsp.
            "cmp qword ptr [rsp], 1",
            "jne 23f",
            "mov eax, 157",
            "mov edi, 4",
            "xor esi, esi",
            "syscall",
            "23:",
            "sub rsp, 32",
            // Wait for the first byte: read(0, rsp, 1), again after a signal (EINTR).
            "21:",
            "xor eax, eax",
            "xor edi, edi",
            "mov rsi, rsp",
            "mov edx, 1",
            "syscall",
            "cmp rax, -4",
            "je 21b",
            "cmp rax, 1",
            "jne 28f",
            // pidfd_open(2, 0)
            "mov eax, 434",
            "mov edi, 2",
            "xor esi, esi",
            "syscall",
            "test eax, eax",
            "js 28f",
            // struct pollfd { fd, events = POLLIN } [2] at rsp: the program, then the lifeline.
            "mov dword ptr [rsp], eax",
            "mov dword ptr [rsp + 4], 1",
            "mov dword ptr [rsp + 8], 0",
            "mov dword ptr [rsp + 12], 1",
            // poll(rsp, 2, -1)
            "22:",
            "mov eax, 7",
            "mov rdi, rsp",
            "mov esi, 2",
            "mov edx, -1",
            "syscall",
            "cmp rax, -4",
            "je 22b",
            "test rax, rax",
            "js 28f",
            "cmp word ptr [rsp + 6], 0",
            "jne 28f",
            // The lifeline: one more byte detaches, its end ends the cell.
            "xor eax, eax",
            "xor edi, edi",
            "lea rsi, [rsp + 16]",
            "mov edx, 1",
            "syscall",
            "cmp rax, -4",
            "je 22b",
            "cmp rax, 1",
            "jne 28f",
            "mov dword ptr [rsp + 8], -1",
            "jmp 22b",
            // exit_group(0)
            "28:",
            "mov eax, 231",
            "xor edi, edi",
            "syscall",
            "ud2",
            "29:",
            start = out(reg) start,
            end = out(reg) end,
            options(nomem, nostack),
        );
    }
    (start, end)
}
