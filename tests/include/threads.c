/* Threads that set and get at once, each its own key: `threads COUNT ROUNDS` -> good replies. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "mapipc.h"

#include <pthread.h>

typedef struct job {
    pthread_t thread;
    int number, rounds, good;
} job;

static void *work(void *argument) {
    job *mine = (job *) argument;
    char key[32], value[32], got[32];
    for (int round = 0; round < mine->rounds; round++) {
        snprintf(key, sizeof key, "key %d", mine->number);
        snprintf(value, sizeof value, "%d of %d", round, mine->number);
        mine->good += !mapipc_set(NULL, key, value) &&
                      !mapipc_get(NULL, key, got, sizeof got, NULL) && !strcmp(value, got);
    }
    return NULL;
}

int main(int count, char **arguments) {
    static job jobs[64];
    int good = 0, threads = count == 3 ? atoi(arguments[1]) : 0;
    if (threads < 1 || threads > 64)
        return 64;
    for (int i = 0; i < threads; i++) {
        jobs[i].number = i;
        jobs[i].rounds = atoi(arguments[2]);
        if (pthread_create(&jobs[i].thread, NULL, work, &jobs[i]))
            return 70;
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(jobs[i].thread, NULL);
        good += jobs[i].good;
    }
    printf("%d\n", good);
    return 0;
}
