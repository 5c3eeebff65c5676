/* Calls Store.Get again and again and times it.
 *
 *   calls ADDRESS NAME SIZE COUNT WINDOW SERVICE_PID BUS_PID PAUSE_US
 *
 * WINDOW calls are in flight at once; with a window of 1 each call's wait is kept, PAUSE_US lies
 * between two calls, and it ends early when that takes too long. Every value is compared. Prints
 * one line of JSON; status 3: an answer was lost. */
#include "bench.h"

/* One at a time, more than this tells nothing new. */
#define ENOUGH_NS (10ull * 1000 * 1000 * 1000)

struct run {
    sd_bus *bus;
    const char *name, *value;
    long total, sent, done, errors;
};

static struct run the;

static sd_bus_message *get(void) {
    sd_bus_message *call = new_call(the.bus, the.name, STORE_PATH, STORE_INTERFACE, "Get");
    must(sd_bus_message_append_basic(call, 's', BENCH_KEY), "append");
    return call;
}

static void check(sd_bus_message *reply) {
    const char *value = NULL;
    const sd_bus_error *error = sd_bus_message_get_error(reply);
    if (!error && sd_bus_message_read_basic(reply, 's', &value) >= 0 && !strcmp(value, the.value))
        return;
    if (!the.errors++)
        fprintf(stderr, "%s: %s\n", error ? error->name : "wrong value", error ? error->message : "");
}

static int on_reply(sd_bus_message *reply, void *data, sd_bus_error *error);

static void send_one(void) {
    sd_bus_message *call = get();
    must(sd_bus_call_async(the.bus, NULL, call, on_reply, NULL, PATIENCE_US), "send");
    sd_bus_message_unref(call);
    the.sent++;
}

static int on_reply(sd_bus_message *reply, void *data, sd_bus_error *error) {
    (void) data, (void) error;
    check(reply);
    the.done++;
    if (the.sent < the.total && !the.errors)
        send_one();
    return 0;
}

static long run_window(long count, int window) {
    the.total = count;
    the.sent = the.done = 0;
    while (the.sent < window && the.sent < count)
        send_one();
    while (the.done < the.sent)
        if (!turn(the.bus))
            must(-ETIMEDOUT, "reply");
    return the.done;
}

static long run_one_by_one(long count, unsigned pause_us, uint64_t *waits) {
    uint64_t stop_at = now_ns() + ENOUGH_NS;
    long i = 0;
    for (; i < count && !the.errors && now_ns() < stop_at; i++) {
        sd_bus_message *reply = NULL;
        sd_bus_error error = SD_BUS_ERROR_NULL;
        uint64_t start = now_ns();
        sd_bus_message *call = get();
        if (sd_bus_call(the.bus, call, PATIENCE_US, &error, &reply) < 0) {
            fprintf(stderr, "%s: %s\n", error.name, error.message);
            the.errors++;
        } else
            check(reply);
        waits[i] = now_ns() - start;
        sd_bus_message_unref(call);
        sd_bus_message_unref(reply);
        sd_bus_error_free(&error);
        if (pause_us)
            usleep(pause_us);
    }
    return i;
}

/* Returns how many calls it were. */
static long run(long count, int window, unsigned pause_us, uint64_t *waits) {
    return window > 1 ? run_window(count, window) : run_one_by_one(count, pause_us, waits);
}

int main(int argc, char **argv) {
    if (argc != 9)
        return 2;
    long size = atol(argv[3]), count = atol(argv[4]);
    int window = atoi(argv[5]), service = atoi(argv[6]), bus = atoi(argv[7]), pause_us = atoi(argv[8]);
    uint64_t *waits = calloc((size_t) count, sizeof *waits);
    the = (struct run) {.bus = connect_to(argv[1]), .name = argv[2], .value = text_of((size_t) size, 'A')};
    set_value(the.bus, the.name, the.value);
    run(count / 10 + 1, window, 0, waits);

    uint64_t service_ns = cpu_ns(service), bus_ns = cpu_ns(bus), start = now_ns();
    if (!the.errors)
        count = run(count, window, (unsigned) pause_us, waits);
    uint64_t wall_ns = now_ns() - start;
    bus_ns = cpu_ns(bus) - bus_ns;
    service_ns = cpu_ns(service) - service_ns;

    qsort(waits, (size_t) count, sizeof *waits, by_size);
    printf("{\"calls\": %ld, \"errors\": %ld, \"wall_ns\": %lu, \"service_ns\": %lu, \"bus_ns\": %lu,"
           " \"median_ns\": %lu, \"p95_ns\": %lu, \"worst_ns\": %lu}\n",
           count, the.errors, wall_ns, service_ns, bus_ns, waits[count / 2], waits[count * 95 / 100],
           waits[count ? count - 1 : 0]);
    return the.errors ? LOST : 0;
}
