/* e2b_code.h: what the files of port 49999, the code interpreter, share. Loop thread only. */
#pragma once
#include "api/compat/e2b.h"
#include "api/json_text.h"
#include "api/reply.h"

/* A language of the body in our words: NULL stays NULL. false after a reply: what has no context in this version. */
bool e2b_code_language(struct request *, const char *said, const char **ours);
/* A result's MIME bundle under their names: {"type": "result", "text", "html", …, "is_main_result"}. New reference. */
struct json_object *e2b_code_result(struct json_object *bundle, bool is_main);
