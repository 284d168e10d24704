/*
 * One frame buffer a thread instead of one a session.
 *
 * nghttp2 keeps 16 KiB for outgoing frames in every session, two thirds of what an idle session
 * costs. It fills that buffer only inside nghttp2_session_mem_send, and h2_output copies each frame
 * out before it calls again, so all sessions of a thread can use the same one. Three facts of
 * nghttp2 1.52 carry this: the buffer is the session's first allocation of exactly SHARED_SIZE
 * bytes; later ones of that size (long header blocks) live across calls and come from malloc; a new
 * client session leaves its preface in the buffer, which h2_new takes out at once. With any other
 * version of nghttp2 nothing is shared.
 *
 * A session therefore must stay on the thread that made it.
 */
#include "wire/h2_internal.h"

#include <assert.h>
#include <stdlib.h>

#define SHARED_SIZE    16394 /* NGHTTP2_FRAMEBUF_CHUNKLEN */
#define SHARED_VERSION 0x013400

static _Thread_local uint8_t shared_frame[SHARED_SIZE];

static bool version_is_known(void)
{
    static int known = -1; /* every thread computes the same */
    if (known < 0)
        known = nghttp2_version(0)->version_num == SHARED_VERSION;
    return known;
}

static void *memory_realloc(void *ptr, size_t size, void *user)
{
    struct h2_memory *m = user;
    if (size == SHARED_SIZE && !ptr && !m->has_shared && version_is_known()) {
        m->has_shared = true;
        return shared_frame;
    }
    assert(ptr != shared_frame);
    return realloc(ptr, size);
}

static void *memory_malloc(size_t size, void *user)
{
    return size == SHARED_SIZE ? memory_realloc(NULL, size, user) : malloc(size);
}

static void *memory_calloc(size_t n, size_t size, void *user)
{
    (void)user;
    return calloc(n, size);
}

static void memory_free(void *ptr, void *user)
{
    (void)user;
    if (ptr != shared_frame)
        free(ptr);
}

void h2_memory_init(struct h2_memory *m, nghttp2_mem *ret)
{
    *m = (struct h2_memory){0};
    *ret = (nghttp2_mem){m, memory_malloc, memory_free, memory_calloc, memory_realloc};
}
