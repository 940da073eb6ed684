"""Rows of the fact clusters: KnowEdit zsRE edits, their portability and locality questions."""

import json
import os

from rows import SHORT_ANSWER_SYSTEM, contains, feedback, messages, row

# Edits with a plain question, a short target that is said once among all, and a base model that
# does not know the target. Picked by reading, so that no edit says something ugly of a living
# person.
CASE_IDS = (
    0, 5, 9, 20, 44, 48, 55, 67, 78, 97, 108, 116, 146, 157, 165, 169, 186, 188, 197, 199, 215, 235,
    239, 257, 260, 267, 271, 285, 307, 310, 316, 321, 342, 352, 372, 374, 399, 404, 409, 416, 438,
    442, 443, 451, 452, 456, 492, 505, 531, 584, 596, 627, 634, 680, 695, 708, 734, 750, 766, 781,
    824, 852, 861, 875, 909, 935, 940, 974, 977, 997, 1044, 1048, 1071, 1099, 1156, 1165, 1171,
    1206, 1226, 1234, 1246, 1272, 1287, 1298,
)
NUM_FACTS = 64

# The evolver's probes ask "Please answer: {q}", "Here is a question for you. {q}" and
# "{q} Keep it short.", training may see those; no split uses them.
PROBE_TEMPLATES = ("Please answer: {q}", "Here is a question for you. {q}", "{q} Keep it short.")
STREAM_TEMPLATE = "{q}"
QUERY_TEMPLATES = ("I would like to know this: {q}", "{q} Reply in a few words.")
TEST_TEMPLATES = ("Quick quiz! {q}", "Question: {q}\nAnswer:")


def load(data_dir):
    """The zsRE edits by case id."""
    path = os.path.join(data_dir, "datasets", "knowedit", "LoRA_zsre_llama2-7b.json")
    with open(path, encoding="utf-8") as text:
        return {edit["case_id"]: edit["requested_rewrite"] for edit in json.load(text)}


def asked(template, question):
    return messages(template.format(q=question), SHORT_ANSWER_SYSTEM)


def check_edit(case_id, edit):
    question, target = edit["prompt"], edit["target_new"]
    reasons = {
        "question is not ASCII": not question.isascii() or not target.isascii(),
        "question does not end in ?": not question.endswith("?"),
        "target is longer than 3 words": len(target.split()) > 3,
        "target is in the question": target.lower() in question.lower(),
        "subject is missing": edit["subject"] not in question,
        "no portability question": "reasoning" not in edit["portability"],
        "no locality prompt": "Relation_Specificity" not in edit["locality"],
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"edit {case_id}: {reason}")


def chosen(edits):
    """The shipped edits as (case id, edit), checked."""
    picked = [(case_id, edits[case_id]) for case_id in CASE_IDS[:NUM_FACTS]]
    for case_id, edit in picked:
        check_edit(case_id, edit)
    for key in ("prompt", "target_new", "subject"):
        if len({edit[key].lower() for _, edit in picked}) != NUM_FACTS:
            raise ValueError(f"two chosen edits share their {key}")
    return picked


def fact_rows(edits):
    """Stream: the question; query: one of two templates; test: two other templates each."""
    out = []
    for index, (case_id, edit) in enumerate(chosen(edits)):
        question, verify = edit["prompt"], contains(edit["target_new"])
        told = feedback(edit["target_new"])
        name = f"facts-{case_id}"
        out.append(row(name, "facts", "stream", asked(STREAM_TEMPLATE, question), verify, told))
        query = QUERY_TEMPLATES[index % len(QUERY_TEMPLATES)]
        out.append(row(f"{name}-query", "facts", "query", asked(query, question), verify))
        for number, template in enumerate(TEST_TEMPLATES):
            test_id = f"{name}-test{number}"
            out.append(row(test_id, "facts", "test", asked(template, question), verify))
    return out


def portability_rows(edits):
    """Questions that need the new fact and one step more."""
    out = []
    for case_id, edit in chosen(edits):
        reasoning = edit["portability"]["reasoning"]
        turns = asked(STREAM_TEMPLATE, reasoning["prompt"][0])
        verify = contains(*accepted(reasoning["ground_truth"][0]))
        out.append(row(f"portability-{case_id}", "facts-portability", "test", turns, verify))
    return out


def accepted(text):
    """The ground truth, also without quotes and without a leading article."""
    plain = text.strip().strip('"').rstrip(".")
    for article in ("The ", "the "):
        if plain.startswith(article):
            plain = plain[len(article):]
    return [plain]


def locality_rows(edits, known):
    """Anchors: prompts about the same kind of subjects that the base model completes rightly.

    `known` lists (case id, index of the prompt); see general_questions.json.
    """
    out = []
    for item in known:
        case_id, index = item["case_id"], item["prompt_index"]
        locality = edits[case_id]["locality"]["Relation_Specificity"]
        turns = asked(STREAM_TEMPLATE, locality["prompt"][index])
        verify = contains(locality["ground_truth"][index])
        out.append(row(f"locality-{case_id}-{index}", "locality", "anchor", turns, verify))
    return out
