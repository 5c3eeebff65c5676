/* What the C programs of the bench share: clocks, processor time, a bus connection, a payload. */
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <systemd/sd-bus.h>

#define STORE_PATH "/org/mapipc/Store"
#define STORE_INTERFACE "org.mapipc.Store"
#define BENCH_PATH "/org/buswork/bench"
#define BENCH_INTERFACE "org.buswork.Bench"
#define THING_INTERFACE "org.buswork.Bench.Thing"
#define BENCH_KEY "bench"
#define FLOOD_KEY "flood"

/* No call of a bench takes longer than this on a machine that works. */
#define PATIENCE_US (30ull * 1000 * 1000)

/* Exit statuses: the runner tells "the service lost something" from "the bench is broken". */
enum { LOST = 3 };

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t) t.tv_sec * 1000000000ull + (uint64_t) t.tv_nsec;
}

/* Time on a processor of all threads of a process; 0 when it is gone. */
static inline uint64_t cpu_ns(int pid) {
    char path[512];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        return 0;
    uint64_t total = 0;
    for (struct dirent *task; (task = readdir(tasks));) {
        if (task->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, task->d_name);
        FILE *file = fopen(path, "r");
        unsigned long long on_cpu = 0;
        if (file && fscanf(file, "%llu", &on_cpu) == 1)
            total += on_cpu;
        if (file)
            fclose(file);
    }
    closedir(tasks);
    return total;
}

/* Passes a result on, or ends the program with the reason. */
static inline int must(int result, const char *what) {
    if (result < 0) {
        fprintf(stderr, "%s: %s\n", what, strerror(-result));
        exit(LOST);
    }
    return result;
}

static inline sd_bus *connect_to(const char *address) {
    sd_bus *bus = NULL;
    must(sd_bus_new(&bus), "sd_bus_new");
    must(sd_bus_set_address(bus, address), "sd_bus_set_address");
    must(sd_bus_set_bus_client(bus, 1), "sd_bus_set_bus_client");
    must(sd_bus_start(bus), "connect");
    return bus;
}

/* Text of so many bytes that differs from place to place and, by its first byte, from mark to mark. */
static inline char *text_of(size_t size, char mark) {
    char *text = malloc(size + 1);
    if (!text)
        must(-ENOMEM, "malloc");
    for (size_t i = 0; i < size; i++)
        text[i] = (char) ('a' + i % 26);
    if (size)
        text[0] = mark;
    text[size] = 0;
    return text;
}

static inline sd_bus_message *new_call(sd_bus *bus, const char *name, const char *path,
                                       const char *interface, const char *member) {
    sd_bus_message *message = NULL;
    must(sd_bus_message_new_method_call(bus, &message, name, path, interface, member), member);
    return message;
}

/* Sets the one key that every run reads. */
static inline void set_value(sd_bus *bus, const char *name, const char *value) {
    sd_bus_message *call = new_call(bus, name, STORE_PATH, STORE_INTERFACE, "Set");
    sd_bus_error error = SD_BUS_ERROR_NULL;
    must(sd_bus_message_append(call, "ss", BENCH_KEY, value), "append");
    if (sd_bus_call(bus, call, PATIENCE_US, &error, NULL) < 0) {
        fprintf(stderr, "Set: %s: %s\n", error.name, error.message);
        exit(LOST);
    }
    sd_bus_message_unref(call);
}

/* One turn of a connection's loop; false when it has been silent for too long. */
static inline bool turn(sd_bus *bus) {
    int result = must(sd_bus_process(bus, NULL), "process");
    return result > 0 || must(sd_bus_wait(bus, PATIENCE_US), "wait") > 0;
}

static inline int by_size(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *) left, b = *(const uint64_t *) right;
    return a < b ? -1 : a > b;
}
