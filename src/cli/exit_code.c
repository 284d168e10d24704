#include "cli/exit_code.h"

#include "base/error.h"

enum exit_code exit_code_from(int error)
{
    if (error == 0)
        return EXIT_DONE;
    if (error == ERR_NOT_FOUND)
        return EXIT_NOT_FOUND;
    if (error == ERR_TLS)
        return EXIT_UNREACHABLE;
    if (error == ERR_IO || error == ERR_NO_SPACE || error == ERR_CANCELED)
        return EXIT_FAILED;
    switch (error_category(error)) {
    case ERROR_IO:
    case ERROR_CLOSED:
    case ERROR_REFUSED:
        return EXIT_UNREACHABLE;
    case ERROR_TIMEOUT:
        return EXIT_TIMEOUT;
    case ERROR_DENIED:
        return EXIT_DENIED;
    case ERROR_CONFLICT:
        return EXIT_CONFLICT;
    case ERROR_USAGE:
        return EXIT_USAGE;
    default:
        return EXIT_FAILED;
    }
}
