/*
 * One frame buffer a thread instead of one a session.
 *
 * nghttp2 keeps 16 KiB for outgoing frames in every session, two thirds of what an idle session
 * costs, and 64 KiB once it was allowed to send a large DATA frame. It fills that buffer only
 * inside nghttp2_session_mem_send, and h2_output copies each frame out before it calls again, so
 * all sessions of a thread can use the same one. What of nghttp2 1.52 carries this:
 *
 *  - the buffer is made by realloc(NULL, FRAME_SIZE) when the session is made; later ones of that
 *    size (long header blocks) live across calls and come from malloc;
 *  - it is replaced, before anything is in it, by realloc(NULL, up to LARGE_SIZE) inside mem_send;
 *    nothing else of such a size is made by realloc there;
 *  - a new client session leaves its preface in it, which h2_new takes out at once.
 *
 * With any other version of nghttp2 nothing is shared. A session must stay on the thread that made
 * it.
 */
#include "wire/h2_internal.h"

#include <assert.h>
#include <stdlib.h>

#define FRAME_SIZE     16394 /* NGHTTP2_FRAMEBUF_CHUNKLEN */
#define LARGE_SIZE     (H2_DATA_LARGE + H2_FRAME_HEADER_BYTES + 1)
#define SHARED_VERSION 0x013400

static _Thread_local uint8_t shared_frame[LARGE_SIZE];

static bool is_frame_buffer(struct h2_memory *m, size_t size)
{
    if (m->in_send)
        return size > FRAME_SIZE && size <= LARGE_SIZE;
    bool is_first = size == FRAME_SIZE && !m->has_frame;
    m->has_frame |= is_first;
    return is_first;
}

static void *memory_realloc(void *ptr, size_t size, void *user)
{
    struct h2_memory *m = user;
    assert(ptr != shared_frame);
    if (!ptr && m->is_known && is_frame_buffer(m, size))
        return shared_frame;
    return realloc(ptr, size);
}

static void *memory_malloc(size_t size, void *user)
{
    (void)user;
    return malloc(size);
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
    *m = (struct h2_memory){.is_known = nghttp2_version(0)->version_num == SHARED_VERSION};
    *ret = (nghttp2_mem){m, memory_malloc, memory_free, memory_calloc, memory_realloc};
}
