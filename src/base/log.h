/*
 * Structured logging: an event text that never varies, and typed fields.
 *
 *     LOG_INFO("agent connected", LOG_STR("agent", id), LOG_INT("epoch", epoch));
 *
 * A value can only be logged through one of the field makers below; there is none for
 * `struct secret`, so a secret does not compile into a log line. The sink is the one global of this
 * layer: it is set up once before threads start, and lines are written whole, from any thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level {
    LOG_LEVEL_DEBUG,
    LOG_LEVEL_INFO,
    LOG_LEVEL_WARN,
    LOG_LEVEL_ERROR,
    LOG_LEVEL_COUNT
};
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

struct log_field {
    const char *key;
    enum { LOG_FIELD_STR, LOG_FIELD_INT, LOG_FIELD_BOOL } type;
    const char *str;
    int64_t num;
};

#define LOG_STR(k, v)  ((struct log_field){(k), LOG_FIELD_STR, (v), 0})
#define LOG_INT(k, v)  ((struct log_field){(k), LOG_FIELD_INT, NULL, (int64_t)(v)})
#define LOG_BOOL(k, v) ((struct log_field){(k), LOG_FIELD_BOOL, NULL, (v)})
#define LOG_ERR(code)  LOG_STR("error", error_name(code)) /* needs base/error.h */

#define LOG_AT(level, text, ...)                                                               \
    do {                                                                                       \
        if (log_enabled(level))                                                                \
            log_write(level, text, (const struct log_field[]){__VA_ARGS__ __VA_OPT__(, ){0}}); \
    } while (0)
#define LOG_DEBUG(text, ...) LOG_AT(LOG_LEVEL_DEBUG, text __VA_OPT__(, ) __VA_ARGS__)
#define LOG_INFO(text, ...)  LOG_AT(LOG_LEVEL_INFO, text __VA_OPT__(, ) __VA_ARGS__)
#define LOG_WARN(text, ...)  LOG_AT(LOG_LEVEL_WARN, text __VA_OPT__(, ) __VA_ARGS__)
#define LOG_ERROR(text, ...) LOG_AT(LOG_LEVEL_ERROR, text __VA_OPT__(, ) __VA_ARGS__)

void log_setup(enum log_level least, enum log_format format, int fd);
bool log_enabled(enum log_level level);
/* `fields` ends with one whose key is NULL. Control characters and quotes are escaped. */
void log_write(enum log_level level, const char *text, const struct log_field *fields);

/* Key material and tokens. Wiped by secret_done; there is deliberately no way to print one. */
struct secret {
    char *data;
    size_t len;
};

void secret_set(struct secret *s, const void *data, size_t len);
void secret_done(struct secret *s);
static inline void secret_done_cleanup(struct secret *s)
{
    secret_done(s);
}
