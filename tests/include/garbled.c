/* Reads replies that a daemon never sends. Built with AddressSanitizer, it shows that nothing
 * outside the reply is read, and nothing outside the buffer written.
 *
 *     garbled ROUNDS SEED REPLY...    -> values others */
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

static void garble(mapipc_i_bytes *reply) {
    static const char odd[] = "\"\\{}[]:,u0dn \n\0\x80\xff";
    for (uint64_t changes = any() % 4; changes && reply->size; changes--) {
        size_t at = any() % reply->size;
        switch (any() % 4) {
        case 0: /* shorter */
            reply->size = at;
            break;
        case 1: /* without a byte */
            memmove(reply->at + at, reply->at + at + 1, --reply->size - at);
            break;
        case 2: /* with one that means something */
            reply->at[at] = odd[any() % (sizeof odd - 1)];
            break;
        default: /* with any */
            reply->at[at] = (char) any();
        }
    }
}

int main(int count, char **arguments) {
    unsigned long values = 0, others = 0;
    if (count < 4)
        return 64;
    state = strtoul(arguments[2], NULL, 10) * 2654435761u + 1;
    for (long round = atol(arguments[1]); round; round--) {
        const char *original = arguments[3 + any() % (uint64_t) (count - 3)];
        mapipc_i_bytes reply = {strdup(original), strlen(original), 0};
        garble(&reply);
        /* Exactly so much, and no NUL behind it: ASan sees both ends. */
        mapipc_i_bytes exact = {(char *) malloc(reply.size + !reply.size), reply.size, 0};
        size_t room = any() % 24, size = 0;
        char *value = (char *) malloc(room + !room);
        mapipc_i_text json = {NULL, NULL};
        memcpy(exact.at, reply.at, reply.size);
        int error = mapipc_i_value(&exact, &json);
        if (!error)
            error = mapipc_i_text_of(json, value, room, &size);
        if (!error && (size >= room || value[size]))
            abort();
        values += !error;
        others += error != 0;
        free(value);
        free(exact.at);
        free(reply.at);
    }
    printf("%lu %lu\n", values, others);
    return 0;
}
