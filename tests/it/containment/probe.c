// The attacks of the containment suite. One run performs the attack that its first argument names: it exits with 0 if
// that has worked as far as it can tell, and else prints the error number and exits with 1. The host judges.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <linux/memfd.h>
#include <linux/perf_event.h>
#include <linux/prctl.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

typedef char **Args;

// Writes what a descriptor has to standard output.
static int copy(int fd) {
    char data[4096];
    ssize_t length;
    if (fd < 0) return -1;
    while ((length = read(fd, data, sizeof data)) > 0)
        if (write(1, data, length) < 0) return -1;
    close(fd);
    return length;
}

static int put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    int done = write(fd, text, strlen(text)) < 0 ? -1 : 0;
    close(fd);
    return done;
}

// Gets every capability over namespaces of its own. They last without a map of ids, which not everybody may write.
static int become_root(int namespaces) {
    char map[64];
    unsigned uid = geteuid(), gid = getegid();
    if (unshare(CLONE_NEWUSER | namespaces)) return -1;
    put("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "0 %u 1", uid);
    put("/proc/self/uid_map", map);
    snprintf(map, sizeof map, "0 %u 1", gid);
    put("/proc/self/gid_map", map);
    return 0;
}

// Files.

static int read_file(Args a) { return copy(open(a[0], O_RDONLY | O_NONBLOCK)); }

static int climb(Args a) {
    for (int i = 0; i < 64; i++)
        if (chdir("..")) return -1;
    return copy(open(a[0] + 1, O_RDONLY));
}

static int through(Args a) {
    char path[8192];
    snprintf(path, sizeof path, "%s%s", a[0], a[1]);
    return copy(open(path, O_RDONLY));
}

// The classic: a root below the saved one, and from there upwards.
static int chroot_out(Args a) {
    int root = open("/", O_RDONLY | O_DIRECTORY);
    char dir[4096];
    snprintf(dir, sizeof dir, "%s/cell", a[0]);
    mkdir(dir, 0755);
    if (become_root(0)) return -1;
    int entered = chroot(dir);
    rmdir(dir);
    if (entered || fchdir(root)) return -1;
    for (int i = 0; i < 64; i++) (void)!chdir("..");
    if (chroot(".")) return -1;
    return copy(open(a[1], O_RDONLY));
}

static int by_link(Args a) {
    char path[4096];
    snprintf(path, sizeof path, "%s/link", a[0]);
    if (symlink(a[1], path)) return -1;
    return copy(open(path, O_RDONLY));
}

static volatile int over;

struct race { const char *dir, *target; };

static void *flip(void *arg) {
    struct race *race = arg;
    char plain[4096], link[4096], name[4096];
    snprintf(plain, sizeof plain, "%s/plain", race->dir);
    snprintf(link, sizeof link, "%s/link", race->dir);
    snprintf(name, sizeof name, "%s/name", race->dir);
    unsigned seed = 7;
    while (!over) {
        unlink(plain), unlink(link);
        int fd = open(plain, O_WRONLY | O_CREAT, 0600);
        if (fd >= 0) close(fd);
        (void)!symlink(race->target, link);
        rename(rand_r(&seed) % 2 ? plain : link, name);
        sched_yield();
    }
    return NULL;
}

static int race(Args a) {
    struct race race = {a[0], a[1]};
    char name[4096];
    snprintf(name, sizeof name, "%s/name", a[0]);
    pthread_t thread;
    pthread_create(&thread, NULL, flip, &race);
    int won = -1;
    for (int turn = 0; turn < 200; sched_yield()) {
        int fd = open(name, O_RDONLY);
        if (fd < 0 && errno == ENOENT && access(name, F_OK)) { // Not made yet, or a link that leads nowhere.
            struct stat st;
            if (lstat(name, &st)) continue;
        }
        turn++;
        if (fd >= 0 && copy(fd) == 0) won = 0;
    }
    over = 1;
    pthread_join(thread, NULL);
    return won;
}

static int write_file(Args a) { return put(a[0], "attacked"); }

static int create(Args a) { return open(a[0], O_WRONLY | O_CREAT | O_EXCL, 0600) < 0 ? -1 : 0; }

// Without a name until it has one.
static int nameless(Args a) {
    char path[64];
    int fd = open(a[0], O_WRONLY | O_TMPFILE, 0600);
    if (fd < 0) return -1;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, path, AT_FDCWD, a[1], AT_SYMLINK_FOLLOW);
}

static int unlink_file(Args a) { return unlink(a[0]); }
static int rename_file(Args a) { return rename(a[0], a[1]); }
static int make_dir(Args a) { return mkdir(a[0], 0700); }
static int truncate_file(Args a) { return truncate(a[0], 0); }
static int open_trunc(Args a) { return open(a[0], O_RDONLY | O_TRUNC) < 0 ? -1 : 0; }
static int chmod_file(Args a) { return chmod(a[0], 0777); }
static int chown_file(Args a) { return chown(a[0], geteuid(), getegid()); }
static int utimes_file(Args a) { return utimensat(AT_FDCWD, a[0], (struct timespec[2]){{1, 0}, {1, 0}}, 0); }
static int xattr_file(Args a) { return setxattr(a[0], "user.attacked", "1", 1, 0); }
static int make_device(Args a) { return mknod(a[0], S_IFCHR | 0600, makedev(1, 3)); }
static int make_fifo(Args a) { return mkfifo(a[0], 0600); }
static int make_link(Args a) { return symlink("/", a[0]); }

static int map_shared(Args a) {
    int fd = open(a[0], O_RDWR);
    if (fd < 0) return -1;
    char *data = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) return -1;
    data[0] = '!';
    return munmap(data, 1);
}

static int link_write(Args a) { return link(a[0], a[1]) ? -1 : put(a[1], "attacked"); }

static int rename_write(Args a) { return rename(a[0], a[1]) ? -1 : put(a[1], "attacked"); }

static int write_fifo(Args a) {
    int fd = open(a[0], O_WRONLY | O_NONBLOCK);
    return fd < 0 || write(fd, "attacked", 8) < 0 ? -1 : 0;
}

// Makes a read-only mount writable, and hides nothing but itself behind that.
static int remount(Args a) {
    if (become_root(CLONE_NEWNS) == 0) {
        mount(NULL, a[0], NULL, MS_REMOUNT | MS_BIND, NULL);
        mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL);
    }
    return put(a[1], "attacked");
}

static int open_write(Args a) { return open(a[0], O_WRONLY) < 0 ? -1 : 0; }

// Descriptors and the environment.

static int read_descriptors(Args a) {
    char data[4096];
    int seen = -1;
    for (int fd = 3; fd < 1024; fd++) {
        ssize_t length = pread(fd, data, sizeof data, 0);
        if (length > 0 && write(1, data, length) > 0) seen = 0;
    }
    return seen;
}

static int environment(Args a) {
    for (char **variable = environ; *variable; variable++) puts(*variable);
    return 0;
}

// Sockets.

static int unix_name(struct sockaddr_un *name, const char *path, int abstract) {
    name->sun_family = AF_UNIX;
    strncpy(name->sun_path + abstract, path, sizeof name->sun_path - 1 - abstract);
    return offsetof(struct sockaddr_un, sun_path) + abstract + strlen(path);
}

static int connect_unix(Args a) {
    struct sockaddr_un name = {0};
    int length = unix_name(&name, a[0], 0);
    return connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&name, length);
}

static int connect_abstract(Args a) {
    struct sockaddr_un name = {0};
    int length = unix_name(&name, a[0], 1);
    return connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&name, length);
}

static int send_abstract(Args a) {
    struct sockaddr_un name = {0};
    int length = unix_name(&name, a[0], 1);
    return sendto(socket(AF_UNIX, SOCK_DGRAM, 0), "attacked", 8, 0, (void *)&name, length) < 0 ? -1 : 0;
}

static struct sockaddr_in loopback(const char *port) {
    return (struct sockaddr_in){AF_INET, htons(atoi(port)), {htonl(INADDR_LOOPBACK)}, {0}};
}

static int connect_tcp(Args a) {
    struct sockaddr_in name = loopback(a[0]);
    return connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&name, sizeof name);
}

// The same host by an address of the other family.
static int connect_mapped(Args a) {
    struct sockaddr_in6 name = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(a[0]))};
    inet_pton(AF_INET6, "::ffff:127.0.0.1", &name.sin6_addr);
    return connect(socket(AF_INET6, SOCK_STREAM, 0), (void *)&name, sizeof name);
}

static int fast_open(Args a) {
    struct sockaddr_in name = loopback(a[0]);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return sendto(fd, "attacked", 8, MSG_FASTOPEN, (void *)&name, sizeof name) < 0 ? -1 : 0;
}

static int send_udp(Args a) {
    struct sockaddr_in name = loopback(a[0]);
    return sendto(socket(AF_INET, SOCK_DGRAM, 0), "attacked", 8, 0, (void *)&name, sizeof name) < 0 ? -1 : 0;
}

// Hands a descriptor to the host, over standard input.
static int hand(int fd) {
    if (fd < 0) return -1;
    union { struct cmsghdr header; char data[CMSG_SPACE(sizeof fd)]; } control = {0};
    struct iovec byte = {"!", 1};
    struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    control.header = (struct cmsghdr){CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    return sendmsg(0, &message, 0) < 0 ? -1 : 0;
}

static int hand_socket(Args a) { return hand(socket(atoi(a[0]), atoi(a[1]), atoi(a[2]))); }

// Processes.

static int kill_it(Args a) { return kill(atoi(a[0]), SIGUSR1); }
static int kill_group(Args a) { return kill(-atoi(a[0]), SIGUSR1); }
static int kill_thread(Args a) { return syscall(SYS_tgkill, atoi(a[0]), atoi(a[0]), SIGUSR1); }

static int queue_signal(Args a) { return sigqueue(atoi(a[0]), SIGUSR1, (union sigval){0}); }

static int kill_pidfd(Args a) {
    int fd = syscall(SYS_pidfd_open, atoi(a[0]), 0);
    return fd < 0 ? -1 : syscall(SYS_pidfd_send_signal, fd, SIGUSR1, NULL, 0);
}

// A signal that the kernel sends, to the owner of a socket.
static int signal_owner(Args a) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return -1;
    if (fcntl(pair[0], F_SETSIG, SIGUSR1) || fcntl(pair[0], F_SETOWN, atoi(a[0]))) return -1;
    if (fcntl(pair[0], F_SETFL, O_ASYNC | O_NONBLOCK)) return -1;
    return write(pair[1], "!", 1) < 0 ? -1 : 0;
}

static int trace(Args a) {
    int pid = atoi(a[0]);
    char *at = (char *)strtoul(a[1], NULL, 16);
    if (ptrace(PTRACE_ATTACH, pid, NULL, NULL)) return -1;
    waitpid(pid, NULL, __WALL);
    for (int i = 0; i < 64; i += sizeof(long)) {
        long word = ptrace(PTRACE_PEEKDATA, pid, at + i, NULL);
        (void)!write(1, &word, sizeof word);
    }
    return ptrace(PTRACE_DETACH, pid, NULL, NULL);
}

static int read_memory(Args a) {
    char data[64];
    struct iovec here = {data, 64}, there = {(void *)strtoul(a[1], NULL, 16), 64};
    if (process_vm_readv(atoi(a[0]), &here, 1, &there, 1, 0) < 0) return -1;
    return write(1, data, 64) < 0 ? -1 : 0;
}

static int write_memory(Args a) {
    struct iovec here = {"attacked", 8}, there = {(void *)strtoul(a[1], NULL, 16), 8};
    return process_vm_writev(atoi(a[0]), &here, 1, &there, 1, 0) < 0 ? -1 : 0;
}

static int open_memory(Args a, int flags) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/mem", a[0]);
    int fd = open(path, flags);
    if (fd >= 0) lseek(fd, strtoul(a[1], NULL, 16), SEEK_SET);
    return fd;
}

static int mem_read(Args a) {
    char data[64];
    int fd = open_memory(a, O_RDONLY);
    if (fd < 0 || read(fd, data, 64) < 0) return -1;
    return write(1, data, 64) < 0 ? -1 : 0;
}

static int mem_write(Args a) {
    int fd = open_memory(a, O_WRONLY);
    return fd < 0 || write(fd, "attacked", 8) < 0 ? -1 : 0;
}

static int take_descriptor(Args a) {
    char data[4096];
    int pidfd = syscall(SYS_pidfd_open, atoi(a[0]), 0);
    if (pidfd < 0) return -1;
    int fd = syscall(SYS_pidfd_getfd, pidfd, atoi(a[1]), 0);
    ssize_t length = fd < 0 ? -1 : pread(fd, data, sizeof data, 0);
    return length < 0 || write(1, data, length) < 0 ? -1 : 0;
}

static int compare(Args a) { return syscall(SYS_kcmp, getpid(), atoi(a[0]), KCMP_FILES, 0, 0) < 0 ? -1 : 0; }

// Whether a process has limits that another may set.
static int set_limits(Args a) {
    struct { uint64_t soft, hard; } limit;
    int pid = atoi(a[0]);
    if (syscall(SYS_prlimit64, pid, 4, NULL, &limit)) return -1; // RLIMIT_CORE
    limit.soft = limit.soft ? 0 : limit.hard ? 1 : 0;
    return syscall(SYS_prlimit64, pid, 4, &limit, NULL);
}

static int set_nice(Args a) { return setpriority(0, atoi(a[0]), 7); }

// IPC and keys.

static int shared_memory(Args a) {
    int id = shmget(atoi(a[0]), 0, 0);
    char *data = id < 0 ? (void *)-1 : shmat(id, NULL, SHM_RDONLY);
    if (data == (void *)-1) return -1;
    return write(1, data, 64) < 0 ? -1 : 0;
}

static int message_queue(Args a) {
    char data[8192];
    int queue = syscall(SYS_mq_open, a[0], O_RDONLY | O_NONBLOCK, 0, NULL);
    ssize_t length = queue < 0 ? -1 : syscall(SYS_mq_timedreceive, queue, data, sizeof data, NULL, NULL);
    return length < 0 || write(1, data, length) < 0 ? -1 : 0;
}

static int add_user_key(Args a) { return syscall(SYS_add_key, "user", a[0], "attacked", 8, -4) < 0 ? -1 : 0; }

// Looks for a key in the session's keyring, and reads it.
static int read_key(Args a) {
    char data[64];
    long key = syscall(SYS_keyctl, 10, -3, "user", a[0], 0);
    long length = key < 0 ? -1 : syscall(SYS_keyctl, 11, key, data, sizeof data);
    return length < 0 || write(1, data, length) < 0 ? -1 : 0;
}

// Privilege, and the kernel's surface.

static int has_capability(Args a) {
    FILE *status = fopen("/proc/self/status", "r");
    char line[256];
    unsigned long long value, all = 0;
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "Cap%*3c:%llx", &value) == 1) all |= value;
    errno = EPERM;
    return all ? 0 : -1;
}

static int gain(Args a) { return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) ? (errno = EPERM, -1) : 0; }
static int user_namespace(Args a) { return unshare(CLONE_NEWUSER); }

static int reap(long pid) {
    if (pid == 0) _exit(0);
    return pid < 0 ? -1 : waitpid(pid, NULL, __WALL) < 0 ? -1 : 0;
}

static int user_namespace_clone(Args a) { return reap(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0)); }

static int user_namespace_clone3(Args a) {
    uint64_t args[8] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD, 0, 0, 0};
    return reap(syscall(SYS_clone3, args, sizeof args));
}

static int all_namespaces(Args a) { return become_root(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS); }
static int mount_tmpfs(Args a) { return become_root(CLONE_NEWNS) ? -1 : mount("x", a[0], "tmpfs", 0, NULL); }
static int mount_bind(Args a) { return become_root(CLONE_NEWNS) ? -1 : mount(a[0], a[0], NULL, MS_BIND | MS_REC, NULL); }

static int mount_new(Args a) {
    if (become_root(CLONE_NEWNS)) return -1;
    int tree = syscall(SYS_open_tree, AT_FDCWD, a[0], 1 | AT_RECURSIVE);
    return tree < 0 ? -1 : syscall(SYS_move_mount, tree, "", AT_FDCWD, a[0], 4);
}

static int pivot(Args a) {
    if (become_root(CLONE_NEWNS)) return -1;
    if (mount(a[0], a[0], NULL, MS_BIND | MS_REC, NULL) || chdir(a[0])) return -1;
    return syscall(SYS_pivot_root, ".", ".");
}

static int open_filesystem(Args a) {
    return become_root(CLONE_NEWNS) || syscall(SYS_fsopen, "tmpfs", 0) < 0 ? -1 : 0;
}

// A /proc without the masks, in a PID namespace of its own.
static int fresh_proc(Args a) {
    if (become_root(CLONE_NEWNS | CLONE_NEWPID)) return -1;
    int status, pid = fork();
    if (pid == 0) _exit(mount("proc", "/proc", "proc", 0, NULL) ? errno : 0);
    if (pid < 0 || waitpid(pid, &status, 0) < 0) return -1;
    errno = WEXITSTATUS(status);
    return status ? -1 : 0;
}

// Any file that moves processes or has the kernel run a program, of any cgroup that is mounted.
static int cgroup_file(Args a) {
    const char *names[] = {"cgroup.procs", "release_agent", "tasks", "notify_on_release"};
    char line[4096], dir[4096], path[8192];
    FILE *mounts = fopen("/proc/self/mountinfo", "r");
    errno = ENOENT;
    while (mounts && fgets(line, sizeof line, mounts)) {
        if (!strstr(line, " - cgroup") || sscanf(line, "%*s %*s %*s %*s %4095s", dir) != 1) continue;
        for (int i = 0; i < 4; i++) {
            snprintf(path, sizeof path, "%s/%s", dir, names[i]);
            int fd = open(path, O_WRONLY | O_CLOEXEC);
            if (fd >= 0) return hand(fd);
        }
    }
    return -1;
}

// Mounts a file system of cgroups that a namespace of its own gives the right to.
static int mount_cgroups(const char *dir, const char *type, const char *hierarchy) {
    if (mount("cgroup", dir, type, 0, hierarchy)) return -1;
    return hand(open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

static int mount_cgroup2(Args a) {
    return become_root(CLONE_NEWNS | CLONE_NEWCGROUP) ? -1 : mount_cgroups(a[0], "cgroup2", NULL);
}

static int mount_cgroup1(Args a) {
    char line[4096];
    FILE *own = fopen("/proc/self/cgroup", "r");
    if (!own || become_root(CLONE_NEWNS | CLONE_NEWCGROUP)) return -1;
    errno = ENOENT;
    while (fgets(line, sizeof line, own)) {
        char *hierarchy = strchr(line, ':') + 1;
        *strchr(hierarchy, ':') = 0;
        if (*hierarchy && mount_cgroups(a[0], "cgroup", hierarchy) == 0) return 0;
    }
    return -1;
}

// Dies of a bug, with the largest core file that it may leave.
static int crash(Args a) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_CORE, &limit) || chdir(a[0])) return -1;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_CORE, &limit);
    return raise(SIGSEGV);
}

static int rename_host(Args a) { return become_root(CLONE_NEWUTS) ? -1 : sethostname("attacked", 8); }

static int rings(Args a) {
    char params[120] = {0};
    return syscall(SYS_io_uring_setup, 4, params) < 0 ? -1 : 0;
}

static int performance(Args a) {
    struct perf_event_attr attr = {.type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_DUMMY};
    attr.exclude_kernel = attr.exclude_hv = 1;
    return syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0) < 0 ? -1 : 0;
}

static int load_bpf(Args a) {
    uint32_t attr[16] = {2, 4, 8, 1}; // An array of one element.
    return syscall(SYS_bpf, 0, attr, sizeof attr) < 0 ? -1 : 0;
}

static int faults(Args a) { return syscall(SYS_userfaultfd, 1) < 0 ? -1 : 0; }
static int domain(Args a) { return personality(READ_IMPLIES_EXEC) < 0 ? -1 : 0; }
static int randomization(Args a) { return personality(ADDR_NO_RANDOMIZE) < 0 ? -1 : 0; }

static int splice_memory(Args a) {
    int pair[2];
    struct iovec page = {"!", 1};
    return pipe(pair) || vmsplice(pair[1], &page, 1, 0) < 0 ? -1 : 0;
}

static int watch_files(Args a) { return syscall(SYS_fanotify_init, 0x200, 0) < 0 ? -1 : 0; } // FAN_REPORT_FID

static int by_handle(Args a) {
    union { struct file_handle handle; char data[256]; } file = {.handle.handle_bytes = 128};
    int mount_id, dir = open(a[0], O_RDONLY);
    if (name_to_handle_at(AT_FDCWD, a[1], &file.handle, &mount_id, 0)) return -1;
    return open_by_handle_at(dir, &file.handle, O_RDONLY) < 0 ? -1 : 0;
}

#ifdef __x86_64__
static int segments(Args a) {
    char data[16];
    return syscall(SYS_modify_ldt, 0, data, sizeof data) < 0 ? -1 : 0;
}

// getpid(2), by the entry for 32-bit programs.
static int entry_32(Args a) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "r8", "r9", "r10", "r11", "memory");
    errno = (int)-result;
    return (int)result < 0 ? -1 : 0;
}
#endif

// Numbers that no kernel has yet: 0 if every one is told to be missing.
static int unknown(Args a) {
    for (long number = 600; number < 1100; number++)
        if (syscall(number, 0, 0, 0, 0, 0, 0) != -1 || errno != ENOSYS) return -1;
    return syscall(-2L, 0, 0, 0) == -1 && errno == ENOSYS ? 0 : -1;
}

// The victim: it tells what is done to it, until its standard input ends.

static char memory[64];

static void told(int number) { (void)!write(1, "signal\n", 7); }

static int victim(Args a) {
    char before[64];
    int fd = syscall(SYS_memfd_create, "victim", 0);
    // No more privilege than the attacker: else the kernel keeps root's process from it, and no layer is seen.
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {0};
    if (syscall(SYS_capset, &header, none)) return -1;
    signal(SIGUSR1, told);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    for (size_t length = 0; length < sizeof memory;) {
        ssize_t more = read(0, memory + length, sizeof memory - length);
        if (more <= 0) return -1;
        length += more;
    }
    memcpy(before, memory, sizeof memory);
    if (write(fd, memory, sizeof memory) < 0) return -1;
    printf("ready %lx %d\n", (unsigned long)memory, fd);
    fflush(stdout);
    char byte;
    ssize_t left;
    while ((left = read(0, &byte, 1)) > 0 || (left < 0 && errno == EINTR)) {}
    if (memcmp(before, memory, sizeof memory)) puts("changed");
    return 0;
}

static const struct { const char *name; int (*run)(Args); } ATTACKS[] = {
    {"read", read_file}, {"climb", climb}, {"through", through}, {"chroot", chroot_out}, {"symlink-read", by_link},
    {"race", race}, {"write", write_file}, {"create", create}, {"tmpfile", nameless}, {"unlink", unlink_file},
    {"rename", rename_file}, {"mkdir", make_dir}, {"truncate", truncate_file}, {"open-trunc", open_trunc},
    {"chmod", chmod_file}, {"chown", chown_file}, {"utimes", utimes_file}, {"xattr", xattr_file},
    {"mknod", make_device}, {"mkfifo", make_fifo}, {"symlink", make_link}, {"mmap", map_shared},
    {"link-write", link_write}, {"rename-write", rename_write}, {"fifo", write_fifo}, {"remount", remount},
    {"open-write", open_write}, {"descriptors", read_descriptors}, {"environment", environment},
    {"connect-unix", connect_unix}, {"connect-abstract", connect_abstract}, {"send-abstract", send_abstract},
    {"connect-tcp", connect_tcp}, {"connect-mapped", connect_mapped}, {"fast-open", fast_open},
    {"send-udp", send_udp}, {"hand-socket", hand_socket}, {"kill", kill_it}, {"kill-group", kill_group},
    {"tgkill", kill_thread}, {"sigqueue", queue_signal}, {"pidfd", kill_pidfd}, {"fown", signal_owner},
    {"trace", trace}, {"vm-read", read_memory}, {"vm-write", write_memory}, {"mem-read", mem_read},
    {"mem-write", mem_write}, {"getfd", take_descriptor}, {"kcmp", compare}, {"prlimit", set_limits},
    {"nice", set_nice}, {"shm", shared_memory}, {"mq", message_queue}, {"add-key", add_user_key},
    {"read-key", read_key}, {"capability", has_capability}, {"new-privileges", gain}, {"userns", user_namespace},
    {"userns-clone", user_namespace_clone}, {"userns-clone3", user_namespace_clone3}, {"namespaces", all_namespaces},
    {"mount", mount_tmpfs}, {"bind", mount_bind}, {"move-mount", mount_new}, {"pivot", pivot},
    {"fsopen", open_filesystem}, {"fresh-proc", fresh_proc}, {"cgroup", cgroup_file},
    {"mount-cgroup2", mount_cgroup2}, {"mount-cgroup1", mount_cgroup1}, {"crash", crash}, {"sethostname", rename_host}, {"io-uring", rings},
    {"perf", performance}, {"bpf", load_bpf}, {"userfaultfd", faults}, {"read-implies-exec", domain},
    {"no-randomize", randomization}, {"vmsplice", splice_memory}, {"fanotify", watch_files}, {"handle", by_handle},
#ifdef __x86_64__
    {"ldt", segments}, {"int80", entry_32},
#endif
    {"unknown", unknown}, {"victim", victim},
};

int main(int argc, char **argv) {
    for (size_t i = 0; argc > 1 && i < sizeof ATTACKS / sizeof *ATTACKS; i++) {
        if (strcmp(ATTACKS[i].name, argv[1])) continue;
        if (ATTACKS[i].run(argv + 2) == 0) return 0;
        printf("\nerrno %d\n", errno);
        return 1;
    }
    puts("no such attack");
    return 2;
}
