/* Calls a method of a viewed process again and again, one call at a time.
 *
 *   appview_calls ADDRESS PATH INTERFACE MEMBER COUNT
 *
 * Prints one line of JSON; status 3: a call failed. */
#include "bench.h"

#define NAME "org.buswork.AppView"

static uint64_t timed(sd_bus *bus, char **argv) {
    sd_bus_error error = SD_BUS_ERROR_NULL;
    sd_bus_message *reply = NULL;
    uint64_t begin = now_ns();
    if (sd_bus_call_method(bus, NAME, argv[2], argv[3], argv[4], &error, &reply, NULL) < 0) {
        fprintf(stderr, "%s: %s\n", error.name, error.message);
        exit(LOST);
    }
    uint64_t took = now_ns() - begin;
    sd_bus_message_unref(reply);
    return took;
}

int main(int argc, char **argv) {
    if (argc != 6)
        return 2;
    sd_bus *bus = connect_to(argv[1]);
    long count = atol(argv[5]);
    uint64_t *took = calloc((size_t) count, sizeof *took);
    timed(bus, argv);
    for (long at = 0; at < count; at++)
        took[at] = timed(bus, argv);
    qsort(took, (size_t) count, sizeof *took, by_size);
    printf("{\"p50_ns\": %lu, \"p90_ns\": %lu, \"p99_ns\": %lu}\n",
           took[count / 2], took[count * 90 / 100], took[count * 99 / 100]);
    return 0;
}
