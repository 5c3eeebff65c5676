/* Shows a value each time it has changed: it looks a thousand times a second, and costs nobody
 * anything, because looking is no system call.
 *
 *     cc reader.c $(pkg-config --cflags mapipc) -o reader && ./reader greeting */
#include <mapipc.h>

/* The value wherever it is; opens the reader, and opens it again where the memory has moved. */
static int look(mapipc_reader **reader, const char *key, char *value, size_t room) {
    int error = 0;
    if (!*reader)
        error = mapipc_reader_open(NULL, reader);
    if (!error)
        error = mapipc_reader_get(*reader, key, value, room, NULL);
    if (error == MAPIPC_REOPEN || error == MAPIPC_CLOSED) {
        mapipc_reader_close(*reader);
        *reader = NULL;
        return MAPIPC_AGAIN;
    }
    if (error == MAPIPC_ELSEWHERE) /* a value that is too long for the memory */
        error = mapipc_get(NULL, key, value, room, NULL);
    return error;
}

int main(int count, char **arguments) {
    const char *key = count > 1 ? arguments[1] : "greeting";
    long looks = count > 2 ? atol(arguments[2]) : 60 * 1000;
    char value[65536], shown[65536] = "";
    mapipc_reader *reader = NULL;
    for (; looks; looks--) {
        int error = look(&reader, key, value, sizeof value);
        if (error && error != MAPIPC_NOT_SET && error != MAPIPC_AGAIN) {
            fprintf(stderr, "%s\n", mapipc_strerror(error));
            break;
        }
        if (!error && strcmp(value, shown)) {
            printf("%s\n", value);
            fflush(stdout);
            memcpy(shown, value, sizeof shown);
        }
        poll(NULL, 0, 1);
    }
    mapipc_reader_close(reader);
    return looks ? 1 : 0;
}
