/* The kernel's floor: what a start takes if all that is done is the system calls of its layers.
 *
 *     floor (every | namespaces | whole) INIT [SOURCE TARGET]...
 *
 * It makes a template with these binds, once. With `whole` there is none, and each start makes all. For each byte on its
 * standard input it then starts /noop in a sandbox of its own, waits for it and takes the sandbox apart. It answers each
 * with a line: how many nanoseconds that took, by its own clock, or what went wrong, which ends it. The first line is
 * the template's. At the end of its input it ends.
 *
 * `every` makes the layers of belljar's default policy: the same namespaces, mounts, masks, limits and capabilities,
 * Landlock of four rules, a filter of as many instructions; so does `whole`, which leaves out the links and files of the
 * root and of /dev. `namespaces` makes the namespaces, /proc, /tmp and the init alone.
 *
 * It is no sandbox to use. There is no policy, no error that names its layer, no handle; it trusts its paths, takes the
 * descriptors and signals of its caller as they are, and its filter refuses nothing that matters.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STACK (256 * 1024)
#define LEAVES 79 /* of the filter: 161 instructions with what reads the call's number */
#define SEALED (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
#define BITS (SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_CAP_AMBIENT_RAISE)
#define LOCKED (BITS << 1 | SECBIT_KEEP_CAPS_LOCKED)

#ifdef __x86_64__
#define ARCH AUDIT_ARCH_X86_64
#else
#define ARCH AUDIT_ARCH_AARCH64
#endif

/* Made once. */
static int every, whole, host_proc, init, user, mounts, network, hidden;
static char uid_map[64], gid_map[64], **binds;
static char *stacks[3];
static struct sock_filter filter[2 * LEAVES + 3];
static struct sock_fprog filter_program;

/* Of one start. The processes of a start share memory until they execute something. */
static int unmapped, missing, lifeline[2], init_process, program_process;

static long tried(long result, const char *call) {
    if (result >= 0) return result;
    dprintf(STDOUT_FILENO, "%s: %s\n", call, strerror(errno));
    _exit(1);
}
#define TRY(call) tried((call), #call)

static void write_at(int dir, const char *path, const char *text) {
    const int file = TRY(openat(dir, path, O_WRONLY | O_CLOEXEC));
    TRY(write(file, text, strlen(text)));
    close(file);
}

/* Options are pairs of a name and a value. */
static void mount_new(const char *type, const char *at, const char *const *options, unsigned attributes) {
    const int context = TRY(fsopen(type, FSOPEN_CLOEXEC));
    for (; options && *options; options += 2) TRY(fsconfig(context, FSCONFIG_SET_STRING, options[0], options[1], 0));
    TRY(fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    const int mount = TRY(fsmount(context, FSMOUNT_CLOEXEC, attributes));
    TRY(move_mount(mount, "", AT_FDCWD, at, MOVE_MOUNT_F_EMPTY_PATH));
    close(context);
    close(mount);
}

static void seal(const char *path) {
    struct mount_attr sealed = { .attr_set = SEALED };
    TRY(mount_setattr(AT_FDCWD, path, 0, &sealed, sizeof sealed));
}

/* The template */

static void make_parents(const char *path) {
    char parent[4096];
    for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        snprintf(parent, sizeof parent, "%.*s", (int)(slash - path), path);
        mkdir(parent, 0755);
    }
}

/* Paths of targets are relative to the root that is being made. */
static void bind_at(const char *source, const char *target) {
    struct mount_attr sealed = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID };
    struct stat stat;
    const int tree = TRY(open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
    TRY(mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &sealed, sizeof sealed));
    TRY(fstat(tree, &stat));
    make_parents(target);
    if (S_ISDIR(stat.st_mode)) mkdir(target, 0755);
    else close(open(target, O_CREAT | O_WRONLY, 0644));
    TRY(move_mount(tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH));
    close(tree);
}

/* What masks are bound from, and a /proc in plain sight: a user namespace may mount a second one only beside that. */
static void make_hidden(void) {
    mkdir("hidden", 0755);
    mkdir("hidden/dir", 0555);
    mkdir("hidden/proc", 0555);
    close(open("hidden/file", O_CREAT | O_WRONLY, 0444));
    if (!whole) mount_new("proc", "hidden/proc", NULL, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}

static void make_root(void) {
    const char *const dev[] = { "size", "1048576", "nr_inodes", "64", "mode", "0755", NULL };
    mkdir("root", 0755);
    TRY(mount("root", "root", NULL, MS_BIND, NULL));
    TRY(chdir("root"));
    mkdir("proc", 0755);
    mkdir("tmp", 0755);
    mkdir("dev", 0755);
    mount_new("tmpfs", "dev", dev, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
    mkdir("dev/pts", 0755);
    mkdir("dev/shm", 0755);
    for (char **bind = binds; *bind; bind += 2) bind_at(bind[0], bind[1] + 1);
    TRY(chdir(".."));
}

/* Over the host's root, which is still there. */
static void make_base(void) {
    const char *const base[] = { "mode", "0755", NULL };
    umask(022);
    TRY(mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL));
    mount_new("tmpfs", "/", base, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    TRY(chdir("/..")); /* ".." follows what is mounted over the root, and "/" does not */
    make_hidden();
    make_root();
}

static void map_ids(void) {
    write_at(host_proc, "self/uid_map", uid_map);
    write_at(host_proc, "self/gid_map", gid_map);
}

/* Runs in new namespaces, with the descriptors of the caller. The mounts are made over the host's root, and the host's
 * are gone at the end: what is left are `root`, at the place of /, and `hidden` in the mount below. */
static int make_template(void *unused) {
    (void)unused;
    write_at(host_proc, "self/setgroups", "deny");
    map_ids();
    make_base();
    TRY(syscall(SYS_pivot_root, ".", "."));
    TRY(umount2(".", MNT_DETACH));
    hidden = TRY(open("/hidden", O_PATH | O_CLOEXEC));
    TRY(move_mount(AT_FDCWD, "/root", AT_FDCWD, "/", 0));
    user = TRY(openat(host_proc, "self/ns/user", O_RDONLY | O_CLOEXEC));
    mounts = TRY(openat(host_proc, "self/ns/mnt", O_RDONLY | O_CLOEXEC));
    network = TRY(openat(host_proc, "self/ns/net", O_RDONLY | O_CLOEXEC));
    _exit(0);
}

/* A binary search for the call's number: the jump to the upper half is taken over the lower one. */
static int add_search(int low, int high, int at) {
    if (high - low == 1) {
        /* Numbers that no kernel knows are refused: a filter that allows all would be a shorter one. */
        const int refused = low > LEAVES - 6;
        const unsigned answer = refused ? SECCOMP_RET_ERRNO | EPERM : SECCOMP_RET_ALLOW;
        filter[at] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, answer);
        return at + 1;
    }
    const int middle = (low + high) / 2, upper = add_search(low, middle, at + 1);
    filter[at] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, middle * 7, upper - at - 1, 0);
    return add_search(middle, high, upper);
}

static void make_filter(void) {
    const struct sock_filter start[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    };
    memcpy(filter, start, sizeof start);
    filter_program = (struct sock_fprog){ .len = add_search(0, LEAVES, 4), .filter = filter };
}

/* A start: the cell joins the template and makes the namespaces, the init holds them, the program makes the rest. */

static void send_descriptor(int socket, int descriptor) {
    char byte = 0, control[CMSG_SPACE(sizeof descriptor)] = { 0 };
    struct iovec data = { &byte, 1 };
    struct msghdr message = { NULL, 0, &data, 1, control, sizeof control, 0 };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof descriptor);
    memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    TRY(sendmsg(socket, &message, 0));
}

static int receive_descriptor(int socket) {
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec data = { &byte, 1 };
    struct msghdr message = { NULL, 0, &data, 1, control, sizeof control, 0 };
    TRY(recvmsg(socket, &message, MSG_CMSG_CLOEXEC));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    int descriptor = -1;
    if (header) memcpy(&descriptor, CMSG_DATA(header), sizeof descriptor);
    return TRY(descriptor);
}

static void clear(int *word) {
    __atomic_store_n(word, 0, __ATOMIC_RELEASE);
    TRY(syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0));
}

static void wait_for(int *word) {
    while (__atomic_load_n(word, __ATOMIC_ACQUIRE)) syscall(SYS_futex, word, FUTEX_WAIT, 1, NULL, NULL, 0);
}

static void drop_capabilities(void) {
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct none[2] = { { 0 } };
    TRY(syscall(SYS_capset, &header, none));
}

static void wait_for_init(void) {
    const int executed = receive_descriptor(lifeline[1]);
    char byte;
    TRY(read(executed, &byte, 1));
}

/* /proc is the root meanwhile, so that each path is one name, and `hidden` the working directory. */
static void mask_proc(int root, int working_directory) {
    static const struct { const char *from, *at; } masks[] = {
        { "dir", "/acpi" }, { "dir", "/asound" }, { "file", "/interrupts" }, { "file", "/kcore" },
        { "file", "/keys" }, { "file", "/latency_stats" }, { "file", "/sched_debug" }, { "dir", "/scsi" },
        { "file", "/timer_list" }, { "file", "/timer_stats" }, { "file", "/kpagecgroup" },
        { "file", "/kpagecount" }, { "file", "/kpageflags" },
    };
    TRY(chdir("/proc"));
    TRY(chroot("."));
    TRY(fchdir(working_directory));
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++)
        if (mount(masks[i].from, masks[i].at, NULL, MS_BIND, NULL) < 0 && errno != ENOENT) TRY(-1);
    TRY(fchdir(root));
    TRY(chroot("."));
}

static void make_mounts(void) {
    const char *const shared[] = { "size", "1073741824", "nr_inodes", "65536", "mode", "1777", NULL };
    const char *const terminals[] = { "ptmxmode", "0666", "mode", "0620", "max", "64", NULL };
    const int below = TRY(open(".", O_PATH | O_CLOEXEC)), root = TRY(open("/", O_PATH | O_CLOEXEC));
    TRY(fchdir(root));
    mount_new("proc", "/proc", NULL, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    if (every) {
        write_at(AT_FDCWD, "/proc/sys/user/max_user_namespaces", "0");
        mask_proc(root, below);
        seal("/proc");
        mount_new("devpts", "/dev/pts", terminals, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
        mount_new("tmpfs", "/dev/shm", shared, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    }
    mount_new("tmpfs", "/tmp", shared, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    if (whole) return;
    /* The template's /proc has done its service. */
    const int cover = TRY(open_tree(below, "dir", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    TRY(move_mount(cover, "", below, "proc", MOVE_MOUNT_F_EMPTY_PATH));
}

/* The host's mounts go when all is made beside them: a user namespace may mount a /proc only where it sees another. */
static void make_whole(void) {
    make_base();
    const int from = TRY(open("hidden", O_PATH | O_CLOEXEC));
    TRY(chdir("root"));
    wait_for(&missing); /* its root is changed too, if it is there by then */
    TRY(syscall(SYS_pivot_root, ".", "."));
    TRY(fchdir(from));
    make_mounts();
    TRY(umount2(".", MNT_DETACH));
}

/* Sends the read end of a pipe, which ends when the init has executed its program: it shares no memory from then on. If
 * the init fails, the kernel ends the program, which is in its namespace of processes. */
static int run_init(void *unused) {
    (void)unused;
    char *const arguments[] = { "init", NULL }, *const environment[] = { NULL };
    int executed[2];
    if (whole) write_at(host_proc, "self/setgroups", "deny");
    map_ids();
    clear(&unmapped);
    if (whole) make_whole();
    signal(SIGCHLD, SIG_IGN);
    TRY(pipe2(executed, O_CLOEXEC));
    send_descriptor(lifeline[0], executed[0]);
    close(executed[0]);
    TRY(dup2(lifeline[0], 0));
    TRY(close_range(1, ~0U, CLOSE_RANGE_CLOEXEC));
    TRY(prctl(PR_SET_SECUREBITS, BITS | LOCKED));
    drop_capabilities();
    TRY(execveat(init, "", arguments, environment, AT_EMPTY_PATH));
    _exit(1);
}

static void limit_resources(void) {
    for (int resource = 0; resource < RLIM_NLIMITS; resource++) {
        struct rlimit limit;
        TRY(getrlimit(resource, &limit));
        TRY(setrlimit(resource, &limit));
    }
}

static void restrict_paths(void) {
    static const struct { const char *path; __u64 access; } rules[] = {
        { "/", LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR },
        { "/dev", 0x7fff },
        { "/dev/shm", 0x7fff },
        { "/tmp", 0x7fff },
    };
    /* Every access to files and to TCP and both scopes: the fields of ABI 6 (Linux 6.12), which older headers lack. */
    const __u64 handled[] = { 0xffff, 3, 3 };
    const int ruleset = TRY(syscall(SYS_landlock_create_ruleset, handled, sizeof handled, 0));
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        const int at = TRY(open(rules[i].path, O_PATH | O_CLOEXEC));
        const struct landlock_path_beneath_attr rule = { .allowed_access = rules[i].access, .parent_fd = at };
        TRY(syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0));
        close(at);
    }
    TRY(syscall(SYS_landlock_restrict_self, ruleset, 0));
    close(ruleset);
}

/* As every program starts: with no descriptors but three, and all signals. */
static void drop_all(void) {
    TRY(close_range(3, ~0U, CLOSE_RANGE_CLOEXEC));
    TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    if (every) {
        limit_resources();
        TRY(prctl(PR_SET_SECUREBITS, BITS | LOCKED));
        restrict_paths();
        drop_capabilities();
    }
    TRY(chdir("/"));
    sigset_t none;
    sigemptyset(&none);
    TRY(sigprocmask(SIG_SETMASK, &none, NULL));
    if (every) TRY(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter_program));
}

static int run_program(void *unused) {
    (void)unused;
    char *const arguments[] = { "noop", NULL }, *const environment[] = { NULL };
    clear(&missing);
    TRY(setsid());
    if (every) write_at(host_proc, "self/oom_score_adj", "500");
    wait_for(&unmapped);
    umask(022);
    if (!whole) make_mounts();
    wait_for_init();
    drop_all();
    TRY(execve("/noop", arguments, environment));
    _exit(1);
}

static void join_template(void) {
    TRY(setns(user, CLONE_NEWUSER));
    TRY(setns(network, CLONE_NEWNET));
    TRY(setns(mounts, CLONE_NEWNS));
    TRY(fchdir(hidden));
}

/* Both processes are children of the caller's, which has the descriptors of this one. */
static int run_cell(void *unused) {
    (void)unused;
    const int both = CLONE_VM | CLONE_PARENT | CLONE_PIDFD | SIGCHLD;
    if (!whole) join_template();
    TRY(unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP));
    TRY(sethostname("floor", 5));
    TRY(clone(run_init, stacks[1], both, NULL, &init_process));
    if (whole) TRY(unshare(CLONE_NEWNET));
    for (int number = 0; every && prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0; number++) {}
    TRY(clone(run_program, stacks[2], both | CLONE_VFORK, NULL, &program_process));
    _exit(0);
}

/* Waits for a process that is to end well. If it does not, the others end with the lifeline. */
static void reap(idtype_t kind, id_t process) {
    siginfo_t end;
    TRY(waitid(kind, process, &end, WEXITED));
    if (end.si_code == CLD_EXITED && end.si_status == 0) return;
    dprintf(STDOUT_FILENO, "a process of a start ended with %d\n", end.si_status);
    close_range(3, ~0U, 0);
    while (wait(NULL) > 0) {}
    exit(1);
}

/* The init waits for the program when it has been written to, and for the end of the lifeline, and ends with either. */
static void start(void) {
    sigset_t all, before;
    unmapped = missing = 1;
    TRY(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, lifeline));
    sigfillset(&all);
    TRY(sigprocmask(SIG_SETMASK, &all, &before));
    const int cell = TRY(clone(run_cell, stacks[0], CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, NULL));
    TRY(sigprocmask(SIG_SETMASK, &before, NULL));
    reap(P_PID, cell);
    close(lifeline[0]);
    send(lifeline[1], "", 1, MSG_NOSIGNAL); /* if the init has failed, the program has too */
    reap(P_PIDFD, program_process);
    close(lifeline[1]);
    reap(P_PIDFD, init_process);
    close(program_process);
    close(init_process);
}

static void prepare(char **arguments) {
    const int namespaces = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID;
    whole = strcmp(arguments[0], "whole") == 0;
    every = whole || strcmp(arguments[0], "every") == 0;
    binds = arguments + 2;
    host_proc = TRY(open("/proc", O_PATH | O_CLOEXEC));
    init = TRY(open(arguments[1], O_PATH | O_CLOEXEC));
    make_filter();
    snprintf(uid_map, sizeof uid_map, "%u %u 1", geteuid(), geteuid());
    snprintf(gid_map, sizeof gid_map, "%u %u 1", getegid(), getegid());
    for (int i = 0; i < 3; i++) {
        void *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (stack == MAP_FAILED) TRY(-1);
        stacks[i] = (char *)stack + STACK;
    }
    const int made = CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD | namespaces;
    if (!whole) reap(P_PID, TRY(clone(make_template, stacks[0], made, NULL)));
}

static long long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int count, char **arguments) {
    if (count < 3 || count % 2 == 0) return 2;
    long long begun = now();
    char byte;
    prepare(arguments + 1);
    do {
        dprintf(STDOUT_FILENO, "%lld\n", now() - begun);
        if (read(STDIN_FILENO, &byte, 1) != 1) return 0;
        begun = now();
        start();
    } while (1);
}
