/* Reads one byte, and exits: read(2) and exit_group(2) without a library. */
void _start(void) {
    char byte;
#if defined(__x86_64__)
    long read;
    __asm__ volatile("syscall" : "=a"(read) : "a"(0), "D"(0), "S"(&byte), "d"(1) : "rcx", "r11", "memory");
    __asm__ volatile("syscall" : : "a"(231), "D"(0));
#elif defined(__aarch64__)
    register long nr __asm__("x8") = 63, fd __asm__("x0") = 0, size __asm__("x2") = 1;
    register char *to __asm__("x1") = &byte;
    __asm__ volatile("svc 0" : "+r"(fd) : "r"(nr), "r"(to), "r"(size) : "memory");
    nr = 94;
    __asm__ volatile("svc 0" : : "r"(nr), "r"(fd));
#else
#error "no system call is known for this processor"
#endif
    __builtin_unreachable();
}
