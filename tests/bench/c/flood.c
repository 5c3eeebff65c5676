/* Gives a service as much work as one connection can.
 *
 *   flood ADDRESS NAME get|noreply|set
 *
 * "get": 128 small calls in flight, which is what the bus allows one connection; "noreply": small
 * calls that want no answer, as fast as the socket takes them; "set": 128 Sets in flight of 64 KiB
 * that change the value each time. Prints READY when the flood runs; ends with SIGTERM and prints
 * how much it was. */
#include "bench.h"

enum { WINDOW = 128, BATCH = 64, LARGE = 64 * 1024 };

static volatile sig_atomic_t stop;
static sd_bus *bus;
static const char *name;
static char *large[2];
static bool set;
static unsigned long sent, done, errors;

static void on_term(int number) {
    (void) number;
    stop = 1;
}

static sd_bus_message *question(void) {
    sd_bus_message *call = new_call(bus, name, STORE_PATH, STORE_INTERFACE, set ? "Set" : "Get");
    must(set ? sd_bus_message_append(call, "ss", FLOOD_KEY, large[sent % 2])
             : sd_bus_message_append_basic(call, 's', BENCH_KEY), "append");
    return call;
}

static int on_reply(sd_bus_message *reply, void *data, sd_bus_error *error) {
    (void) data, (void) error;
    done++;
    if (sd_bus_message_is_method_error(reply, NULL) && !errors++)
        fprintf(stderr, "%s\n", sd_bus_message_get_error(reply)->message);
    return 0;
}

static void flood_with_replies(void) {
    while (sent - done < WINDOW) {
        sd_bus_message *call = question();
        must(sd_bus_call_async(bus, NULL, call, on_reply, NULL, PATIENCE_US), "send");
        sd_bus_message_unref(call);
        sent++;
    }
    int result = sd_bus_process(bus, NULL);
    if (result == 0)
        result = sd_bus_wait(bus, PATIENCE_US);
    if (result != -EINTR) /* which is how the flood ends */
        must(result, "process");
}

static void flood_without_replies(void) {
    for (int i = 0; i < BATCH; i++) {
        sd_bus_message *call = question();
        must(sd_bus_message_set_expect_reply(call, 0), "no reply");
        must(sd_bus_send(bus, call, NULL), "send");
        sd_bus_message_unref(call);
        sent++;
    }
    int result = sd_bus_flush(bus);
    if (result != -EINTR)
        must(result, "flush");
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    bool replies = strcmp(argv[3], "noreply");
    bus = connect_to(argv[1]), name = argv[2], set = !strcmp(argv[3], "set");
    large[0] = text_of(LARGE, 'A'), large[1] = text_of(LARGE, 'B');
    signal(SIGTERM, on_term);
    uint64_t start = now_ns();
    for (bool told = false; !stop;) {
        replies ? flood_with_replies() : flood_without_replies();
        if (!told && sent > 4 * WINDOW) {
            told = true;
            puts("READY");
            fflush(stdout);
        }
    }
    printf("{\"calls\": %lu, \"errors\": %lu, \"wall_ns\": %lu}\n", replies ? done : sent, errors, now_ns() - start);
    fflush(stdout);
    _exit(0);
}
