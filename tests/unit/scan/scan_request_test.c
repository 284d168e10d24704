#include "scan/scan_request.h"

#include "base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct scan_request r;
static struct diag d;

static int parse(const char *text)
{
    json_t *o = json_loads(text, 0, NULL);
    assert_non_null(o);
    d = (struct diag){0};
    int rc = scan_request_read(o, &r, &d);
    json_decref(o);
    return rc;
}

static const char *address(uint32_t n)
{
    static char text[ADDR_TEXT_SIZE];
    struct addr a;
    scan_request_address(&r, n, &a);
    addr_format_ip(&a, text, sizeof(text));
    return text;
}

static void ranges_are_gone_through_in_their_order(void **state)
{
    (void)state;
    assert_int_equal(parse("{\"addresses\": [\"10.0.0.17/22\", \"192.0.2.7\", \"fd00::/112\"]}"),
                     ERR_INVALID);
    assert_int_equal(parse("{\"addresses\": [\"10.0.5.17/22\", \"192.0.2.7\", \"fd00::fe0/116\"]}"),
                     0);
    assert_int_equal(r.n_addresses, 1024 + 1 + 4096);
    assert_string_equal(address(0), "10.0.4.0");
    assert_string_equal(address(257), "10.0.5.1");
    assert_string_equal(address(1023), "10.0.7.255");
    assert_string_equal(address(1024), "192.0.2.7");
    assert_string_equal(address(1025), "fd00::");
    assert_string_equal(address(1025 + 4095), "fd00::fff");
    assert_int_equal(parse("{\"addresses\": [\"10.0.0.0/16\"]}"), 0);
    assert_string_equal(address(65535), "10.0.255.255");
}

static void ports_are_each_asked_once(void **state)
{
    static const uint16_t expected[] = {1, 22, 63, 64, 65, 127, 128, 8000, 8001, 8002, 65535, 0};
    uint16_t port = 0;
    (void)state;
    assert_int_equal(parse("{\"addresses\": [\"10.0.0.1\"], "
                           "\"ports\": \"22,8000-8002,22,63-65,65535,1,127-128,8001\"}"),
                     0);
    assert_int_equal(r.n_ports, 11);
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
        assert_int_equal(port = scan_request_port_after(&r, port), expected[i]);
    assert_int_equal(parse("{\"addresses\": [\"10.0.0.1\"], \"ports\": \"1-65535\"}"), 0);
    assert_int_equal(r.n_ports, 65535);
}

static void what_cannot_be_is_refused_with_its_member(void **state)
{
    static const char *const rows[][2] = {
        {"{}", "addresses"},
        {"{\"addresses\": []}", "addresses"},
        {"{\"addresses\": [7]}", "addresses"},
        {"{\"addresses\": [\"printer\"]}", "addresses"},
        {"{\"addresses\": [\"10.0.0.0/8\"]}", "addresses"},
        {"{\"addresses\": [\"10.0.0.0/16\", \"10.1.0.0\"]}", "addresses"},
        {"{\"addresses\": [\"10.0.0.1:80\"]}", "addresses"},
        {"{\"addresses\": [\"10.0.0.1\"], \"ports\": \"\"}", "ports"},
        {"{\"addresses\": [\"10.0.0.1\"], \"ports\": \"0\"}", "ports"},
        {"{\"addresses\": [\"10.0.0.1\"], \"ports\": \"65536\"}", "ports"},
        {"{\"addresses\": [\"10.0.0.1\"], \"ports\": \"9-8\"}", "ports"},
        {"{\"addresses\": [\"10.0.0.1\"], \"ports\": \"1,\"}", "ports"},
        {"{\"addresses\": [\"10.0.0.1\"], \"ports\": \"1-\"}", "ports"},
        {"{\"addresses\": [\"10.0.0.1\"], \"ports\": 80}", "ports"},
        {"{\"addresses\": [\"10.0.0.1\"], \"snmp\": {}}", "snmp.community"},
        {"{\"addresses\": [\"10.0.0.1\"], \"snmp\": {\"community\": \"\"}}", "snmp.community"},
        {"{\"addresses\": [\"10.0.0.1\"], \"rate\": 0}", "rate"},
        {"{\"addresses\": [\"10.0.0.1\"], \"rate\": 20001}", "rate"},
        {"{\"addresses\": [\"10.0.0.1\"], \"timeout\": \"1ms\"}", "timeout"},
        {"{\"addresses\": [\"10.0.0.1\"], \"speed\": 1}", "speed"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(parse(rows[i][0]), ERR_INVALID);
        assert_string_equal(d.field, rows[i][1]);
    }
}

static void what_is_written_down_has_no_community(void **state)
{
    char text[200];
    (void)state;
    assert_int_equal(parse("{\"addresses\": [\"10.0.0.0/24\", \"10.1.0.1\"], \"ports\": \"1-10\", "
                           "\"snmp\": {\"community\": \"hidden\"}}"),
                     0);
    scan_request_describe(&r, text, sizeof(text));
    assert_string_equal(text, "10.0.0.0/24 10.1.0.1/32, 10 ports, SNMP");
    scan_request_describe(&r, text, 12);
    assert_string_equal(text, "10.0.0.0/24");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_are_gone_through_in_their_order),
        cmocka_unit_test(ports_are_each_asked_once),
        cmocka_unit_test(what_cannot_be_is_refused_with_its_member),
        cmocka_unit_test(what_is_written_down_has_no_community),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
