/* The unit of measure: a server that sends back what it reads, and knows of no messages.
 *
 *     libipc_echo SOCKET      READY on stdout; ends with its stdin */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char buffer[1 << 18];

static int listen_at(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *) &address, sizeof address) || listen(fd, 128)) {
        perror(path);
        _exit(1);
    }
    return fd;
}

static void add(int loop, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    int listener = listen_at(argv[1]), loop = epoll_create1(EPOLL_CLOEXEC);
    add(loop, listener);
    add(loop, STDIN_FILENO);
    puts("READY");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(loop, events, 64, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == STDIN_FILENO)
                return 0;
            if (fd == listener) {
                add(loop, accept4(listener, NULL, NULL, SOCK_CLOEXEC));
                continue;
            }
            ssize_t size = recv(fd, buffer, sizeof buffer, 0);
            if (size <= 0 || send(fd, buffer, (size_t) size, MSG_NOSIGNAL) != size)
                close(fd);
        }
    }
}
