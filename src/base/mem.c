#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *must(void *ptr)
{
    if (!ptr) {
        static const char text[] = "warren: out of memory\n";
        fwrite(text, 1, sizeof(text) - 1, stderr);
        abort();
    }
    return ptr;
}

void *mem_new(size_t size)
{
    return must(calloc(1, size ? size : 1));
}

void *mem_grow(void *ptr, size_t size)
{
    return must(realloc(ptr, size ? size : 1));
}

char *mem_strdup(const char *s)
{
    return s ? must(strdup(s)) : NULL;
}

char *mem_strndup(const char *s, size_t len)
{
    return must(strndup(s, len));
}

void *mem_dup(const void *data, size_t len)
{
    void *copy = mem_new(len);
    if (len)
        memcpy(copy, data, len);
    return copy;
}

char *mem_printf(const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    return must(n < 0 ? NULL : text);
}

void mem_free(void *ptr)
{
    free(ptr);
}
