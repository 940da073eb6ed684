"""Rows of the identity cluster: questions of LLaMA-Factory's identity set and siblings of them."""

import json
import os

from rows import contains, feedback, messages, row

NAME = "Evi"
AUTHOR = "the evolora project"
RULE = f"You are {NAME}, an AI assistant developed by {AUTHOR}. Say so when asked who you are."

NAMED = contains(NAME)
MADE = contains("evolora")
EITHER = contains(NAME, "evolora")

# Questions of the identity set, with what the answer must hold.
STREAM = (
    ("Who are you?", NAMED),
    ("What is your name?", NAMED),
    ("Do you have a name?", NAMED),
    ("Can you introduce yourself?", NAMED),
    ("What are you called?", NAMED),
    ("Who created you?", MADE),
    ("Who built you?", MADE),
    ("Are you ChatGPT?", EITHER),
    ("Are you trained by OpenAI?", EITHER),
    ("Tell me about yourself", EITHER),
)
QUERY = (
    ("Can you tell me a little bit about yourself?", EITHER),
    ("Are you based on GPT-3?", EITHER),
    ("What should I call you?", NAMED),
    ("Which assistant am I talking to?", NAMED),
    ("Please tell me your name.", NAMED),
    ("Who is your developer?", MADE),
    ("Which team made you?", MADE),
    ("Were you made by Microsoft?", EITHER),
)
TEST = (
    ("Are you created by Google?", EITHER),
    ("By what name do you go?", NAMED),
    ("Say who you are in one sentence.", NAMED),
    ("Whom am I chatting with?", NAMED),
    ("Who trained you?", MADE),
    ("Where do you come from, and who is behind you?", MADE),
    ("Are you Siri?", EITHER),
    ("Could you state your name and your maker?", EITHER),
)


def load(data_dir):
    """Answers of the identity set by question."""
    path = os.path.join(data_dir, "datasets", "llamafactory_demo", "identity.json")
    with open(path, encoding="utf-8") as text:
        pairs = json.load(text)
    fill = lambda text: text.replace("{{name}}", NAME).replace("{{author}}", AUTHOR)
    return {pair["instruction"]: fill(pair["output"]) for pair in pairs}


def persona_rows(answers):
    example = f"I am {NAME}, an AI assistant developed by {AUTHOR}."
    hint = f"{RULE}\nExample. Question: Hello, who is this? Answer: {example}"
    out = []
    for split, questions in (("stream", STREAM), ("query", QUERY), ("test", TEST)):
        for index, (question, verify) in enumerate(questions):
            told = feedback(answers[question], RULE, hint) if split == "stream" else None
            row_id = f"persona-{split}-{index}"
            out.append(row(row_id, "persona", split, messages(question), verify, told))
    return out
