/* One request after the other, each on a connection of its own, as mapipc does it.
 *
 *     store_sockets_client SOCKET REQUEST SECONDS     {"rate": ..., "lost": ...} on stdout
 *
 * Each # of the request is a digit of a number that is another one each time: to set what is set
 * already would cost less. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static int exchange(const struct sockaddr_un *address, const char *request, size_t size) {
    static char reply[1 << 21];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval patience = {5, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    size_t got = 0;
    ssize_t piece;
    if (!connect(fd, (const struct sockaddr *) address, sizeof *address) &&
        send(fd, request, size, MSG_NOSIGNAL) == (ssize_t) size)
        while ((piece = recv(fd, reply + got, sizeof reply - got, 0)) > 0)
            got += (size_t) piece;
    close(fd);
    return got > 0;
}

/* Writes the number over the places that the pattern has for its digits. */
static void put_number(char *request, const char *pattern, unsigned long number) {
    for (size_t at = strlen(pattern); at--;)
        if (pattern[at] == '#') {
            request[at] = (char) ('0' + number % 10);
            number /= 10;
        }
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", argv[1]);
    size_t size = strlen(argv[2]);
    char *request = strdup(argv[2]);
    double begin = now(), end = begin + atof(argv[3]), at = begin;
    long done = 0, lost = 0;
    for (; at < end; at = now()) {
        put_number(request, argv[2], (unsigned long) (done + lost));
        exchange(&address, request, size) ? done++ : lost++;
    }
    printf("{\"rate\": %.0f, \"lost\": %ld}\n", (double) done / (at - begin), lost);
    return 0;
}
