/* Clients of an echo service of libipc, each with one message in flight.
 *
 *     libipc_load TARGET FORM PAYLOAD CLIENTS SECONDS IDLE
 *
 * TARGET: the path of a socket, or fd:N, a connected one; FORM: c or zig; PAYLOAD: its bytes; IDLE:
 * connections that are only held, made before the others. READY on stdout when every client has had
 * an answer; begins at a line on stdin. On stdout then {"rate", "p50_us", "p99_us", "failed"}:
 * failed are the clients that were cut off, got what they had not sent, or nothing for 5 seconds. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_SECONDS 5.0
#define MAX_MEASURED (1 << 25)

struct client {
    int fd, failed, waits;
    size_t got;
    double sent;
};

static struct client *clients;
static long count;
static unsigned char *message, *buffer;
static size_t size;
static int loop;
static float *latencies;
static size_t measured;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static int connected(const char *target) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;
    if (sscanf(target, "fd:%d", &fd) == 1)
        return fd;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", target);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *) &address, sizeof address)) {
        perror(target);
        exit(1);
    }
    return fd;
}

static void make_message(const char *form, size_t payload) {
    int is_c = !strcmp(form, "c");
    size_t header = is_c ? 6 : 4;
    uint32_t length = htonl((uint32_t) payload);
    size = header + payload;
    message = calloc(1, size);
    buffer = malloc(size + 1);
    message[0] = 2;
    memcpy(message + is_c, &length, 4);
    for (size_t i = 0; i < payload; i++)
        message[header + i] = (unsigned char) (i * 7 + 1);
}

static void give_up(struct client *client) {
    close(client->fd);
    client->failed = 1;
    client->waits = 0;
}

static void ask(struct client *client, double at) {
    client->got = 0;
    client->waits = 1;
    client->sent = at;
    if (send(client->fd, message, size, MSG_NOSIGNAL) != (ssize_t) size)
        give_up(client);
}

/* Reads what has come. True: that was the whole answer. */
static int answered(struct client *client) {
    ssize_t got = recv(client->fd, buffer, size - client->got + 1, 0);
    if (got <= 0 || client->got + (size_t) got > size ||
        memcmp(buffer, message + client->got, (size_t) got)) {
        give_up(client);
        return 0;
    }
    client->got += (size_t) got;
    client->waits = client->got < size;
    return !client->waits;
}

/* Until `end` every answer is followed by another message; then until all have had theirs. */
static double rounds(double begin, double end) {
    struct epoll_event events[64];
    long waiting = 0;
    double at = begin;
    for (long i = 0; i < count; i++)
        if (!clients[i].failed)
            ask(&clients[i], begin);
    do {
        int ready = epoll_wait(loop, events, 64, 100);
        at = now();
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (!answered(client))
                continue;
            if (measured < MAX_MEASURED)
                latencies[measured++] = (float) (at - client->sent);
            if (at < end)
                ask(client, at);
        }
        if (ready && at < end)
            continue;
        waiting = 0;
        for (long i = 0; i < count; i++) {
            if (clients[i].waits && at - clients[i].sent > PATIENCE_SECONDS)
                give_up(&clients[i]);
            waiting += clients[i].waits;
        }
    } while (waiting || at < end);
    return at - begin;
}

static int compare(const void *a, const void *b) {
    float x = *(const float *) a, y = *(const float *) b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 7)
        return 2;
    count = atol(argv[4]);
    make_message(argv[2], (size_t) atol(argv[3]));
    for (long idle = atol(argv[6]); idle > 0; idle--)
        connected(argv[1]);
    clients = calloc((size_t) count, sizeof *clients);
    latencies = malloc(MAX_MEASURED * sizeof *latencies);
    loop = epoll_create1(EPOLL_CLOEXEC);
    for (long i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &clients[i]};
        clients[i].fd = connected(argv[1]);
        epoll_ctl(loop, EPOLL_CTL_ADD, clients[i].fd, &event);
    }
    rounds(now(), 0);
    puts("READY");
    fflush(stdout);
    if (getchar() == EOF)
        return 1;
    measured = 0;
    double begin = now(), seconds = rounds(begin, begin + atof(argv[5]));
    qsort(latencies, measured, sizeof *latencies, compare);
    long failed = 0;
    for (long i = 0; i < count; i++)
        failed += clients[i].failed;
    printf("{\"rate\": %.1f, \"p50_us\": %.2f, \"p99_us\": %.2f, \"failed\": %ld}\n",
           (double) measured / seconds, measured ? latencies[measured / 2] * 1e6 : 0,
           measured ? latencies[measured * 99 / 100] * 1e6 : 0, failed);
    return 0;
}
