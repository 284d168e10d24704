#!/usr/bin/python3
"""Turns X.sql into X.sql.c, which defines `const struct store_schema X_schema`.

The file is cut at lines `-- migration N: what it does`, N = 1, 2, 3, ...; a step that was ever
released is never edited, the next one is added below it.

While a cluster is upgraded, older hubs run on the newer tables: so a step only adds, and this refuses
one that does not, unless it says so: `-- migration N (breaking): ...`. Hubs of older versions refuse a
database that has such a step.
"""
import json
import pathlib
import re
import sys


ADDITIVE = (
    r"CREATE TABLE ",
    r"CREATE INDEX ",
    r"CREATE FUNCTION ",
    r"ALTER TABLE \w+ ADD COLUMN \w+ \w+( NOT NULL DEFAULT \S+| DEFAULT \S+)?$",
    r"INSERT INTO ",
    r"UPDATE ",
)


def what_breaks(body):
    """The first statement that an older program may not survive."""
    text = re.sub(r"--[^\n]*", "", body)
    for statement in (" ".join(s.split()) for s in text.split(";")):
        if statement and not any(re.match(p, statement) for p in ADDITIVE):
            return statement
    return None


def steps(text, path):
    """(bodies, number of the newest breaking step)"""
    parts = re.split(r"^-- migration (\d+)( \(breaking\))?:.*\n", text, flags=re.M)
    numbers, marks, bodies = [int(n) for n in parts[1::3]], parts[2::3], parts[3::3]
    if numbers != list(range(1, len(numbers) + 1)) or not numbers:
        sys.exit(f"{path}: expected lines '-- migration N: ...' with N = 1, 2, 3, ...; got {numbers}")
    for number, mark, body in zip(numbers, marks, bodies):
        if not mark and what_breaks(body):
            sys.exit(f"{path}: migration {number} does not only add: {what_breaks(body)}")
    return bodies, max([n for n, mark in zip(numbers, marks) if mark], default=0)


def main():
    source, target = sys.argv[1:]
    name = pathlib.Path(source).stem
    out = [f"/* Made from {name}.sql by scripts/sql_to_c.py. */", '#include "store/store.h"', ""]
    out.append(f"extern const struct store_schema {name}_schema;")
    out.append("static const char *const steps[] = {")
    bodies, breaking = steps(pathlib.Path(source).read_text(), source)
    for body in bodies:
        lines = [line for line in body.splitlines() if line.strip()]
        out += ["    " + json.dumps(line + "\n", ensure_ascii=False) for line in lines] + ["    ,"]
    out += ["};", f'const struct store_schema {name}_schema = {{"{name}", steps, '
            f"sizeof(steps) / sizeof(steps[0]), {breaking}}};", ""]
    pathlib.Path(target).write_text("\n".join(out))


if __name__ == "__main__":
    main()
