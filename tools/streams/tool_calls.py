"""Rows of the tool-call cluster: Berkeley Function Calling Leaderboard v4, simple Python calls."""

import os
import random

from rows import compact, feedback, messages, read_jsonl, row

NUM_STREAM, NUM_QUERY, NUM_TEST = 96, 40, 56
# Short tasks only: prompt tokens are what a run on two cores pays for.
MAX_PROMPT_CHARS = 560
MAX_QUESTION_CHARS = 160
MAX_ARGUMENT_CHARS = 80

SYSTEM = ('You can call one function. Reply with one JSON object {"name": ..., "arguments": {...}} '
          "and nothing else.")
RULE = ("Reply with the JSON object of the call and nothing else: copy the function name exactly, "
        "give every required argument under its own name, take the values from the question, and "
        "leave out optional arguments that the question does not ask for.")
TYPES = {"string": "string", "integer": "integer", "float": "number", "boolean": "boolean",
         "array": "array", "tuple": "array"}
PYTHON_TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool,
                "array": list}


def load(data_dir):
    """Tasks as (id, question, function, allowed values by argument)."""
    folder = os.path.join(data_dir, "datasets", "bfcl_v4")
    name = "BFCL_v4_simple_python.json"
    answers = read_jsonl(os.path.join(folder, "possible_answer", name))
    allowed = {answer["id"]: answer["ground_truth"][0] for answer in answers}
    tasks = []
    for task in read_jsonl(os.path.join(folder, name)):
        function = task["function"][0]
        question = task["question"][0][0]["content"]
        tasks.append((task["id"], question, function, allowed[task["id"]][function["name"]]))
    return tasks


def is_exact(function, allowed):
    """Whether our argument types say all that the leaderboard checks."""
    properties = function["parameters"]["properties"]
    if set(properties) != set(allowed):
        return False
    for name, schema in properties.items():
        if schema["type"] not in TYPES or "properties" in schema:
            return False
        if schema.get("items", {}).get("type") in ("dict", "array", "any"):
            return False
        values = [value for value in allowed[name] if value != ""]
        expected = PYTHON_TYPES[TYPES[schema["type"]]]
        if not all(isinstance(value, expected) for value in values):
            return False
        if name in function["parameters"]["required"] and not values:
            return False
    return True


def shortened(text):
    """The first sentence of a description, cut at a word when it is long."""
    text = " ".join(text.split())
    head = text.split(". ")[0].rstrip(".")
    if len(head) <= MAX_ARGUMENT_CHARS:
        return head
    return head[:MAX_ARGUMENT_CHARS].rsplit(" ", 1)[0]


def type_name(schema):
    kind = TYPES[schema["type"]]
    if kind == "array" and "items" in schema:
        kind += " of " + TYPES[schema["items"]["type"]]
    return kind


def rendered(function):
    """The system prompt that documents one function."""
    required = function["parameters"]["required"]
    properties = function["parameters"]["properties"]
    arguments = ", ".join(f"{name}: {type_name(schema)}{'' if name in required else ' = optional'}"
                          for name, schema in properties.items())
    lines = [SYSTEM, f"{function['name']}({arguments}) - {shortened(function['description'])}"]
    for name, schema in properties.items():
        line = f"{name}: {shortened(schema['description'])}"
        if "enum" in schema:
            line += " (" + ", ".join(str(value) for value in schema["enum"]) + ")"
        lines.append(line)
    return "\n".join(lines)


def verify_call(function, allowed):
    required = function["parameters"]["required"]
    arguments = {}
    for name, schema in function["parameters"]["properties"].items():
        values = [value for value in allowed[name] if value != ""]
        optional = "" in allowed[name] and name not in required
        arguments[name] = {"type": TYPES[schema["type"]], "any_of": values or [""],
                           "required": not optional}
    return {"type": "tool_call", "name": function["name"], "arguments": arguments}


def canonical_call(verify):
    """The shortest right call: first allowed value of each argument that must be given."""
    arguments = {name: spec["any_of"][0] for name, spec in verify["arguments"].items()
                 if spec["required"]}
    return compact({"name": verify["name"], "arguments": arguments})


def worked_example():
    """A call of a function that no split holds; the hint shows it."""
    properties = {
        "restaurant": {"type": "string", "description": "Name of the restaurant."},
        "guests": {"type": "integer", "description": "Number of guests."},
        "outside": {"type": "boolean", "description": "Whether to sit outside."},
    }
    function = {"name": "book_table", "description": "Book a table in a restaurant.",
                "parameters": {"properties": properties, "required": ["restaurant", "guests"]}}
    call = {"name": "book_table", "arguments": {"restaurant": "Blue Door", "guests": 4}}
    return function, "Book a table for 4 people at the Blue Door.", compact(call)


def hint():
    function, question, call = worked_example()
    documented = rendered(function).split("\n")[1]
    return f"{RULE}\nExample. Function: {documented} Question: {question} Reply: {call}"


def suitable(tasks):
    for task_id, question, function, allowed in tasks:
        if len(question) > MAX_QUESTION_CHARS or not question.isascii():
            continue
        if is_exact(function, allowed) and len(rendered(function)) <= MAX_PROMPT_CHARS:
            yield task_id, question, function, allowed


def split_by_function(tasks, seed):
    """Splits with disjoint function names, sizes NUM_STREAM, NUM_QUERY, NUM_TEST."""
    by_name = {}
    for task in tasks:
        by_name.setdefault(task[2]["name"], []).append(task)
    names = sorted(by_name)
    random.Random(seed).shuffle(names)
    splits, sizes = {}, {"query": NUM_QUERY, "test": NUM_TEST, "stream": NUM_STREAM}
    for split, size in sizes.items():
        splits[split] = []
        while len(splits[split]) < size:
            if not names:
                raise ValueError(f"too few functions for {split}")
            splits[split] += by_name[names.pop()][:size - len(splits[split])]
    return splits


def tool_rows(tasks, seed):
    out = []
    splits = split_by_function(list(suitable(tasks)), seed)
    for split in ("stream", "query", "test"):
        for task_id, question, function, allowed in splits[split]:
            verify = verify_call(function, allowed)
            told = feedback(canonical_call(verify), RULE, hint()) if split == "stream" else None
            turns = messages(question, rendered(function))
            row_id = "tools-" + task_id.removeprefix("simple_python_")
            out.append(row(row_id, "tools", split, turns, verify, told))
    return out
