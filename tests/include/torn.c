/* A reader that is slowed down inside its copy, while a writer changes the value as fast as it can.
 *
 *     torn FD KEY READS    -> whole torn again naive
 *
 * Beside each read by the rules stands one that trusts what it finds: `naive` counts how often it
 * was fooled, which shows that the rules had something to do. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
static void pause_sometimes(void);
#define MAPIPC_PAUSE() pause_sometimes()
#include "mapipc.h"
#include <sched.h>

static unsigned turns;

/* Once in a while the processor is away for long, in the middle of things. */
static void pause_sometimes(void) {
    struct timespec long_enough = {0, 200000};
    if (++turns % 1021 == 0)
        nanosleep(&long_enough, NULL);
    else if (turns % 97 == 0)
        sched_yield();
}

static int is_whole(const char *value, size_t size) {
    for (size_t at = 8; at + 8 <= size; at += 8)
        if (memcmp(value, value + at, 8))
            return 0;
    return size >= 16 && size % 8 == 0;
}

static int is_fooled(const mapipc_reader *r, const char *key, char *value) {
    uint32_t tag = mapipc_i_crc(r->crc, 0, (const unsigned char *) key, strlen(key));
    for (uint64_t at = tag >> r->shift;; at = (at + 1) & r->mask) {
        uint64_t word = mapipc_i_load(r->table + at);
        if (!word)
            return 0;
        if (word >> 32 != tag || (uint32_t) word < 2 || (uint32_t) word >= r->blocks)
            continue;
        const unsigned char *record = r->heap + (uint32_t) word * MAPIPC_BLOCK;
        uint32_t size = (uint32_t) mapipc_i_load(record + 16);
        if (size > r->max_value)
            return 1;
        mapipc_i_copy((unsigned char *) value, record + MAPIPC_RECORD, size);
        return !is_whole(value, size);
    }
}

int main(int count, char **arguments) {
    mapipc_reader *reader;
    char value[5000];
    unsigned long whole = 0, torn = 0, again = 0, naive = 0;
    if (count != 4 || mapipc_reader_open_fd(atoi(arguments[1]), &reader))
        return 64;
    for (unsigned long i = strtoul(arguments[3], NULL, 10); i; i--) {
        size_t size = 0;
        int error = mapipc_reader_get(reader, arguments[2], value, sizeof value, &size);
        whole += !error && is_whole(value, size);
        torn += !error && !is_whole(value, size);
        again += error != 0;
        naive += (unsigned long) is_fooled(reader, arguments[2], value);
    }
    printf("%lu %lu %lu %lu\n", whole, torn, again, naive);
    mapipc_reader_close(reader);
    return 0;
}
