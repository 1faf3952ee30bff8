//! x86-64: see syscall(2), *Architecture calling conventions*.

use core::arch::asm;
use core::ffi::{c_long, c_void};

use super::AgentData;

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
            "sub rsp, 64",
            // Whether time was up.
            "xor ebx, ebx",
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
            // struct pollfd { fd, events = POLLIN } [3] at rsp: the program, then the lifeline, then the timer.
            "mov dword ptr [rsp], eax",
            "mov dword ptr [rsp + 4], 1",
            "mov dword ptr [rsp + 8], 0",
            "mov dword ptr [rsp + 12], 1",
            // fcntl(2, F_DUPFD, 3): negative if there is no timer, which poll(2) passes over.
            "mov eax, 72",
            "mov edi, 2",
            "xor esi, esi",
            "mov edx, 3",
            "syscall",
            "mov dword ptr [rsp + 16], eax",
            "mov dword ptr [rsp + 20], 1",
            // poll(rsp, 3, -1)
            "22:",
            "mov eax, 7",
            "mov rdi, rsp",
            "mov esi, 3",
            "mov edx, -1",
            "syscall",
            "cmp rax, -4",
            "je 22b",
            "test rax, rax",
            "js 28f",
            "cmp word ptr [rsp + 6], 0",
            "jne 28f",
            "cmp word ptr [rsp + 22], 0",
            "jne 24f",
            // The lifeline: a byte is a signal for all or, if it is 0, detaches; its end ends the cell.
            "xor eax, eax",
            "xor edi, edi",
            "lea rsi, [rsp + 24]",
            "mov edx, 1",
            "syscall",
            "cmp rax, -4",
            "je 22b",
            "cmp rax, 1",
            "jne 28f",
            "movzx esi, byte ptr [rsp + 24]",
            "test esi, esi",
            "jz 26f",
            // kill(-1, signal): everything in the PID namespace but init itself.
            "mov eax, 62",
            "mov rdi, -1",
            "syscall",
            "jmp 22b",
            "26:",
            "mov dword ptr [rsp + 8], -1",
            "jmp 22b",
            // The timer: read(2, rsp + 32, 8) for how many times it has expired; more than once, or once again, is the
            // end.
            "24:",
            "xor eax, eax",
            "mov edi, 2",
            "lea rsi, [rsp + 32]",
            "mov edx, 8",
            "syscall",
            "cmp rax, -4",
            "je 22b",
            "test ebx, ebx",
            "mov ebx, 1",
            "jnz 28f",
            "cmp qword ptr [rsp + 32], 1",
            "jne 28f",
            // timerfd_gettime(2, rsp + 32): so is one without an interval, which comes first in the structure.
            "mov eax, 287",
            "mov edi, 2",
            "lea rsi, [rsp + 32]",
            "syscall",
            "mov rax, qword ptr [rsp + 32]",
            "or rax, qword ptr [rsp + 40]",
            "jz 28f",
            // kill(-1, SIGTERM)
            "mov eax, 62",
            "mov rdi, -1",
            "mov esi, 15",
            "syscall",
            "jmp 22b",
            // exit_group(ebx)
            "28:",
            "mov eax, 231",
            "mov edi, ebx",
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
            "lea {start}, [rip + 20f]",
            "lea {end}, [rip + 29f]",
            "jmp 29f",
            "20:",
            "mov r12d, {data}",
            "mov r13d, 3",
            // recvmsg(socket, header, MSG_CMSG_CLOEXEC), again after a signal (EINTR).
            "21:",
            "mov qword ptr [r12 + {header} + 40], {control_length}",
            "mov eax, 47",
            "mov rdi, r13",
            "lea rsi, [r12 + {header}]",
            "mov edx, 0x40000000",
            "syscall",
            "cmp rax, -4",
            "je 21b",
            "test rax, rax",
            "jle 28f",
            "lea rbx, [r12 + {message}]",
            "mov r13, [rbx]",
            "add rbx, 8",
            // The calls: number, six arguments, and what has to come of it: 0 for no error, -1 for anything, or just this.
            // A negative number is the end.
            "22:",
            "mov rax, [rbx]",
            "test rax, rax",
            "js 25f",
            "mov rdi, [rbx + 8]",
            "mov rsi, [rbx + 16]",
            "mov rdx, [rbx + 24]",
            "mov r10, [rbx + 32]",
            "mov r8, [rbx + 40]",
            "mov r9, [rbx + 48]",
            "syscall",
            "mov rcx, [rbx + 56]",
            "cmp rax, rcx",
            "je 23f",
            "cmp rcx, -1",
            "je 23f",
            "test rcx, rcx",
            "jnz 24f",
            "cmp rax, -4095",
            "jae 24f",
            "23:",
            "add rbx, 64",
            "jmp 22b",
            "24:",
            "mov [rbx + 56], rax",
            // sendto(socket, answer, 16, MSG_NOSIGNAL, NULL, 0)
            "25:",
            "mov [r12 + {answer}], rbx",
            "mov rax, [rbx + 56]",
            "mov [r12 + {answer} + 8], rax",
            "26:",
            "mov eax, 44",
            "mov rdi, r13",
            "lea rsi, [r12 + {answer}]",
            "mov edx, 16",
            "mov r10d, 0x4000",
            "xor r8d, r8d",
            "xor r9d, r9d",
            "syscall",
            "cmp rax, -4",
            "je 26b",
            "jmp 21b",
            // exit_group(0)
            "28:",
            "mov eax, 231",
            "xor edi, edi",
            "syscall",
            "ud2",
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
