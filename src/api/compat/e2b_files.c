/* GET and POST /files of a sandbox's port: bytes of any size in and out. */
#include "api/compat/e2b_files.h"

#include <stdlib.h>
#include <string.h>

#include "api/compat/e2b.h"
#include "api/compat/e2b_filesystem_entry.h"
#include "api/handlers.h"
#include "api/http_internal.h"
#include "cell/files.h"

/* ---- GET ---- */

void e2b_files_get(struct request *rq) {
    struct err e;
    const char *user = e2b_user(rq), *asked = request_query(rq, "path");
    if (!user) return;
    char *path = e2b_path(user, asked ? asked : "", &e);
    if (!path) {
        reply_err(rq, &e);
        return;
    }
    struct json_object *op = json_object_new_object();
    json_set_text(op, "op", "read");
    json_set_text(op, "path", path);
    json_set_text(op, "user", user);
    free(path);
    answer_download(rq, op, false, "application/octet-stream");
}

/* ---- POST ---- */

static enum MHD_Result is_metadata(void *arg, enum MHD_ValueKind kind, const char *name, const char *value) {
    (void)kind, (void)value;
    *(bool *)arg |= strncasecmp(name, "X-Metadata-", 11) == 0;
    return MHD_YES;
}

void e2b_files_post(struct request *rq) {
    struct err e;
    const char *user = e2b_user(rq), *type = request_header(rq, MHD_HTTP_HEADER_CONTENT_TYPE);
    bool metadata = false;
    if (!user) return;
    if (rq->conn) MHD_get_connection_values(rq->conn, MHD_HEADER_KIND, is_metadata, &metadata);
    if (metadata) { /* to take them and lose them would be a lie */
        e2b_reply_later(rq, "metadata of a file (X-Metadata-*)", "keep it in a file beside it");
        return;
    }
    size_t n = type ? strcspn(type, "; \t") : 0;
    if (n == 19 && strncasecmp(type, "multipart/form-data", n) == 0) {
        e2b_upload_start(rq, user, true);
    } else if (n == 24 && strncasecmp(type, "application/octet-stream", n) == 0) {
        e2b_upload_start(rq, user, false);
    } else {
        err_set(&e, ERR_INVALID, "send multipart/form-data with fields \"file\", or application/octet-stream with ?path=");
        reply_err_as(rq, 415, &e);
    }
}

void e2b_files_compose(struct request *rq) {
    e2b_reply_later(rq, "composing files out of parts", "write the file in one request, it may be of any size");
}
