#include "conf/conf.h"

#include "base/error.h"
#include "base/macro.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct settings {
    char *title, *data;
    struct conf_list names;
    int64_t workers, wait_ms;
    bool is_loud;
    uint64_t quota_bytes;
    int color;
    struct host_port listen;
};

static const char *const colors[] = {"red", "green", NULL};

static int check_name(const char *item, struct diag *d)
{
    return strlen(item) > 8 ? diag_set(d, ERR_INVALID, "'%s' is too long", item) : 0;
}

#define AT(member) offsetof(struct settings, member)
static const struct conf_row rows[] = {
    {"title", CONF_STRING, AT(title), NULL, "T_TITLE", "--title", "TEXT", "A title."},
    {"limits.workers", CONF_INT, AT(workers), "4", "T_WORKERS", "--workers", "N", "Threads.",
     .min = 1, .max = 8},
    {"data", CONF_PATH, AT(data), NULL, "T_DATA", "--data", "DIR", "A folder."},
    {"names", CONF_LIST, AT(names), "a b", "T_NAMES", "--name", "NAME", "Names.", CONF_RELOADABLE,
     .check = check_name},
    {"limits.wait", CONF_DURATION, AT(wait_ms), "30s", "T_WAIT", "--wait", "TIME", "How long.",
     CONF_RELOADABLE, .min = 1000, .max = 60000},
    {"loud", CONF_BOOL, AT(is_loud), NULL, "T_LOUD", "--loud", NULL, "Whether."},
    {"quota", CONF_BYTES, AT(quota_bytes), "1MiB", "T_QUOTA", "--quota", "SIZE", "How much."},
    {"color", CONF_ENUM, AT(color), "green", "T_COLOR", "--color", "COLOR", "Which.",
     .choices = colors},
    {"listen", CONF_ADDR, AT(listen), "[::1]:80", "T_LISTEN", "--listen", "ADDR:PORT", "Where."},
};

static int check_together(const void *settings, struct diag *d)
{
    const struct settings *s = settings;
    return s->is_loud && s->color == 0 ? diag_set(d, ERR_INVALID, "red is never loud") : 0;
}

static const struct conf_table table = {rows, ARRAY_SIZE(rows), sizeof(struct settings),
                                        check_together};

static struct conf *load_ok(const char *text)
{
    struct conf *c;
    struct diag d = {0};
    if (conf_load_text(&table, "t.toml", text, strlen(text), &c, &d) < 0)
        fail_msg("%s", diag_text(&d));
    return c;
}

static void defaults_fill_what_no_source_sets(void **state)
{
    struct conf *c = load_ok("");
    struct settings *s = conf_settings(c);
    assert_null(s->title);
    assert_null(s->data);
    assert_int_equal(s->names.n, 2);
    assert_string_equal(s->names.items[1], "b");
    assert_int_equal(s->workers, 4);
    assert_int_equal(s->wait_ms, 30000);
    assert_false(s->is_loud);
    assert_int_equal(s->quota_bytes, 1 << 20);
    assert_int_equal(s->color, 1);
    assert_string_equal(s->listen.host, "::1");
    assert_string_equal(conf_origin(c, "color"), "default");
    assert_null(conf_origin(c, "colour"));
    conf_free(c);
}

static void a_file_sets_every_type(void **state)
{
    struct conf *c = load_ok("title = 'x \"y\"'\ndata = '/d'\nnames = ['n1', 'n2', 'n3']\n"
                             "loud = true\nquota = 4096\ncolor = 'green'\nlisten = 'h:1'\n"
                             "[limits]\nworkers = 8\nwait = '1m'\n");
    struct settings *s = conf_settings(c);
    assert_string_equal(s->title, "x \"y\"");
    assert_string_equal(s->data, "/d");
    assert_int_equal(s->names.n, 3);
    assert_string_equal(s->names.items[2], "n3");
    assert_int_equal(s->workers, 8);
    assert_int_equal(s->wait_ms, 60000);
    assert_true(s->is_loud);
    assert_int_equal(s->quota_bytes, 4096);
    assert_int_equal(s->listen.port, 1);
    assert_string_equal(conf_origin(c, "limits.workers"), "t.toml:9");
    conf_free(c);
}

static void a_wrong_file_is_refused_with_line_and_reason(void **state)
{
    static const struct {
        const char *text, *field, *expected;
    } cases[] = {
        {"\ntitel = 'x'", "titel", "t.toml:2: unknown setting 'titel'; did you mean 'title'?"},
        {"[limits]\nworker = 1", "limits.worker",
         "t.toml:2: unknown setting 'limits.worker'; did you mean 'limits.workers'?"},
        {"[other]", "other", "t.toml:1: unknown setting 'other'"},
        {"zzzzzzzzzzzz = 1", "zzzzzzzzzzzz", "t.toml:1: unknown setting 'zzzzzzzzzzzz'"},
        {"'limits.workers' = 1", "\"limits.workers\"", "did you mean 'limits.workers'?"},
        {"[limits]\nworkers = 9", "limits.workers",
         "t.toml:2: limits.workers: 9 is not within 1 to 8"},
        {"[limits]\nworkers = -1", "limits.workers", "'-1' is not a whole number"},
        {"[limits]\nworkers = '3'", "limits.workers", "expects a whole number, not 3"},
        {"[limits]\nwait = 30", "limits.wait", "expects a time in quotes, such as \"30s\", not 30"},
        {"[limits]\nwait = '30'", "limits.wait", "'30' is not a time such as"},
        {"[limits]\nwait = '2m'", "limits.wait", "2m is not within 1s to 1m"},
        {"loud = 'true'", "loud", "expects true or false, not true"},
        {"title = 1.5", "title", "expects text in quotes, not a number with a fraction"},
        {"title = ['a']", "title", "expects text in quotes, not a"},
        {"title = [[]]", "title", "expects text in quotes, not a list"},
        {"title = 2026-01-01", "title", "not a date or time"},
        {"title = \"a\\u0000b\"", "title", "not text with a NUL character"},
        {"title = {}", "title", "not a table"},
        {"\n[.x]\n", "", "this is not TOML"},
        {"data = ''", "data", "the path is empty"},
        {"names = ['a', 'muchtoolong']", "names", "t.toml:1: names: 'muchtoolong' is too long"},
        {"names = [['a']]", "names", "not a list"},
        {"color = 'blue'", "color", "'blue' is none of red, green"},
        {"quota = '5 apples'", "quota", "is not a size"},
        {"listen = 'nowhere'", "listen", "is not HOST:PORT"},
        {"title = ", "", "t.toml:1: "},
        {"title = 'a'\ntitle = 'b'", "", "t.toml:2: "},
        {"loud = true\ncolor = 'red'", "", "red is never loud"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct conf *c = NULL;
        struct diag d = {0};
        int rc = conf_load_text(&table, "t.toml", cases[i].text, strlen(cases[i].text), &c, &d);
        assert_true(rc < 0);
        assert_int_equal(d.code, rc);
        assert_null(c);
        assert_string_equal(d.field, cases[i].field);
        if (!strstr(d.text, cases[i].expected))
            fail_msg("%s: got: %s", cases[i].text, d.text);
    }
}

static char dir[64];

static void write_file(const char *name, const char *text, mode_t mode, char path[128])
{
    snprintf(path, 128, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    fchmod(fd, mode);
    close(fd);
}

static void a_stronger_source_replaces_a_weaker_one(void **state)
{
    char path[128], expected[160];
    char *env[] = {(char[]){"T_NAMES=e1 e2"}, (char[]){"T_QUOTA=2MiB"}, (char[]){"T_COLOR="},
                   (char[]){"T_COLORS=red"},  (char[]){"PATH=/bin"},    NULL};
    const struct conf_flag flags[] = {{"--name", "f1"},
                                      {"--loud", NULL},
                                      {"--quota", "1"},
                                      {"--quota", "3MiB"},
                                      {"--name", "f2"}};
    struct conf_sources sources = {path, env, flags, ARRAY_SIZE(flags)};
    struct conf *c;
    struct diag d = {0};
    write_file("t.toml", "names = ['t']\ndata = 'sub'\nquota = '9MiB'\ntitle = 't'\n", 0644, path);
    assert_int_equal(conf_load(&table, &sources, &c, &d), 0);
    struct settings *s = conf_settings(c);
    assert_int_equal(s->names.n, 2);
    assert_string_equal(s->names.items[0], "f1");
    assert_string_equal(s->names.items[1], "f2");
    assert_int_equal(s->quota_bytes, 3 << 20);
    assert_true(s->is_loud);
    assert_int_equal(s->color, 1);
    assert_string_equal(s->title, "t");
    snprintf(expected, sizeof(expected), "%s/sub", dir);
    assert_string_equal(s->data, expected);
    assert_string_equal(conf_origin(c, "names"), "--name");
    conf_free(c);

    sources.n_flags = 0;
    assert_int_equal(conf_load(&table, &sources, &c, &d), 0);
    s = conf_settings(c);
    assert_string_equal(s->names.items[1], "e2");
    assert_int_equal(s->quota_bytes, 2 << 20);
    assert_string_equal(conf_origin(c, "quota"), "T_QUOTA");
    conf_free(c);
    unlink(path);
}

static void bad_sources_beside_the_file_are_refused_too(void **state)
{
    struct conf *c;
    struct diag d = {0};
    char *env[] = {(char[]){"T_QUOTA=much"}, NULL};
    struct conf_flag flag = {"--nmae", "x"};
    struct conf_sources sources = {.flags = &flag, .n_flags = 1};
    assert_int_equal(conf_load(&table, &sources, &c, &d), ERR_USAGE);
    assert_non_null(strstr(d.text, "did you mean '--name'?"));
    flag = (struct conf_flag){"--name", NULL};
    assert_int_equal(conf_load(&table, &sources, &c, &d), ERR_USAGE);
    assert_non_null(strstr(d.text, "--name needs a value: --name NAME"));
    sources = (struct conf_sources){.env = env};
    assert_int_equal(conf_load(&table, &sources, &c, &d), ERR_INVALID);
    assert_non_null(strstr(d.text, "T_QUOTA: quota: 'much' is not a size"));
    sources = (struct conf_sources){.file = "/nonexistent/t.toml"};
    assert_int_equal(conf_load(&table, &sources, &c, &d), ERR_NOT_FOUND);
    assert_non_null(strstr(d.text, "/nonexistent/t.toml"));
}

static void a_required_setting_must_come_from_somewhere(void **state)
{
    static const struct conf_row needed[] = {
        {"data", CONF_PATH, AT(data), NULL, "T_DATA", "--data", "DIR", "A folder.", CONF_REQUIRED}};
    static const struct conf_table t = {needed, 1, sizeof(struct settings)};
    struct conf *c;
    struct diag d = {0};
    assert_int_equal(conf_load_text(&t, "t.toml", "", 0, &c, &d), ERR_USAGE);
    assert_string_equal(d.field, "data");
    assert_non_null(strstr(d.text, "--data DIR, or T_DATA"));
}

static void a_dump_loads_back_to_the_same(void **state)
{
    struct buf first = {0}, second = {0};
    struct conf *c = load_ok("title = \"quote \\\" back \\\\ tab \\t \\u0001 ä\"\nnames = []\n"
                             "quota = '3KiB'\n[limits]\nwait = '1500ms'\n");
    assert_int_equal(conf_dump(c, &first), 0);
    struct conf *again = load_ok(buf_text(&first));
    struct settings *a = conf_settings(c), *b = conf_settings(again);
    assert_string_equal(a->title, b->title);
    assert_int_equal(b->names.n, 0);
    assert_int_equal(b->wait_ms, 1500);
    assert_int_equal(b->quota_bytes, 3072);
    assert_non_null(strstr(first.data, "# How much.\n# From: t.toml:3\nquota = \"3KiB\"\n"));
    assert_non_null(strstr(first.data, "# From: not set\n# data = \"\"\n"));
    assert_non_null(strstr(first.data, "[limits]\n\n# Threads.\n# From: default\nworkers = 4\n"));
    assert_int_equal(conf_dump(again, &second), 0);
    conf_free(c);
    conf_free(again);
    buf_done(&first);
    buf_done(&second);
}

static char changes[128];

static void on_change(void *arg, const struct conf_row *row, bool applies_now)
{
    size_t n = strlen(changes);
    snprintf(changes + n, sizeof(changes) - n, "%s:%s ", row->name,
             applies_now ? "now" : "restart");
}

static void reload_applies_what_it_may_and_names_the_rest(void **state)
{
    char path[128];
    struct conf *c;
    struct diag d = {0};
    struct conf_sources sources = {.file = path};
    write_file("t.toml", "title = 'old'\nnames = ['old']\nquota = 1\n", 0644, path);
    assert_int_equal(conf_load(&table, &sources, &c, &d), 0);
    struct settings *s = conf_settings(c);
    const char *title = s->title;

    changes[0] = '\0';
    write_file("t.toml", "names = ['bad name that is long']", 0644, path);
    assert_true(conf_reload(c, &sources, on_change, NULL, &d) < 0);
    assert_string_equal(changes, "");
    assert_string_equal(s->names.items[0], "old");

    write_file("t.toml", "title = 'old'\nnames = ['new']\nquota = 2\n[limits]\nwait = '2s'\n", 0644,
               path);
    assert_int_equal(conf_reload(c, &sources, on_change, NULL, &d), 0);
    assert_string_equal(changes, "names:now limits.wait:now quota:restart ");
    assert_string_equal(s->names.items[0], "new");
    assert_int_equal(s->wait_ms, 2000);
    assert_int_equal(s->quota_bytes, 1);
    assert_ptr_equal(s->title, title);
    conf_free(c);
    unlink(path);
}

static void a_secret_comes_from_a_private_file_only(void **state)
{
    char path[128];
    struct secret secret = {0};
    struct diag d = {0};
    write_file("secret", "s3cret\n", 0600, path);
    assert_int_equal(conf_read_secret(path, &secret, &d), 0);
    assert_int_equal(secret.len, 6);
    assert_memory_equal(secret.data, "s3cret", 6);
    secret_done(&secret);
    chmod(path, 0640);
    assert_int_equal(conf_read_secret(path, &secret, &d), ERR_DENIED);
    assert_non_null(strstr(d.text, "chmod 600"));
    write_file("secret", "\n", 0600, path);
    assert_int_equal(conf_read_secret(path, &secret, &d), ERR_INVALID);
    unlink(path);
    assert_int_equal(conf_read_secret(path, &secret, &d), ERR_NOT_FOUND);
}

static int make_dir(void **state)
{
    snprintf(dir, sizeof(dir), "/tmp/warren-conf-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_fill_what_no_source_sets),
        cmocka_unit_test(a_file_sets_every_type),
        cmocka_unit_test(a_wrong_file_is_refused_with_line_and_reason),
        cmocka_unit_test(a_stronger_source_replaces_a_weaker_one),
        cmocka_unit_test(bad_sources_beside_the_file_are_refused_too),
        cmocka_unit_test(a_required_setting_must_come_from_somewhere),
        cmocka_unit_test(a_dump_loads_back_to_the_same),
        cmocka_unit_test(reload_applies_what_it_may_and_names_the_rest),
        cmocka_unit_test(a_secret_comes_from_a_private_file_only),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
