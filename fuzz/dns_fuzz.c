/* Questions for names; an answer to what is understood stays within its bounds and asks the same.
 */
#include "wire/dns.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t addresses[][16] = {{[10] = 0xff, 0xff, 10, 0, 0, 17}, {0xfd, [15] = 17}};
    struct dns_question q, again;
    uint8_t out[DNS_ANSWER_MAX];
    if (dns_question_parse(data, size, &q) < 0)
        return 0;
    size_t n = dns_answer(out, data, &q, DNS_OK, addresses, 2, 30);
    if (n < q.len || n > sizeof(out))
        abort();
    out[2] &= 0x07; /* a question again */
    if (dns_question_parse(out, n, &again) < 0 || strcmp(q.name, again.name) != 0 ||
        q.type != again.type)
        abort();
    return 0;
}
