/* What a C programmer would write with sd-bus: a small store, and the bench's own interface.
 *
 *   server ADDRESS NAME OBJECTS
 *
 * Prints READY once it owns NAME and has exported OBJECTS things of ten properties each. */
#include "bench.h"
#include <stddef.h>
#include <systemd/sd-event.h>

/* The bench has two keys: what is read, and what a flood writes. */
static struct entry {
    char *key, *value;
} entries[2];
static uint64_t revision;

/* The entry of a key, or a free one, or NULL. */
static struct entry *find(const char *key) {
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        if (!entries[i].key || !strcmp(entries[i].key, key))
            return &entries[i];
    return NULL;
}

static int on_set(sd_bus_message *call, void *data, sd_bus_error *error) {
    (void) data, (void) error;
    const char *key, *value;
    int result = sd_bus_message_read(call, "ss", &key, &value);
    struct entry *entry = result < 0 ? NULL : find(key);
    if (!entry)
        return result < 0 ? result : -ENOSPC;
    if (!entry->key)
        entry->key = strdup(key);
    free(entry->value);
    entry->value = strdup(value);
    if (!entry->key || !entry->value)
        return -ENOMEM;
    return sd_bus_reply_method_return(call, "t", ++revision);
}

static int on_get(sd_bus_message *call, void *data, sd_bus_error *error) {
    (void) data, (void) error;
    const char *key;
    int result = sd_bus_message_read_basic(call, 's', &key);
    if (result < 0)
        return result;
    struct entry *entry = find(key);
    return sd_bus_reply_method_return(call, "s", entry && entry->key ? entry->value : "");
}

static const sd_bus_vtable store_vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Set", "ss", "t", on_set, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Get", "s", "s", on_get, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

static int on_emit(sd_bus_message *call, void *data, sd_bus_error *error) {
    (void) data, (void) error;
    uint32_t count;
    int result = sd_bus_message_read_basic(call, 'u', &count);
    for (uint32_t i = 0; result >= 0 && i < count; i++)
        result = sd_bus_emit_signal(sd_bus_message_get_bus(call), BENCH_PATH, BENCH_INTERFACE, "Tick", "us",
                                    i, "value-0123456789");
    return result < 0 ? result : sd_bus_reply_method_return(call, "");
}

static int on_blob(sd_bus_message *call, void *data, sd_bus_error *error) {
    (void) data, (void) error;
    uint32_t size;
    int result = sd_bus_message_read_basic(call, 'u', &size);
    if (result < 0)
        return result;
    char *text = text_of(size, 'A');
    result = sd_bus_reply_method_return(call, "s", text);
    free(text);
    return result;
}

static const sd_bus_vtable bench_vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Emit", "u", "", on_emit, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Blob", "u", "s", on_blob, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_SIGNAL("Tick", "us", 0),
    SD_BUS_VTABLE_END,
};

struct thing {
    const char *name, *vendor, *product, *serial, *state;
    uint32_t number;
    uint64_t size;
    int64_t offset;
    double level;
    int ready;
};

#define PROPERTY(name, type, member) \
    SD_BUS_PROPERTY(name, type, NULL, offsetof(struct thing, member), SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE)

static const sd_bus_vtable thing_vtable[] = {
    SD_BUS_VTABLE_START(0),
    PROPERTY("Name", "s", name),       PROPERTY("Vendor", "s", vendor), PROPERTY("Product", "s", product),
    PROPERTY("Serial", "s", serial),   PROPERTY("State", "s", state),   PROPERTY("Number", "u", number),
    PROPERTY("Size", "t", size),       PROPERTY("Offset", "x", offset), PROPERTY("Level", "d", level),
    PROPERTY("Ready", "b", ready),     SD_BUS_VTABLE_END,
};

static void export_things(sd_bus *bus, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        char path[64], name[32];
        struct thing *thing = malloc(sizeof *thing);
        snprintf(path, sizeof path, BENCH_PATH "/things/%u", i);
        snprintf(name, sizeof name, "thing-%u", i);
        *thing = (struct thing) {.name = strdup(name), .vendor = "Vendor Inc.", .product = "Product 3000",
                                 .serial = "0123456789abcdef", .state = "running", .number = i,
                                 .size = 1u << 20, .offset = -5, .level = 0.5, .ready = 1};
        must(sd_bus_add_object_vtable(bus, NULL, path, THING_INTERFACE, thing_vtable, thing), path);
    }
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    sd_bus *bus = connect_to(argv[1]);
    sd_event *loop = NULL;
    must(sd_event_default(&loop), "loop");
    must(sd_bus_add_object_vtable(bus, NULL, STORE_PATH, STORE_INTERFACE, store_vtable, NULL), "store");
    must(sd_bus_add_object_vtable(bus, NULL, BENCH_PATH, BENCH_INTERFACE, bench_vtable, NULL), "bench");
    must(sd_bus_add_object_manager(bus, NULL, BENCH_PATH), "manager");
    export_things(bus, (unsigned) atoi(argv[3]));
    must(sd_bus_request_name(bus, argv[2], 0), argv[2]);
    must(sd_bus_attach_event(bus, loop, 0), "attach");
    puts("READY");
    fflush(stdout);
    return sd_event_loop(loop);
}
