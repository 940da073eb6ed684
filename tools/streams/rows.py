"""One stream row and its verifiers, as include/evolora/core/case.h reads them."""

import json

SHORT_ANSWER_SYSTEM = "Answer the question with a short answer."


def contains(*texts):
    return {"type": "contains", "any_of": list(texts)}


def messages(user, system=None):
    turns = [{"role": "system", "content": system}] if system else []
    return turns + [{"role": "user", "content": user}]


def feedback(answer, rule=None, hint=None):
    value = {"answer": answer}
    if rule:
        value["rule"] = rule
    if hint:
        value["hint"] = hint
    return value


def row(row_id, cluster, split, turns, verify, told=None, **flags):
    """A row; only stream rows are told the right answer (`told`)."""
    value = {"id": row_id, "cluster": cluster, "split": split, "messages": turns, "verify": verify}
    if split == "stream":
        value["feedback"] = told
    value.update(flags)
    return value


def compact(value):
    """JSON without white space, UTF-8 as is, keys in the order they were set."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def write_jsonl(path, rows):
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        for value in rows:
            out.write(compact(value) + "\n")


def read_jsonl(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]
