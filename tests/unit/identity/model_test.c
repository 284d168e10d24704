#include "identity/identity_model.h"

#include "base/error.h"
#include "base/mem.h"
#include "identity/agent.h"
#include "identity/rate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NOW  INT64_C(1000000000)
#define HOUR INT64_C(3600000)

/* ---- tokens ---- */

static struct token_record good_token(void)
{
    return (struct token_record){.uses_limit = 2, .uses = 1, .expires = NOW + 1, .created = NOW};
}

static void a_token_is_good_until_expired_used_up_or_revoked(void **state)
{
    struct token_record t = good_token();
    assert_int_equal(token_check(&t, NOW, NULL), 0);
    assert_int_equal(token_check(&t, NOW + 1, NULL), ERR_EXPIRED);
    t.uses = 2;
    assert_int_equal(token_check(&t, NOW, NULL), ERR_DENIED);
    t.uses_limit = 0;
    assert_int_equal(token_check(&t, NOW, NULL), 0);
    t.expires = 0;
    assert_int_equal(token_check(&t, NOW + 1000 * HOUR, NULL), 0);
    t.revoked = NOW;
    assert_int_equal(token_check(&t, NOW, NULL), ERR_REVOKED);
}

static int parse(const char *json, struct token_request *r, struct diag *d)
{
    json_t *body = json_loads(json, 0, NULL);
    assert_non_null(body);
    int err = token_request_parse(body, r, d);
    json_decref(body);
    return err;
}

static void an_empty_request_is_a_bootstrap_token_for_one_agent_and_a_day(void **state)
{
    struct token_request r;
    assert_int_equal(parse("{}", &r, NULL), 0);
    assert_int_equal(r.kind, TOKEN_BOOTSTRAP);
    assert_int_equal(r.uses_limit, 1);
    assert_int_equal(r.ttl_ms, 24 * HOUR);
    assert_string_equal(r.network, "");
}

static void null_lifts_the_limits(void **state)
{
    struct token_request r;
    assert_int_equal(parse("{\"uses\": null, \"ttl\": null}", &r, NULL), 0);
    assert_int_equal(r.uses_limit, 0);
    assert_int_equal(r.ttl_ms, 0);
}

static void a_name_is_in_a_domain_that_it_is_or_ends_with_at_a_dot(void **state)
{
    static const char domains[] = "a.example other.example.org";
    assert_true(identity_host_is_in(domains, "a.example"));
    assert_true(identity_host_is_in(domains, "x.y.a.example"));
    assert_true(identity_host_is_in(domains, "b.other.example.org"));
    assert_false(identity_host_is_in(domains, "xa.example"));
    assert_false(identity_host_is_in(domains, "example"));
    assert_false(identity_host_is_in(domains, "example.org"));
    assert_false(identity_host_is_in(domains, "a.example.org"));
    assert_false(identity_host_is_in("", "a.example"));
}

static void the_stored_limits_are_read_as_they_were_written(void **state)
{
    struct identity_limits l = {.tunnels = 5, .hosts = "a.example b.example"}, read;
    json_t *json = limits_json(&l);
    char *text = json_dumps(json, 0);
    limits_read(text, &read);
    assert_int_equal(read.tunnels, 5);
    assert_int_equal(read.streams, 0);
    assert_string_equal(read.hosts, "a.example b.example");
    limits_read(NULL, &read);
    assert_string_equal(read.hosts, "");
    free(text);
    json_decref(json);
}

static void an_api_token_is_for_operators_and_ever_unless_said_otherwise(void **state)
{
    struct token_request r;
    assert_int_equal(parse("{\"kind\": \"api\", \"name\": \"ci\"}", &r, NULL), 0);
    assert_int_equal(r.kind, TOKEN_API);
    assert_int_equal(r.role, IDENTITY_OPERATOR);
    assert_int_equal(r.ttl_ms, 0);
    assert_string_equal(r.name, "ci");
    assert_int_equal(parse("{\"kind\": \"api\", \"role\": \"admin\", \"ttl\": \"7d\"}", &r, NULL),
                     0);
    assert_int_equal(r.role, IDENTITY_ADMIN);
    assert_int_equal(r.ttl_ms, 7 * 24 * HOUR);
}

static void a_bad_request_names_the_member_at_fault(void **state)
{
    static const struct {
        const char *json, *field;
    } rows[] = {
        {"{\"kind\": \"other\"}", "kind"},
        {"{\"kind\": 1}", "kind"},
        {"{\"name\": \"A b\"}", "name"},
        {"{\"network\": \"a/b\"}", "network"},
        {"{\"uses\": 0}", "uses"},
        {"{\"uses\": 1000001}", "uses"},
        {"{\"ttl\": \"1x\"}", "ttl"},
        {"{\"ttl\": \"0s\"}", "ttl"},
        {"{\"ttl\": 5}", "ttl"},
        {"{\"role\": \"admin\"}", "role"},
        {"{\"kind\": \"api\", \"network\": \"lab\"}", "network"},
        {"{\"kind\": \"api\", \"uses\": 3}", "uses"},
        {"{\"surprise\": 1}", "surprise"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct token_request r;
        struct diag d = {0};
        int err = parse(rows[i].json, &r, &d);
        if (err != ERR_INVALID || strcmp(d.field, rows[i].field) != 0)
            fail_msg("%s: %s, field %s", rows[i].json, error_name(err), d.field);
    }
}

static void only_an_administrator_makes_administrators_and_looks_abroad(void **state)
{
    struct identity_caller admin = {.role = IDENTITY_ADMIN, .tenant = "ten_home"};
    struct identity_caller operator= {.role = IDENTITY_OPERATOR, .tenant = "ten_home"};
    struct token_request bootstrap = {.kind = TOKEN_BOOTSTRAP};
    struct token_request ruler = {.kind = TOKEN_API, .role = IDENTITY_ADMIN};
    assert_int_equal(token_request_check(&bootstrap, &operator, "ten_home", NULL), 0);
    assert_int_equal(token_request_check(&bootstrap, &operator, "ten_else", NULL), ERR_DENIED);
    assert_int_equal(token_request_check(&bootstrap, &admin, "ten_else", NULL), 0);
    assert_int_equal(token_request_check(&ruler, &operator, "ten_home", NULL), ERR_DENIED);
    assert_int_equal(token_request_check(&ruler, &admin, "ten_home", NULL), 0);
    assert_int_equal(token_request_check(&ruler, &admin, "ten_else", NULL), ERR_DENIED);
}

static void a_token_reads_as_the_contract_says(void **state)
{
    struct token_record t = good_token();
    json_t *o = token_json(&t);
    static const char *const members[] = {"id",   "name", "version", "kind",    "tenant", "network",
                                          "role", "uses", "created", "expires", "revoked"};
    for (size_t i = 0; i < ARRAY_SIZE(members); i++)
        assert_non_null(json_object_get(o, members[i]));
    assert_int_equal(json_object_size(o), ARRAY_SIZE(members));
    assert_true(json_is_null(json_object_get(o, "network")));
    json_decref(o);
}

/* ---- renewal ---- */

static int judge(enum identity_late late, struct renewal r)
{
    const struct identity_policy policy = {.late_renewal = late, .late_grace_ms = HOUR};
    struct diag d = {0};
    int err = renewal_judge(&r, &policy, NOW, &d);
    assert_true(err >= 0 || d.text[0]);
    return err;
}

static void a_certificate_in_time_is_renewed_whatever_the_policy(void **state)
{
    for (int late = 0; late < IDENTITY_LATE_COUNT; late++) {
        struct renewal r = {.is_newest = false, .not_after = NOW + 1};
        assert_int_equal(judge((enum identity_late)late, r), 0);
    }
}

static void an_expired_certificate_is_judged_by_the_policy(void **state)
{
    struct renewal r = {.is_newest = true, .not_after = NOW};
    assert_int_equal(judge(IDENTITY_LATE_DENY, r), ERR_EXPIRED);
    assert_int_equal(judge(IDENTITY_LATE_GRACE, r), 0);
    assert_int_equal(judge(IDENTITY_LATE_APPROVE, r), RENEWAL_PENDING);
    r.is_approved = true;
    assert_int_equal(judge(IDENTITY_LATE_APPROVE, r), 0);
    r.not_after = NOW - HOUR - 1;
    assert_int_equal(judge(IDENTITY_LATE_GRACE, r), ERR_EXPIRED);
}

static void an_expired_certificate_that_was_replaced_is_never_renewed(void **state)
{
    struct renewal r = {.is_newest = false, .is_approved = true, .not_after = NOW};
    for (int late = 0; late < IDENTITY_LATE_COUNT; late++)
        assert_int_equal(judge((enum identity_late)late, r), ERR_STALE);
}

static void revocation_ends_renewals_of_good_certificates_too(void **state)
{
    struct renewal agent = {.agent_is_revoked = true, .is_newest = true, .not_after = NOW + HOUR};
    struct renewal token = {.token_is_revoked = true, .is_newest = true, .not_after = NOW + HOUR};
    assert_int_equal(judge(IDENTITY_LATE_GRACE, agent), ERR_REVOKED);
    assert_int_equal(judge(IDENTITY_LATE_GRACE, token), ERR_REVOKED);
}

static void renewal_is_due_at_about_two_thirds_of_the_life_since_it_was_received(void **state)
{
    struct agent_identity a = {
        .not_before_ms = 0, .obtained_ms = 300000, .not_after_ms = 300000 + 90000};
    assert_int_equal(agent_renewal_due(&a, 0), 300000 + 60000);
    assert_int_equal(agent_renewal_due(&a, 1), 300000 + 55500);
}

/* ---- credentials and names ---- */

static void basic_credentials_are_split_at_the_first_colon(void **state)
{
    char user[IDENTITY_NAME_SIZE];
    struct secret password = {0};
    /* lab:a:b */
    assert_int_equal(basic_parse("Basic bGFiOmE6Yg==", user, &password), 0);
    assert_string_equal(user, "lab");
    assert_string_equal(password.data, "a:b");
    assert_int_equal(basic_parse("basic  bGFiOmE6Yg==", user, &password), 0);
    static const char *const bad[] = {
        "Basic", "Basic ", "Basic bGFi", "Bearer bGFiOmE6Yg==", "Basic bGFiOmE6Yg", "Basic ~"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(basic_parse(bad[i], user, &password), ERR_INVALID);
    assert_int_equal(basic_parse(NULL, user, &password), ERR_INVALID);
    secret_done(&password);
}

static void only_an_api_token_is_a_bearer(void **state)
{
    uint8_t fingerprint[32] = {0};
    struct token t, out;
    struct secret text = {0};
    for (int kind = TOKEN_BOOTSTRAP; kind <= TOKEN_API; kind++) {
        token_new((enum token_kind)kind, fingerprint, &t);
        token_format(&t, &text);
        CLEANUP(mem_free) char *header = mem_printf("Bearer %s", text.data);
        assert_int_equal(bearer_parse(header, &out), kind == TOKEN_API ? 0 : ERR_INVALID);
    }
    secret_done(&text);
}

static void an_agent_gets_the_name_it_wants_if_that_is_one(void **state)
{
    char name[IDENTITY_NAME_SIZE];
    agent_pick_name("plc-7", "agt_0123456789abcdef", name);
    assert_string_equal(name, "plc-7");
    agent_pick_name("No Name!", "agt_0123456789abcdef", name);
    assert_string_equal(name, "agent-01234567");
    agent_pick_other_name("agt_0123456789abcdef", name);
    assert_string_equal(name, "agent-01234567-01234567");
}

static void hub_urls_are_brought_to_one_form(void **state)
{
    static const struct {
        const char *text, *want;
    } rows[] = {
        {"https://hub.example:8443", "https://hub.example:8443"},
        {"https://hub.example", "https://hub.example:443"},
        {"https://hub.example/", "https://hub.example:443"},
        {"hub.example:8443", "https://hub.example:8443"},
        {"https://[::1]:8443", "https://[::1]:8443"},
        {"https://[::1]", "https://[::1]:443"},
        {"http://hub.example", NULL},
        {"https://hub.example/path", NULL},
        {"https://", NULL},
        {"", NULL},
    };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        CLEANUP(mem_free) char *url = NULL;
        int err = agent_hub_url(rows[i].text, &url, NULL);
        if (rows[i].want ? err || strcmp(url, rows[i].want) != 0 : err != ERR_INVALID)
            fail_msg("%s: %s", rows[i].text, url ? url : error_name(err));
    }
}

/* ---- attempts ---- */

static struct addr address(const char *ip)
{
    struct addr a;
    assert_int_equal(addr_parse(ip, 1, &a), 0);
    return a;
}

static void an_address_has_a_minutes_worth_of_attempts_and_then_waits(void **state)
{
    struct rate *r = rate_new(3, 10);
    struct addr a = address("192.0.2.1"), b = address("192.0.2.2");
    for (int i = 0; i < 3; i++)
        assert_int_equal(rate_take(r, &a, 1000), 0);
    assert_int_equal(rate_take(r, &a, 1000), 20000);
    assert_int_equal(rate_take(r, &b, 1000), 0);
    assert_int_equal(rate_take(r, &a, 11000), 10000);
    assert_int_equal(rate_take(r, &a, 21000), 0);
    assert_int_equal(rate_take(r, &a, 21000), 20000);
    rate_free(r);
}

static void neighbours_of_one_ipv6_network_share(void **state)
{
    struct rate *r = rate_new(1, 10);
    struct addr a = address("2001:db8::1"), b = address("2001:db8::ffff:2"),
                c = address("2001:db8:0:1::1");
    assert_int_equal(rate_take(r, &a, 0), 0);
    assert_int_not_equal(rate_take(r, &b, 0), 0);
    assert_int_equal(rate_take(r, &c, 0), 0);
    rate_free(r);
}

static void many_addresses_push_out_the_longest_unused_only(void **state)
{
    struct rate *r = rate_new(1, 2);
    struct addr a = address("192.0.2.1"), b = address("192.0.2.2"), c = address("192.0.2.3");
    rate_take(r, &a, 0);
    rate_take(r, &b, 0);
    assert_int_not_equal(rate_take(r, &a, 0), 0);
    rate_take(r, &c, 0); /* b goes */
    assert_int_not_equal(rate_take(r, &a, 0), 0);
    assert_int_equal(rate_take(r, &b, 0), 0);
    rate_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_is_good_until_expired_used_up_or_revoked),
        cmocka_unit_test(an_empty_request_is_a_bootstrap_token_for_one_agent_and_a_day),
        cmocka_unit_test(null_lifts_the_limits),
        cmocka_unit_test(a_name_is_in_a_domain_that_it_is_or_ends_with_at_a_dot),
        cmocka_unit_test(the_stored_limits_are_read_as_they_were_written),
        cmocka_unit_test(an_api_token_is_for_operators_and_ever_unless_said_otherwise),
        cmocka_unit_test(a_bad_request_names_the_member_at_fault),
        cmocka_unit_test(only_an_administrator_makes_administrators_and_looks_abroad),
        cmocka_unit_test(a_token_reads_as_the_contract_says),
        cmocka_unit_test(a_certificate_in_time_is_renewed_whatever_the_policy),
        cmocka_unit_test(an_expired_certificate_is_judged_by_the_policy),
        cmocka_unit_test(an_expired_certificate_that_was_replaced_is_never_renewed),
        cmocka_unit_test(revocation_ends_renewals_of_good_certificates_too),
        cmocka_unit_test(renewal_is_due_at_about_two_thirds_of_the_life_since_it_was_received),
        cmocka_unit_test(basic_credentials_are_split_at_the_first_colon),
        cmocka_unit_test(only_an_api_token_is_a_bearer),
        cmocka_unit_test(an_agent_gets_the_name_it_wants_if_that_is_one),
        cmocka_unit_test(hub_urls_are_brought_to_one_form),
        cmocka_unit_test(an_address_has_a_minutes_worth_of_attempts_and_then_waits),
        cmocka_unit_test(neighbours_of_one_ipv6_network_share),
        cmocka_unit_test(many_addresses_push_out_the_longest_unused_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
