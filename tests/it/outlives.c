/* Sends a bound socket out of the sandbox over descriptor 3, or tells whether the port is free and which network
   namespace this is. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(4711)};
    struct stat namespace;
    if (stat("/proc/self/ns/net", &namespace))
        return 1;
    int socket_ = socket(AF_INET, SOCK_DGRAM, 0);
    int taken = bind(socket_, (void *)&at, sizeof at);
    printf("%s %lu\n", taken ? "taken" : "free", (unsigned long)namespace.st_ino);
    fflush(stdout);
    if (argc > 1) {
        char byte = '.';
        union {
            char bytes[CMSG_SPACE(sizeof(int))];
            struct cmsghdr align;
        } control = {{0}};
        struct iovec part = {&byte, 1};
        struct msghdr message = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &socket_, sizeof(int));
        return sendmsg(3, &message, 0) != 1;
    }
    return 0;
}
