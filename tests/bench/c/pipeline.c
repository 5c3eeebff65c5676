/* Sends many calls before it reads the first reply, on several connections at once.
 *
 *   pipeline ADDRESS NAME get|blob CONNECTIONS CALLS SIZE
 *
 * "get" reads a value of SIZE bytes from the store, "blob" has the bench interface make one.
 * Status 0 only if every reply came, whole, and the service still answers. */
#include "bench.h"
#include <systemd/sd-event.h>

static const char *name, *expected;
static size_t size;
static bool blob;
static long wanted, received, wrong;

static sd_bus_message *question(sd_bus *bus) {
    uint32_t length = (uint32_t) size;
    sd_bus_message *call = blob ? new_call(bus, name, BENCH_PATH, BENCH_INTERFACE, "Blob")
                                : new_call(bus, name, STORE_PATH, STORE_INTERFACE, "Get");
    must(blob ? sd_bus_message_append_basic(call, 'u', &length)
              : sd_bus_message_append_basic(call, 's', BENCH_KEY), "append");
    return call;
}

static int on_reply(sd_bus_message *reply, void *data, sd_bus_error *error) {
    (void) data, (void) error;
    const char *text = NULL;
    const sd_bus_error *failure = sd_bus_message_get_error(reply);
    if (failure || sd_bus_message_read_basic(reply, 's', &text) < 0 || strcmp(text, expected))
        if (!wrong++)
            fprintf(stderr, "%s\n", failure ? failure->message : "wrong value");
    received++;
    return 0;
}

/* The first call of a connection brings its authorisation; what is measured here is the replies. */
static void call_once(sd_bus *bus) {
    sd_bus_error error = SD_BUS_ERROR_NULL;
    sd_bus_message *call = question(bus);
    if (sd_bus_call(bus, call, PATIENCE_US, &error, NULL) < 0) {
        fprintf(stderr, "%s: %s\n", error.name, error.message);
        exit(LOST);
    }
    sd_bus_message_unref(call);
}

static void send_all(sd_bus *bus, int calls) {
    for (int i = 0; i < calls; i++) {
        sd_bus_message *call = question(bus);
        must(sd_bus_call_async(bus, NULL, call, on_reply, NULL, PATIENCE_US), "send");
        sd_bus_message_unref(call);
    }
    must(sd_bus_flush(bus), "flush");
}

int main(int argc, char **argv) {
    if (argc != 7)
        return 2;
    int connections = atoi(argv[4]), calls = atoi(argv[5]);
    sd_event *loop = NULL;
    sd_bus **buses = calloc((size_t) connections, sizeof *buses);
    name = argv[2], blob = !strcmp(argv[3], "blob"), size = (size_t) atol(argv[6]);
    expected = text_of(size, 'A');
    wanted = (long) connections * calls;
    must(sd_event_default(&loop), "loop");
    for (int i = 0; i < connections; i++) {
        buses[i] = connect_to(argv[1]);
        if (!blob && i == 0)
            set_value(buses[i], name, expected);
        call_once(buses[i]);
    }

    uint64_t start = now_ns();
    for (int i = 0; i < connections; i++)
        send_all(buses[i], calls);
    for (int i = 0; i < connections; i++)
        must(sd_bus_attach_event(buses[i], loop, 0), "attach");
    while (received < wanted)
        if (must(sd_event_run(loop, PATIENCE_US), "loop") == 0)
            must(-ETIMEDOUT, "reply");
    uint64_t wall_ns = now_ns() - start;
    call_once(buses[0]);

    printf("{\"wanted\": %ld, \"received\": %ld, \"wrong\": %ld, \"wall_ns\": %lu}\n", wanted, received, wrong,
           wall_ns);
    return received == wanted && !wrong ? 0 : LOST;
}
