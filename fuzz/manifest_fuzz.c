/* Files of declared objects, as YAML and as TOML. */
#include "base/mem.h"
#include "cli/manifest.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_as(const char *file, const char *text, size_t len)
{
    struct manifest m = {0};
    struct diag d = {0};
    char place[300];
    int rc = manifest_parse(&m, file, text, len, &d);
    assert(rc == 0 || (rc < 0 && d.code == rc && d.text[0]));
    for (size_t i = 0; i < m.n; i++) {
        assert(m.objects[i].name && json_is_object(m.objects[i].body));
        manifest_place(&m.objects[i], "spec.target.address", place, sizeof(place));
    }
    manifest_done(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = mem_strndup((const char *)data, size);
    read_as("fuzz.yaml", text, size);
    read_as("fuzz.toml", text, size);
    mem_free(text);
    return 0;
}
