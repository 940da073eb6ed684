"""Rows of the protected cluster: our own questions that the base model answers rightly."""

import json
import os

from rows import SHORT_ANSWER_SYSTEM, messages, row


def load():
    """Questions by split, and which locality prompts to keep; kept by the base model's answers."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "general_questions.json")
    with open(path, encoding="utf-8") as text:
        return json.load(text)


def general_rows(questions):
    out = []
    for split in ("anchor", "test"):
        for index, item in enumerate(questions[split]):
            turns = messages(item["question"], SHORT_ANSWER_SYSTEM)
            row_id = f"general-{split}-{index}"
            out.append(row(row_id, "general", split, turns, item["verify"]))
    return out
