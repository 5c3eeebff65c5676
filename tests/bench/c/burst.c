/* Asks for a burst of signals and counts what arrives.
 *
 *   burst ADDRESS NAME COUNT SERVICE_PID
 *
 * Status 0 only if every signal came, in order, and the same connection still answers afterwards. */
#include "bench.h"

static uint32_t received, out_of_order;
static bool answered, refused;

static int on_tick(sd_bus_message *signal, void *data, sd_bus_error *error) {
    (void) data, (void) error;
    uint32_t number = 0;
    const char *text = "";
    must(sd_bus_message_read(signal, "us", &number, &text), "read");
    if (number != received || strcmp(text, "value-0123456789"))
        out_of_order++;
    received++;
    return 0;
}

static int on_answer(sd_bus_message *reply, void *data, sd_bus_error *error) {
    (void) data, (void) error;
    answered = true;
    refused = sd_bus_message_is_method_error(reply, NULL);
    if (refused)
        fprintf(stderr, "Emit: %s\n", sd_bus_message_get_error(reply)->message);
    return 0;
}

static void owner_of(sd_bus *bus, const char *name, char owner[64]) {
    sd_bus_message *reply = NULL;
    const char *text = "";
    int result = sd_bus_call_method(bus, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                                    "GetNameOwner", NULL, &reply, "s", name);
    if (result >= 0)
        must(sd_bus_message_read_basic(reply, 's', &text), "owner");
    snprintf(owner, 64, "%s", text);
    sd_bus_message_unref(reply);
}

static void ask_for(sd_bus *bus, const char *name, uint32_t count) {
    sd_bus_message *call = new_call(bus, name, BENCH_PATH, BENCH_INTERFACE, "Emit");
    must(sd_bus_message_append_basic(call, 'u', &count), "append");
    must(sd_bus_call_async(bus, NULL, call, on_answer, NULL, PATIENCE_US), "send");
    sd_bus_message_unref(call);
}

int main(int argc, char **argv) {
    if (argc != 5)
        return 2;
    uint32_t count = (uint32_t) atol(argv[3]);
    int service = atoi(argv[4]);
    char before[64], after[64];
    sd_bus *bus = connect_to(argv[1]);
    must(sd_bus_match_signal(bus, NULL, argv[2], BENCH_PATH, BENCH_INTERFACE, "Tick", on_tick, NULL), "match");
    owner_of(bus, argv[2], before);

    uint64_t service_ns = cpu_ns(service), start = now_ns();
    ask_for(bus, argv[2], count);
    while (!refused && (!answered || received < count))
        if (!turn(bus))
            break;
    uint64_t wall_ns = now_ns() - start;
    service_ns = cpu_ns(service) - service_ns;

    owner_of(bus, argv[2], after);
    bool kept = before[0] && !strcmp(before, after);
    printf("{\"signals\": %u, \"received\": %u, \"out_of_order\": %u, \"kept\": %s, \"wall_ns\": %lu,"
           " \"service_ns\": %lu}\n",
           count, received, out_of_order, kept ? "true" : "false", wall_ns, service_ns);
    return kept && !refused && received == count && !out_of_order ? 0 : LOST;
}
