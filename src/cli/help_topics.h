/* help_topics.h: pages of `cella help` that belong to no single command. The last one has no name. */
#pragma once

struct help_topic {
    const char *name, *summary, *text;
};
extern const struct help_topic help_topics[];
