/* mapipc.h: the values that buswork shares, from C11 and C++17. Header only; it needs libc alone.
 *
 *     char value[256];
 *     int error = mapipc_get(NULL, "greeting", value, sizeof value, NULL);
 *     if (error)
 *         fprintf(stderr, "%s\n", mapipc_strerror(error));
 *
 * Two ways to the same values:
 *   mapipc_get, mapipc_set, mapipc_delete   one connection each to the daemon's sockets
 *   mapipc_reader_*                         reads in shared memory, with no system call at all
 *
 * Rules
 *   - Functions return 0 or one of MAPIPC_*, which are values of errno where one fits.
 *   - Nothing here prints, ends the process, or keeps anything between calls. Threads may use the
 *     same reader at the same time; only mapipc_reader_close must come after everybody's last use.
 *   - Values are C strings: a buffer gets a NUL after the value, which the length does not count.
 *     What no C string can be (a number, a list, text with NUL or half of a character) comes as
 *     its JSON text without blanks, with MAPIPC_NOT_TEXT, by both ways.
 *
 * The layout of the memory, and why a reader can't be fooled, is in docs/shared-memory.md.
 */
#ifndef MAPIPC_H
#define MAPIPC_H

/* For a clock that nobody sets; without it there is another. Only where the compiler was told to
 * hide what is not ISO C: elsewhere it would hide from you what your system shows. */
#if defined __STRICT_ANSI__ && !defined __cplusplus && !defined _POSIX_C_SOURCE && \
    !defined _GNU_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MAPIPC_SET_PATH "/run/buswork/mapipc_set"
#define MAPIPC_GET_PATH "/run/buswork/mapipc_get"
#define MAPIPC_TIMEOUT_MS 30000 /* the daemon may ask polkit, which has 20 s */

/* What a reply may have at most: the longest value of the daemon, each byte written as \u00XX. */
#define MAPIPC_MAX_REPLY (8u * 1024 * 1024)

/* What a function returns when it is not 0; a system call may add any other value of errno. */
#define MAPIPC_NOT_SET ENOENT        /* no value for this key */
#define MAPIPC_NOT_RUNNING ECONNREFUSED /* nobody is at the socket, or there is none */
#define MAPIPC_REFUSED EACCES        /* the daemon does not do this for you */
#define MAPIPC_TIMED_OUT ETIMEDOUT   /* no answer in time */
#define MAPIPC_NO_ROOM ENOBUFS       /* the buffer is too short; the length says what is needed */
#define MAPIPC_BAD_KEY EINVAL        /* empty, too long, or no pointer at all */
#define MAPIPC_BAD_REPLY EPROTO      /* the answer is not of this protocol */
#define MAPIPC_NOT_TEXT EILSEQ       /* JSON that is no string: the buffer has its text */
#define MAPIPC_AGAIN EAGAIN          /* a writer was faster than this reader, many times over */
#define MAPIPC_ELSEWHERE EFBIG       /* set, but not in the memory: use mapipc_get */
#define MAPIPC_REOPEN ESTALE         /* the memory has moved: open a new reader */
#define MAPIPC_CLOSED ESHUTDOWN      /* the daemon has ended, and the values with it */
#define MAPIPC_NO_MEMORY ENOTSUP     /* this daemon hands out no shared memory */
#define MAPIPC_BAD_MEMORY EBADF      /* the descriptor is no sealed memory of a store */

/* Where the daemon is. NULL, or members that are 0, mean the usual. */
typedef struct mapipc_options {
    const char *set_path; /* else $MAPIPC_SET, else MAPIPC_SET_PATH */
    const char *get_path; /* else $MAPIPC_GET, else MAPIPC_GET_PATH */
    int timeout_ms;       /* of the whole exchange; else MAPIPC_TIMEOUT_MS */
    int original;         /* the names of the original mapipcd, in $TMPDIR or /tmp; whoever came
                           * first may have them, so nothing looks there unless you say so */
} mapipc_options;

typedef struct mapipc_reader mapipc_reader;

/* Text for a code; buffers are nobody's but the caller's, so that threads don't share one. */
static inline const char *mapipc_strerror(int code) {
    switch (code) {
    case 0: return "no error";
    case MAPIPC_NOT_SET: return "no value for this key";
    case MAPIPC_NOT_RUNNING: return "the daemon does not run";
    case MAPIPC_REFUSED: return "not allowed";
    case MAPIPC_TIMED_OUT: return "the daemon did not answer in time";
    case MAPIPC_NO_ROOM: return "the value is longer than the buffer";
    case MAPIPC_BAD_KEY: return "not a key: empty, too long or missing";
    case MAPIPC_BAD_REPLY: return "the answer does not follow the protocol";
    case MAPIPC_NOT_TEXT: return "the value is JSON, but not text";
    case MAPIPC_AGAIN: return "the value kept changing while it was read";
    case MAPIPC_ELSEWHERE: return "the value is not in the shared memory: fetch it";
    case MAPIPC_REOPEN: return "the shared memory has moved: open a new reader";
    case MAPIPC_CLOSED: return "the daemon has ended";
    case MAPIPC_NO_MEMORY: return "this daemon has no shared memory to offer";
    case MAPIPC_BAD_MEMORY: return "the descriptor is not a sealed memory of a store";
    case ENOMEM: return "out of memory";
    case EPIPE: case ECONNRESET: return "the daemon closed the connection";
    case EMFILE: case ENFILE: return "too many open files";
    case ENAMETOOLONG: return "the path of the socket is too long";
    default: return "a system call failed";
    }
}

/* ---- shared memory -------------------------------------------------------------------------- */

/* The layout, version 1. */
#define MAPIPC_MAGIC "mapipcSM"
#define MAPIPC_VERSION 1u
#define MAPIPC_MOST_PROBES 128u /* what a read may cost; a memory that wants more is refused */
#define MAPIPC_LONGEST_VALUE 4096u
#define MAPIPC_LONGEST_KEY 1024u
#define MAPIPC_BLOCK 64u
#define MAPIPC_RECORD 24u
#define MAPIPC_IS_JSON 1u
#define MAPIPC_LIVE 1u
#define MAPIPC_RETIRED 2u
#define MAPIPC_AT_STATE 128u
#define MAPIPC_AT_OUTSIDE 136u
#define MAPIPC_AT_SEQUENCE 192u
#define MAPIPC_BLOCK_ELSEWHERE 1u

/* A try takes a fraction of a microsecond, and the writer some microseconds for a change: who
 * fails so often is stopped and started all the time, or looks at a spoilt memory. */
#define MAPIPC_TRIES 64

#ifndef MAPIPC_PAUSE /* a test slows the reader down here, in the middle of its copy */
#define MAPIPC_PAUSE()
#endif

struct mapipc_reader {
    const unsigned char *memory;
    uint64_t size;
    const uint64_t *table;
    uint64_t mask;
    const unsigned char *heap;
    uint64_t blocks;
    unsigned shift;
    unsigned max_probes;
    uint32_t max_value;
    uint32_t max_key;
    uint64_t generation;
    unsigned char epoch[16];
    int fd;
    uint32_t crc[8][256];
};

static inline void mapipc_i_crc_table(uint32_t crc[8][256]) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t sum = i;
        for (int bit = 0; bit < 8; bit++)
            sum = (sum >> 1) ^ (0xedb88320u & (0u - (sum & 1u)));
        crc[0][i] = sum;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            crc[k][i] = (crc[k - 1][i] >> 8) ^ crc[0][crc[k - 1][i] & 255u];
}

/* The CRC-32 of zlib, which takes and gives the same sum. */
static inline uint32_t mapipc_i_crc(const uint32_t crc[8][256], uint32_t start,
                                    const unsigned char *bytes, size_t size) {
    uint32_t sum = ~start;
#if defined __BYTE_ORDER__ && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    for (; size >= 8; bytes += 8, size -= 8) {
        uint32_t low, high;
        memcpy(&low, bytes, 4);
        memcpy(&high, bytes + 4, 4);
        low ^= sum;
        sum = crc[7][low & 255u] ^ crc[6][(low >> 8) & 255u] ^ crc[5][(low >> 16) & 255u] ^
              crc[4][low >> 24] ^ crc[3][high & 255u] ^ crc[2][(high >> 8) & 255u] ^
              crc[1][(high >> 16) & 255u] ^ crc[0][high >> 24];
    }
#endif
    for (; size; size--)
        sum = crc[0][(sum ^ *bytes++) & 255u] ^ (sum >> 8);
    return ~sum;
}

/* The Adler-32 of zlib. */
static inline uint32_t mapipc_i_adler(uint32_t start, const unsigned char *bytes, size_t size) {
    uint32_t low = start & 0xffffu, high = start >> 16;
    while (size) {
        size_t part = size < 5552 ? size : 5552; /* the sums can't overflow before */
        for (size_t i = 0; i < part; i++) {
            low += bytes[i];
            high += low;
        }
        low %= 65521u;
        high %= 65521u;
        bytes += part;
        size -= part;
    }
    return low | high << 16;
}

/* The writer stores while we load, so each load says that it may meet a store. */
static inline uint64_t mapipc_i_load(const void *word) {
    return __atomic_load_n((const uint64_t *) word, __ATOMIC_RELAXED);
}

static inline uint64_t mapipc_i_load_first(const void *word) {
    return __atomic_load_n((const uint64_t *) word, __ATOMIC_ACQUIRE);
}

/* What was loaded before is older than what will be loaded. */
static inline void mapipc_i_fence(void) {
#if defined __SANITIZE_THREAD__
    /* ThreadSanitizer knows no fences; the acquiring loads tell it enough. */
#elif defined __has_feature
#if !__has_feature(thread_sanitizer)
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
#else
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
#endif
}

/* source is aligned to 8 bytes; its last word is loaded whole, which the heap's end allows. */
static inline void mapipc_i_copy(unsigned char *target, const unsigned char *source, size_t size) {
    size_t at = 0;
    for (; at + 8 <= size; at += 8) {
        uint64_t word = mapipc_i_load(source + at);
        memcpy(target + at, &word, 8);
        MAPIPC_PAUSE();
    }
    if (at < size) {
        uint64_t word = mapipc_i_load(source + at);
        memcpy(target + at, &word, size - at);
    }
}

static inline int mapipc_i_same(const unsigned char *theirs, const char *key, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (__atomic_load_n(theirs + i, __ATOMIC_RELAXED) != (unsigned char) key[i])
            return 0;
    return 1;
}

/* Whether a record with this tag can have this key; else it is one that is being replaced. */
static inline int mapipc_i_has_tag(const mapipc_reader *r, const unsigned char *theirs,
                                   size_t size, uint32_t tag) {
    uint32_t sum = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned char c = __atomic_load_n(theirs + i, __ATOMIC_RELAXED);
        sum = mapipc_i_crc(r->crc, sum, &c, 1);
    }
    return sum == tag;
}

enum { MAPIPC_I_WHOLE, MAPIPC_I_JSON, MAPIPC_I_OTHER, MAPIPC_I_TORN, MAPIPC_I_SHORT };

/* Copies the record at this block if it is key's and whole. */
static inline int mapipc_i_record(const mapipc_reader *r, uint64_t block, const char *key,
                                  size_t key_size, uint32_t tag, void *value, size_t room,
                                  size_t *size, uint64_t *revision) {
    if (block >= r->blocks)
        return MAPIPC_I_TORN;
    const unsigned char *record = r->heap + block * MAPIPC_BLOCK;
    unsigned char head[16];
    uint64_t check = mapipc_i_load_first(record);
    mapipc_i_copy(head, record + 8, 16);
    uint32_t value_size;
    uint16_t their_size;
    memcpy(&value_size, head + 8, 4);
    memcpy(&their_size, head + 12, 2);
    uint64_t end = block * MAPIPC_BLOCK + MAPIPC_RECORD + value_size + their_size;
    if (value_size > r->max_value || end > r->blocks * MAPIPC_BLOCK)
        return MAPIPC_I_TORN;
    const unsigned char *bytes = record + MAPIPC_RECORD;
    if (their_size != key_size || !mapipc_i_same(bytes + value_size, key, key_size))
        return mapipc_i_has_tag(r, bytes + value_size, their_size, tag) ? MAPIPC_I_OTHER
                                                                        : MAPIPC_I_TORN;
    *size = value_size;
    if (value_size >= room)
        return MAPIPC_I_SHORT;
    mapipc_i_copy((unsigned char *) value, bytes, value_size);
    mapipc_i_fence();
    uint32_t crc = mapipc_i_crc(r->crc, mapipc_i_crc(r->crc, tag, head, 16),
                                (const unsigned char *) value, value_size);
    uint32_t adler = mapipc_i_adler(mapipc_i_adler(1, head, 16), (const unsigned char *) value,
                                    value_size);
    if ((uint64_t) adler << 32 != (check & 0xffffffff00000000u) || crc != (uint32_t) check ||
        mapipc_i_load_first(record) != check)
        return MAPIPC_I_TORN;
    ((char *) value)[value_size] = 0;
    memcpy(revision, head, 8);
    uint16_t flags;
    memcpy(&flags, head + 14, 2);
    return flags & MAPIPC_IS_JSON ? MAPIPC_I_JSON : MAPIPC_I_WHOLE;
}

/* One search; MAPIPC_AGAIN when a change came between. */
static inline int mapipc_i_search(const mapipc_reader *r, const char *key, size_t key_size,
                                  uint32_t tag, void *value, size_t room, size_t *size,
                                  uint64_t *revision) {
    uint64_t at = tag >> r->shift;
    for (unsigned probe = 0; probe < r->max_probes; probe++, at = (at + 1) & r->mask) {
        uint64_t word = mapipc_i_load_first(r->table + at);
        if (!word)
            return MAPIPC_NOT_SET;
        if (word >> 32 != tag || !(uint32_t) word)
            continue;
        if ((uint32_t) word == MAPIPC_BLOCK_ELSEWHERE)
            return MAPIPC_ELSEWHERE;
        int what = mapipc_i_record(r, (uint32_t) word, key, key_size, tag, value, room, size,
                                   revision);
        mapipc_i_fence();
        if (what == MAPIPC_I_TORN || mapipc_i_load(r->table + at) != word)
            return MAPIPC_AGAIN;
        if (what != MAPIPC_I_OTHER)
            return what == MAPIPC_I_WHOLE  ? 0
                   : what == MAPIPC_I_JSON ? MAPIPC_NOT_TEXT
                                           : MAPIPC_NO_ROOM;
    }
    return MAPIPC_NOT_SET;
}

/* Whether a key begins with ~UID/, so that it is never in the memory. */
static inline int mapipc_i_is_private(const char *key, size_t key_size) {
    size_t at = 1;
    while (at < key_size && key[at] >= '0' && key[at] <= '9')
        at++;
    return key[0] == '~' && at > 1 && at < key_size && key[at] == '/' &&
           (key[1] != '0' || at == 2);
}

/* Whether the memory is the present one: 0, MAPIPC_REOPEN or MAPIPC_CLOSED. */
static inline int mapipc_reader_state(const mapipc_reader *r) {
    uint64_t state = mapipc_i_load_first(r->memory + MAPIPC_AT_STATE);
    return state == MAPIPC_LIVE ? 0 : state == MAPIPC_RETIRED ? MAPIPC_REOPEN : MAPIPC_CLOSED;
}

/* Copies the value of a key, and a NUL, into the buffer. size and revision may be NULL; the
 * revision is that of the key's last change. What the buffer holds after an error means nothing,
 * unless the error is MAPIPC_NOT_TEXT. Private keys (~UID/) are not in the memory: they are
 * MAPIPC_ELSEWHERE, set or not. Makes no system call. */
static inline int mapipc_reader_get_n(const mapipc_reader *r, const char *key, size_t key_size,
                                      void *value, size_t room, size_t *size,
                                      uint64_t *revision) {
    size_t found = 0;
    uint64_t found_revision = 0;
    if (!r || !key || !key_size || key_size > r->max_key)
        return MAPIPC_BAD_KEY;
    if (!value)
        room = 0;
    uint32_t tag = mapipc_i_crc(r->crc, 0, (const unsigned char *) key, key_size);
    int error = MAPIPC_AGAIN;
    uint64_t outside = 0;
    for (int i = 0; i < MAPIPC_TRIES && error == MAPIPC_AGAIN; i++) {
        error = mapipc_reader_state(r);
        if (error)
            return error;
        /* Before the search: it is lowered when a key has got a slot, which we may have passed. */
        outside = mapipc_i_load_first(r->memory + MAPIPC_AT_OUTSIDE);
        error = mapipc_i_search(r, key, key_size, tag, value, room, &found, &found_revision);
    }
    if (error == MAPIPC_NOT_SET && (outside || mapipc_i_is_private(key, key_size)))
        error = MAPIPC_ELSEWHERE; /* some key found no slot, this may be it; or it never has one */
    if (size && (!error || error == MAPIPC_NO_ROOM || error == MAPIPC_NOT_TEXT))
        *size = found;
    if (revision && (!error || error == MAPIPC_NOT_TEXT))
        *revision = found_revision;
    return error;
}

static inline int mapipc_reader_get(const mapipc_reader *r, const char *key, void *value,
                                    size_t room, size_t *size) {
    return mapipc_reader_get_n(r, key, key ? strlen(key) : 0, value, room, size, NULL);
}

/* The revision of the last change that the memory has. No system call. */
static inline uint64_t mapipc_reader_sequence(const mapipc_reader *r) {
    return mapipc_i_load_first(r->memory + MAPIPC_AT_SEQUENCE);
}

/* Whether the daemon still runs: its lock on the memory goes with it, even when it is killed.
 * 1: it does; 0: it does not; MAPIPC_REOPEN: the memory has moved, and only the new one can tell.
 * One system call; the memory itself can't tell, for its last state is a good one. */
static inline int mapipc_reader_alive(const mapipc_reader *r) {
    enum { OFD_GETLK = 36 }; /* F_OFD_GETLK, which strict headers hide */
    struct flock lock;
    memset(&lock, 0, sizeof lock);
    lock.l_type = F_RDLCK;
    lock.l_whence = SEEK_SET;
    int held = fcntl(r->fd, OFD_GETLK, &lock) == 0 && lock.l_type == F_WRLCK;
    int state = mapipc_reader_state(r); /* after the lock, which is let go after this is said */
    return state == MAPIPC_REOPEN ? state : held && !state;
}

static inline uint32_t mapipc_i_u32(const unsigned char *header, size_t at) {
    uint32_t number;
    memcpy(&number, header + at, 4);
    return number;
}

static inline uint64_t mapipc_i_u64(const unsigned char *header, size_t at) {
    uint64_t number;
    memcpy(&number, header + at, 8);
    return number;
}

/* Takes the layout from a copy of the header, so that later changes of it can't move us. */
static inline int mapipc_i_layout(mapipc_reader *r, const unsigned char *header) {
    uint64_t header_size = mapipc_i_u32(header, 12), table = mapipc_i_u64(header, 48);
    uint64_t slots = mapipc_i_u64(header, 56), heap = mapipc_i_u64(header, 64);
    uint64_t blocks = mapipc_i_u64(header, 72), size = r->size;
    if (memcmp(header, MAPIPC_MAGIC, 8) || mapipc_i_u32(header, 8) != MAPIPC_VERSION)
        return MAPIPC_BAD_MEMORY;
    if (mapipc_i_u64(header, 40) != size || header_size < MAPIPC_AT_SEQUENCE + 64 ||
        mapipc_i_u32(header, 80) != MAPIPC_BLOCK)
        return MAPIPC_BAD_MEMORY;
    if (slots < 2 || slots > size / 8 || (slots & (slots - 1)) || table % 8 ||
        table < header_size || table > size - slots * 8)
        return MAPIPC_BAD_MEMORY;
    if (blocks > size / MAPIPC_BLOCK || heap % 8 || heap < table + slots * 8 ||
        heap > size - blocks * MAPIPC_BLOCK)
        return MAPIPC_BAD_MEMORY;
    r->table = (const uint64_t *) (const void *) (r->memory + table);
    r->mask = slots - 1;
    for (r->shift = 32; slots > 1; slots /= 2)
        r->shift--;
    r->heap = r->memory + heap;
    r->blocks = blocks;
    r->max_probes = mapipc_i_u32(header, 84);
    r->max_value = mapipc_i_u32(header, 88);
    r->max_key = mapipc_i_u32(header, 92);
    r->generation = mapipc_i_u64(header, 32);
    memcpy(r->epoch, header + 16, 16);
    if (!r->max_probes || r->max_probes > r->mask + 1 || r->max_probes > MAPIPC_MOST_PROBES ||
        !r->max_key || r->max_key > MAPIPC_LONGEST_KEY || r->max_value > MAPIPC_LONGEST_VALUE)
        return MAPIPC_BAD_MEMORY;
    return 0;
}

/* Maps the memory; MAPIPC_BAD_MEMORY unless nobody can make it shorter under our hands. */
static inline int mapipc_i_map(mapipc_reader *r) {
    enum { GET_SEALS = 1034, SEAL_SHRINK = 2 }; /* F_GET_SEALS, F_SEAL_SHRINK */
    struct stat facts;
    int seals = fcntl(r->fd, GET_SEALS);
    if (seals < 0 || !(seals & SEAL_SHRINK) || fstat(r->fd, &facts))
        return MAPIPC_BAD_MEMORY;
    if (facts.st_size < 4096 || (uint64_t) facts.st_size > (uint64_t) 1 << 32 ||
        (uint64_t) facts.st_size > SIZE_MAX / 2)
        return MAPIPC_BAD_MEMORY;
    r->size = (uint64_t) facts.st_size;
    void *memory = mmap(NULL, (size_t) r->size, PROT_READ, MAP_SHARED, r->fd, 0);
    if (memory == MAP_FAILED)
        return errno;
    r->memory = (const unsigned char *) memory;
    unsigned char header[128];
    mapipc_i_copy(header, r->memory, sizeof header);
    int error = mapipc_i_layout(r, header);
    if (error)
        munmap(memory, (size_t) r->size);
    return error;
}

/* A reader on a descriptor that OpenReader of D-Bus or anybody else gave. The reader has the
 * descriptor from now on, also when this fails. */
static inline int mapipc_reader_open_fd(int fd, mapipc_reader **reader) {
    *reader = NULL;
    mapipc_reader *r = (mapipc_reader *) calloc(1, sizeof *r);
    int error = r ? 0 : ENOMEM;
    if (!error) {
        r->fd = fd;
        mapipc_i_crc_table(r->crc);
        error = mapipc_i_map(r);
    }
    if (error) {
        free(r);
        if (fd >= 0)
            close(fd);
        return error;
    }
    *reader = r;
    return 0;
}

static inline void mapipc_reader_close(mapipc_reader *r) {
    if (!r)
        return;
    munmap((void *) (uintptr_t) r->memory, (size_t) r->size);
    close(r->fd);
    free(r);
}

/* ---- sockets -------------------------------------------------------------------------------- */

/* The request for a reader, on the socket for gets. To the original a NUL ends the key, so this
 * is an empty one, which nobody can set; it answers null, and hands out nothing. */
#define MAPIPC_READER_REQUEST "\0mapipc-reader\n"

typedef struct mapipc_i_bytes {
    char *at;
    size_t size, room;
} mapipc_i_bytes;

/* Milliseconds on a clock that nobody sets, where the headers show it. */
static inline int64_t mapipc_i_now(void) {
    struct timespec now;
#ifdef CLOCK_MONOTONIC
    clock_gettime(CLOCK_MONOTONIC, &now);
#else
    timespec_get(&now, TIME_UTC);
#endif
    return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits until the socket can do what is asked for, or the time is over. */
static inline int mapipc_i_wait(int fd, short what, int64_t until) {
    for (;;) {
        int64_t left = until - mapipc_i_now();
        struct pollfd one;
        one.fd = fd;
        one.events = what;
        one.revents = 0;
        if (left <= 0)
            return MAPIPC_TIMED_OUT;
        int ready = poll(&one, 1, left > 1000000 ? 1000000 : (int) left);
        if (ready > 0)
            return 0;
        if (ready < 0 && errno != EINTR)
            return errno;
    }
}

static inline int mapipc_i_path(const mapipc_options *o, int get, char *path, size_t room) {
    const char *chosen = o ? (get ? o->get_path : o->set_path) : NULL;
    int length;
    if (!chosen && o && o->original) {
        const char *folder = getenv("TMPDIR");
        length = snprintf(path, room, "%s/mapipc_%s", folder && *folder ? folder : "/tmp",
                          get ? "get" : "set");
    } else {
        if (!chosen)
            chosen = getenv(get ? "MAPIPC_GET" : "MAPIPC_SET");
        if (!chosen || !*chosen)
            chosen = get ? MAPIPC_GET_PATH : MAPIPC_SET_PATH;
        length = snprintf(path, room, "%s", chosen);
    }
    return length < 0 || (size_t) length >= room ? ENAMETOOLONG : 0;
}

static inline int mapipc_i_connect(const mapipc_options *o, int get, int64_t until, int *fd) {
    struct sockaddr_un address;
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    int error = mapipc_i_path(o, get, address.sun_path, sizeof address.sun_path);
    if (error)
        return error;
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*fd < 0)
        return errno;
    while (connect(*fd, (const struct sockaddr *) &address, sizeof address)) {
        error = errno;
        if (error == EINTR)
            continue;
        if (error == EAGAIN && mapipc_i_now() < until) {
            poll(NULL, 0, 1); /* the line at the socket is full, and nothing tells when it moves */
            continue;
        }
        close(*fd);
        return error == EAGAIN   ? MAPIPC_TIMED_OUT
               : error == ENOENT ? MAPIPC_NOT_RUNNING
                                 : error;
    }
    return 0;
}

/* All of the request; EPIPE or ECONNRESET when the daemon closes before. */
static inline int mapipc_i_send(int fd, const char *bytes, size_t size, int64_t until) {
    while (size) {
        ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
        if (sent >= 0) {
            bytes += sent;
            size -= (size_t) sent;
        } else if (errno == EAGAIN) {
            int error = mapipc_i_wait(fd, POLLOUT, until);
            if (error)
                return error;
        } else if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

static inline int mapipc_i_reserve(mapipc_i_bytes *bytes, size_t more) {
    if (bytes->room - bytes->size >= more)
        return 0;
    size_t room = bytes->room ? bytes->room * 2 : 4096;
    while (room - bytes->size < more)
        room *= 2;
    char *at = (char *) realloc(bytes->at, room);
    if (!at)
        return ENOMEM;
    bytes->at = at;
    bytes->room = room;
    return 0;
}

/* Keeps the first descriptor that came along and closes all others. */
static inline void mapipc_i_take(struct msghdr *message, int *descriptor) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (descriptor && *descriptor < 0)
                *descriptor = fd;
            else
                close(fd);
        }
    }
}

/* Reads until the daemon closes, however the reply was split; ECONNRESET when it had not read
 * everything before. */
static inline int mapipc_i_receive(int fd, mapipc_i_bytes *reply, int *descriptor,
                                   int64_t until) {
    for (;;) {
        union {
            struct cmsghdr aligned;
            char room[CMSG_SPACE(4 * sizeof(int))];
        } control;
        struct iovec part;
        struct msghdr message;
        int error = reply->size > MAPIPC_MAX_REPLY ? MAPIPC_BAD_REPLY
                                                   : mapipc_i_reserve(reply, 4096);
        if (error)
            return error;
        memset(&message, 0, sizeof message);
        part.iov_base = reply->at + reply->size;
        part.iov_len = reply->room - reply->size;
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
        if (got >= 0) {
            mapipc_i_take(&message, descriptor);
            if (descriptor && message.msg_flags & MSG_CTRUNC)
                return EMFILE; /* there was one, and no number for it */
            reply->size += (size_t) got;
            if (!got)
                return 0;
        } else if (errno == EAGAIN) {
            error = mapipc_i_wait(fd, POLLIN, until);
            if (error)
                return error;
        } else if (errno != EINTR) {
            return errno;
        }
    }
}

/* One connection, one request, one reply. A daemon that closes before it has read everything may
 * have answered all the same; only without an answer that is an error. The caller frees the reply
 * and closes the descriptor, also after an error. */
static inline int mapipc_i_exchange(const mapipc_options *o, int get, const char *request,
                                    size_t size, mapipc_i_bytes *reply, int *descriptor) {
    int fd = -1;
    int timeout = o && o->timeout_ms > 0 ? o->timeout_ms : MAPIPC_TIMEOUT_MS;
    int64_t until = mapipc_i_now() + timeout;
    int error = mapipc_i_connect(o, get, until, &fd);
    if (error)
        return error;
    error = mapipc_i_send(fd, request, size, until);
    int cut = error == EPIPE || error == ECONNRESET;
    if (!error || cut)
        error = mapipc_i_receive(fd, reply, descriptor, until);
    close(fd);
    if (error == ECONNRESET || (cut && !error))
        return reply->size ? 0 : ECONNRESET;
    return error;
}

/* Adds text as a JSON string. */
static inline int mapipc_i_quote(mapipc_i_bytes *out, const char *text) {
    static const char hex[] = "0123456789abcdef";
    size_t size = strlen(text);
    if (mapipc_i_reserve(out, size * 6 + 2))
        return ENOMEM;
    out->at[out->size++] = '"';
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char) text[i];
        if (c < 0x20) {
            memcpy(out->at + out->size, "\\u00", 4);
            out->at[out->size + 4] = hex[c >> 4];
            out->at[out->size + 5] = hex[c & 15];
            out->size += 6;
            continue;
        }
        if (c == '"' || c == '\\')
            out->at[out->size++] = '\\';
        out->at[out->size++] = (char) c;
    }
    out->at[out->size++] = '"';
    return 0;
}

static inline int mapipc_i_add(mapipc_i_bytes *out, const char *text) {
    size_t size = strlen(text);
    if (mapipc_i_reserve(out, size))
        return ENOMEM;
    memcpy(out->at + out->size, text, size);
    out->size += size;
    return 0;
}

/* In the form of the original program, byte for byte. */
static inline int mapipc_i_set_request(mapipc_i_bytes *out, const char *key, const char *value) {
    if (mapipc_i_add(out, "{\n    \"key\": ") || mapipc_i_quote(out, key) ||
        mapipc_i_add(out, ",\n    \"value\": "))
        return ENOMEM;
    if (value && *value ? mapipc_i_quote(out, value) : mapipc_i_add(out, "null"))
        return ENOMEM;
    return mapipc_i_add(out, "\n}\n");
}

/* A value that is NULL or empty clears the key. */
static inline int mapipc_set(const mapipc_options *o, const char *key, const char *value) {
    mapipc_i_bytes request = {NULL, 0, 0}, reply = {NULL, 0, 0};
    if (!key || !*key)
        return MAPIPC_BAD_KEY;
    int error = mapipc_i_set_request(&request, key, value);
    if (!error)
        error = mapipc_i_exchange(o, 0, request.at, request.size, &reply, NULL);
    /* The acknowledgement is the request again; a request that is refused gets none. */
    if (!error && !reply.size)
        error = MAPIPC_REFUSED;
    else if (!error &&
             (reply.size != request.size || memcmp(reply.at, request.at, request.size)))
        error = MAPIPC_BAD_REPLY;
    free(request.at);
    free(reply.at);
    return error;
}

static inline int mapipc_delete(const mapipc_options *o, const char *key) {
    return mapipc_set(o, key, NULL);
}

/* ---- the little JSON that a reply needs ------------------------------------------------------ */

typedef struct mapipc_i_text {
    const char *at, *end;
} mapipc_i_text;

static inline void mapipc_i_blanks(mapipc_i_text *t) {
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\n' || *t->at == '\r' || *t->at == '\t'))
        t->at++;
}

static inline int mapipc_i_next(mapipc_i_text *t, char c) {
    mapipc_i_blanks(t);
    if (t->at >= t->end || *t->at != c)
        return 0;
    t->at++;
    return 1;
}

/* Four hexadecimal digits; -1 when they are not. */
static inline int mapipc_i_hex(mapipc_i_text *t) {
    int number = 0;
    if (t->end - t->at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = *t->at++;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        number = number << 4 | digit;
    }
    return number;
}

/* Where decoded text goes: counted to its end, stored as far as there is room. */
typedef struct mapipc_i_sink {
    char *at;
    size_t room, size;
    int is_text;
} mapipc_i_sink;

static inline void mapipc_i_put(mapipc_i_sink *sink, unsigned c) {
    if (sink->size < sink->room)
        sink->at[sink->size] = (char) c;
    sink->size++;
}

static inline void mapipc_i_put_point(mapipc_i_sink *sink, unsigned point) {
    if (point < 0x80) {
        mapipc_i_put(sink, point);
    } else if (point < 0x800) {
        mapipc_i_put(sink, 0xc0 | point >> 6);
        mapipc_i_put(sink, 0x80 | (point & 63));
    } else if (point < 0x10000) {
        mapipc_i_put(sink, 0xe0 | point >> 12);
        mapipc_i_put(sink, 0x80 | (point >> 6 & 63));
        mapipc_i_put(sink, 0x80 | (point & 63));
    } else {
        mapipc_i_put(sink, 0xf0 | point >> 18);
        mapipc_i_put(sink, 0x80 | (point >> 12 & 63));
        mapipc_i_put(sink, 0x80 | (point >> 6 & 63));
        mapipc_i_put(sink, 0x80 | (point & 63));
    }
}

/* The character of a \uXXXX, of two where it takes two. */
static inline int mapipc_i_escape(mapipc_i_text *t, mapipc_i_sink *sink) {
    int unit = mapipc_i_hex(t);
    if (unit < 0)
        return 0;
    unsigned point = (unsigned) unit;
    if (point >= 0xd800 && point < 0xdc00 && t->end - t->at >= 6 && t->at[0] == '\\' &&
        t->at[1] == 'u') {
        mapipc_i_text ahead = {t->at + 2, t->end};
        int low = mapipc_i_hex(&ahead);
        if (low >= 0xdc00 && low < 0xe000) {
            *t = ahead;
            point = 0x10000 + ((point & 0x3ff) << 10 | ((unsigned) low & 0x3ff));
        }
    }
    if (!point || (point >= 0xd800 && point < 0xe000))
        sink->is_text = 0; /* no C string holds a NUL, no UTF-8 half a character */
    mapipc_i_put_point(sink, point);
    return 1;
}

/* A string into the sink, which may have no room at all; 0 when it is none. */
static inline int mapipc_i_string(mapipc_i_text *t, mapipc_i_sink *sink) {
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    if (!mapipc_i_next(t, '"'))
        return 0;
    while (t->at < t->end) {
        unsigned char c = (unsigned char) *t->at++;
        if (c == '"')
            return 1;
        if (!c)
            sink->is_text = 0;
        if (c != '\\') {
            mapipc_i_put(sink, c);
            continue;
        }
        if (t->at >= t->end)
            return 0;
        c = (unsigned char) *t->at++;
        const char *letter = c ? strchr(letters, c) : NULL;
        if (letter)
            mapipc_i_put(sink, (unsigned char) meanings[letter - letters]);
        else if (c != 'u' || !mapipc_i_escape(t, sink))
            return 0;
    }
    return 0;
}

/* Passes over any value: brackets are counted, strings are read, the rest is not judged. */
static inline int mapipc_i_skip(mapipc_i_text *t) {
    size_t depth = 0;
    do {
        mapipc_i_sink nowhere = {NULL, 0, 0, 1};
        mapipc_i_blanks(t);
        if (t->at >= t->end)
            return 0;
        char c = *t->at;
        if (c == '"') {
            if (!mapipc_i_string(t, &nowhere))
                return 0;
        } else if (c == '{' || c == '[') {
            t->at++;
            depth++;
            continue;
        } else if (depth && (c == '}' || c == ']')) {
            t->at++;
            depth--;
        } else if (depth && (c == ',' || c == ':')) {
            t->at++;
        } else {
            const char *start = t->at;
            while (t->at < t->end && !memchr(" \n\r\t,:]}[{\"", *t->at, 12))
                t->at++;
            if (t->at == start)
                return 0;
        }
    } while (depth);
    return 1;
}

/* Finds the last member of the object that is called "value". */
static inline int mapipc_i_value(const mapipc_i_bytes *reply, mapipc_i_text *value) {
    mapipc_i_text t = {reply->at, reply->at + reply->size};
    int found = 0;
    if (!mapipc_i_next(&t, '{'))
        return MAPIPC_BAD_REPLY;
    if (mapipc_i_next(&t, '}'))
        return MAPIPC_REFUSED;
    do {
        char name[6];
        mapipc_i_sink sink = {name, sizeof name, 0, 1};
        if (!mapipc_i_string(&t, &sink) || !mapipc_i_next(&t, ':'))
            return MAPIPC_BAD_REPLY;
        mapipc_i_blanks(&t);
        const char *start = t.at;
        if (!mapipc_i_skip(&t))
            return MAPIPC_BAD_REPLY;
        if (sink.size == 5 && !memcmp(name, "value", 5)) {
            value->at = start;
            value->end = t.at;
            found = 1;
        }
    } while (mapipc_i_next(&t, ','));
    if (!mapipc_i_next(&t, '}'))
        return MAPIPC_BAD_REPLY;
    mapipc_i_blanks(&t);
    return t.at != t.end ? MAPIPC_BAD_REPLY : found ? 0 : MAPIPC_REFUSED;
}

/* JSON without the blanks between its parts. */
static inline void mapipc_i_compact(mapipc_i_text *t, mapipc_i_sink *sink) {
    for (int inside = 0; t->at < t->end; t->at++) {
        if (!inside)
            mapipc_i_blanks(t);
        if (t->at >= t->end)
            return;
        if (*t->at == '"')
            inside = !inside;
        if (inside && *t->at == '\\' && t->at + 1 < t->end)
            mapipc_i_put(sink, (unsigned char) *t->at++);
        mapipc_i_put(sink, (unsigned char) *t->at);
    }
}

/* The value as text into the buffer, or the JSON that it is. */
static inline int mapipc_i_text_of(mapipc_i_text json, char *value, size_t room, size_t *size) {
    mapipc_i_sink sink = {value, room, 0, 1};
    mapipc_i_text t = json;
    if (json.end - json.at == 4 && !memcmp(json.at, "null", 4))
        return MAPIPC_NOT_SET;
    if (!mapipc_i_string(&t, &sink) || !sink.is_text) {
        sink.is_text = 0;
        sink.size = 0;
        mapipc_i_compact(&json, &sink);
    }
    if (size)
        *size = sink.size;
    if (sink.size >= room)
        return MAPIPC_NO_ROOM;
    value[sink.size] = 0;
    return sink.is_text ? 0 : MAPIPC_NOT_TEXT;
}

/* Asks the daemon for a value. size may be NULL; after MAPIPC_NO_ROOM it says what is needed,
 * without the NUL. */
static inline int mapipc_get(const mapipc_options *o, const char *key, char *value, size_t room,
                             size_t *size) {
    mapipc_i_bytes reply = {NULL, 0, 0};
    mapipc_i_text json = {NULL, NULL};
    if (!key || !*key)
        return MAPIPC_BAD_KEY;
    int error = mapipc_i_exchange(o, 1, key, strlen(key), &reply, NULL);
    if (!error && !reply.size)
        error = ECONNRESET; /* it has ended: a get is answered even when it is refused */
    if (!error)
        error = mapipc_i_value(&reply, &json);
    if (!error)
        error = mapipc_i_text_of(json, value, value ? room : 0, size);
    free(reply.at);
    return error;
}

/* Asks the daemon for its memory. The right to read is asked for once, here; after MAPIPC_REOPEN
 * close the reader and come again. */
static inline int mapipc_reader_open(const mapipc_options *o, mapipc_reader **reader) {
    mapipc_i_bytes reply = {NULL, 0, 0};
    mapipc_i_text json = {NULL, NULL};
    int fd = -1;
    *reader = NULL;
    int error = mapipc_i_exchange(o, 1, MAPIPC_READER_REQUEST, sizeof MAPIPC_READER_REQUEST - 1,
                                  &reply, &fd);
    if (!error && fd < 0)
        error = reply.size ? mapipc_i_value(&reply, &json) : ECONNRESET;
    free(reply.at);
    if (!error && fd < 0)
        error = MAPIPC_NO_MEMORY;
    if (!error)
        return mapipc_reader_open_fd(fd, reader);
    if (fd >= 0)
        close(fd);
    return error;
}

#ifdef __cplusplus
}
#endif
#endif
