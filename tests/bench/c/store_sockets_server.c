/* The contender: mapipcd's two sockets in C, one loop, the same steps for each connection as the
 * unit takes (accept, ask who it is, read, look up, answer, close), and one value.
 *
 *     store_sockets_server DIRECTORY      READY on stdout; ends with its stdin */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char value[1 << 20] = "bar";

static int listen_at(const char *directory, const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s/%s", directory, name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *) &address, sizeof address) || listen(fd, 128)) {
        perror(address.sun_path);
        _exit(1);
    }
    return fd;
}

static void serve(int fd, int is_set) {
    static char request[1 << 20], reply[(1 << 20) + 64];
    struct ucred peer;
    socklen_t size = sizeof peer;
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size);
    ssize_t got = recv(fd, request, sizeof request - 1, 0);
    if (got <= 0)
        return;
    request[got] = 0;
    if (is_set) {
        /* The value is what stands between the last quotes but one and the last. */
        char *end = strrchr(request, '"'), *begin = end;
        while (begin && begin > request && *--begin != '"')
            ;
        if (end && begin < end)
            memcpy(value, begin + 1, (size_t) (end - begin - 1)), value[end - begin - 1] = 0;
        send(fd, request, (size_t) got, MSG_NOSIGNAL);
    } else {
        int length = snprintf(reply, sizeof reply, "{\n    \"value\": \"%s\"\n}\n", value);
        send(fd, reply, (size_t) length, MSG_NOSIGNAL);
    }
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    int listeners[2] = {listen_at(argv[1], "mapipc_get"), listen_at(argv[1], "mapipc_set")};
    int loop = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN};
    for (int i = 0; i < 2; i++) {
        event.data.u64 = (unsigned) i;
        epoll_ctl(loop, EPOLL_CTL_ADD, listeners[i], &event);
    }
    event.data.u64 = 2;
    epoll_ctl(loop, EPOLL_CTL_ADD, STDIN_FILENO, &event);
    puts("READY");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(loop, events, 64, -1);
        for (int i = 0; i < count; i++) {
            unsigned long long which = events[i].data.u64;
            if (which == 2)
                return 0;
            if (which < 2) {
                int fd = accept4(listeners[which], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (fd < 0)
                    continue;
                event.data.u64 = (unsigned long long) fd << 1 | which;
                epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
            } else {
                serve((int) (which >> 1), which & 1);
                close((int) (which >> 1));
            }
        }
    }
}
