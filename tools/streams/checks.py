"""What must hold for a shipped stream; each check returns its complaints."""

import json
import re

import facts

SPLITS = ("stream", "query", "anchor", "test")
REQUIRED = {"id", "cluster", "split", "messages", "verify"}
OPTIONAL = {"feedback", "volatile", "private", "fault"}
ARGUMENT_TYPES = ("string", "integer", "number", "boolean", "array", "object", "any")
VERIFY_FIELDS = {
    "exact": {"any_of"},
    "contains": {"any_of"},
    "regex": {"pattern"},
    "number": {"value", "tolerance"},
    "choice": {"any_of", "choices"},
    "tool_call": {"name", "arguments"},
}


def user_text(row):
    return [turn["content"] for turn in row["messages"] if turn["role"] == "user"][-1]


def check_fields(row):
    name, keys = row.get("id", "?"), set(row)
    if not re.fullmatch(r"[A-Za-z0-9._:-]{1,200}", name):
        yield f"{name}: bad id"
    if not REQUIRED <= keys <= REQUIRED | OPTIONAL:
        yield f"{name}: fields {sorted(keys)}"
        return
    if row["split"] not in SPLITS:
        yield f"{name}: split {row['split']}"
    if (row["split"] == "stream") != ("feedback" in row):
        yield f"{name}: feedback belongs to stream rows and to all of them"
    roles = [turn["role"] for turn in row["messages"]]
    if roles not in (["user"], ["system", "user"]):
        yield f"{name}: roles {roles}"


def check_verify(row):
    verify = dict(row["verify"])
    kind = verify.pop("type")
    runtime = verify.pop("runtime_tools", None)
    if set(verify) != VERIFY_FIELDS.get(kind):
        yield f"{row['id']}: verify {kind} with {sorted(verify)}"
    if runtime is not None and (kind != "tool_call" or row.get("fault") != "tool"):
        yield f"{row['id']}: runtime_tools without a tool fault"
    if kind in ("exact", "contains") and not all(verify["any_of"] or [""]):
        yield f"{row['id']}: empty accepted text"
    for name, spec in verify.get("arguments", {}).items():
        if set(spec) != {"type", "any_of", "required"} or spec["type"] not in ARGUMENT_TYPES:
            yield f"{row['id']}: argument {name}: {spec}"
        elif not spec["any_of"]:
            yield f"{row['id']}: argument {name}: no allowed value"


def answers_right(verify, answer):
    """Whether a told answer passes; None for verifiers whose answers this file does not judge."""
    if verify["type"] == "contains":
        return any(text.lower() in answer.lower() for text in verify["any_of"])
    if verify["type"] != "tool_call":
        return None
    call, specs = json.loads(answer), verify["arguments"]
    needed = {name for name, spec in specs.items() if spec["required"]}
    return (call["name"] == verify["name"] and needed <= set(call["arguments"]) <= set(specs)
            and all(value in specs[name]["any_of"] for name, value in call["arguments"].items()))


def check_answer(row):
    """The told answer is right by the row's own verifier, unless the verifier is the fault."""
    if row["split"] != "stream":
        return
    right = answers_right(row["verify"], row["feedback"]["answer"])
    if right is not None and right == (row.get("fault") == "verifier"):
        yield f"{row['id']}: answer and verifier {'agree' if right else 'disagree'}"


def check_unique(rows):
    seen_ids, seen_prompts = set(), {}
    for row in rows:
        if row["id"] in seen_ids:
            yield f"{row['id']}: id stands twice"
        seen_ids.add(row["id"])
        prompt = tuple(turn["content"] for turn in row["messages"])
        if prompt in seen_prompts:
            yield f"{row['id']}: same messages as {seen_prompts[prompt]}"
        seen_prompts[prompt] = row["id"]


def check_functions_disjoint(rows):
    """No function of the query or test split is in another split."""
    owner = {}
    for row in rows:
        if row["verify"]["type"] != "tool_call":
            continue
        name = row["verify"]["name"]
        if owner.setdefault(name, row["split"]) != row["split"]:
            yield f"{row['id']}: function {name} is also in {owner[name]}"


def check_templates_disjoint():
    """Stream, query, test and the evolver's probes ask in different words."""
    templates = (facts.STREAM_TEMPLATE, *facts.QUERY_TEMPLATES, *facts.TEST_TEMPLATES,
                 *facts.PROBE_TEMPLATES)
    plain = [re.sub(r"[^a-z{}]", "", template.lower()) for template in templates]
    if len(set(plain)) != len(plain):
        yield "two question templates are the same"


def check_no_probe_wording(rows):
    for row in rows:
        text = user_text(row)
        for template in facts.PROBE_TEMPLATES:
            head, tail = template.split("{q}")
            if (head and text.startswith(head)) or (tail and text.endswith(tail)):
                yield f"{row['id']}: worded like the probe \"{template}\""


def complaints(rows):
    out = []
    for row in rows:
        for check in (check_fields, check_verify, check_answer):
            out += check(row)
    out += check_unique(rows)
    out += check_functions_disjoint(rows)
    out += check_templates_disjoint()
    out += check_no_probe_wording(rows)
    return out
