/* The init of the kernel's floor (floor.c): the first process of a sandbox, without a library.
 *
 * Its standard input is its lifeline. When a byte comes, process 2 is the program; the init ends with it, or with the
 * lifeline, and what is left in the sandbox ends with the init. */

#include <linux/poll.h>
#include <linux/prctl.h>
#include <sys/syscall.h>

static long call(long number, long first, long second, long third, long fourth) {
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = fourth;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(first), "S"(second), "d"(third), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = first, x1 __asm__("x1") = second;
    register long x2 __asm__("x2") = third, x3 __asm__("x3") = fourth;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
#else
#error "no system call is known for this processor"
#endif
}

void _start(void) {
    static struct pollfd ends[2] = { { 0, POLLIN, 0 }, { 0, POLLIN, 0 } };
    static char byte;
    call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0);
    if (call(SYS_read, 0, (long)&byte, 1, 0) == 1) {
        ends[1].fd = call(SYS_pidfd_open, 2, 0, 0, 0);
        call(SYS_ppoll, (long)ends, 2, 0, 0);
    }
    call(SYS_exit_group, 0, 0, 0, 0);
    __builtin_unreachable();
}
