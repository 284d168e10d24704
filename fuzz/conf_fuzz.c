/* The settings file of hub and agent. What loads must dump to a file that loads to the same dump,
 * but for the comments that say where a value came from. */
#include "agent/settings.h"
#include "hub/settings.h"

#include "base/mem.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *without_comments(struct buf *dump)
{
    struct buf out = {0};
    char *save;
    for (char *line = strtok_r(dump->data, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (*line != '#')
            buf_printf(&out, "%s\n", line);
    }
    buf_done(dump);
    return buf_take(&out);
}

static void load(const struct conf_table *table, const char *text, size_t size)
{
    struct conf *c, *again;
    struct diag d = {0};
    struct buf first = {0}, second = {0};
    if (conf_load_text(table, "fuzz.toml", text, size, &c, &d) < 0) {
        assert(d.code < 0 && d.text[0]);
        return;
    }
    conf_dump(c, &first);
    int rc = conf_load_text(table, "dump.toml", first.data, first.len, &again, &d);
    assert(rc == 0);
    (void)rc;
    conf_dump(again, &second);
    CLEANUP(mem_free) char *a = without_comments(&first), *b = without_comments(&second);
    assert(strcmp(a, b) == 0);
    conf_free(c);
    conf_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    load(&hub_conf_table, (const char *)data, size);
    load(&agent_conf_table, (const char *)data, size);
    return 0;
}
