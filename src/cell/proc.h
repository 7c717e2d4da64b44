/* proc.h: the record of one process behind the views that process.h hands out. Private to this floor. */
#pragma once
#include "cell/domain.h"

#define PROC_RECORDS_MAX 100 /* ended background processes of a cell */

struct process { /* one listener */
    struct proc *proc;
    struct process *next;
    process_cb cb; /* NULL: detached, freed when nobody iterates */
    void *arg;
    bool paused, live; /* live: it has been told what came before it */
    struct deferred replay;
};

enum proc_state { PROC_STARTING, PROC_RUNNING, PROC_ENDED };

struct proc {
    struct cell *cell;
    struct proc *next;
    char id[DOMAIN_ID];
    int64_t pid;
    enum proc_state state;
    struct guest_channel *channel; /* NULL once ended */
    struct process *views;
    int telling;   /* callbacks on the stack */
    char *command; /* shown in lists, shortened */
    bool background, pty, timed_out, clock_held, oom_base_known, ours /* process_run_ours */;
    struct json_object *input; /* stdin given as a string, and how much of it is written */
    size_t input_at;
    bool input_closes; /* EOF after it */
    int64_t started_ms, started_us, timeout_ms;
    size_t held; /* bytes taken while a view was paused: their credit is still owed */
    uint64_t oom_base;
    struct tail kept[2]; /* background: stdout and stderr, for attach */
    struct deadline clock;
    struct json_object *end; /* what PROCESS_END says */
    bool failed;             /* it could not start: err says why */
    struct err err;
};

/* process.c */
struct proc *proc_find(struct cell *, const char *id_or_pid, struct err *);
/* proc.c */
struct proc *proc_start(struct cell *, struct json_object *body, bool can_write, struct err *);
struct process *proc_view(struct proc *, process_cb, void *arg);
void proc_tell(struct proc *, enum process_event, struct json_object *, const void *bytes, size_t n, struct err *);
void proc_sweep(struct proc *);  /* free the views that are detached */
void proc_credit(struct proc *); /* give back what is owed when no view is paused */
void proc_kill(struct proc *);   /* the whole group */
void proc_remove(struct proc *);
