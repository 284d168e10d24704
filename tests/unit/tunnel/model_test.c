#include "tunnel/tunnel_model.h"

#include "base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static int parse(const char *text, struct tunnel_spec *spec, char *name, char *network,
                 struct diag *d)
{
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    int rc = tunnel_parse(json, name, spec, network, d);
    json_decref(json);
    return rc;
}

static void a_full_object_is_read(void **state)
{
    struct tunnel_spec spec;
    char name[TUNNEL_NAME_SIZE], network[TUNNEL_NAME_SIZE];
    struct diag d = {0};
    assert_int_equal(
        parse("{\"name\":\"web\",\"spec\":{\"target\":{\"network\":\"lan\","
              "\"address\":\"10.0.0.17:80\",\"protocol\":\"tcp\"},"
              "\"access\":{\"endpoint\":{\"listen\":\"0.0.0.0:0\"},\"internal\":false},"
              "\"ttl\":\"30m\"}}",
              &spec, name, network, &d),
        0);
    assert_string_equal(name, "web");
    assert_string_equal(network, "lan");
    assert_string_equal(spec.target.host, "10.0.0.17");
    assert_true(spec.has_endpoint);
    assert_false(spec.internal);
    assert_int_equal(spec.ttl_ms, 1800000);
}

static void each_mistake_names_its_field(void **state)
{
#define TARGET "\"target\":{\"network\":\"n\",\"address\":\"h:1\"}"
    static const struct {
        const char *text, *field;
    } rows[] = {
        {"{}", "name"},
        {"{\"name\":\"x\"}", "spec"},
        {"{\"name\":\"x\",\"spec\":{}}", "spec.target"},
        {"{\"name\":\"x\",\"spec\":{\"target\":{\"network\":\"n\"}}}", "spec.target.address"},
        {"{\"name\":\"x\",\"spec\":{\"target\":{\"network\":\"n\",\"address\":\"h\"}}}",
         "spec.target.address"},
        {"{\"name\":\"x\",\"spec\":{\"target\":{\"address\":\"h:1\"}}}", "spec.target.network"},
        {"{\"name\":\"A b\",\"spec\":{" TARGET "}}", "name"},
        {"{\"name\":\"x\",\"spec\":{" TARGET ",\"ttl\":\"1\"}}", "spec.ttl"},
        {"{\"name\":\"x\",\"spec\":{" TARGET ",\"ttl\":\"1ms\"}}", "spec.ttl"},
        {"{\"name\":\"x\",\"spec\":{" TARGET ",\"x\":1}}", "spec.x"},
        {"{\"name\":\"x\",\"spec\":{" TARGET ",\"access\":{\"endpoint\":{\"listen\":\"name:1\"}}}}",
         "spec.access.endpoint.listen"},
        {"{\"name\":\"x\",\"spec\":{" TARGET ",\"access\":{\"endpoint\":{\"hubs\":\"edge\"}}}}",
         "spec.access.endpoint.hubs"},
        {"{\"name\":\"x\",\"spec\":{" TARGET ",\"access\":{\"endpoint\":{\"hubs\":[\"\"]}}}}",
         "spec.access.endpoint.hubs"},
        {"{\"name\":\"x\",\"spec\":{\"target\":{\"network\":\"n\",\"address\":\"h:1\",\"protocol\":"
         "\"sctp\"}}}",
         "spec.target.protocol"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct tunnel_spec spec;
        char name[TUNNEL_NAME_SIZE], network[TUNNEL_NAME_SIZE];
        struct diag d = {0};
        assert_int_equal(parse(rows[i].text, &spec, name, network, &d), ERR_INVALID);
        assert_string_equal(d.field, rows[i].field);
        assert_true(d.text[0]);
    }
}

static void an_endpoint_is_at_every_hub_or_at_those_that_it_names(void **state)
{
    struct tunnel_spec spec;
    char name[TUNNEL_NAME_SIZE], network[TUNNEL_NAME_SIZE];
    struct diag d = {0};
    assert_int_equal(parse("{\"name\":\"x\",\"spec\":{" TARGET
                           ",\"access\":{\"endpoint\":{\"sni\":\"a.test\"}}}}",
                           &spec, name, network, &d),
                     0);
    assert_true(tunnel_spec_selects(&spec, "hub_1", "edge-1"));
    assert_int_equal(parse("{\"name\":\"x\",\"spec\":{" TARGET
                           ",\"access\":{\"endpoint\":{\"listen\":\"0.0.0.0:0\",\"hubs\":"
                           "[\"edge-1\",\"hub_2\",\"edge-1\"]}}}}",
                           &spec, name, network, &d),
                     0);
    assert_int_equal(spec.n_hubs, 2);
    assert_true(tunnel_spec_selects(&spec, "hub_1", "edge-1"));
    assert_true(tunnel_spec_selects(&spec, "hub_2", "edge-2"));
    assert_false(tunnel_spec_selects(&spec, "hub_3", "edge-3"));
    json_t *json = tunnel_spec_json(&spec);
    json_t *endpoint = json_object_get(json_object_get(json, "access"), "endpoint");
    assert_int_equal(json_array_size(json_object_get(endpoint, "hubs")), 2);
    json_decref(json);
}

static void a_spec_survives_json_and_a_merge_patch(void **state)
{
    struct tunnel_spec spec, again;
    char name[TUNNEL_NAME_SIZE], network[TUNNEL_NAME_SIZE];
    struct diag d = {0};
    assert_int_equal(parse("{\"name\":\"x\",\"spec\":{" TARGET
                           ",\"ttl\":\"90s\",\"access\":{\"endpoint\":"
                           "{\"listen\":\"[::]:0\"}}}}",
                           &spec, name, network, &d),
                     0);
    strcpy(spec.network, "net_x");
    json_t *object = json_pack("{s:s, s:o}", "name", "x", "spec", tunnel_spec_json(&spec));
    json_t *patch =
        json_loads("{\"spec\":{\"ttl\":null,\"target\":{\"address\":\"x:2\"}}}", 0, NULL);
    json_t *merged = tunnel_merge_patch(object, patch);
    assert_int_equal(tunnel_parse(merged, name, &again, network, &d), 0);
    assert_int_equal(again.ttl_ms, 0);
    assert_string_equal(again.target.host, "x");
    assert_string_equal(network, "net_x");
    assert_string_equal(again.listen.host, "::");
    json_decref(object);
    json_decref(patch);
    json_decref(merged);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_object_is_read),
        cmocka_unit_test(each_mistake_names_its_field),
        cmocka_unit_test(an_endpoint_is_at_every_hub_or_at_those_that_it_names),
        cmocka_unit_test(a_spec_survives_json_and_a_merge_patch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
