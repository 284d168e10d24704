/* The tables of hub and agent are well-formed and hold the defaults that are documented. */
#include "agent/settings.h"
#include "hub/settings.h"

#include "base/error.h"
#include "base/macro.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct conf *load(const struct conf_table *table, const char *text)
{
    struct conf *c;
    struct diag d = {0};
    if (conf_load_text(table, "t.toml", text, strlen(text), &c, &d) < 0)
        fail_msg("%s", diag_text(&d));
    return c;
}

static void assert_refused(const struct conf_table *table, const char *text, const char *field)
{
    struct conf *c;
    struct diag d = {0};
    assert_true(conf_load_text(table, "t.toml", text, strlen(text), &c, &d) < 0);
    assert_string_equal(d.field, field);
}

static void the_hub_needs_no_settings(void **state)
{
    struct conf *c = load(&hub_conf_table, "");
    struct hub_settings *s = conf_settings(c);
    assert_int_equal(s->listen.port, 8443);
    assert_int_equal(s->public_names.n, 2);
    assert_int_equal(s->cert_ttl_ms, 86400000);
    assert_int_equal(s->late_renewal, LATE_RENEWAL_GRACE);
    assert_int_equal(s->metrics_access, METRICS_ACCESS_LOOPBACK);
    assert_int_equal(s->log_level, LOG_LEVEL_INFO);
    conf_free(c);
}

static void the_hubs_values_are_checked(void **state)
{
    assert_refused(&hub_conf_table, "public_name = ['a b']", "public_name");
    assert_refused(&hub_conf_table, "trust_domain = 'A'", "trust_domain");
    assert_refused(&hub_conf_table, "late_renewal = 'never'", "late_renewal");
    assert_refused(&hub_conf_table, "[limits]\nhandshakes = 0", "limits.handshakes");
}

static void the_agent_needs_no_settings(void **state)
{
    struct conf *c = load(&agent_conf_table, "allow = ['10.0.0.0/8:80,443']");
    struct agent_settings *s = conf_settings(c);
    assert_int_equal(s->hubs.n, 0);
    assert_string_equal(s->allow.items[0], "10.0.0.0/8:80,443");
    conf_free(c);
    assert_refused(&agent_conf_table, "allow = ['10.0.0.300']", "allow");
    assert_refused(&agent_conf_table, "hub = ['http://x']", "hub");
}

/* No two rows share a name, flag, variable or member; each explains itself in a sentence. */
static void rows_do_not_collide(void **state)
{
    const struct conf_table *const tables[] = {&hub_conf_table, &agent_conf_table};
    for (size_t t = 0; t < ARRAY_SIZE(tables); t++) {
        for (size_t i = 0; i < tables[t]->n_rows; i++) {
            const struct conf_row *a = &tables[t]->rows[i];
            assert_int_equal(a->help[strlen(a->help) - 1], '.');
            for (size_t j = i + 1; j < tables[t]->n_rows; j++) {
                const struct conf_row *b = &tables[t]->rows[j];
                assert_string_not_equal(a->name, b->name);
                assert_string_not_equal(a->env, b->env);
                assert_true(a->offset != b->offset);
                if (a->flag && b->flag)
                    assert_string_not_equal(a->flag, b->flag);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_hub_needs_no_settings),
        cmocka_unit_test(the_hubs_values_are_checked),
        cmocka_unit_test(the_agent_needs_no_settings),
        cmocka_unit_test(rows_do_not_collide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
