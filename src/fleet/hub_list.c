#include "fleet/hub_list.h"

#include "base/error.h"
#include "base/macro.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

int hub_list_configure(struct hub_list *l, const struct host_port *at)
{
    if (l->n_configured == HUB_LIST_CONFIGURED)
        return ERR_LIMIT;
    memmove(&l->entries[l->n_configured + 1], &l->entries[l->n_configured],
            (l->n - l->n_configured) * sizeof(l->entries[0]));
    l->entries[l->n_configured++] = (struct hub_entry){.at = *at};
    l->n++;
    return 0;
}

struct hub_entry *hub_list_find(struct hub_list *l, const char *id, const struct host_port *at)
{
    for (size_t i = 0; i < l->n; i++) {
        struct hub_entry *e = &l->entries[i];
        if (strcmp(e->id, id) == 0 && host_port_equal(&e->at, at))
            return e;
    }
    return NULL;
}

static bool has_id(const struct hub_list *l, const char *id)
{
    for (size_t i = l->n_configured; i < l->n; i++) {
        if (strcmp(l->entries[i].id, id) == 0)
            return true;
    }
    return false;
}

/* The entry that was added; NULL: it cannot be. */
static struct hub_entry *add(struct hub_list *l, const char *id, const char *address)
{
    struct hub_entry e = {0};
    if (l->n - l->n_configured == HUB_LIST_CLUSTER || !id || !address || !id_is(id, "hub") ||
        has_id(l, id) || host_port_parse(address, false, &e.at, NULL) < 0 || !e.at.port)
        return NULL;
    snprintf(e.id, sizeof(e.id), "%s", id);
    l->entries[l->n] = e;
    return &l->entries[l->n++];
}

void hub_list_replace(struct hub_list *l, const struct hub_told *told, size_t n)
{
    struct hub_list *was = mem_dup(l, sizeof(*l));
    l->n = l->n_configured;
    for (size_t i = 0; i < n; i++) {
        struct hub_entry *e = add(l, told[i].id, told[i].address);
        const struct hub_entry *old = e ? hub_list_find(was, e->id, &e->at) : NULL;
        if (old)
            *e = *old;
        if (e)
            e->is_leaving = told[i].is_leaving;
    }
    mem_free(was);
}

/* ---- which one ---- */

enum rank { RANK_NEAR, RANK_CONFIGURED, RANK_UNMEASURED, RANK_LEAVING, RANK_COUNT };

static enum rank rank_of(const struct hub_entry *e)
{
    return !e->id[0]       ? RANK_CONFIGURED
           : e->is_leaving ? RANK_LEAVING
           : e->rtt_us     ? RANK_NEAR
                           : RANK_UNMEASURED;
}

static bool may_try(const struct hub_entry *e, const char *not_id)
{
    return !e->was_tried && !(e->id[0] && strcmp(e->id, not_id) == 0);
}

static uint32_t nearest_us(const struct hub_list *l, const char *not_id)
{
    uint32_t best = UINT32_MAX;
    for (size_t i = 0; i < l->n; i++) {
        const struct hub_entry *e = &l->entries[i];
        if (may_try(e, not_id) && rank_of(e) == RANK_NEAR)
            best = MIN(best, e->rtt_us);
    }
    return best;
}

static bool is_near(const struct hub_entry *e, uint32_t nearest)
{
    return e->rtt_us <= nearest + nearest / 2 || e->rtt_us - nearest <= HUB_LIST_NEAR_US;
}

/* One of those that are equally near, so that agents which have lost the same hub do not all go to
 * the same next one. */
static struct hub_entry *pick_near(struct hub_list *l, const char *not_id, uint32_t random)
{
    struct hub_entry *near[HUB_LIST_CLUSTER];
    uint32_t nearest = nearest_us(l, not_id);
    size_t n = 0;
    for (size_t i = l->n_configured; i < l->n; i++) {
        struct hub_entry *e = &l->entries[i];
        if (may_try(e, not_id) && rank_of(e) == RANK_NEAR && is_near(e, nearest))
            near[n++] = e;
    }
    return n ? near[random % n] : NULL;
}

static struct hub_entry *pick(struct hub_list *l, const char *not_id, uint32_t random)
{
    struct hub_entry *e = pick_near(l, not_id, random);
    for (int rank = RANK_CONFIGURED; !e && rank < RANK_COUNT; rank++) {
        for (size_t i = 0; i < l->n && !e; i++) {
            if (may_try(&l->entries[i], not_id) && (int)rank_of(&l->entries[i]) == rank)
                e = &l->entries[i];
        }
    }
    return e;
}

struct hub_entry *hub_list_next(struct hub_list *l, const char *not_id, uint32_t random)
{
    struct hub_entry *e = pick(l, not_id, random);
    if (!e) {
        hub_list_reset(l);
        e = pick(l, not_id, random);
    }
    if (e)
        e->was_tried = true;
    return e;
}

bool hub_list_has_untried(const struct hub_list *l, const char *not_id)
{
    for (size_t i = 0; i < l->n; i++) {
        if (may_try(&l->entries[i], not_id))
            return true;
    }
    return false;
}

void hub_list_reset(struct hub_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        l->entries[i].was_tried = false;
}

/* ---- in a file ---- */

json_t *hub_list_json(const struct hub_list *l)
{
    json_t *list = json_array();
    for (size_t i = l->n_configured; i < l->n; i++) {
        char address[HOST_SIZE + 8];
        host_port_format(&l->entries[i].at, address, sizeof(address));
        json_array_append_new(list, json_pack("{s:s, s:s, s:I}", "id", l->entries[i].id, "address",
                                              address, "rtt_us", (json_int_t)l->entries[i].rtt_us));
    }
    return list;
}

void hub_list_load(struct hub_list *l, const json_t *list)
{
    size_t i;
    const json_t *value;
    l->n = l->n_configured;
    json_array_foreach (list, i, value) {
        struct hub_entry *e = add(l, json_string_value(json_object_get(value, "id")),
                                  json_string_value(json_object_get(value, "address")));
        json_int_t rtt = json_integer_value(json_object_get(value, "rtt_us"));
        if (e && rtt > 0 && rtt < UINT32_MAX)
            e->rtt_us = (uint32_t)rtt;
    }
}
