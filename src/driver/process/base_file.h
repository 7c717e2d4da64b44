/* base_file.h: base files on the disk (base.h). Threads of the pool. A name is TEMPLATE-LANGUAGE-SHA256.base. */
#pragma once
#include "driver/process/base.h"
#include "driver/process/image_scan.h"

/* Open and check the base with this digest. */
struct base_file *base_file_open(const char *directory, const char *template_id, const char *language, const uint8_t digest[IMAGE_DIGEST], struct err *);
/* Digest of the newest base of this template and language; false: there is none. */
bool base_file_newest(const char *directory, const char *template_id, const char *language, uint8_t digest[IMAGE_DIGEST]);
/* Write one of this warm interpreter; durable. */
struct base_file *base_file_make(const char *directory, const char *template_id, const char *language, const struct memory_source *, struct err *);
void base_file_free(struct base_file *);
/* Remove what a crash left half-written. */
void base_files_tidy(const char *directory);
