/* Makes a user namespace of its own, and tries to mount a /proc there. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID)) {
        perror("unshare");
        return 1;
    }
    pid_t child = fork();
    if (!child) {
        /* The control: it may mount. */
        if (mount("/tmp", "/dev/shm", NULL, MS_BIND, NULL))
            perror("bind");
        const char *told = mount("proc", "/tmp", "proc", 0, NULL) ? strerror(errno) : "mounted";
        printf("%s\n", told);
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    return 0;
}
