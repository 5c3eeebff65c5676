/* GETs from Redis over a unix socket, one request in flight, with as little of a client as can be.
 *
 *     store_redis PATH KEYS SECONDS    sets bench-0 .. bench-N to 16 bytes, then -> reads seconds */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t) now.tv_sec * 1000000000ull + (uint64_t) now.tv_nsec;
}

/* Sends one request and reads until the reply has so many bytes. */
static void exchange(int fd, const char *request, size_t size, char *reply, size_t expected) {
    if (send(fd, request, size, MSG_NOSIGNAL) != (ssize_t) size)
        exit(1);
    for (size_t got = 0; got < expected;) {
        ssize_t part = recv(fd, reply + got, expected - got, 0);
        if (part <= 0)
            exit(1);
        got += (size_t) part;
    }
}

int main(int count, char **arguments) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (count != 4)
        return 64;
    uint64_t keys = strtoull(arguments[2], NULL, 10), reads = 0, seed = 1;
    double seconds = atof(arguments[3]);
    char (*requests)[64] = calloc(keys, sizeof *requests), reply[64], set[128], key[32];
    snprintf(address.sun_path, sizeof address.sun_path, "%s", arguments[1]);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *) &address, sizeof address))
        return 1;
    for (uint64_t i = 0; i < keys; i++) {
        int size = snprintf(key, sizeof key, "bench-%" PRIu64, i);
        snprintf(requests[i], sizeof *requests, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", size, key);
        int all = snprintf(set, sizeof set, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$16\r\n%016" PRIu64 "\r\n",
                           size, key, i);
        exchange(fd, set, (size_t) all, reply, 5); /* +OK */
    }
    uint64_t start = now_ns(), end = start + (uint64_t) (seconds * 1e9);
    while (now_ns() < end)
        for (int i = 0; i < 100; i++, reads++) {
            seed = seed * 6364136223846793005ull + 1442695040888963407ull;
            const char *request = requests[(seed >> 33) % keys];
            exchange(fd, request, strlen(request), reply, 5 + 16 + 2);
        }
    printf("%" PRIu64 " %.6f\n", reads, (double) (now_ns() - start) / 1e9);
    free(requests);
    return 0;
}
