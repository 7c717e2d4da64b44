#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "plain_driver.h"

#define PLAIN_TEMPLATE "00000000000000000000000000000000000000000000000000000000000c0de1"

int plain_state_make(const char *state_dir, struct err *err) {
    static const char *const dirs[] = {"",
                                       "/db",
                                       "/templates",
                                       "/templates/names",
                                       "/templates/" PLAIN_TEMPLATE,
                                       "/templates/" PLAIN_TEMPLATE "/root"};
    static const char *const names[] = {"python", "default", "base"};
    char path[1024];
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        (void)snprintf(path, sizeof path, "%s%s", state_dir, dirs[i]);
        if (mkdir(path, 0755) < 0 && errno != EEXIST) return err_sys(err, errno, "mkdir %s", path);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        (void)snprintf(path, sizeof path, "%s/templates/names/%s", state_dir, names[i]);
        if (symlink("../" PLAIN_TEMPLATE, path) < 0 && errno != EEXIST) return err_sys(err, errno, "symlink %s", path);
    }
    (void)snprintf(path, sizeof path, "%s/templates/" PLAIN_TEMPLATE "/manifest.json", state_dir);
    cleanup_file FILE *f = fopen(path, "we");
    if (!f) return err_sys(err, errno, "write %s", path);
    fputs("{\"id\":\"" PLAIN_TEMPLATE "\",\"name\":\"python\",\"aliases\":[\"default\",\"base\"],"
          "\"created_at\":\"2026-01-01T00:00:00Z\",\"packages\":[\"python3\"],\"size_bytes\":0,\"limits\":{},"
          "\"languages\":[\"python\",\"shell\"]}\n",
          f);
    return 0;
}
