/*
 * The exit codes of both programs: a promise to scripts, listed in the man pages.
 */
#pragma once

enum exit_code {
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_USAGE,
    EXIT_NOT_FOUND,
    EXIT_DENIED,
    EXIT_CONFLICT,
    EXIT_TIMEOUT,
    EXIT_UNREACHABLE,
};

/* For 0 or a negative code of base/error.h. */
enum exit_code exit_code_from(int error);
