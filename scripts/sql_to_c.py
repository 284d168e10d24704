#!/usr/bin/python3
"""Turns X.sql into X.sql.c, which defines `const struct store_schema X_schema`.

The file is cut at lines `-- migration N: what it does`, N = 1, 2, 3, ...; a step that was ever
released is never edited, the next one is added below it.
"""
import json
import pathlib
import re
import sys


def steps(text, path):
    parts = re.split(r"^-- migration (\d+):.*\n", text, flags=re.M)
    numbers, bodies = [int(n) for n in parts[1::2]], parts[2::2]
    if numbers != list(range(1, len(numbers) + 1)) or not numbers:
        sys.exit(f"{path}: expected lines '-- migration N: ...' with N = 1, 2, 3, ...; got {numbers}")
    return bodies


def main():
    source, target = sys.argv[1:]
    name = pathlib.Path(source).stem
    out = [f"/* Made from {name}.sql by scripts/sql_to_c.py. */", '#include "store/store.h"', ""]
    out.append(f"extern const struct store_schema {name}_schema;")
    out.append("static const char *const steps[] = {")
    for body in steps(pathlib.Path(source).read_text(), source):
        lines = [line for line in body.splitlines() if line.strip()]
        out += ["    " + json.dumps(line + "\n", ensure_ascii=False) for line in lines] + ["    ,"]
    out += ["};", f'const struct store_schema {name}_schema = {{"{name}", steps, '
            "sizeof(steps) / sizeof(steps[0])};", ""]
    pathlib.Path(target).write_text("\n".join(out))


main()
