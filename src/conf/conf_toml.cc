#include "conf/conf_toml.h"

extern "C" {
#include "base/error.h"
}

#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

/* toml++ asserts what a file can make untrue ("a = [}"): an error in the file, and no reason to end
 * a hub that reloads it. */
static constexpr void expect(bool is_true)
{
    if (!is_true)
        throw std::runtime_error("this is not TOML");
}
#define TOML_ASSERT(expr) expect(static_cast<bool>(expr))
#include <toml++/toml.h>

namespace
{

struct walk {
    int (*fn)(void *arg, const conf_toml_item *item);
    void *arg;

    int leaf(const std::string &path, const toml::node &node, bool in_array) const;
    int array(const std::string &path, const toml::array &items) const;
    int table(const std::string &path, const toml::table &table) const;
    int node(const std::string &path, const toml::node &node) const;
};

std::string key_text(std::string_view key)
{
    constexpr auto bare = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    if (!key.empty() && key.find_first_not_of(bare) == std::string_view::npos)
        return std::string(key);
    return '"' + std::string(key.substr(0, key.find('\0'))) + '"';
}

const char *other_name(const toml::node &node)
{
    switch (node.type()) {
    case toml::node_type::table:
        return "a table";
    case toml::node_type::array:
        return "a list";
    case toml::node_type::floating_point:
        return "a number with a fraction";
    case toml::node_type::string:
        return "text with a NUL character";
    default:
        return "a date or time";
    }
}

int walk::leaf(const std::string &path, const toml::node &node, bool in_array) const
{
    std::string text = other_name(node);
    conf_toml_kind kind = CONF_TOML_OTHER;
    if (const auto *string = node.as_string()) {
        if (string->get().find('\0') == std::string::npos) {
            text = string->get();
            kind = CONF_TOML_STRING;
        }
    } else if (const auto *integer = node.as_integer()) {
        text = std::to_string(integer->get());
        kind = CONF_TOML_INTEGER;
    } else if (const auto *boolean = node.as_boolean()) {
        text = boolean->get() ? "true" : "false";
        kind = CONF_TOML_BOOL;
    } else if (const auto *empty = node.as_array(); empty && empty->empty()) {
        kind = CONF_TOML_EMPTY_ARRAY;
    }
    const conf_toml_item item = {path.c_str(), kind, text.c_str(), in_array,
                                 node.source().begin.line};
    return fn(arg, &item);
}

int walk::array(const std::string &path, const toml::array &items) const
{
    for (const auto &item : items) {
        if (int rc = leaf(path, item, true); rc < 0)
            return rc;
    }
    return 0;
}

int walk::table(const std::string &path, const toml::table &table) const
{
    for (const auto &[key, value] : table) {
        std::string name = path.empty() ? key_text(key) : path + '.' + key_text(key);
        if (int rc = node(name, value); rc < 0)
            return rc;
    }
    return 0;
}

int walk::node(const std::string &path, const toml::node &node) const
{
    if (const auto *sub = node.as_table(); sub && !sub->empty())
        return table(path, *sub);
    if (const auto *items = node.as_array(); items && !items->empty())
        return array(path, *items);
    return leaf(path, node, false);
}

} // namespace

int conf_toml_parse(const char *text, size_t len, int (*fn)(void *arg, const conf_toml_item *item),
                    void *arg, unsigned *error_line, char *error, size_t error_size)
{
    try {
        const toml::table root = toml::parse(std::string_view(text, len));
        return walk{fn, arg}.table("", root);
    } catch (const toml::parse_error &e) {
        *error_line = e.source().begin.line;
        std::snprintf(error, error_size, "%s", std::string(e.description()).c_str());
        return ERR_INVALID;
    } catch (const std::exception &e) {
        *error_line = 0;
        std::snprintf(error, error_size, "%s", e.what());
        return ERR_INVALID;
    }
}
