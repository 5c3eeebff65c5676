/* Viewed processes and their client, as bare as they can be.
 *
 *   appview_queues answer [TICK_US]   answers its queues, at once or whenever it looks
 *   appview_queues wait               the same; where a frame is not there, or has no room, it looks
 *                                     again after 50 us, as the real library (protocol section 2)
 *   appview_queues ask PID COUNT      asks such a process COUNT times for its status
 *   appview_queues send PID COUNT     COUNT requests of 1 MiB, each answered by the same
 *   appview_queues sleep COUNT        so many processes that do nothing
 *
 * What answers is found as a viewed process: a mapped file has the library's name. `ask` and `send`
 * make the queues, with as many messages as the daemon gives them, and print a line of JSON. The
 * others say READY, and end with their standard input. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MESSAGES 10
#define MESSAGE_BYTES 8192
/* With the NUL at its end, a request has no more (protocol section 2). */
#define REQUEST_BYTES (1048576 - 1)
#define UNIQ 7943
/* How often it is looked for a queue that may have come. */
#define LOOK_US 200
/* The library's patience with one frame. */
#define TRIES 500
#define TRY_US 50
#define STATUS "{\"status\":200,\"viewed\":true}"
#define DETAILS "{\"status\":200,\"pid\":1,\"uuid\":\"u\",\"id\":\"i\",\"machine_id\":\"m\"}"

static int waits; /* between tries (O_NONBLOCK), where others sleep until they are woken */
static char frame[MESSAGE_BYTES], data[REQUEST_BYTES + MESSAGE_BYTES];

static void must(int holds, const char *what) {
    if (holds)
        return;
    perror(what);
    exit(3);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t) t.tv_sec * 1000000000ull + (uint64_t) t.tv_nsec;
}

static mqd_t open_queue(const char *which, int pid, int flags) {
    char name[64];
    struct mq_attr attributes = { .mq_maxmsg = MESSAGES, .mq_msgsize = MESSAGE_BYTES };
    snprintf(name, sizeof name, "/AppViewIPC%s.%d", which, pid);
    return mq_open(name, flags, 0600, &attributes);
}

/* -- the process ------------------------------------------------------------------------------ */

static void send_frame(mqd_t out, size_t size) {
    for (int tries = 0; mq_send(out, frame, size, 0) < 0; tries++) {
        must(errno == EAGAIN && tries < TRIES, "answer");
        usleep(TRY_US);
    }
}

static size_t take_frame(mqd_t in) {
    for (int tries = 0;; tries++) {
        ssize_t length = mq_receive(in, frame, sizeof frame, NULL);
        if (length > 0)
            return (size_t) length;
        must(errno == EAGAIN && tries < TRIES, "receive");
        usleep(TRY_US);
    }
}

static void send_answer(mqd_t out, const char *payload, size_t size, long uniq) {
    for (size_t at = 0; at < size;) {
        size_t remain = size - at;
        int head = snprintf(frame, sizeof frame, "{\"status\":206,\"uniq\":%ld,\"remain\":%zu}", uniq, remain);
        size_t room = MESSAGE_BYTES - (size_t) head - 1, part = remain < room ? remain : room;
        if (part == remain)
            memcpy(strstr(frame, "206"), "200", 3);
        memcpy(frame + head + 1, payload + at, part);
        send_frame(out, (size_t) head + 1 + part);
        at += part;
    }
}

/* Until nobody else has the queue; what is long is sent back, all else asks for status or details. */
static void serve(mqd_t in, mqd_t out) {
    size_t gathered = 0;
    for (;;) {
        struct pollfd wait = { .fd = in, .events = POLLIN };
        if (!(waits && gathered) && poll(&wait, 1, 1) == 0) {
            struct stat facts;
            must(fstat(in, &facts) == 0, "fstat");
            if (facts.st_nlink == 0)
                return;
            continue;
        }
        size_t length = take_frame(in);
        size_t head = strlen(frame) + 1;
        int more = strstr(frame, "\"req\":1,") != NULL;
        long uniq = atol(strstr(frame, "\"uniq\":") + 7);
        memcpy(data + gathered, frame + head, length - head);
        gathered += length - head - 1;
        if (more)
            continue;
        int asks_details = !strncmp(data, "{\"req\":5}", 9);
        if (gathered > 1000)
            send_answer(out, data, gathered, uniq);
        else if (asks_details)
            send_answer(out, DETAILS, strlen(DETAILS), uniq);
        else
            send_answer(out, STATUS, strlen(STATUS), uniq);
        gathered = 0;
    }
}

static int answer(unsigned tick_us) {
    int file = memfd_create("libappview.so", 0);
    must(file >= 0 && ftruncate(file, 4096) == 0, "memfd_create");
    must(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0) != MAP_FAILED, "mmap");
    printf("READY\n");
    fflush(stdout);
    for (struct pollfd end = { .fd = 0, .events = POLLIN }; poll(&end, 1, 0) == 0; usleep(tick_us)) {
        mqd_t in = open_queue("In", getpid(), O_RDONLY | waits);
        if (in < 0)
            continue;
        mqd_t out = open_queue("Out", getpid(), O_WRONLY | waits);
        if (out >= 0) {
            serve(in, out);
            mq_close(out);
        }
        mq_close(in);
    }
    return 0;
}

/* -- its client ------------------------------------------------------------------------------- */

static size_t send_request(mqd_t in, size_t size) {
    for (size_t at = 0; at < size;) {
        size_t remain = size - at;
        int head = snprintf(frame, sizeof frame, "{\"req\":1,\"uniq\":%d,\"remain\":%zu}", UNIQ, remain);
        size_t room = MESSAGE_BYTES - (size_t) head - 2, part = remain < room ? remain : room;
        if (part == remain)
            frame[7] = '0';
        memcpy(frame + head + 1, data + at, part);
        frame[(size_t) head + 1 + part] = 0;
        must(mq_send(in, frame, (size_t) head + 2 + part, 0) == 0, "request");
        at += part;
    }
    return size;
}

static size_t take_answer(mqd_t out) {
    for (size_t size = 0;;) {
        ssize_t length = mq_receive(out, frame, sizeof frame, NULL);
        must(length > 0, "receive");
        size += (size_t) length - strlen(frame) - 1;
        if (strstr(frame, "\"status\":200"))
            return size;
    }
}

static int by_size(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *) left, b = *(const uint64_t *) right;
    return a < b ? -1 : a > b;
}

/* Somebody else may just ask the same process: whoever looks for all that have the library. */
static mqd_t make_queue(const char *which, int pid, int flags) {
    for (int tries = 0; tries < 2000; tries++) {
        mqd_t queue = open_queue(which, pid, flags | O_CREAT | O_EXCL);
        if (queue >= 0 || errno != EEXIST)
            return queue;
        usleep(1000);
    }
    return -1;
}

static int ask(int pid, long count, size_t size) {
    mqd_t out = make_queue("Out", pid, O_RDONLY), in = make_queue("In", pid, O_WRONLY);
    must(in >= 0 && out >= 0, "mq_open");
    uint64_t *took = calloc((size_t) count, sizeof *took);
    for (long at = -1; at < count; at++) { /* the first time the queues have to be found */
        uint64_t begin = now_ns();
        send_request(in, size);
        size_t answered = take_answer(out);
        must(size < 1000 || answered == size, "an answer of another length");
        if (at >= 0)
            took[at] = now_ns() - begin;
    }
    char name[64];
    snprintf(name, sizeof name, "/AppViewIPCIn.%d", pid);
    mq_unlink(name);
    snprintf(name, sizeof name, "/AppViewIPCOut.%d", pid);
    mq_unlink(name);
    qsort(took, (size_t) count, sizeof *took, by_size);
    printf("{\"p50_ns\": %lu, \"p99_ns\": %lu}\n", took[count / 2], took[count * 99 / 100]);
    return 0;
}

/* -- the others ------------------------------------------------------------------------------- */

static int sleep_all(int count) {
    for (int at = 0; at < count; at++) {
        pid_t child = fork();
        must(child >= 0, "fork");
        if (!child) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;)
                pause();
        }
    }
    printf("READY\n");
    fflush(stdout);
    getchar();
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    memset(data, 'x', sizeof data);
    if (!strcmp(what, "answer"))
        return answer(argc > 2 ? (unsigned) atoi(argv[2]) : LOOK_US);
    if (!strcmp(what, "wait")) {
        waits = O_NONBLOCK;
        return answer(LOOK_US);
    }
    if (!strcmp(what, "ask") && argc > 3) {
        memcpy(data, "{\"req\":1}", 9);
        return ask(atoi(argv[2]), atol(argv[3]), 9);
    }
    if (!strcmp(what, "send") && argc > 3)
        return ask(atoi(argv[2]), atol(argv[3]), REQUEST_BYTES);
    if (!strcmp(what, "sleep") && argc > 2)
        return sleep_all(atoi(argv[2]));
    return 2;
}
