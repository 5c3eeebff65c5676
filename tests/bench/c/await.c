/* How long a program takes.
 *
 *   await ADDRESS NAME PROGRAM [ARGUMENT...]   from its start until it owns NAME; then it is ended
 *   await ADDRESS NAME                         waits until somebody owns NAME
 *   await - - PROGRAM [ARGUMENT...]            from its start to its end */
#include "bench.h"
#include <sys/wait.h>

static bool owned;

static int on_owner(sd_bus_message *message, void *data, sd_bus_error *error) {
    (void) data, (void) error;
    const char *name, *before, *after;
    must(sd_bus_message_read(message, "sss", &name, &before, &after), "read");
    owned = owned || *after;
    return 0;
}

static bool has_owner(sd_bus *bus, const char *name) {
    sd_bus_message *reply = NULL;
    int answer = 0;
    must(sd_bus_call_method(bus, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                            "NameHasOwner", NULL, &reply, "s", name), "NameHasOwner");
    must(sd_bus_message_read_basic(reply, 'b', &answer), "read");
    sd_bus_message_unref(reply);
    return answer;
}

static sd_bus *watch(const char *address, const char *name) {
    char rule[512];
    sd_bus *bus = connect_to(address);
    snprintf(rule, sizeof rule, "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='%s'",
             name);
    must(sd_bus_add_match(bus, NULL, rule, on_owner, NULL), "match");
    owned = has_owner(bus, name);
    return bus;
}

static pid_t spawn(char **argv) {
    pid_t pid = fork();
    if (pid == 0) {
        dup2(STDERR_FILENO, STDOUT_FILENO); /* what is measured does not print among the figures */
        execvp(argv[0], argv);
        _exit(127);
    }
    return pid;
}

/* False when the program ended first, or after too long. */
static bool until_owned(sd_bus *bus, pid_t pid) {
    uint64_t deadline = now_ns() + PATIENCE_US * 1000;
    while (!owned) {
        if (now_ns() > deadline || (pid && waitpid(pid, NULL, WNOHANG) == pid))
            return false;
        if (!must(sd_bus_process(bus, NULL), "process"))
            must(sd_bus_wait(bus, 50 * 1000), "wait");
    }
    return true;
}

/* The next start must find the name free. */
static void end(sd_bus *bus, const char *name, pid_t pid) {
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    while (has_owner(bus, name))
        usleep(1000);
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    int status = 0;
    bool watching = strcmp(argv[1], "-");
    sd_bus *bus = watching ? watch(argv[1], argv[2]) : NULL;
    if (argc > 3 && owned)
        must(-EBUSY, argv[2]);
    uint64_t start = now_ns();
    pid_t pid = argc > 3 ? spawn(argv + 3) : 0;
    bool in_time = watching ? until_owned(bus, pid) : waitpid(pid, &status, 0) == pid;
    uint64_t wall_ns = now_ns() - start;
    if (watching && pid)
        end(bus, argv[2], pid);
    printf("{\"wall_ns\": %lu}\n", wall_ns);
    return in_time && !status ? 0 : LOST;
}
