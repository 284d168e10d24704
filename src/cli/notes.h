/*
 * The texts about a whole program, for help and man page: "Title:" and indented lines.
 */
#pragma once

#define WARREN_DESCRIPTION                                                                 \
    "warren runs a hub (warren hub) and manages one: tokens that admit agents, networks, " \
    "tunnels to services behind them. Objects can be given by name or id everywhere."

#define EXIT_CODE_NOTES                                                             \
    "Exit codes:\n"                                                                 \
    "  0 done             4 not authenticated or not permitted\n"                   \
    "  1 failed           5 conflicts with what exists, or was changed meanwhile\n" \
    "  2 wrong usage      6 timed out\n"                                            \
    "  3 no such object   7 the hub or the target cannot be reached\n"

#define WARREN_NOTES                                                                          \
    "Environment:\n"                                                                          \
    "  WARREN_HUB         address of the hub, such as https://hub.example:8443\n"             \
    "  WARREN_TOKEN_FILE  file with the API token; or WARREN_TOKEN, the token itself\n"       \
    "  WARREN_CA          the hub's CA certificate (PEM file), or sha256:FINGERPRINT\n"       \
    "  WARREN_CONTEXTS    where logins are kept, instead of ~/.config/warren/contexts.json\n" \
    "  NO_COLOR           no colours\n"                                                       \
    "\n" EXIT_CODE_NOTES

#define AGENT_DESCRIPTION                                                                      \
    "warren-agent joins a network to a hub: it dials out, keeps the connection, and lets the " \
    "hub's tunnels reach services of this network, within what --allow permits."

#define AGENT_NOTES                                                               \
    "Files in the data folder:\n"                                                 \
    "  key.pem            the private key; it never leaves this machine\n"        \
    "  cert.pem, ca.pem   the certificate, renewed by itself, and the hub's CA\n" \
    "  agent.json         the agent's id and its hubs\n"                          \
    "\n" EXIT_CODE_NOTES
