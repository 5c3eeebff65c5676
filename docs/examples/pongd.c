/* A service of libipc that sends every message back, with nothing but sockets.
 *
 *     cc -o pongd pongd.c
 *     ./pongd [SERVICE]
 *
 * What a message is, and why each leaves in one send, stands in pong.c. Clients are served at once;
 * what they send may come in pieces, or several messages in one. One that does not read its
 * answers is cut off, so that it keeps nobody waiting. */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { HEADER = 6, MOST = 131072, CLIENTS = 1000 };

struct client {
    uint8_t *bytes; /* as many as have come of messages that are not whole */
    size_t held;
};

/* The first is the listening socket's. */
static struct pollfd sockets[1 + CLIENTS];
static struct client clients[1 + CLIENTS];
static nfds_t count = 1;

static int listen_at(const char *service) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *directory = getenv("IPC_RUNDIR");
    int length = snprintf(address.sun_path, sizeof address.sun_path, "%s/%s",
                          directory ? directory : "/run/ipc", service);
    if (length < 0 || (size_t) length >= sizeof address.sun_path) {
        fprintf(stderr, "%s: too long for the path of a socket\n", service);
        exit(1);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *) &address, sizeof address) == 0) {
        fprintf(stderr, "%s: there is such a service already\n", address.sun_path);
        exit(1);
    }
    if (errno == ECONNREFUSED) /* a leftover: nobody listens any more */
        unlink(address.sun_path);
    if (bind(fd, (struct sockaddr *) &address, sizeof address) < 0 || listen(fd, 128) < 0) {
        perror(address.sun_path);
        exit(1);
    }
    return fd;
}

static void welcome(int listener) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0)
        return;
    if (count > CLIENTS) {
        close(fd);
        return;
    }
    sockets[count] = (struct pollfd) {.fd = fd, .events = POLLIN};
    clients[count++] = (struct client) {NULL, 0};
}

static void cut_off(nfds_t at) {
    close(sockets[at].fd);
    free(clients[at].bytes);
    count--;
    sockets[at] = sockets[count];
    clients[at] = clients[count];
}

static uint32_t length_of(const uint8_t *message) {
    uint32_t length = 0;
    for (int i = 0; i < 4; i++)
        length = length << 8 | message[1 + i];
    return length;
}

/* Sends back all that is whole; false if the client is to be cut off. */
static int echo(int fd, struct client *client) {
    uint8_t *message = client->bytes;
    size_t held = client->held;
    while (held >= HEADER) {
        uint32_t length = length_of(message);
        if (length > MOST)
            return 0;
        size_t size = HEADER + length;
        if (held < size)
            break;
        if (send(fd, message, size, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t) size)
            return 0;
        message += size;
        held -= size;
    }
    memmove(client->bytes, message, held);
    client->held = held;
    return 1;
}

static int serve(int fd, struct client *client) {
    static uint8_t piece[65536];
    ssize_t got = recv(fd, piece, sizeof piece, 0);
    if (got <= 0)
        return 0;
    /* No more is kept than has come, whatever length was announced. */
    uint8_t *bytes = realloc(client->bytes, client->held + (size_t) got);
    if (!bytes)
        return 0;
    memcpy(bytes + client->held, piece, (size_t) got);
    client->bytes = bytes;
    client->held += (size_t) got;
    return echo(fd, client);
}

int main(int argc, char **argv) {
    const char *service = argc > 1 ? argv[1] : "pong";
    sockets[0] = (struct pollfd) {.fd = listen_at(service), .events = POLLIN};
    printf("serving %s\n", service);
    fflush(stdout);
    while (poll(sockets, count, -1) > 0) {
        /* From the end, for the last one takes the place of one that goes. */
        for (nfds_t at = count - 1; at > 0; at--)
            if (sockets[at].revents && !serve(sockets[at].fd, &clients[at]))
                cut_off(at);
        if (sockets[0].revents)
            welcome(sockets[0].fd);
    }
    return 0;
}
