/* cella doctor */
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "cli/arguments.h"
#include "cli/doctor/report.h"
#include "cli/output.h"
#include "cli/programs.h"
#include "cli/services.h"

/* Which driver this machine would use, and why: the words that the API shows too. */
static const char *choose(const struct report *r, char reason[512]) {
    char path[PROGRAM_PATH];
    struct err e;
    for (size_t i = 0; i < r->count; i++)
        if (r->finding[i].status == FINDING_MISSING) {
            (void)snprintf(reason, 512, "cells cannot run here: %s: %s", r->finding[i].name, r->finding[i].text);
            return NULL;
        }
    if (r->kvm_works && program_find("cella-vmm", path, &e) == 0) {
        (void)snprintf(reason, 512, "KVM works");
        return "microvm";
    }
    (void)snprintf(reason, 512, "%s", r->kvm_works ? "KVM works, but this build has no microVM driver" : r->kvm_why);
    return "process";
}

static int run(struct cli *cli, const struct command *command, int argc, char **argv) {
    static struct report report;
    static struct services services;
    static struct words words;
    const char *state = NULL;
    bool json = false;
    const struct option options[] = {
        {"state", 's', OPTION_TEXT, &state, "DIR", "state directory to look at (default: " STATE_DEFAULT ")"},
        {"json", 0, OPTION_FLAG, &json, NULL, "the same as -o json"},
        {0}};
    int code;
    struct err e;
    char reason[512];
    if (!arguments_take(cli, command, options, (struct arguments_form){0}, argc, argv, &words, &code)) return code;
    if (services_state(&services, state, &e) < 0) return cli_fail(&e);
    report.state = services.state;
    report.url = cli->url;
    report.key = cli->key;
    probe_kernel(&report);
    probe_process(&report);
    probe_mounts(&report);
    probe_cgroups(&report);
    probe_storage(&report);
    probe_kvm(&report);
    probe_installation(&report);
    const char *driver = choose(&report, reason);
    if (cli->json || json) {
        struct json_object *object = report_json(&report, driver, reason);
        output_json(object);
        json_object_put(object);
    } else {
        struct buf text = {0};
        report_text(&report, driver, reason, &text);
        printf("%s", text.data);
        buf_free(&text);
    }
    return driver ? EXIT_OK : EXIT_CODE_FAILED;
}

const struct command command_doctor = {
    "doctor",
    "Operation",
    "Look at this machine: what works, what is missing, what to do",
    "doctor [--json] [--state DIR]",
    "Tries everything that cells need, most of it for real and in child processes: namespaces, ptrace, mounts, "
    "control\n"
    "groups, a btrfs image, a tiny virtual machine. Needs no daemon; as root it can ask more. Each line is\n"
    "  ok        it works\n"
    "  degraded  Cella works without it, slower or with one layer less\n"
    "  missing   cells cannot run; the line under it says what to do\n"
    "The exit code is 0 when cells can run here, 1 when something is missing.\n",
    run};
