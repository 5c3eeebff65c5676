/* Everything of mapipc.h from a command line, for the tests. C11 and C++17 alike.
 *
 *     probe get KEY [ROOM]     probe set KEY VALUE     probe delete KEY     the sockets
 *     probe open KEY           probe read FD KEY...                         shared memory
 *     probe silent FD KEY      reads where the kernel ends who makes a system call
 *     probe hold FD KEY        a line of input, then a read, again and again
 *
 * Prints the code's name, the size and the value. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "mapipc.h"

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define ROOM 2000000
static char value[ROOM];

static const char *name_of(int code) {
    switch (code) {
    case 0: return "OK";
    case MAPIPC_NOT_SET: return "NOT_SET";
    case MAPIPC_NOT_RUNNING: return "NOT_RUNNING";
    case MAPIPC_REFUSED: return "REFUSED";
    case MAPIPC_TIMED_OUT: return "TIMED_OUT";
    case MAPIPC_NO_ROOM: return "NO_ROOM";
    case MAPIPC_BAD_KEY: return "BAD_KEY";
    case MAPIPC_BAD_REPLY: return "BAD_REPLY";
    case MAPIPC_NOT_TEXT: return "NOT_TEXT";
    case MAPIPC_AGAIN: return "AGAIN";
    case MAPIPC_ELSEWHERE: return "ELSEWHERE";
    case MAPIPC_REOPEN: return "REOPEN";
    case MAPIPC_CLOSED: return "CLOSED";
    case MAPIPC_NO_MEMORY: return "NO_MEMORY";
    case MAPIPC_BAD_MEMORY: return "BAD_MEMORY";
    default: return strerror(code);
    }
}

static int show(int code, size_t size) {
    printf("%s", name_of(code));
    if (!code || code == MAPIPC_NO_ROOM || code == MAPIPC_NOT_TEXT)
        printf(" %zu", size);
    if (!code || code == MAPIPC_NOT_TEXT)
        printf(" %s", value);
    printf("\n");
    fflush(stdout);
    return code ? 1 : 0;
}

static int read_key(const mapipc_reader *reader, const char *key) {
    size_t size = 0;
    uint64_t revision = 0;
    int error = mapipc_reader_get_n(reader, key, strlen(key), value, ROOM, &size, &revision);
    if (!error && revision > mapipc_reader_sequence(reader))
        return show(MAPIPC_BAD_MEMORY, 0);
    return show(error, size);
}

/* Strict seccomp: read, write and exit are all that is left, anything else is the end. */
static void read_silently(const mapipc_reader *reader, const char *key) {
    size_t size = 0;
    int errors = 0;
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0);
    for (int i = 0; i < 100000; i++)
        errors += mapipc_reader_get(reader, key, value, ROOM, &size) != 0;
    syscall(SYS_exit, errors ? 1 : 0);
}

static int with_reader(const char *what, mapipc_reader *reader, char **keys) {
    int status = 0;
    char line[16];
    if (!strcmp(what, "silent"))
        read_silently(reader, *keys);
    if (!strcmp(what, "hold"))
        while (fgets(line, sizeof line, stdin)) {
            int alive = mapipc_reader_alive(reader);
            printf("%s ", alive == MAPIPC_REOPEN ? "moved" : alive ? "alive" : "gone");
            read_key(reader, *keys);
        }
    else
        for (; *keys; keys++)
            status |= read_key(reader, *keys);
    mapipc_reader_close(reader);
    return status;
}

int main(int count, char **arguments) {
    const char *timeout = getenv("PROBE_TIMEOUT_MS");
    mapipc_options options = {NULL, NULL, timeout ? atoi(timeout) : 0,
                              getenv("PROBE_ORIGINAL") != NULL};
    mapipc_reader *reader = NULL;
    size_t size = 0;
    int error = MAPIPC_BAD_KEY;
    if (count < 3)
        return 64;
    const char *what = arguments[1], *key = arguments[2];
    if (!strcmp(what, "get")) {
        size_t room = count > 3 ? (size_t) atoi(arguments[3]) : ROOM;
        error = mapipc_get(&options, key, value, room, &size);
    } else if (!strcmp(what, "set") && count > 3) {
        error = mapipc_set(&options, key, arguments[3]);
    } else if (!strcmp(what, "delete")) {
        error = mapipc_delete(&options, key);
    } else if (!strcmp(what, "open")) {
        error = mapipc_reader_open(&options, &reader);
        if (!error)
            return with_reader(what, reader, arguments + 2);
    } else if (count > 3) {
        error = mapipc_reader_open_fd(atoi(arguments[2]), &reader);
        if (!error)
            return with_reader(what, reader, arguments + 3);
    }
    return show(error, size);
}
