/* Asks for all managed objects of the bench.
 *
 *   objects ADDRESS NAME SERVICE_PID OBJECTS PROPERTIES
 *
 * The time is from the call to the whole reply; that all objects are in it is checked afterwards. */
#include "bench.h"

static long skip_properties(sd_bus_message *reply) {
    long count = 0;
    must(sd_bus_message_enter_container(reply, 'a', "{sv}"), "properties");
    while (must(sd_bus_message_enter_container(reply, 'e', "sv"), "property") > 0) {
        must(sd_bus_message_skip(reply, "sv"), "value");
        must(sd_bus_message_exit_container(reply), "property");
        count++;
    }
    must(sd_bus_message_exit_container(reply), "properties");
    return count;
}

static long things_in_interfaces(sd_bus_message *reply, long *properties) {
    long things = 0;
    must(sd_bus_message_enter_container(reply, 'a', "{sa{sv}}"), "interfaces");
    while (must(sd_bus_message_enter_container(reply, 'e', "sa{sv}"), "interface") > 0) {
        const char *interface;
        must(sd_bus_message_read_basic(reply, 's', &interface), "interface");
        long count = skip_properties(reply);
        if (!strcmp(interface, THING_INTERFACE)) {
            things++;
            *properties += count;
        }
        must(sd_bus_message_exit_container(reply), "interface");
    }
    must(sd_bus_message_exit_container(reply), "interfaces");
    return things;
}

static long things_in(sd_bus_message *reply, long *properties) {
    long things = 0;
    must(sd_bus_message_enter_container(reply, 'a', "{oa{sa{sv}}}"), "objects");
    while (must(sd_bus_message_enter_container(reply, 'e', "oa{sa{sv}}"), "object") > 0) {
        must(sd_bus_message_skip(reply, "o"), "path");
        things += things_in_interfaces(reply, properties);
        must(sd_bus_message_exit_container(reply), "object");
    }
    return things;
}

int main(int argc, char **argv) {
    if (argc != 6)
        return 2;
    int service = atoi(argv[3]);
    long things, properties = 0;
    sd_bus *bus = connect_to(argv[1]);
    sd_bus_message *reply = NULL;
    sd_bus_error error = SD_BUS_ERROR_NULL;

    uint64_t service_ns = cpu_ns(service), start = now_ns();
    int result = sd_bus_call_method(bus, argv[2], BENCH_PATH, "org.freedesktop.DBus.ObjectManager",
                                    "GetManagedObjects", &error, &reply, NULL);
    uint64_t wall_ns = now_ns() - start;
    service_ns = cpu_ns(service) - service_ns;
    if (result < 0) {
        fprintf(stderr, "GetManagedObjects: %s\n", error.message);
        return LOST;
    }

    things = things_in(reply, &properties);
    printf("{\"objects\": %ld, \"properties\": %ld, \"wall_ns\": %lu, \"service_ns\": %lu}\n", things, properties,
           wall_ns, service_ns);
    return things == atol(argv[4]) && properties == things * atol(argv[5]) ? 0 : LOST;
}
