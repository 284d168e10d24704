/*
 * The command table: one row a command, with its words, arguments, flags, texts and handler. What a
 * user can type, the help, the usage errors, the completion and the man pages are all drawn from
 * it, so they cannot disagree.
 *
 *     warren tunnel create --name web -o json
 *            └── words ──┘ └── flags ────────┘
 */
#pragma once

#include "base/diag.h"
#include "conf/conf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum flag_type {
    FLAG_SWITCH,
    FLAG_TEXT,
    FLAG_LIST, /* may be given several times */
    FLAG_INT,
    FLAG_DURATION, /* "30s" */
    FLAG_CHOICE,
    FLAG_TYPE_COUNT
};

/* What the shell proposes for a value. */
enum candidates {
    CANDIDATES_NONE,
    CANDIDATES_CHOICES, /* those of the row */
    CANDIDATES_FILE,
    CANDIDATES_DIR,
    CANDIDATES_CONTEXT,
    CANDIDATES_AGENT,
    CANDIDATES_HUB,
    CANDIDATES_NETWORK,
    CANDIDATES_TENANT,
    CANDIDATES_TOKEN,
    CANDIDATES_TUNNEL,
    CANDIDATES_MOUNT,
    CANDIDATES_COUNT
};

struct flag_row {
    const char *name; /* "--output" */
    char letter;      /* 'o'; 0: none */
    enum flag_type type;
    const char *metavar; /* of the value; NULL for a switch */
    const char *help;    /* one sentence */
    const char *fallback;
    const char *const *choices; /* ends with NULL */
    enum candidates candidates;
    bool is_required;
};

struct flag_set {
    const char *title;
    const struct flag_row *rows;
    size_t n;
};

struct call;

#define COMMAND_SETS_MAX   8
#define COMMAND_WORDS_SIZE 64
#define ARGS_ANY           SIZE_MAX

struct command {
    const char *words;   /* "tunnel create" */
    const char *summary; /* one sentence */
    /* 0, a negative code with the call's diagnosis, or the (positive) exit code of a process that
     * has told why itself. */
    int (*run)(struct call *c);
    const char *args; /* for the usage line: "TUNNEL..." */
    size_t min_args, max_args;
    enum candidates arg_candidates;
    const char *const *arg_choices;
    const struct flag_set *flags[COMMAND_SETS_MAX]; /* own flags first; NULL: no more */
    const struct conf_table *conf;                  /* settings whose rows are flags too */
    const char *details;                            /* paragraphs, separated by an empty line */
    const char *examples;                           /* lines */
    bool is_hidden;
};

struct command_set {
    const struct command *rows;
    size_t n;
};

struct program {
    const char *name;    /* "warren" */
    const char *summary; /* for NAME of the man page */
    const char *description;
    const struct command_set *const *sets;
    size_t n_sets;
    const char *notes; /* environment, files, exit codes: "TITLE\n  text" blocks for help and man */
    /* Writes names of objects, one a line, for the completion. Silent on failure. May be NULL. */
    void (*list_names)(enum candidates kind, FILE *out);
};

/* One command line, read. Strings belong to argv. */
struct call {
    const struct program *program;
    const struct command *command;
    char words[COMMAND_WORDS_SIZE]; /* as typed: of the command, or of a group of commands */
    struct call_value {
        const struct flag_row *row;
        const char *value; /* NULL: a switch */
    } * values;
    size_t n_values;
    struct conf_flag *conf_flags;
    size_t n_conf_flags;
    const char **args;
    size_t n_args;
    FILE *out, *err;  /* stdout and stderr, or those of a test */
    struct diag diag; /* why `run` failed */
    char hint[256];   /* what the user can do about it; "": nothing known */
};

/* Positive results of command_parse. */
#define COMMAND_HELP 1 /* help was asked for: of ret->command, or of ret->words if that is NULL */

/* Reads a command line. `args` excludes the program's name. ERR_USAGE with a diagnosis, and as much
 * of `ret` as was understood. call_done afterwards in each case. */
int command_parse(const struct program *p, size_t n_args, char *const *args, struct call *ret,
                  struct diag *d);
void call_done(struct call *c);

/* Values of flags that the command has: what was given (the last one), else the fallback. Numbers
 * and choices were checked by command_parse. */
const char *call_text(const struct call *c, const char *name); /* NULL: neither */
bool call_is_given(const struct call *c, const char *name);
int64_t call_int(const struct call *c, const char *name, int64_t otherwise);
int64_t call_duration_ms(const struct call *c, const char *name, int64_t otherwise);
/* The n-th value of a list; NULL: no more. */
const char *call_item(const struct call *c, const char *name, size_t n);

/* Sets the call's diagnosis and hint; returns `code`. `hint` may be NULL. */
int call_fail(struct call *c, int code, const char *hint, const char *format, ...)
    PRINTF_LIKE(4, 5);

const struct command *command_find(const struct program *p, const char *words);
/* Walks the rows of a program: start with NULL. */
const struct command *command_next(const struct program *p, const struct command *after);
const struct flag_row *command_flag(const struct command *cmd, const char *name, char letter);

/* Runs a whole command line: parse, help or handler, errors to stderr. Returns the exit code. */
int program_run(const struct program *p, int argc, char **argv);
