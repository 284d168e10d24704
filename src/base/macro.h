/*
 * Small language helpers. The only place where statement expressions are used.
 */
#pragma once

#include <stddef.h>
#include <sys/param.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#undef MIN /* <sys/param.h> has them with double evaluation */
#undef MAX
#define MIN(a, b)           \
    ({                      \
        typeof(a) a_ = (a); \
        typeof(b) b_ = (b); \
        a_ < b_ ? a_ : b_;  \
    })
#define MAX(a, b)           \
    ({                      \
        typeof(a) a_ = (a); \
        typeof(b) b_ = (b); \
        a_ > b_ ? a_ : b_;  \
    })

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Passes a negative error code on to the caller; otherwise has the value of the expression. */
#define TRY(expr)                   \
    ({                              \
        typeof(expr) try_ = (expr); \
        if (try_ < 0)               \
            return try_;            \
        try_;                       \
    })

/* Takes ownership out of a variable: yields its value and leaves NULL. */
#define TAKE(ptr)                  \
    ({                             \
        typeof(ptr) take_ = (ptr); \
        (ptr) = NULL;              \
        take_;                     \
    })

/* `CLEANUP(x_free) struct x *x = NULL;` frees x when the scope ends. Defined per type by
 * DEFINE_CLEANUP(struct x *, x_free). */
#define DEFINE_CLEANUP(type, func)             \
    static inline void func##_cleanup(type *p) \
    {                                          \
        if (*p)                                \
            func(*p);                          \
    }
#define CLEANUP(func) __attribute__((cleanup(func##_cleanup)))

#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define MUST_CHECK             __attribute__((warn_unused_result))
