/* Run by quickstart.rs: tells what it sees, and then tries what it should not be able to do. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

static void list(const char *what, const char *path) {
    DIR *dir = opendir(path);
    printf("  %-22s", what);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.' && (strcmp(path, "/proc") || atoi(entry->d_name)))
            printf(" %s", entry->d_name);
    puts("");
}

static void attempt(const char *what, const char *of, int result) {
    printf("  %-22s %-26s %s\n", what, of, result < 0 ? strerror(errno) : "DONE: the sandbox leaks");
}

int main(int argc, char **argv) {
    char name[65] = "";
    gethostname(name, sizeof name);
    printf("\nThe program saw:\n  %-22s %d\n  %-22s %s\n", "its user", getuid(), "the host name", name);
    list("in /", "/");
    list("in /work", "/work");
    list("processes", "/proc");

    puts("It could not:");
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(53)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    int network = socket(AF_INET, SOCK_STREAM, 0);
    attempt("look into", argv[1], open(argv[1], O_RDONLY | O_DIRECTORY));
    attempt("read", "/etc/shadow", open("/etc/shadow", O_RDONLY));
    attempt("write to", "/usr/bin", open("/usr/bin/trojan", O_CREAT | O_WRONLY, 0755));
    attempt("set", "/proc/sys/kernel/hostname", open("/proc/sys/kernel/hostname", O_WRONLY));
    attempt("connect to", "127.0.0.1:53", connect(network, (struct sockaddr *)&address, sizeof address));
    attempt("signal the host, pid", argv[2], kill(atoi(argv[2]), 0));
    attempt("mount a", "tmpfs over /tmp", mount("none", "/tmp", "tmpfs", 0, ""));
    fflush(stdout);
    return argc == 3 ? 0 : 2;
}
