#include "net/relay_internal.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <uthash.h>

struct relay_tag {
    char text[RELAY_TAG_SIZE];
    struct relay *relay;
    struct relay_tags *tags;
    UT_hash_handle hh;
};

struct relay *relay_tag_find(const struct relay_tags *tags, const char *text)
{
    const struct relay_tag *t;
    HASH_FIND_STR(tags->all, text, t);
    return t ? t->relay : NULL;
}

/* One that another has, or that is too long, is none. */
void relay_tag_set(struct relay *r, struct relay_tags *tags, const char *text)
{
    if (strlen(text) >= RELAY_TAG_SIZE || relay_tag_find(tags, text))
        return;
    struct relay_tag *t = r->tag = NEW(struct relay_tag);
    snprintf(t->text, sizeof(t->text), "%s", text);
    t->relay = r;
    t->tags = tags;
    HASH_ADD_STR(tags->all, text, t);
}

void relay_tag_drop(struct relay *r)
{
    struct relay_tag *t = r->tag;
    if (!t)
        return;
    r->tag = NULL;
    HASH_DEL(t->tags->all, t);
    mem_free(t);
}

const char *relay_tag(const struct relay *r)
{
    return r->tag ? r->tag->text : NULL;
}
