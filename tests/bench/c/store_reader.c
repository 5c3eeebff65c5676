/* Reads values of 16 or more bytes from shared memory as fast as it can, and looks at each.
 *
 *     store_reader FD KEYS THREADS READS    -> reads seconds torn again missing
 *
 * Keys are bench-0 .. bench-N; every eight bytes of a value are the same, or it was torn. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <inttypes.h>
#include <pthread.h>
#include "mapipc.h"

static mapipc_reader *reader;
static uint64_t keys, reads_each;

typedef struct work {
    pthread_t thread;
    uint64_t seed, reads, torn, again, missing;
} work;

static int is_whole(const char *value, size_t size) {
    for (size_t at = 8; at + 8 <= size; at += 8)
        if (memcmp(value, value + at, 8))
            return 0;
    return size >= 16 && size % 8 == 0;
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t) now.tv_sec * 1000000000ull + (uint64_t) now.tv_nsec;
}

static void *read_all(void *argument) {
    work *w = argument;
    char (*names)[32] = calloc(keys, sizeof *names), value[4097];
    for (uint64_t i = 0; i < keys; i++)
        snprintf(names[i], sizeof names[i], "bench-%" PRIu64, i);
    for (uint64_t i = 0; i < reads_each; i++) {
        size_t size = 0;
        w->seed = w->seed * 6364136223846793005ull + 1442695040888963407ull;
        int error = mapipc_reader_get(reader, names[(w->seed >> 33) % keys], value, sizeof value,
                                      &size);
        w->reads++;
        w->again += error == MAPIPC_AGAIN;
        w->missing += error && error != MAPIPC_AGAIN;
        w->torn += !error && !is_whole(value, size);
    }
    free(names);
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 5)
        return 64;
    int error = mapipc_reader_open_fd(atoi(arguments[1]), &reader);
    if (error) {
        fprintf(stderr, "%s\n", mapipc_strerror(error));
        return 1;
    }
    keys = strtoull(arguments[2], NULL, 10);
    unsigned threads = (unsigned) atoi(arguments[3]);
    reads_each = strtoull(arguments[4], NULL, 10) / threads;
    work *all = calloc(threads, sizeof *all), sum = {0};
    uint64_t start = now_ns();
    for (unsigned i = 0; i < threads; i++) {
        all[i].seed = i + 1;
        pthread_create(&all[i].thread, NULL, read_all, &all[i]);
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(all[i].thread, NULL);
        sum.reads += all[i].reads;
        sum.torn += all[i].torn;
        sum.again += all[i].again;
        sum.missing += all[i].missing;
    }
    double seconds = (double) (now_ns() - start) / 1e9;
    printf("%" PRIu64 " %.6f %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", sum.reads, seconds, sum.torn,
           sum.again, sum.missing);
    free(all);
    mapipc_reader_close(reader);
    return sum.torn ? 3 : 0;
}
