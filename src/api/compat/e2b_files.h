/* e2b_files.h: uploads of the sandbox's file port. Loop thread only. */
#pragma once
#include "api/request.h"

struct upload;

/* Bytes of one file, or of the parts of a form, on their way into the cell; see e2b_files_upload.c. Frees itself when it is answered or the
 * client leaves. */
void e2b_upload_start(struct request *, const char *user, bool form);
