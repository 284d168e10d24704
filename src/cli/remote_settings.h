/*
 * Which hub a command talks to, as whom, and whom it trusts.
 */
#pragma once

#include "cli/command.h"

struct remote_settings {
    char *hub;
    char *token;
    char *ca_file, *ca_pem;
    char *ca_context; /* the context that ca_pem is of; NULL: none */
    bool has_pin;
    uint8_t pin[32];
};

/* From --hub, --context, the environment, or the context in use; in this order. */
int remote_settings_find(struct call *c, struct remote_settings *ret);
void remote_settings_done(struct remote_settings *s);

/* A token from --token-file, WARREN_TOKEN or WARREN_TOKEN_FILE; NULL: none of them is set. */
int remote_settings_token(struct call *c, char **ret);
