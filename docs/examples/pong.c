/* A client of a libipc service, with nothing but sockets.
 *
 *     cc -o pong pong.c
 *     ./pong [SERVICE [TEXT]]      says TEXT to SERVICE, and prints what it answers
 *
 * The socket of a service is $IPC_RUNDIR/SERVICE, or /run/ipc/SERVICE. On it a message is
 *
 *     type: 1 byte, 2 for data | length: 4 bytes, big-endian | user type: 1 byte | payload
 *
 * where the length is that of the payload alone, and the user type means what the two programs
 * agree on. It leaves in ONE send, and the next one not before this one was answered: programs
 * with the original library take what one read brings for one message. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HEADER = 6, DATA = 2, MOST = 131072 };

static _Noreturn void fail(const char *what) {
    perror(what);
    exit(1);
}

static int connect_to(const char *service) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *directory = getenv("IPC_RUNDIR");
    int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/%s",
                          directory ? directory : "/run/ipc", service);
    if (length < 0 || (size_t) length >= sizeof address.sun_path) {
        fprintf(stderr, "%s: too long for the path of a socket\n", service);
        exit(1);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *) &address, sizeof address) < 0)
        fail(address.sun_path);
    return fd;
}

static void say(int fd, uint8_t user_type, const char *payload, uint32_t length) {
    static uint8_t message[HEADER + MOST];
    if (length > MOST) {
        fprintf(stderr, "at most %d bytes\n", MOST);
        exit(1);
    }
    message[0] = DATA;
    for (int i = 0; i < 4; i++)
        message[1 + i] = (uint8_t) (length >> (24 - 8 * i));
    message[5] = user_type;
    memcpy(message + HEADER, payload, length);
    if (send(fd, message, HEADER + length, MSG_NOSIGNAL) != (ssize_t) (HEADER + length))
        fail("send");
}

/* What is long comes in pieces. */
static void hear(int fd, uint8_t *into, size_t wanted) {
    while (wanted) {
        ssize_t got = recv(fd, into, wanted, 0);
        if (got < 0)
            fail("recv");
        if (got == 0) {
            fputs("the service ended the connection\n", stderr);
            exit(1);
        }
        into += got;
        wanted -= (size_t) got;
    }
}

int main(int argc, char **argv) {
    const char *service = argc > 1 ? argv[1] : "pong", *text = argc > 2 ? argv[2] : "hello";
    static uint8_t header[HEADER], payload[MOST];
    int fd = connect_to(service);
    say(fd, 42, text, (uint32_t) strlen(text));
    hear(fd, header, HEADER);
    uint32_t length = 0;
    for (int i = 0; i < 4; i++)
        length = length << 8 | header[1 + i];
    if (length > MOST) {
        fprintf(stderr, "an answer of %lu bytes is too long\n", (unsigned long) length);
        return 1;
    }
    hear(fd, payload, length);
    printf("type %d, user type %d: %.*s\n", header[0], header[5], (int) length, (char *) payload);
    close(fd);
    return 0;
}
