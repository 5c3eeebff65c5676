/* Sets a value, gets it, clears it.
 *
 *     cc values.c $(pkg-config --cflags mapipc) -o values && ./values greeting hello */
#include <mapipc.h>

static int failed(const char *what, int error) {
    fprintf(stderr, "%s: %s\n", what, mapipc_strerror(error));
    return 1;
}

int main(int count, char **arguments) {
    const char *key = count > 1 ? arguments[1] : "greeting";
    char value[4096];
    int error = mapipc_set(NULL, key, count > 2 ? arguments[2] : "hello");
    if (error)
        return failed("set", error);
    error = mapipc_get(NULL, key, value, sizeof value, NULL);
    if (error)
        return failed("get", error);
    printf("%s is %s\n", key, value);
    error = mapipc_delete(NULL, key);
    return error ? failed("delete", error) : 0;
}
