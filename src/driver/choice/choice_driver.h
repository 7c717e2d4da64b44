/* choice_driver.h: both drivers behind one. Cells are made by the one that was asked for, else by the one that this daemon prefers; whatever is asked of a cell goes
 * to the driver that it belongs to. Loop thread. */
#pragma once
#include "base/err.h"
#include "driver/driver.h"

enum choice_setting { CHOICE_AUTO, CHOICE_PROCESS, CHOICE_MICROVM };

struct choice_config {
    struct driver *process, *microvm;         /* on one connection to the keeper; owned from here on */
    enum choice_setting setting;              /* AUTO: machines where they work, decided once, when adopt() calls back. Else: no other driver makes cells */
    bool (*kvm)(const struct driver *microvm); /* microvm_driver_kvm */
    /* The processor can run a guest's kernel: choice_processor(). */
    bool (*processor)(void);
};

struct driver *choice_driver_open(const struct choice_config *);
/* "auto", "process", "microvm"; -1: invalid_request. */
int choice_setting_parse(const char *word, enum choice_setting *, struct err *);
/* /proc/cpuinfo names vmx or svm. */
bool choice_processor(void);
