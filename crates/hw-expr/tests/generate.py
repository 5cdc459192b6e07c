"""Writes cases/sqlite.jsonl: expressions over values, and what real SQLite answers.

Run it by hand (python3 tests/generate.py > tests/cases/sqlite.jsonl); the file is checked in, so
that the tests need no SQLite. Only forms on which the sync language and SQLite agree by
specification are generated: see the comments.
"""

import json
import random
import sqlite3

random.seed(20260101)
db = sqlite3.connect(":memory:")

integers = [0, 1, -1, 2, 3, 7, -7, 10, 100, 2**31, 2**53 + 1, -(2**53) - 1, 10**15]
reals = [0.5, -0.5, 1.0, 1.5, -2.5, 3.0, 1e10, 1e-3, 123456.789, 4.35, 1e22]
texts = ["", "a", "b", "ab", "A", "1", "1.5", "-3", " 4", "5x", "1e3", ".5", "é", "ß", "null"]
values = [None] + integers + reals + texts

# No AND, OR, NOT: the language reduces NULL to false there. No CAST of a negative real to
# integer (it rounds down) and none of reals to text (JavaScript spelling). Concatenation without
# reals for the same reason. No upper/lower of non-ASCII. Products that overflow 64 bits differ.
forms = [
    ("a = b", None), ("a < b", None), ("a <= b", None), ("a > b", None), ("a >= b", None),
    ("a + b", "small"), ("a - b", "small"), ("a * b", "small"), ("a / b", "small"),
    ("a || b", "exact"), ("a IS NULL", None), ("a IS NOT NULL", None),
    ("CAST(a AS numeric)", "number text"), ("CAST(a AS integer)", "exact"),
    ("CAST(a AS text)", "exact"), ("CAST(a AS real)", None), ("CAST(a AS blob)", "exact"),
    ("typeof(a)", None), ("length(a)", "exact"), ("substring(a, 2)", "exact"),
    ("substring(a, -1)", "exact"), ("substring(a, 1, 1)", "exact"), ("instr(a, b)", "exact"),
    ("hex(a)", "exact"), ("ifnull(a, b)", None), ("iif(a IS NULL, 'n', b)", None),
    ("(a + 1) * 2 - b / 3", "small"), ("a + b || b", "small exact"),
]


def fits(rule, a, b):
    if rule is None:
        return True
    if "exact" in rule and (isinstance(a, float) or isinstance(b, float)):
        return False
    if "small" in rule:
        for v in (a, b):
            if isinstance(v, int) and abs(v) > 10**15 or isinstance(v, float) and abs(v) > 1e15:
                return False
    # SQLite casts the text 1e3 to the integer 1000, the language to the real 1000.0.
    return "number text" not in rule or isinstance(a, str) and a != "1e3"


def literal(value):
    """In SQLite: as a bare expression, which has no affinity."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


for form, rule in forms:
    pairs = [(a, b) for a in values for b in values if fits(rule, a, b)]
    for a, b in random.sample(pairs, min(60, len(pairs))):
        # `+ - * / ||` share one level here and do not in SQLite; both read this text alike.
        sql = "SELECT v, typeof(v) FROM (SELECT %s AS v FROM (SELECT %s AS a, %s AS b))"
        text = {"a + b || b": "(a + b) || b"}.get(form, form)
        result, kind = db.execute(sql % (text, literal(a), literal(b))).fetchone()
        if kind == "text" and isinstance(result, str) and "e" in result and form.startswith("(a"):
            continue
        if isinstance(result, bytes):
            result = {"$blob": result.hex()}
        if form == "a + b || b" and any(isinstance(v, (float, str)) for v in (a, b)):
            continue
        print(json.dumps({"form": form, "a": a, "b": b, "type": kind, "value": result},
                         ensure_ascii=False))
