/* globstash: sets and gets values that every process of this machine shares.
 *
 *     cc -O2 -I../include -o globstash globstash.c
 *
 * Text is printed as it is; whatever a C string can't be as its JSON, without blanks.
 * Exit status: 0 done, and also for a key that is not set; 1 refused, or no daemon; 2 usage. */
#include "mapipc.h"

/* A reply at its longest, so that no value has to be asked for twice. Never touched, it is free. */
static char value[MAPIPC_MAX_REPLY];

static int fail(int error) {
    fprintf(stderr, "globstash: %s\n", mapipc_strerror(error));
    return 1;
}

static int get(const char *key) {
    size_t size = 0;
    int error = mapipc_get(NULL, key, value, sizeof value, &size);
    if (error == MAPIPC_NOT_SET)
        return 0;
    if (error && error != MAPIPC_NOT_TEXT)
        return fail(error);
    if (fwrite(value, 1, size, stdout) == size && fflush(stdout) == 0)
        return 0;
    perror("globstash");
    return 1;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "set") == 0 && *argv[2]) {
        int error = mapipc_set(NULL, argv[2], *argv[3] ? argv[3] : NULL);
        return error ? fail(error) : 0;
    }
    if (argc == 3 && strcmp(argv[1], "get") == 0 && *argv[2])
        return get(argv[2]);
    int asked = argc == 2 && (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0);
    fputs("usage: globstash set KEY VALUE    an empty VALUE clears KEY\n"
          "       globstash get KEY          nothing when KEY is not set\n", asked ? stdout : stderr);
    return asked ? 0 : 2;
}
