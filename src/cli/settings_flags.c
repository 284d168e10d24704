#include "cli/settings_flags.h"

#include "base/error.h"
#include "base/macro.h"

#include <string.h>
#include <unistd.h>

static const struct flag_row rows[] = {
    {.name = "--config",
     .type = FLAG_TEXT,
     .metavar = "FILE",
     .candidates = CANDIDATES_FILE,
     .help = "TOML file with settings; the environment and flags are stronger."},
    {.name = "--check-config",
     .type = FLAG_SWITCH,
     .help = "Only say whether the settings are right."},
    {.name = "--dump-config",
     .type = FLAG_SWITCH,
     .help = "Only print all settings as a TOML file, with where each came from."},
};
const struct flag_set settings_flags = {"Flags", rows, ARRAY_SIZE(rows)};

struct conf_sources settings_sources(const struct call *c)
{
    return (struct conf_sources){
        .file = call_text(c, "--config"),
        .env = environ,
        .flags = c->conf_flags,
        .n_flags = c->n_conf_flags,
    };
}

int settings_checked(struct call *c)
{
    struct conf *conf = NULL;
    struct buf text = {0};
    struct conf_sources sources = settings_sources(c);
    bool is_dump = call_is_given(c, "--dump-config");
    if (!is_dump && !call_is_given(c, "--check-config"))
        return 0;
    TRY(conf_load(c->command->conf, &sources, &conf, &c->diag));
    int r = is_dump ? conf_dump(conf, &text) : buf_puts(&text, "the settings are right\n");
    conf_free(conf);
    if (r == 0)
        fputs(buf_text(&text), c->out);
    buf_done(&text);
    return r < 0 ? r : 1;
}
