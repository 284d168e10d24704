/*
 * Memory that is there or the process ends with a message: small allocations are bounded by the
 * limits on what peers control, so running out is a sizing mistake no caller could repair.
 */
#pragma once

#include <stddef.h>

void *mem_new(size_t size); /* zeroed */
void *mem_grow(void *ptr, size_t size);
char *mem_strdup(const char *s); /* NULL stays NULL */
char *mem_strndup(const char *s, size_t len);
void *mem_dup(const void *data, size_t len);
char *mem_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* For CLEANUP(mem_free). */
void mem_free(void *ptr);
static inline void mem_free_cleanup(void *p)
{
    mem_free(*(void **)p);
}

#define NEW(type) ((type *)mem_new(sizeof(type)))
