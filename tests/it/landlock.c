// What the tests of Landlock have attempted: each argument is one attempt, a verb and up to two words, and comes to one
// line with its error number, 0 for success.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static int opens(const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
    if (fd >= 0) close(fd);
    return fd;
}

static int runs(char *path) {
    volatile int failed = 0;
    pid_t pid = vfork();
    if (pid == 0) {
        execv(path, (char *[]){path, 0});
        failed = errno;
        _exit(0);
    }
    waitpid(pid, 0, 0);
    errno = failed;
    return failed ? -1 : 0;
}

static int tmpfile_in(const char *dir, const char *name) {
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return fd < 0 || !name ? fd : linkat(AT_FDCWD, path, AT_FDCWD, name, AT_SYMLINK_FOLLOW);
}

static int local(int abstract, int binds, const char *name) {
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    memcpy(un.sun_path + abstract, name, strlen(name));
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + abstract + strlen(name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return binds ? bind(fd, (void *)&un, length) || listen(fd, 1) ? -1 : 0 : connect(fd, (void *)&un, length);
}

static int inet(int type, const char *port, int binds) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (type == SOCK_DGRAM) return sendto(fd, "x", 1, 0, (void *)&in, sizeof in) == 1 ? 0 : -1;
    return binds ? bind(fd, (void *)&in, sizeof in) : connect(fd, (void *)&in, sizeof in);
}

static void *appends(void *path) {
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    int failed = fd < 0 || write(fd, "x", 1) != 1 ? errno : 0;
    return (void *)(long)failed;
}

static int threads(char *path) {
    pthread_t all[4];
    void *told;
    for (int i = 0; i < 4; i++) pthread_create(all + i, 0, appends, path);
    int failed = 0, worked = 0;
    for (int i = 0; i < 4; i++) {
        pthread_join(all[i], &told);
        if (told) failed = (int)(long)told;
        else worked++;
    }
    errno = failed;
    return worked ? 0 : -1;
}

static int attempt(const char *verb, char *a, char *b) {
    struct stat st;
#define IS(name) !strcmp(verb, name)
    if (IS("read")) return opens(a, O_RDONLY);
    if (IS("write")) return opens(a, O_WRONLY);
    if (IS("read-write")) return opens(a, O_RDWR);
    if (IS("readdir")) return opens(a, O_RDONLY | O_DIRECTORY);
    if (IS("create")) return opens(a, O_WRONLY | O_CREAT | O_EXCL);
    if (IS("creat")) return opens(a, O_WRONLY | O_CREAT | O_TRUNC);
    if (IS("read-trunc")) return opens(a, O_RDONLY | O_TRUNC);
    if (IS("exec")) return runs(a);
    if (IS("truncate")) return truncate(a, 1);
    if (IS("ftruncate")) return ftruncate(atoi(a), 1);
    if (IS("rename")) return rename(a, b);
    if (IS("link")) return link(a, b);
    if (IS("symlink")) return symlink(a, b);
    if (IS("mkdir")) return mkdir(a, 0700);
    if (IS("rmdir")) return rmdir(a);
    if (IS("unlink")) return unlink(a);
    if (IS("mkblock")) return mknod(a, S_IFBLK | 0600, makedev(1, 0));
    // A whiteout of overlayfs, which takes no privilege.
    if (IS("mkchar")) return mknod(a, S_IFCHR | 0600, 0);
    if (IS("mkfifo")) return mkfifo(a, 0600);
    if (IS("tmpfile")) return tmpfile_in(a, b);
    if (IS("listen")) return local(0, 1, a);
    if (IS("unix")) return local(0, 0, a);
    if (IS("abstract")) return local(1, 0, a);
    if (IS("listen-abstract")) return local(1, 1, a);
    if (IS("flock")) return flock(open(a, O_RDONLY | O_CLOEXEC), LOCK_EX);
    if (IS("chmod")) return chmod(a, 0640);
    if (IS("utime")) return utimensat(AT_FDCWD, a, (struct timespec[2]){{1, 0}, {1, 0}}, 0);
    if (IS("setxattr")) return setxattr(a, "user.x", "x", 1, 0);
    if (IS("stat")) return stat(a, &st);
    if (IS("access")) return access(a, R_OK | W_OK);
    if (IS("inotify")) return inotify_add_watch(inotify_init1(IN_CLOEXEC), a, IN_ALL_EVENTS);
    if (IS("tcp")) return inet(SOCK_STREAM, a, 0);
    if (IS("bind")) return inet(SOCK_STREAM, a, 1);
    if (IS("udp")) return inet(SOCK_DGRAM, a, 0);
    if (IS("kill")) return kill(atoi(a), atoi(b));
    if (IS("mount")) return unshare(CLONE_NEWUSER | CLONE_NEWNS) ? -1 : mount("x", a, "tmpfs", 0, 0);
    if (IS("threads")) return threads(a);
    exit(2);
}

int main(int count, char **args) {
    for (int i = 1; i < count; i++) {
        char *verb = strtok(args[i], " "), *a = strtok(0, " "), *b = strtok(0, " ");
        printf("%d\n", attempt(verb, a, b) < 0 ? errno : 0);
    }
    return 0;
}
