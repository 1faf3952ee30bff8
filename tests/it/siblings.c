/* Leaves something wherever a program can, or looks for what another has left. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *dirs[] = {"/tmp", "/dev/shm", "/scratch", "/tmp/below", "/dev", "/", "/proc", "/dev/pts"};
#define DIRS (sizeof dirs / sizeof *dirs)

static struct sockaddr_un name(void) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    memcpy(at.sun_path, "\0belljar-sibling", 16);
    return at;
}
#define NAME_LEN (sizeof(sa_family_t) + 16)

static struct sockaddr_in port(void) {
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(4711)};
}

static int lists(const char *file, const char *what) {
    char line[512];
    int found = 0;
    FILE *stream = fopen(file, "r");
    while (stream && fgets(line, sizeof line, stream))
        found |= strstr(line, what) != NULL;
    if (stream)
        fclose(stream);
    return found;
}

/* How many processes, and how many terminals, there are. */
static int numbers(const char *dir) {
    int count = 0;
    struct dirent *entry;
    DIR *stream = opendir(dir);
    while (stream && (entry = readdir(stream)))
        count += entry->d_name[0] >= '0' && entry->d_name[0] <= '9';
    if (stream)
        closedir(stream);
    return count;
}

static void leave(void) {
    char path[64];
    for (size_t i = 0; i < DIRS; i++) {
        snprintf(path, sizeof path, "%s/left", dirs[i]);
        int file = open(path, O_CREAT | O_WRONLY, 0666);
        if (file >= 0)
            printf("left %s\n", dirs[i]);
    }
    struct sockaddr_un un = name();
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (!bind(listener, (void *)&un, NAME_LEN) && !listen(listener, 1))
        puts("left abstract");
    struct sockaddr_in in = port();
    if (!bind(socket(AF_INET, SOCK_DGRAM, 0), (void *)&in, sizeof in))
        puts("left port");
    /* What is sent to where there is no way is counted. */
    sendto(socket(AF_INET, SOCK_DGRAM, 0), "x", 1, 0, (void *)&in, sizeof in);
    if (shmget(4711, 4096, IPC_CREAT | 0666) >= 0)
        puts("left shm");
    if (mq_open("/sibling", O_CREAT | O_RDWR, 0666, NULL) >= 0)
        puts("left mq");
    if (posix_openpt(O_RDWR | O_NOCTTY) >= 0)
        puts("left pty");
    if (!syscall(SYS_add_key, "user", "sibling", "x", 1, -4) || errno == 0)
        puts("left key");
    if (!sethostname("sibling", 7))
        puts("left hostname");
    puts("ready");
    fflush(stdout);
}

static void look(void) {
    char path[64], host[64] = "";
    for (size_t i = 0; i < DIRS; i++) {
        snprintf(path, sizeof path, "%s/left", dirs[i]);
        if (!access(path, F_OK))
            printf("found %s\n", dirs[i]);
    }
    struct sockaddr_un un = name();
    if (!connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&un, NAME_LEN))
        puts("found abstract");
    if (lists("/proc/net/unix", "belljar-sibling"))
        puts("found name");
    struct sockaddr_in in = port();
    if (bind(socket(AF_INET, SOCK_DGRAM, 0), (void *)&in, sizeof in) && errno == EADDRINUSE)
        puts("found port");
    if (shmget(4711, 4096, 0) >= 0)
        puts("found shm");
    if (mq_open("/sibling", O_RDWR) >= 0)
        puts("found mq");
    if (numbers("/proc") > 2)
        puts("found process");
    if (numbers("/dev/pts") > 0)
        puts("found pty");
    gethostname(host, sizeof host);
    if (!strcmp(host, "sibling"))
        puts("found hostname");
    char line[512], counters[512] = "";
    FILE *stream = fopen("/proc/net/snmp", "r");
    while (stream && fgets(line, sizeof line, stream))
        if (!strncmp(line, "Ip: ", 4))
            strcpy(counters, line);
    /* OutRequests and OutNoRoutes: the tenth and the twelfth. */
    char *field = strtok(counters, " ");
    for (int i = 0; field; i++, field = strtok(NULL, " "))
        if ((i == 10 || i == 12) && strcmp(field, "0"))
            puts("found counter");
    puts("looked");
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "look")) {
        look();
        return 0;
    }
    leave();
    if (argc > 1 && !strcmp(argv[1], "both")) {
        pid_t child = fork();
        if (!child) {
            look();
            _exit(0);
        }
        waitpid(child, NULL, 0);
        return 0;
    }
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}
