#include "keeper/left.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "keeper/cgroup.h"

static bool is_context(const struct cell *c, pid_t pid) {
    if (pid == c->guest) return true;
    for (int i = 0; i < KEEPER_SLOTS; i++)
        if (c->context[i].context == pid) return true;
    return false;
}

/* Its name, and its number as the cell sees it. */
static void note_process(struct notes *notes, pid_t pid) {
    char path[64], line[256], name[64] = "";
    unsigned own = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/status", pid);
    cleanup_file FILE *f = fopen(path, "re");
    while (f && !own && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        if (!*name && !strncmp(line, "Name:\t", 6)) (void)snprintf(name, sizeof name, "%s", line + 6);
        const char *last = strncmp(line, "NSpid:", 6) ? NULL : strrchr(line, '\t');
        if (last) own = (unsigned)atoi(last + 1);
    }
    if (f) notes_add(notes, KEEPER_NOTE_PROCESS, -1, own, name);
}

void left_processes(const struct cell *c, struct notes *notes) {
    pid_t pid[1024];
    const int n = cgroup_processes(c->name, pid, (int)(sizeof pid / sizeof *pid));
    for (int i = 0; i < n; i++)
        if (!is_context(c, pid[i])) note_process(notes, pid[i]);
}

void left_timers(pid_t context, struct notes *notes) {
    char path[64], line[256];
    (void)snprintf(path, sizeof path, "/proc/%d/timers", context);
    cleanup_file FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        if (!strncmp(line, "ID:", 3)) notes_add(notes, KEEPER_NOTE_TIMER, -1, 0, "timer_create");
    }
}
