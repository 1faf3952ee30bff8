// What the tests of the filter have done inside: the first word of the command line is the set of attempts, every attempt
// prints a line `name errno`, with 0 for success. None does harm where it succeeds: they are the controls' too.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_open_tree_attr
#define SYS_open_tree_attr 467
#endif

static void report(const char *name, long result) {
    printf("%s %d\n", name, result < 0 ? errno : 0);
    fflush(stdout);
}

#define CALL(name, ...) report(#name, syscall(SYS_##name, __VA_ARGS__))

static void kernel(void) {
    char buffer[64] = "";
    long bad = -1;
    CALL(keyctl, 0, -2, 1);
    CALL(add_key, "user", "belljar", "x", 1, -2);
    CALL(request_key, "user", "belljar-none", 0, 0);
    CALL(bpf, 0, buffer, 1 << 20);
    CALL(perf_event_open, 0, 0, -1, -1, 0);
    CALL(userfaultfd, O_CLOEXEC | 1);
    CALL(io_uring_setup, 0, 0);
    CALL(io_uring_enter, -1, 0, 0, 0, 0, 0);
    CALL(io_uring_register, -1, 0, 0, 0);
    CALL(kexec_load, 0, 0, 0, bad);
    CALL(init_module, 0, 0, "");
    CALL(finit_module, -1, "", 0);
    CALL(delete_module, "belljar-none", O_NONBLOCK);
    CALL(reboot, 0, 0, 0, 0);
    CALL(swapon, "/none", 0);
    CALL(swapoff, "/none");
    CALL(acct, "/none");
    CALL(syslog, 10, 0, 0);
    CALL(quotactl, 0xff, 0, 0, 0);
    CALL(quotactl_fd, -1, 0xff, 0, 0);
    CALL(memfd_secret, 0);
    CALL(open_by_handle_at, -1, 0, 0);
    CALL(fanotify_init, 0x200, 0);
    CALL(clock_settime, 0, bad);
    CALL(settimeofday, bad, 0);
    CALL(sethostname, buffer, -1);
    CALL(setdomainname, buffer, -1);
    CALL(vmsplice, -1, 0, 0, 0);
    CALL(move_pages, 0, 0, 0, 0, 0, 0);
    CALL(personality, 0x40000);
    report("personality-exec", syscall(SYS_personality, 0x400000));
    report("personality-upper", syscall(SYS_personality, 0x40000 | 1L << 32));
    syscall(SYS_personality, 0);
#ifdef __x86_64__
    CALL(kexec_file_load, -1, -1, 0, 0, bad);
    CALL(iopl, 0);
    CALL(ioperm, 0, 1, 0);
    CALL(modify_ldt, 0, buffer, 0);
    CALL(arch_prctl, 0x1011, 0);
    CALL(ustat, 0, bad);
    CALL(sysfs, 3);
#endif
}

static void mounts(void) {
    CALL(mount, "none", "/none", "tmpfs", 0, 0);
    CALL(umount2, "/none", 0x10000);
    CALL(pivot_root, "/none", "/none");
    CALL(chroot, "/none");
    CALL(fsopen, "none", 0);
    CALL(fsconfig, -1, 0, 0, 0, 0);
    CALL(fsmount, -1, 0, 0);
    CALL(fspick, -1, "none", 0);
    CALL(open_tree, -1, "none", 0x40000000);
    CALL(open_tree_attr, -1, "none", 0x40000000, 0, 0);
    CALL(move_mount, -1, "none", -1, "none", 0);
    CALL(mount_setattr, -1, "none", 0x40000000, 0, 0);
}

// One attempt in a child, which it may change or end.
static void in_child(const char *name, long flags, long (*attempt)(long)) {
    pid_t child = fork();
    if (child == 0) {
        long result = attempt(flags);
        if (result > 0) waitpid(result, 0, __WALL);
        report(name, result);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) printf("%s signal-%d\n", name, WTERMSIG(status));
    fflush(stdout);
}

static long unshares(long flags) { return syscall(SYS_unshare, flags); }

static long clones(long flags) {
    long child = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    return child;
}

static void namespaces(void) {
    struct { const char *name; long flag; } kinds[] = {
        {"user", CLONE_NEWUSER}, {"mnt", CLONE_NEWUSER | CLONE_NEWNS}, {"pid", CLONE_NEWUSER | CLONE_NEWPID},
        {"net", CLONE_NEWUSER | CLONE_NEWNET}, {"ipc", CLONE_NEWUSER | CLONE_NEWIPC},
        {"uts", CLONE_NEWUSER | CLONE_NEWUTS}, {"cgroup", CLONE_NEWUSER | CLONE_NEWCGROUP},
    };
    char name[64];
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof name, "unshare-%s", kinds[i].name);
        in_child(name, kinds[i].flag, unshares);
        snprintf(name, sizeof name, "clone-%s", kinds[i].name);
        in_child(name, kinds[i].flag, clones);
    }
    in_child("unshare-time", CLONE_NEWUSER | 0x80, unshares);
    in_child("unshare-upper", CLONE_NEWUSER | 1L << 40, unshares);
    in_child("clone-upper", CLONE_NEWUSER | 1L << 40, clones);
    long args[11] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, 0};
    pid_t child = syscall(SYS_clone3, args, sizeof args);
    if (child == 0) _exit(0);
    report("clone3", child);
    if (child > 0) waitpid(child, 0, 0);
    CALL(setns, -1, 0);
}

// On a child of its own, which nothing but the filter forbids; and on itself.
static void others(void) {
    pid_t child = fork();
    if (child == 0)
        for (;;) pause();
    long target = 1, copy = 0;
    struct iovec local = {&copy, sizeof copy}, remote = {&target, sizeof target};
    CALL(process_vm_readv, child, &local, 1, &remote, 1, 0);
    CALL(process_vm_writev, child, &local, 1, &remote, 1, 0);
    int pidfd = syscall(SYS_pidfd_open, child, 0);
    CALL(pidfd_getfd, pidfd, 1, 0);
    CALL(kcmp, child, getpid(), 2, 0, 0);
    CALL(process_madvise, -1, &local, 1, 0, 0);
    CALL(process_mrelease, -1, 0);
    report("ptrace", ptrace(PTRACE_SEIZE, child, 0, 0));
    kill(child, SIGKILL);
    waitpid(child, 0, __WALL);
}

static void sockets(void) {
    report("vsock", socket(AF_VSOCK, SOCK_STREAM, 0));
    report("packet", socket(AF_PACKET, SOCK_DGRAM, 0));
    report("alg", socket(AF_ALG, SOCK_SEQPACKET, 0));
    report("uevent", socket(AF_NETLINK, SOCK_DGRAM, 15));
    report("audit", socket(AF_NETLINK, SOCK_RAW, 9));
    report("upper", syscall(SYS_socket, AF_NETLINK | 1L << 32, SOCK_RAW, 15L | 1L << 32));
    report("unix", socket(AF_UNIX, SOCK_STREAM, 0));
    report("inet", socket(AF_INET, SOCK_STREAM, 0));
    report("inet6", socket(AF_INET6, SOCK_DGRAM, 0));
    report("route", socket(AF_NETLINK, SOCK_RAW, 0));
    int pair[2];
    report("pair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
}

static void terminal(void) {
    CALL(ioctl, 0, TIOCSTI, "x");
    report("ioctl-upper", syscall(SYS_ioctl, 0, TIOCSTI | 1L << 32, "x"));
    report("ioctl-linux", syscall(SYS_ioctl, 0, TIOCLINUX, "\2"));
    report("ioctl-linux-upper", syscall(SYS_ioctl, 0, TIOCLINUX | 1L << 40, "\2"));
    // What terminals are asked for is not refused, but not there.
    report("ioctl-other", syscall(SYS_ioctl, 0, TIOCGPGRP, "x"));
}

#ifdef __x86_64__
// getpid as a 32-bit system call.
static long compat(long number) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number) : "memory", "r8", "r9", "r10", "r11");
    if (result < 0) {
        errno = -result;
        return -1;
    }
    return 0;
}
#endif

static void modes(void) {
    int others = 0;
    for (long number = 470; number <= 1100; number++)
        if (syscall(number, -1, -1, -1, -1, -1, -1) != -1 || errno != ENOSYS) others++;
    printf("newer %d\n", others);
    report("minus", syscall(-1L));
    report("most", syscall(0x7fffffffL));
#ifdef __x86_64__
    report("x32", syscall(0x40000000L | SYS_getpid));
    in_child("compat", 20, compat);
#endif
}

static void *thread(void *argument) { return argument; }

static void starts(void) {
    pthread_t threads[4];
    int error = 0;
    for (int i = 0; i < 4; i++) error |= pthread_create(&threads[i], 0, thread, threads);
    for (int i = 0; i < 4; i++) {
        void *result = 0;
        error |= pthread_join(threads[i], &result) | (result != threads);
    }
    printf("threads %d\n", error);
    pid_t child;
    char *args[] = {"/proc/self/exe", "nothing", 0}, *env[] = {0};
    int status = -1;
    errno = posix_spawn(&child, "/proc/self/exe", 0, 0, args, env);
    report("spawn", errno ? -1 : waitpid(child, &status, 0));
    printf("spawned %d\n", status);
    if ((child = vfork()) == 0) _exit(7);
    waitpid(child, &status, 0);
    printf("vfork %d\n", WEXITSTATUS(status));
    if ((child = fork()) == 0) _exit(8);
    waitpid(child, &status, 0);
    printf("fork %d\n", WEXITSTATUS(status));
    report("unshare-files", unshare(CLONE_FILES | CLONE_FS));
    report("query", syscall(SYS_personality, 0xffffffff));
}

// A filter that has getppid fail with this action.
static long add(unsigned action, unsigned flags) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static long denied(long action) {
    if (add(action, 0)) return 0;
    return syscall(SYS_getppid) < 0 ? -1 : 0;
}

// Its supervisor is gone before it asks.
static long orphaned(long action) {
    long listener = add(action, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    if (listener < 0) return 0;
    close(listener);
    return syscall(SYS_getppid) < 0 ? -1 : 0;
}

// Its supervisor is killed while it waits for an answer: before the question is taken, or after.
static long supervised(long taken) {
    long listener = add(SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    pid_t supervisor = listener < 0 ? -1 : fork();
    if (supervisor < 0) return 0;
    if (supervisor == 0) {
        struct pollfd asked = {listener, POLLIN, 0};
        struct seccomp_notif question = {0};
        poll(&asked, 1, -1);
        if (taken) ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &question);
        kill(getpid(), SIGKILL);
    }
    close(listener);
    return syscall(SYS_getppid) < 0 ? -1 : 0;
}

// Breaks a filter of its own, with a process left behind that holds standard output.
static void violate(void) {
    int pair[2];
    char byte;
    if (pipe(pair)) return;
    if (fork() == 0) {
        puts("left behind");
        fflush(stdout);
        (void)!write(pair[1], "!", 1);
        for (;;) pause();
    }
    (void)!read(pair[0], &byte, 1);
    add(SECCOMP_RET_KILL_PROCESS, 0);
    syscall(SYS_getppid);
}

static void nested(void) {
    in_child("nested", SECCOMP_RET_ERRNO | 42, denied);
    in_child("nested-kill", SECCOMP_RET_KILL_PROCESS, denied);
    in_child("notify", SECCOMP_RET_USER_NOTIF, orphaned);
}

// Any system call: its number and arguments.
static int call(int count, char **words) {
    long args[7] = {0};
    for (int i = 0; i < count && i < 7; i++) args[i] = strtoul(words[i], 0, 0);
    report("call", syscall(args[0], args[1], args[2], args[3], args[4], args[5], args[6]));
    return 0;
}

static char **words;
static int count;

static long call_deeper(long _) {
    (void)_;
    pid_t child = fork();
    if (child == 0) _exit(call(count, words));
    int status;
    waitpid(child, &status, 0);
    printf("grandchild %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    return 0;
}

int main(int argc, char **argv) {
    words = argv + 2;
    count = argc - 2;
    const char *set = argc < 2 ? "" : argv[1];
    // The control has capabilities of its own where the kernel asks for them too.
    if (count > 0 && !strcmp(argv[2], "capable") &&
        unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWNET)) {
        report("capable", -1);
        return 1;
    }
    if (!strcmp(set, "kernel")) kernel();
    if (!strcmp(set, "mounts")) mounts();
    if (!strcmp(set, "namespaces")) namespaces();
    if (!strcmp(set, "others")) others();
    if (!strcmp(set, "sockets")) sockets();
    if (!strcmp(set, "terminal")) terminal();
    if (!strcmp(set, "modes")) modes();
    if (!strcmp(set, "starts")) starts();
    if (!strcmp(set, "nested")) nested();
    if (!strcmp(set, "supervised")) {
        in_child("pending", 0, supervised);
        in_child("taken", 1, supervised);
    }
    if (!strcmp(set, "violate")) violate();
    if (!strcmp(set, "call")) return call(count, words);
    if (!strcmp(set, "grandchild")) in_child("child", 0, call_deeper);
    // What its tracer, if it has got one, is told of.
    if (!strcmp(set, "traceme")) report("traceme", ptrace(PTRACE_TRACEME, 0, 0, 0));
    return 0;
}
