/* Reads in spoilt memories. Built with AddressSanitizer, it shows that nothing outside is touched.
 *
 *     spoilt MAP ROUNDS SEED KEY...    -> refused values others
 *
 * MAP is a copy of a real memory; each round spoils it in another way. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "mapipc.h"

static uint64_t state;

static uint64_t any(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

/* Numbers that checks forget. */
static uint64_t odd_number(uint64_t size) {
    const uint64_t odd[] = {0, 1, 2, 7, 63, 64, 0xff, 0xffff, 0x7fffffff, 0xffffffff,
                            0x100000000, size, size - 1, size + 1, size / 2, size / 64,
                            ~(uint64_t) 0, (uint64_t) 1 << 63};
    return any() & 1 ? odd[any() % (sizeof odd / sizeof *odd)] : any();
}

static void put(unsigned char *memory, size_t at, uint64_t number, size_t bytes) {
    memcpy(memory + at, &number, bytes);
}

static void spoil(unsigned char *memory, size_t size) {
    uint64_t table, slots, heap;
    memcpy(&table, memory + 48, 8);
    memcpy(&slots, memory + 56, 8);
    memcpy(&heap, memory + 64, 8);
    switch (any() % 6) {
    case 0: /* a field of the header */
        put(memory, any() % 64 * 4, odd_number(size), any() & 1 ? 8 : 4);
        break;
    case 1: /* every key at a block that may not be there */
        for (uint64_t i = 0; i < slots; i++) {
            uint64_t word;
            memcpy(&word, memory + table + i * 8, 8);
            if (word)
                put(memory, table + i * 8, (word & ~(uint64_t) 0xffffffff) | (uint32_t) odd_number(size / 64), 8);
        }
        break;
    case 2: /* no free slot at all */
        for (uint64_t i = 0; i < slots; i++)
            put(memory, table + i * 8, any() | 1, 8);
        break;
    case 3: /* sizes in the records */
        for (uint64_t at = heap; at + 64 <= size; at += 64)
            put(memory, at + 16, odd_number(size), 4 << any() % 2);
        break;
    case 4: /* bits here and there */
        for (int i = 0; i < 1000; i++)
            memory[any() % size] ^= (unsigned char) (1u << any() % 8);
        break;
    default: /* noise */
        for (size_t at = any() % 256; at + 8 <= size; at += 8)
            put(memory, at, any(), 8);
    }
}

static int sealed(const unsigned char *memory, size_t size) {
    int fd = memfd_create("spoilt", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    for (size_t done = 0; done < size;)
        done += (size_t) write(fd, memory + done, size - done);
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    return fd;
}

int main(int count, char **arguments) {
    unsigned long refused = 0, values = 0, others = 0;
    if (count < 5)
        return 64;
    int file = open(arguments[1], O_RDONLY);
    struct stat facts;
    fstat(file, &facts);
    size_t size = (size_t) facts.st_size;
    unsigned char *original = (unsigned char *) malloc(size);
    unsigned char *memory = (unsigned char *) malloc(size);
    if (read(file, original, size) != (ssize_t) size)
        return 64;
    state = strtoul(arguments[3], NULL, 10) * 2654435761u + 1;
    for (long round = atol(arguments[2]); round; round--) {
        mapipc_reader *reader;
        memcpy(memory, original, size);
        spoil(memory, size);
        int fd = sealed(memory, any() % 8 ? size : size / 2);
        if (mapipc_reader_open_fd(fd, &reader)) {
            refused++;
            continue;
        }
        for (char **key = arguments + 4; *key; key++) {
            size_t room = any() % 8 ? 4097 : any() % 32, length = 0;
            char *value = (char *) malloc(room + !room); /* exactly so much: ASan sees the end */
            int error = mapipc_reader_get(reader, *key, value, room, &length);
            values += !error;
            others += error != 0;
            if (!error && (length >= room || value[length]))
                abort();
            free(value);
        }
        mapipc_reader_close(reader);
    }
    printf("%lu %lu %lu\n", refused, values, others);
    free(original);
    free(memory);
    close(file);
    return 0;
}
