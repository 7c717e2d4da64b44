/* peer: the same two questions asked of something that is not Cella.
 *
 *   peer first N PROGRAM ARGS...     start the program N times, each time until its first byte of output; then kill it
 *   peer pipe N LINE PROGRAM ARGS... start it once; N times write LINE and read one line of answer
 *
 * Prints "sample MICROSECONDS" lines. A program that says nothing ends this one with status 1. */
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

struct child {
    pid_t pid;
    int in, out; /* write to its stdin, read from its stdout */
};

static struct child start(char **argv) {
    int in[2], out[2];
    struct child c;
    posix_spawn_file_actions_t acts;
    if (pipe(in) < 0 || pipe(out) < 0 || posix_spawn_file_actions_init(&acts)) abort();
    (void)posix_spawn_file_actions_adddup2(&acts, in[0], 0);
    (void)posix_spawn_file_actions_adddup2(&acts, out[1], 1);
    for (int i = 0; i < 2; i++) {
        (void)posix_spawn_file_actions_addclose(&acts, in[i]);
        (void)posix_spawn_file_actions_addclose(&acts, out[i]);
    }
    if (posix_spawnp(&c.pid, argv[0], &acts, NULL, argv, environ)) {
        (void)fprintf(stderr, "peer: cannot start %s\n", argv[0]);
        exit(1);
    }
    (void)posix_spawn_file_actions_destroy(&acts);
    close(in[0]);
    close(out[1]);
    c.in = in[1];
    c.out = out[0];
    return c;
}

static void end(struct child *c) {
    close(c->in);
    close(c->out);
    (void)kill(c->pid, SIGKILL);
    (void)waitpid(c->pid, NULL, 0);
}

static void said_nothing(const char *program) {
    (void)fprintf(stderr, "peer: %s said nothing\n", program);
    exit(1);
}

static int run_first(int n, char **argv) {
    for (int i = 0; i < n; i++) {
        char byte;
        double from = now_us();
        struct child c = start(argv);
        if (read(c.out, &byte, 1) != 1) said_nothing(argv[0]);
        (void)printf("sample %.2f\n", now_us() - from);
        end(&c);
    }
    return 0;
}

static void exchange(struct child *c, const char *line, const char *program) {
    char answer[4096];
    size_t n = strlen(line);
    if (write(c->in, line, n) != (ssize_t)n || write(c->in, "\n", 1) != 1) said_nothing(program);
    for (size_t have = 0; !have || answer[have - 1] != '\n';) {
        ssize_t got = read(c->out, answer + have, sizeof answer - have);
        if (got < 1) said_nothing(program);
        have += (size_t)got;
    }
}

static int run_pipe(int n, const char *line, char **argv) {
    struct child c = start(argv);
    for (int i = 0; i < 20; i++) exchange(&c, line, argv[0]); /* warm-up, not counted */
    for (int i = 0; i < n; i++) {
        double from = now_us();
        exchange(&c, line, argv[0]);
        (void)printf("sample %.2f\n", now_us() - from);
    }
    end(&c);
    return 0;
}

int main(int argc, char **argv) {
    (void)signal(SIGPIPE, SIG_IGN);
    if (argc >= 4 && strcmp(argv[1], "first") == 0) return run_first(atoi(argv[2]), argv + 3);
    if (argc >= 5 && strcmp(argv[1], "pipe") == 0) return run_pipe(atoi(argv[2]), argv[3], argv + 4);
    (void)fputs("usage: peer first N PROGRAM... | peer pipe N LINE PROGRAM...\n", stderr);
    return 2;
}
