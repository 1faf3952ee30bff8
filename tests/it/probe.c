// What the tests have done inside a sandbox, or outside as a control: each word of the command line is one set of
// attempts. Every attempt prints a line `name errno`, with 0 for success. What is true is judged by the host.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static int report(const char *name, long result) {
    printf("%s %d\n", name, result < 0 ? errno : 0);
    fflush(stdout);
    return result < 0;
}

static void opens(const char *name, const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
    report(name, fd);
    if (fd >= 0) close(fd);
}

// Changes in a directory that holds a file `file`, a directory `sub` and in that a file `inner`.
static void writes(const char *dir) {
    if (report("chdir", chdir(dir))) return;
    opens("open-write", "file", O_WRONLY);
    opens("open-append", "file", O_WRONLY | O_APPEND);
    opens("create", "new", O_WRONLY | O_CREAT | O_EXCL);
    opens("tmpfile", ".", O_WRONLY | O_TMPFILE);
    report("mkdir", mkdir("newdir", 0700));
    report("symlink", symlink("file", "newlink"));
    report("link", link("file", "newhard"));
    report("fifo", mkfifo("newfifo", 0600));
    report("chmod", chmod("file", 0640));
    report("chown", chown("file", getuid(), getgid()));
    struct timespec times[2] = {{1, 0}, {1, 0}};
    report("utimens", utimensat(AT_FDCWD, "file", times, 0));
    report("truncate", truncate("file", 1));
    int fd = open("file", O_RDWR | O_CLOEXEC);
    if (fd < 0) fd = open("file", O_RDONLY | O_CLOEXEC);
    void *map = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    report("mmap", map == MAP_FAILED ? -1 : 0);
    report("inner-create", open("sub/new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    report("inner-unlink", unlink("sub/inner"));
    report("rename", rename("file", "renamed"));
    rename("renamed", "file");
    report("rmdir", rmdir("sub"));
    report("unlink", unlink("file"));
}

static void escape(void) {
    struct stat st;
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 64; i++)
        if (chdir("..")) break;
    report("stat", stat(".", &st));
    printf("up %llu:%llu\n", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    mkdir("/tmp/jail", 0700);
    report("chroot", chroot("/tmp/jail"));
    report("fchdir", fchdir(root));
    for (int i = 0; i < 64; i++)
        if (chdir("..")) break;
    report("pivot_root", syscall(SYS_pivot_root, ".", "."));
    stat(".", &st);
    printf("up2 %llu:%llu\n", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
}

// Everything that reads or steers another process.
static void trace(int pid) {
    char path[64], content[64];
    // Of some, the kernel lets root open the file, and asks when it is read.
    char *files[] = {"environ", "maps", "auxv", "stack", "syscall", "io", "personality"};
    for (int i = 0; i < 7; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, files[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        report(files[i], fd < 0 ? -1 : read(fd, content, sizeof content));
    }
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    opens("mem", path, O_RDONLY);
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    opens("mem-write", path, O_RDWR);
    char *links[] = {"exe", "cwd", "root", "fd/0", "ns/user", "ns/mnt"};
    char target[256];
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", pid, links[i]);
        report(links[i], readlink(path, target, sizeof target));
    }
    char data[8];
    struct iovec local = {data, 8}, remote = {(void *)0x400000, 8};
    long read = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    // A process that may be read, and has nothing there, is as bad.
    report("vm_readv", read < 0 && errno == EFAULT ? 0 : read);
    int pidfd = syscall(SYS_pidfd_open, pid, 0);
    report("pidfd_getfd", pidfd < 0 ? -1 : syscall(SYS_pidfd_getfd, pidfd, 0, 0));
    report("kcmp", syscall(SYS_kcmp, pid, getpid(), 2, 0, 0));
    if (!report("seize", ptrace(PTRACE_SEIZE, pid, 0, 0))) ptrace(PTRACE_DETACH, pid, 0, 0);
    if (!report("attach", ptrace(PTRACE_ATTACH, pid, 0, 0))) {
        waitpid(pid, 0, __WALL);
        ptrace(PTRACE_DETACH, pid, 0, 0);
    }
}

// The same, on a process that may be traced.
static void trace_child(void) {
    int child = fork();
    if (child == 0)
        for (;;) pause();
    trace(child);
    kill(child, SIGKILL);
}

static void nested_mounts(char **dirs) {
    uid_t uid = getuid();
    gid_t gid = getgid();
    if (report("unshare", unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET))) return;
    char line[64];
    int fd = open("/proc/self/setgroups", O_WRONLY | O_CLOEXEC);
    if (write(fd, "deny", 4)) {}
    fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC);
    report("uid_map", write(fd, line, snprintf(line, 64, "0 %d 1", uid)));
    fd = open("/proc/self/gid_map", O_WRONLY | O_CLOEXEC);
    report("gid_map", write(fd, line, snprintf(line, 64, "0 %d 1", gid)));
    // A new process, which is in the new pid namespace: a fresh /proc needs that.
    int child = fork();
    if (child == 0) {
        report("tmpfs", mount("x", "/tmp", "tmpfs", 0, 0));
        report("umount-own", umount("/tmp"));
        for (char **dir = dirs; *dir; dir++) {
            report("remount-rw", mount(0, *dir, 0, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV, 0));
            report("umount", umount2(*dir, MNT_DETACH));
            report("move", mount(*dir, "/tmp", 0, MS_MOVE, 0));
        }
        // Without MS_REC: what is hidden below the mounts of the tree would come to light.
        report("bind-proc", mount("/proc", "/tmp", 0, MS_BIND, 0));
        report("bind-root", mount("/", "/tmp", 0, MS_BIND, 0));
        report("proc", mount("proc", "/tmp", "proc", 0, 0));
        report("sysfs", mount("sysfs", "/tmp", "sysfs", 0, 0));
        exit(0);
    }
    waitpid(child, 0, 0);
}

static void remount(char **dirs) {
    for (; *dirs; dirs++) {
        report("remount-rw", mount(0, *dirs, 0, MS_REMOUNT | MS_BIND, 0));
        report("remount-suid", mount(0, *dirs, 0, MS_REMOUNT | MS_BIND | MS_RDONLY, 0));
        report("remount-atime", mount(0, *dirs, 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOATIME, 0));
        report("umount", umount2(*dirs, MNT_DETACH));
    }
    report("mount", mount("x", "/tmp", "tmpfs", 0, 0));
    report("bind", mount("/", "/tmp", 0, MS_BIND | MS_REC, 0));
}

static void devices(const char *dir) {
    if (report("chdir", chdir(dir))) return;
    report("mknod-char", mknod("char", S_IFCHR | 0600, makedev(1, 3)));
    report("mknod-block", mknod("block", S_IFBLK | 0600, makedev(1, 0)));
    report("mknod-memory", mknod("memory", S_IFCHR | 0600, makedev(1, 1)));
    opens("open-device", "device", O_RDWR);
    opens("read-device", "device", O_RDONLY);
}

static void privileges(const char *file) {
    report("chmod-suid", chmod(file, 06755));
    // VFS_CAP_REVISION_2, effective, CAP_NET_RAW.
    unsigned char cap[20] = {1, 0, 0, 2, 0, 0x20};
    report("setcap", setxattr(file, "security.capability", cap, sizeof cap, 0));
    gid_t none = 0;
    report("setgroups", syscall(SYS_setgroups, 1, &none));
    report("setgroups-none", syscall(SYS_setgroups, 0, 0));
    report("sethostname", sethostname("x", 1));
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    report("clock_settime", clock_settime(CLOCK_REALTIME, &now));
    report("nice", setpriority(PRIO_PROCESS, 0, -1));
    struct rlimit limit = {1 << 20, 1 << 20};
    report("rlimit", setrlimit(RLIMIT_NOFILE, &limit));
    int fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC);
    report("uid_map", fd < 0 ? -1 : write(fd, "0 0 1", 5));
    fd = open("/proc/self/gid_map", O_WRONLY | O_CLOEXEC);
    report("gid_map", fd < 0 ? -1 : write(fd, "0 0 1", 5));
    fd = open("/proc/self/setgroups", O_WRONLY | O_CLOEXEC);
    report("setgroups-allow", fd < 0 ? -1 : write(fd, "allow", 5));
    report("securebits", prctl(PR_SET_SECUREBITS, 0, 0, 0, 0));
    report("ambient", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0));
    report("raw-socket", socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, 1));
    report("setuid", setuid(getuid() == 0 ? 1 : 0));
}

static void enter(char **files) {
    for (; *files; files++) {
        int fd = open(*files, O_RDONLY | O_CLOEXEC);
        report("setns", fd < 0 ? -1 : setns(fd, 0));
    }
    int pidfd = syscall(SYS_pidfd_open, 1, 0);
    report("setns-init", pidfd < 0 ? -1 : setns(pidfd, CLONE_NEWNS | CLONE_NEWUSER));
    report("setns-net", pidfd < 0 ? -1 : setns(pidfd, CLONE_NEWNET));
}

static void connects(const char *port, const char *name) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    report("tcp4", connect(fd, (void *)&in, sizeof in));
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port)), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    report("tcp6", fd < 0 ? -1 : connect(fd, (void *)&in6, sizeof in6));
    // Datagrams to an address that no host here has: a route would do.
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    in.sin_addr.s_addr = htonl(0xa9fea9fe);
    report("metadata", connect(fd, (void *)&in, sizeof in));
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    memcpy(un.sun_path + 1, name, strlen(name));
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    report("abstract", connect(fd, (void *)&un, length));
    struct ifreq request = {.ifr_name = "lo"};
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ioctl(fd, SIOCGIFFLAGS, &request);
    printf("lo-up %d\n", !!(request.ifr_flags & IFF_UP));
    request.ifr_flags |= IFF_UP | IFF_PROMISC;
    report("change-lo", ioctl(fd, SIOCSIFFLAGS, &request));
    struct if_nameindex *names = if_nameindex();
    for (struct if_nameindex *i = names; i && i->if_index; i++) printf("interface %s\n", i->if_name);
    // A connection within, over whatever interface there is.
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in own = {.sin_family = AF_INET};
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof own;
    if (bind(listener, (void *)&own, size) == 0 && listen(listener, 1) == 0) getsockname(listener, (void *)&own, &size);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    report("self", connect(fd, (void *)&own, sizeof own));
}

static void ipc(int key, const char *queue) {
    report("shm", shmget(key, 0, 0));
    report("sem", semget(key, 0, 0));
    report("msg", msgget(key, 0));
    report("mq", syscall(SYS_mq_open, queue, O_RDONLY, 0, 0));
    // Something of our own, under keys that the host then looks for.
    report("own-shm", shmget(key + 1, 4096, IPC_CREAT | 0600));
    report("own-sem", semget(key + 1, 1, IPC_CREAT | 0600));
    report("own-msg", msgget(key + 1, IPC_CREAT | 0600));
}

static void signals(int pid) {
    signal(SIGUSR1, SIG_IGN);
    report("kill", kill(pid, SIGUSR1));
    report("kill-group", kill(-pid, SIGUSR1));
    report("tgkill", syscall(SYS_tgkill, pid, pid, SIGUSR1));
    report("sigqueue", sigqueue(pid, SIGUSR1, (union sigval){0}));
    report("pidfd_open", syscall(SYS_pidfd_open, pid, 0));
    report("getpriority", getpriority(PRIO_PROCESS, pid));
    report("affinity", sched_setaffinity(pid, 0, 0) < 0 && errno == EINVAL ? 0 : -1);
    int pair[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    report("setown", fcntl(pair[0], F_SETOWN, pid));
    printf("parent %d\n", getppid());
    report("kill-all", kill(-1, SIGUSR1));
}

static void terminal(void) {
    report("sti", ioctl(0, TIOCSTI, "x"));
    opens("tty", "/dev/tty", O_RDWR);
    report("sctty", ioctl(0, TIOCSCTTY, 0));
    report("sctty-steal", ioctl(0, TIOCSCTTY, 1));
    report("setpgrp", tcsetpgrp(0, getpgrp()));
    printf("session %d\n", getsid(0) == getpid() && getpgrp() == getpid());
}

// What a process is born with.
static void state(void) {
    printf("umask %o\n", umask(0));
    printf("nice %d\n", getpriority(PRIO_PROCESS, 0));
    printf("policy %d\n", sched_getscheduler(0));
    printf("ioprio %ld\n", syscall(SYS_ioprio_get, 1, 0));
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    printf("processors %d\n", CPU_COUNT(&set));
    printf("slack %d\n", prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0));
    printf("personality %ld\n", syscall(SYS_personality, 0xffffffff));
    printf("pdeathsig %d\n", ({ int s = -1; prctl(PR_GET_PDEATHSIG, &s); s; }));
    printf("thp %d\n", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
    printf("tsc %d\n", ({ int s = -1; prctl(PR_GET_TSC, &s); s; }));
    printf("mce %d\n", prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
    printf("dumpable %d\n", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
    printf("keepcaps %d\n", prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0));
    printf("io_flusher %d\n", prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0));
    printf("session %d\n", getsid(0) == getpid() && getpgrp() == getpid());
    for (int i = 0; i < 16; i++) {
        struct rlimit limit;
        getrlimit(i, &limit);
        printf("rlimit%d %lld\n", i, (long long)limit.rlim_cur);
    }
    struct itimerval timer;
    getitimer(ITIMER_REAL, &timer);
    printf("timer %ld\n", (long)timer.it_value.tv_sec);
    for (int i = 1; i <= 64; i++) {
        struct sigaction action;
        if (sigaction(i, 0, &action) == 0 && action.sa_handler != SIG_DFL) printf("ignored %d\n", i);
    }
    sigset_t mask;
    sigprocmask(SIG_BLOCK, 0, &mask);
    for (int i = 1; i <= 64; i++)
        if (sigismember(&mask, i) == 1) printf("blocked %d\n", i);
    char text[128] = "";
    char *files[] = {"oom_score_adj", "coredump_filter"};
    for (int i = 0; i < 2; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/%s", files[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        long n = read(fd, text, sizeof text - 1);
        printf("%s %.*s", files[i], n > 0 ? (int)n : 1, n > 0 ? text : "\n");
    }
}

static void descriptors(void) {
    char path[512], target[4096];
    DIR *dir = opendir("/proc/self/fd");
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (*entry->d_name == '.' || atoi(entry->d_name) == dirfd(dir)) continue;
        snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
        long n = readlink(path, target, sizeof target);
        printf("%s %.*s\n", entry->d_name, n > 0 ? (int)n : 0, target);
    }
    // Whatever /proc shows: every number there can be.
    for (int fd = 0; fd < 70000; fd++)
        if (fd != dirfd(dir) && fcntl(fd, F_GETFD) >= 0) printf("open %d\n", fd);
}

// Every file below a directory that can be opened for writing: opened only, and closed again.
static void writable(const char *dir, int depth) {
    DIR *open_dir = depth < 12 ? opendir(dir) : 0;
    if (!open_dir) return;
    for (struct dirent *entry; (entry = readdir(open_dir));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        // Processes are another matter.
        if (!strcmp(dir, "/proc") && (entry->d_name[0] == 's' || entry->d_name[0] == 't') && entry->d_type == DT_LNK) continue;
        if (!strcmp(dir, "/proc") && entry->d_name[0] >= '0' && entry->d_name[0] <= '9') continue;
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (entry->d_type == DT_DIR) {
            writable(path, depth + 1);
        } else if (entry->d_type == DT_REG) {
            int fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
            printf("%s %s\n", fd >= 0 ? "writable" : "refused", path);
            if (fd >= 0) close(fd);
        }
    }
    closedir(open_dir);
}

static void fill(const char *dir, long bytes, long files) {
    char path[4096], block[65536];
    memset(block, 1, sizeof block);
    snprintf(path, sizeof path, "%s/big", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    long written = 0, n = 0;
    while (written < bytes && (n = write(fd, block, sizeof block)) > 0) written += n;
    report("bytes", n);
    printf("written %ld\n", written);
    close(fd);
    unlink(path);
    long made = 0;
    for (n = 0; made < files; made++) {
        snprintf(path, sizeof path, "%s/%ld", dir, made);
        if ((n = mkdir(path, 0700)) < 0) break;
    }
    report("files", n);
    printf("made %ld\n", made);
    struct statvfs vfs;
    statvfs(dir, &vfs);
    printf("size %llu\n", (unsigned long long)vfs.f_blocks * vfs.f_frsize);
    printf("inodes %llu\n", (unsigned long long)vfs.f_files);
}

static void reads(char **files) {
    for (; *files; files++) {
        char data[4096];
        int fd = open(*files, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        report(*files, fd);
        long n = fd < 0 ? 0 : read(fd, data, sizeof data);
        if (n > 0) fwrite(data, 1, n, stdout);
        if (fd >= 0) close(fd);
    }
}

static void ids(void) {
    uid_t u[3];
    gid_t g[3];
    getresuid(u, u + 1, u + 2);
    getresgid(g, g + 1, g + 2);
    printf("uid %d %d %d\ngid %d %d %d\ngroups %d\n", u[0], u[1], u[2], g[0], g[1], g[2], getgroups(0, 0));
    printf("securebits %d\nnnp %d\n", prctl(PR_GET_SECUREBITS), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    report("raw-socket", socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, 1));
}

static void *thread_waits(void *nothing) {
    for (;;) pause();
    return nothing;
}

int main(int count, char **args) {
    char *what = count > 1 ? args[1] : "";
    setvbuf(stdout, 0, _IOFBF, 1 << 16);
    if (!strcmp(what, "writes")) writes(args[2]);
    else if (!strcmp(what, "escape")) escape();
    else if (!strcmp(what, "trace")) trace(atoi(args[2]));
    else if (!strcmp(what, "trace-child")) trace_child();
    else if (!strcmp(what, "nested")) nested_mounts(args + 2);
    else if (!strcmp(what, "remount")) remount(args + 2);
    else if (!strcmp(what, "devices")) devices(args[2]);
    else if (!strcmp(what, "privileges")) privileges(args[2]);
    else if (!strcmp(what, "enter")) enter(args + 2);
    else if (!strcmp(what, "connects")) connects(args[2], args[3]);
    else if (!strcmp(what, "ipc")) ipc(atoi(args[2]), args[3]);
    else if (!strcmp(what, "signals")) signals(atoi(args[2]));
    else if (!strcmp(what, "terminal")) terminal();
    else if (!strcmp(what, "state")) state();
    else if (!strcmp(what, "descriptors")) descriptors();
    else if (!strcmp(what, "writable")) writable(args[2], 0);
    else if (!strcmp(what, "fill")) fill(args[2], atol(args[3]), atol(args[4]));
    else if (!strcmp(what, "reads")) reads(args + 2);
    else if (!strcmp(what, "ids")) ids();
    else if (!strcmp(what, "chmod")) report("chmod", chmod(args[2], strtol(args[3], NULL, 8)));
    else if (!strcmp(what, "wait")) {
        pthread_t thread;
        pthread_create(&thread, 0, thread_waits, 0);
        puts("ready");
        fflush(stdout);
        thread_waits(0);
    } else return 2;
    return 0;
}
