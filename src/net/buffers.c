#include "net/buffers.h"

#include <assert.h>
#include <pthread.h>
#include <sys/mman.h>

static _Thread_local struct buffers *mine;
static pthread_key_t key; /* for its destructor only */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void unmap(void *ptr)
{
    munmap(ptr, sizeof(struct buffers));
}

static void make_key(void)
{
    int rc = pthread_key_create(&key, unmap);
    assert(rc == 0);
    (void)rc;
}

/* Mapped, not allocated: pages that no batch ever reaches stay unused. */
struct buffers *buffers_of_thread(void)
{
    if (mine)
        return mine;
    pthread_once(&once, make_key);
    void *p = mmap(NULL, sizeof(struct buffers), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert(p != MAP_FAILED);
    pthread_setspecific(key, p);
    mine = p;
    return mine;
}
