/* A key gets its slot while a reader looks for it, behind the reader's back.
 *
 *     slotted FD KEY AT WORD
 *
 * In the middle of the search WORD is stored at AT of the memory, and then no key is outside. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
static void give_slot(void);
#define MAPIPC_PAUSE() give_slot()
#include "mapipc.h"

static unsigned char *memory;
static size_t at;
static uint64_t word;
static int searching;

static void give_slot(void) {
    if (!searching)
        return;
    __atomic_store_n((uint64_t *) (void *) (memory + at), word, __ATOMIC_RELEASE);
    __atomic_store_n((uint64_t *) (void *) (memory + MAPIPC_AT_OUTSIDE), 0, __ATOMIC_RELEASE);
}

int main(int count, char **arguments) {
    mapipc_reader *reader;
    char value[8];
    if (count != 5)
        return 64;
    int fd = atoi(arguments[1]);
    void *mapped = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED || mapipc_reader_open_fd(fd, &reader))
        return 64;
    memory = (unsigned char *) mapped;
    at = strtoul(arguments[3], NULL, 10);
    word = strtoull(arguments[4], NULL, 10);
    searching = 1;
    int error = mapipc_reader_get(reader, arguments[2], value, sizeof value, NULL);
    printf("%s\n", error == MAPIPC_ELSEWHERE ? "ELSEWHERE" : mapipc_strerror(error));
    mapipc_reader_close(reader);
    return 0;
}
