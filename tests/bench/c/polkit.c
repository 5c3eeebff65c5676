/* Stands in for polkitd: says yes to every question and counts them.
 *
 *   polkit ADDRESS
 *
 * Prints READY once it owns the name, and after that the count for every line on its standard input.
 * A number on that line is how many ms each answer takes from then on; polkitd, too, runs its rules
 * one after the other. */
#include "bench.h"
#include <sys/epoll.h>
#include <systemd/sd-event.h>

static unsigned long questions;
static unsigned delay_ms;

static int on_check(sd_bus_message *call, void *data, sd_bus_error *error) {
    (void) data, (void) error;
    questions++;
    usleep(delay_ms * 1000);
    return sd_bus_reply_method_return(call, "(bba{ss})", 1, 0, 0);
}

static const sd_bus_vtable authority_vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("CheckAuthorization", "(sa{sv})sa{ss}us", "(bba{ss})", on_check, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_SIGNAL("Changed", "", 0),
    SD_BUS_VTABLE_END,
};

static int on_line(sd_event_source *source, int fd, uint32_t events, void *data) {
    (void) events, (void) data;
    char line[64] = "";
    if (read(fd, line, sizeof line - 1) <= 0)
        return sd_event_exit(sd_event_source_get_event(source), 0);
    if (*line != '\n')
        delay_ms = (unsigned) atoi(line);
    printf("%lu\n", questions);
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    sd_bus *bus = connect_to(argv[1]);
    sd_event *loop = NULL;
    must(sd_event_default(&loop), "loop");
    must(sd_bus_add_object_vtable(bus, NULL, "/org/freedesktop/PolicyKit1/Authority",
                                  "org.freedesktop.PolicyKit1.Authority", authority_vtable, NULL), "authority");
    must(sd_bus_request_name(bus, "org.freedesktop.PolicyKit1", 0), "name");
    must(sd_bus_attach_event(bus, loop, 0), "attach");
    must(sd_event_add_io(loop, NULL, STDIN_FILENO, EPOLLIN, on_line, NULL), "stdin");
    puts("READY");
    fflush(stdout);
    return sd_event_loop(loop);
}
