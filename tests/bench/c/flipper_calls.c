/* Calls a function of a board again and again, and keeps how long each call took.
 *
 *   flipper_calls ADDRESS PATH MODULE FUNCTION WINDOW SECONDS PAUSE_US [NUMBER...]
 *
 * Says READY once the board has answered, and is sent a line with the time (CLOCK_MONOTONIC, ns)
 * at which it begins, so that several begin together. WINDOW calls are in flight at once; with a window of 1, PAUSE_US lies between two. Prints one line of JSON; status
 * 3: a call failed. */
#include "bench.h"

#define NAME "org.buswork"
#define INTERFACE "org.flipper.Device"
/* More waits than this are not kept. */
#define MOST 1000000

struct run {
    sd_bus *bus;
    const char *path, *module, *function;
    char **numbers;
    int count, window;
    uint64_t until, *sent, *waits;
    long asked, done;
};

static struct run the;

static sd_bus_message *invoke(void) {
    sd_bus_message *call = new_call(the.bus, NAME, the.path, INTERFACE, "Invoke");
    must(sd_bus_message_append(call, "ss", the.module, the.function), "append");
    must(sd_bus_message_open_container(call, 'a', "v"), "append");
    for (int i = 0; i < the.count; i++)
        must(sd_bus_message_append(call, "v", "u", (uint32_t) strtoul(the.numbers[i], NULL, 0)), "append");
    must(sd_bus_message_close_container(call), "append");
    return call;
}

static int on_reply(sd_bus_message *reply, void *data, sd_bus_error *unused);

static void ask(void) {
    sd_bus_message *call = invoke();
    the.sent[the.asked % the.window] = now_ns();
    must(sd_bus_call_async(the.bus, NULL, call, on_reply, NULL, PATIENCE_US), "send");
    sd_bus_message_unref(call);
    the.asked++;
}

/* Answers come in the order of the calls. */
static int on_reply(sd_bus_message *reply, void *data, sd_bus_error *unused) {
    (void) data, (void) unused;
    const sd_bus_error *error = sd_bus_message_get_error(reply);
    if (error) {
        fprintf(stderr, "%s: %s\n", error->name, error->message);
        exit(LOST);
    }
    uint64_t now = now_ns();
    the.waits[the.done] = now - the.sent[the.done % the.window];
    the.done++;
    return 0;
}

static void run_until(uint64_t until, unsigned pause_us) {
    the.asked = the.done = 0;
    for (;;) {
        bool goes_on = !the.asked || (now_ns() < until && the.asked < MOST);
        while (goes_on && the.asked - the.done < the.window)
            ask();
        if (the.asked == the.done)
            return;
        long done = the.done;
        while (the.done == done)
            if (!turn(the.bus))
                must(-ETIMEDOUT, "reply");
        if (pause_us)
            usleep(pause_us);
    }
}

int main(int argc, char **argv) {
    if (argc < 8)
        return 2;
    the = (struct run) {
        .bus = connect_to(argv[1]), .path = argv[2], .module = argv[3], .function = argv[4],
        .numbers = argv + 8, .count = argc - 8, .window = atoi(argv[5]),
        .waits = calloc(MOST, sizeof(uint64_t)), .sent = calloc(MOST, sizeof(uint64_t)),
    };
    run_until(0, 0);
    puts("READY");
    fflush(stdout);
    unsigned long begin;
    if (scanf("%lu", &begin) != 1)
        return 2;
    while (now_ns() < begin)
        usleep(100);

    uint64_t start = now_ns();
    run_until(start + (uint64_t) (atof(argv[6]) * 1e9), (unsigned) atoi(argv[7]));
    uint64_t wall_ns = now_ns() - start;
    qsort(the.waits, (size_t) the.done, sizeof *the.waits, by_size);
    printf("{\"calls\": %ld, \"wall_ns\": %lu, \"median_ns\": %lu, \"p99_ns\": %lu, \"worst_ns\": %lu}\n",
           the.done, wall_ns, the.waits[the.done / 2], the.waits[the.done * 99 / 100],
           the.waits[the.done - 1]);
    return 0;
}
