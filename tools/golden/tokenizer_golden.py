#!/usr/bin/env python3
"""Regenerates tests/golden/tokenizers with Hugging Face `tokenizers`, SentencePiece and Jinja.

    python tools/golden/tokenizer_golden.py [--smollm2 FILE.gguf] [--gpt2 FILE.gguf] [--mistral FILE.model]

Needs tokenizers, transformers, sentencepiece, gguf. The two .model files and the templates of the
folder are inputs. Vocabularies too big for the repository are given by path; their goldens hold only
digests and short slices, and stay as they are when no path is given.
"""
import argparse
import hashlib
import io
import json
import pathlib
import struct
import tempfile

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers.utils.chat_template_utils import _compile_jinja_template

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/tokenizers"
NUM_MERGES = 2000
CORPUS_BYTES = 1_000_000
CORPUS_SEED = 20240607
MARK = "\u2581"
NORMALIZED_TOKEN = "e\u0301x"

QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"\p{N}| ?", r"\p{N}{1,3}| ?")

PARTS = [
    "the", "The quick brown fox", " jumps over", "hello", " hello", "Hello, world!", "can't", "I'LL", "don\u017ft",
    "we've", "'s", "'\u017f", "'D", "12", "3.14159", "2024-06-07", "0x1F", "\u0661\u0662\u0663", "\u00bd", "\u2167",
    "\n", "\n\n", "\r\n", "\t", "\t\t", " ", "  ", "    ", "\u00a0", "\u3000", "\u2003", "\u180e", "\u0085",
    "\u2028", "\x0b", "\x1c", "\x00", "\x01", "\x7f", "\u200b", "\u200d", "\ufeff", "_", "__init__", "snake_case",
    "def f(x):\n    return x**2\n", "if (a && b) { c->d(); }", "#include <vector>\n", "SELECT * FROM t;",
    "{\"key\": [1, 2, 3], \"b\": null}", "https://example.org/a?b=c&d=%20", "a@b.de", "...", "!!!", "?!", "---",
    "===", "<|im_end|>", "<|im_start|>user\n", "<|endoftext|>", "<s>", "</s>", "<unk>", "<0x41>", "[INST]", "<pad>",
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "\u4f60\u597d",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8", "\ud55c\uad6d\uc5b4", "\u1112\u1161\u11ab", "\u041f\u0440\u0438\u0432\u0435\u0442", "\u0645\u0631\u062d\u0628\u0627",
    "\u05e9\u05dc\u05d5\u05dd", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u00e9", "e\u0301", "caf\u00e9", "cafe\u0301", "A\u030a", "\u212b", "\ufb01",
    "\u1e9b\u0323", "o\u0302\u0323", "na\u00efve", "\u00dcber", "stra\u00dfe", "\u0130stanbul", "\u2581", "\u2581the", "\u0120", "\u0120the",
    "antidisestablishmentarianism", "aaaaaaaaaa", "ab", "xyzzy", "\u20ac5", "\u00a325", "\u00b5m", "5\u00b0C", "x\u00b2", "a\u0308\u0323b",
]
RANGES = [
    (0x01, 0x7F), (0x80, 0x24F), (0x300, 0x36F), (0x391, 0x3A1), (0x3A3, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA),
    (0x620, 0x64A), (0x905, 0x939), (0xE01, 0xE3A), (0x1100, 0x11FF), (0x1E00, 0x1EFF), (0x2000, 0x2064),
    (0x20A0, 0x20B5), (0x2150, 0x2189), (0x3000, 0x303F), (0x3041, 0x3096), (0x30A0, 0x30FF), (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3), (0xE000, 0xE010), (0xF900, 0xFA2D), (0xFF01, 0xFFBE), (0x1D7CE, 0x1D7FF), (0x1F300, 0x1F5FF),
    (0x1F600, 0x1F64F),
]

CASES = [
    "", " ", "  ", "\n", " \n \t x", "Hello world", " Hello world ", "Hello  world   !", "a", "I'm don't WE'LL 'S",
    "123456 7 89.01", "caf\u00e9 cafe\u0301 \u212b A\u030a", "x<|endoftext|>y", "x <|endoftext|> y", "<|endoftext|><|endoftext|>",
    "<|endoftext", "<|im_start|>user\nhi<|im_end|>\n", " <tool_call> a</tool_call>", "left \t<strip>\n right", "<strip><strip>",
    "word<single>word <single> <single>.", "\u00e9x\u00e9x e\u0301x", "<s>hi</s>", "<s> hi </s> there", "<unk> <0x41> \u2581\u2581x",
    "\x00\x01\x1f\x7f\u0080\u009f", "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u4f60\u597d\u4e16\u754c", "\u0661\u0662\u0663 \u2167 \u00bd \u0be7",
    "a\u180eb \u2003\u3000 c\u0085d", "don\u017ft '\u017f'S\u017f", "\t\t\tif x:\r\n\t\t\t\treturn\r\n\r\n", "=" * 50, "ha" * 60, " " * 70 + "x",
    "\u1112\u1161\u11ab\ud55c", "\u0e33\u0e48 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "Hello<|endoftext|>", "3.14e-10 == \u03c0?", "unlikelyhello hello",
]

CONVERSATIONS = {
    "user": [("user", "Hello, who are you?")],
    "system": [("system", "You are terse."), ("user", "Add 2 and 3.")],
    "two_turns": [("user", "Hi"), ("assistant", "Hello! How can I help?"), ("user", "Tell me a story.")],
    "trained": [("system", "Be kind."), ("user", "1 + 1?"), ("assistant", "2"), ("user", "2 + 2?"),
                ("assistant", "It is 4.\n\nSure.")],
    "blanks": [("user", "  \n padded\u00a0 "), ("assistant", "\n\tso is this \x1c\n"), ("user", "x ")],
    "unicode": [("user", "caf\u00e9 \U0001f600 \u4f60\u597d"), ("assistant", "\u041f\u0440\u0438\u0432\u0435\u0442 e\u0301"), ("user", "'quotes' \"too\" {{ x }} {% y %}")],
    "empty": [("system", ""), ("user", ""), ("assistant", "")],
    "tools": [("user", "Weather?"), ("assistant", "call"), ("tool", "{\"t\": 21}"), ("tool", "{\"t\": 22}"),
              ("assistant", "21 and 22"), ("tool", "late")],
    "late_system": [("user", "a"), ("system", "b"), ("user", "c")],
    "blank_user_after_system": [("system", "s"), ("user", " \n")],
    "only_system": [("system", "alone")],
    "starts_with_assistant": [("assistant", "a"), ("user", "b")],
}


def splitmix(state):
    while True:
        state = (state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        yield z ^ (z >> 31)


def corpus():
    """Mixed text; tests/data/tokenizer_golden.cc generates the same."""
    total = sum(hi - lo + 1 for lo, hi in RANGES)
    out, size = [], 0
    for r in splitmix(CORPUS_SEED):
        kind, pick, count = r % 16, (r >> 8) & 0xFFFFFFFF, (r >> 40) & 0xFFFF
        if kind == 0:
            n = pick % total
            for lo, hi in RANGES:
                if n <= hi - lo:
                    break
                n -= hi - lo + 1
            piece = chr(lo + n) * (1 + count % 3)
        elif kind == 1:
            piece = PARTS[pick % len(PARTS)] * (1 + count % 40)
        else:
            piece = PARTS[pick % len(PARTS)] + (" " if count % 2 else "")
        out.append(piece)
        size += len(piece.encode())
        if size >= CORPUS_BYTES:
            return "".join(out)


def digest(ids):
    return hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()


def golden(encode, decode, text, cases=CASES):
    """encode(text, as_tokens) -> ids."""
    result = {"cases": []}
    for name, as_tokens in (("tokens", True), ("text", False)):
        ids = encode(text, as_tokens)
        result[name] = {"num_ids": len(ids), "sha256": digest(ids), "head": ids[:32],
                        "middle": ids[len(ids) // 2:][:32]}
    for case in cases:
        ids = encode(case, True)
        result["cases"].append({"text": case, "tokens": ids, "as_text": encode(case, False), "decoded": decode(ids)})
        if NORMALIZED_TOKEN in case:
            result["cases"][-1]["decoded"] = None  # the reference reads an added token's text as byte letters
    return result


def hf_golden(tokenizer, text):
    def encode(t, as_tokens):
        tokenizer.encode_special_tokens = not as_tokens
        return tokenizer.encode(t, add_special_tokens=False).ids
    return golden(encode, lambda ids: tokenizer.decode(ids, skip_special_tokens=True), text)


def sp_golden(model, text):
    """SentencePiece itself; special texts are cut out here."""
    control = {model.id_to_piece(i): i for i in range(model.vocab_size()) if model.is_control(i)}

    def encode(t, as_tokens):
        ids, at = [], 0
        while as_tokens:
            found = sorted((t.find(c, at), -len(c), c) for c in control if t.find(c, at) >= 0)
            if not found:
                break
            start, _, mark = found[0]
            ids += model.encode(t[at:start]) + [control[mark]]
            at = start + len(mark)
        return ids + model.encode(t[at:])
    return golden(encode, lambda ids: model.decode(ids), text)


def merge_patch(target, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge_patch(target.get(key), value)
    return target


def small_gpt2(gpt2_tokens, gpt2_merges):
    """GPT-2's tokenizer.json with the first merges only."""
    merges = [tuple(m.split(" ")) for m in gpt2_merges[:NUM_MERGES]]
    letters = [t for t in gpt2_tokens[:256]]
    vocab = {t: i for i, t in enumerate(letters + ["".join(m) for m in merges] + ["<|endoftext|>"])}
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(["<|endoftext|>"])
    return json.loads(t.to_str())


def added(id, content, special=True, **flags):
    return {"id": id, "content": content, "single_word": flags.get("single_word", False),
            "lstrip": flags.get("lstrip", False), "rstrip": flags.get("rstrip", False),
            "normalized": flags.get("normalized", False), "special": special}


def gpt2_variants(base):
    n = len(base["model"]["vocab"])
    end = base["model"]["vocab"]["<|endoftext|>"]
    chat = [added(end, "<|endoftext|>"), added(n, "<|im_start|>"), added(n + 1, "<|im_end|>")]

    def sequence(*steps):  # nulls: what the patched ByteLevel object holds
        return {"type": "Sequence", "pretokenizers": list(steps), "add_prefix_space": None, "trim_offsets": None,
                "use_regex": None}

    def split(regex):
        return sequence(
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False})
    holes = {"\u0100": None, "\u0101": None, "\u0143": None, "\u00f5": None}  # bytes 00, 01, AD and F5
    m = n - len(holes)
    return {
        "gpt2": {},
        "smollm": {
            "pre_tokenizer": sequence(
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}),
            "model": {"vocab": {**holes, "<|im_start|>": n, "<|im_end|>": n + 1}}, "added_tokens": chat},
        "qwen2": {
            "normalizer": {"type": "NFC"}, "pre_tokenizer": split(QWEN2),
            "added_tokens": chat + [added(n + 2, "<tool_call>", special=False), added(n + 3, NORMALIZED_TOKEN, special=False, normalized=True)]},
        "llama3": {
            "pre_tokenizer": split(LLAMA3), "model": {"ignore_merges": True, "vocab": {"\u0120hello": n, "unlikely": n + 1}},
            "added_tokens": [added(end, "<|endoftext|>"), added(n + 2, "<|im_start|>"), added(n + 3, "<|im_end|>")],
            "post_processor": {"type": "TemplateProcessing", "single": [
                {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [end], "tokens": ["<|endoftext|>"]}}}},
        "flags": {
            "added_tokens": [added(end, "<|endoftext|>"), added(n, "<strip>", lstrip=True, rstrip=True),
                             added(n + 1, "<single>", special=False, single_word=True),
                             added(n + 2, "<|end", special=False, normalized=True), added(n + 3, "</tool_call>", special=False, lstrip=True)]},
    }


def small_llama(model):
    """Llama 2's kind of tokenizer.json from a SentencePiece BPE model."""
    n = model.vocab_size()
    vocab = {model.id_to_piece(i): i for i in range(n)}
    normal = [i for i in range(n) if not (model.is_control(i) or model.is_unknown(i) or model.is_byte(i))]
    merges = []
    for i in normal:
        piece = model.id_to_piece(i)
        pairs = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in vocab and piece[k:] in vocab]
        merges += [(model.get_score(i), p) for p in sorted(pairs, key=lambda p: (vocab[p[0]], vocab[p[1]]))]
    merges.sort(key=lambda m: (m[0], len(m[1][0]), len(m[1][1])), reverse=True)
    t = Tokenizer(models.BPE(vocab=vocab, merges=[p for _, p in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.add_special_tokens([AddedToken(s, normalized=False) for s in ("<unk>", "<s>", "</s>")])
    t.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return json.loads(t.to_str())


def tiny_unigram():
    """A whole unigram model with a charsmap, small enough that a mutation often hits its structure."""
    rules = {"\ufb01": "fi", "\u00bd": "1/2", "\u212b": "\u00c5", "e\u0301": "\u00e9", "\u3000": " ", "\t": " "}
    text = ["in the end there is one thing", "the thing is in there", "then he hit the tin", "caf\u00e9 and tea at ten",
            "an inn in the north", "this and that"] * 5
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as tsv:
        for source, target in rules.items():
            tsv.write("\t".join(" ".join(f"{ord(c):X}" for c in side) for side in (source, target)) + "\n")
        tsv.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text), model_writer=model, model_type="unigram", vocab_size=50, num_threads=1,
            hard_vocab_limit=False, normalization_rule_tsv=tsv.name, minloglevel=2)
    return model.getvalue()


def llama_variants():
    def metaspace(scheme):
        return {"pre_tokenizer": {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": False}}
    return {
        "prepend": {"normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": MARK}, {"type": "Replace", "pattern": {"String": " "}, "content": MARK}]}},
        "metaspace_first": metaspace("first"), "metaspace_always": metaspace("always"), "metaspace_never": metaspace("never"),
    }


def read_gguf(path):
    import gguf
    return {k: v.contents() for k, v in gguf.GGUFReader(path).fields.items() if k.startswith("tokenizer.")}


def from_gguf(kv, digits):
    tokens, types = kv["tokenizer.ggml.tokens"], kv["tokenizer.ggml.token_type"]
    t = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(tokens)},
                             merges=[tuple(m.split(" ")) for m in kv["tokenizer.ggml.merges"]]))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]) if digits else byte_level
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, normalized=False) for s, ty in zip(tokens, types) if ty == 3])
    return t


BOS_EOS = {"llama2": ("<s>", "</s>"), "mistral_v1": ("<s>", "</s>"), "mistral_system": ("<s>", "</s>"), "zephyr": ("<s>", "</s>"),
           "llama3": ("<|begin_of_text|>", "<|eot_id|>")}


def render(template, messages, bos_eos, prompt):
    try:
        return template.render(messages=messages, tools=None, add_generation_prompt=prompt, bos_token=bos_eos[0], eos_token=bos_eos[1])
    except Exception:  # raise_exception in the template, or its own errors
        return None


def chat_goldens():
    renders = {}
    for path in sorted((FOLDER / "templates").glob("*.jinja")):
        template = _compile_jinja_template(path.read_text())
        bos_eos = BOS_EOS.get(path.stem, ("", ""))
        renders[path.stem] = {}
        for name, turns in CONVERSATIONS.items():
            messages = [{"role": r, "content": c} for r, c in turns]
            renders[path.stem][name] = [render(template, messages, bos_eos, p) for p in (False, True)]
    return renders


def chat_ids(tokenizer, turns, text, end_mark):
    """Ids of a rendered chat, and which of them end inside an assistant's content or end mark."""
    tokenizer.encode_special_tokens = False
    spans, at = [], 0
    for role, content in turns:
        at = text.index(content, at)
        end = at + len(content)
        if role == "assistant":
            spans.append((at, text.index(end_mark, end) + len(end_mark)))
        at = end
    encoding = tokenizer.encode(text, add_special_tokens=False)
    labels = [int(any(a < e <= b for a, b in spans)) for _, e in encoding.offsets]
    return {"ids": encoding.ids, "labels": labels}


def dump(name, value, indent=None):
    (FOLDER / name).write_text(json.dumps(value, indent=indent, ensure_ascii=True, sort_keys=indent is not None) + "\n")


def main():
    parser = argparse.ArgumentParser()
    for name in ("smollm2", "gpt2", "mistral"):
        parser.add_argument(f"--{name}")
    args = parser.parse_args()
    text = corpus()
    ids_path = FOLDER / "ids.json"
    old = json.loads(ids_path.read_text()) if ids_path.exists() else {}
    result = {"versions": {"tokenizers": tokenizers.__version__, "sentencepiece": sentencepiece.__version__},
              "corpus_sha256": hashlib.sha256(text.encode()).hexdigest()}
    dump("corpus.json", {"seed": CORPUS_SEED, "num_bytes": CORPUS_BYTES, "parts": PARTS, "ranges": RANGES})

    if args.gpt2:
        kv = read_gguf(args.gpt2)
        dump("gpt2_2000.json", small_gpt2(kv["tokenizer.ggml.tokens"], kv["tokenizer.ggml.merges"]))
    base = json.loads((FOLDER / "gpt2_2000.json").read_text())
    tok512 = sentencepiece.SentencePieceProcessor(model_file=str(FOLDER / "tok512.model"))
    llama = small_llama(tok512)
    dump("tok512_hf.json", llama)
    variants = {"gpt2_2000.json": gpt2_variants(base), "tok512_hf.json": llama_variants()}
    dump("variants.json", variants)
    hf = {}
    for file, patches in variants.items():
        source = base if file == "gpt2_2000.json" else llama
        for name, patch in patches.items():
            hf[name] = Tokenizer.from_str(json.dumps(merge_patch(source, patch)))
            result[name] = hf_golden(hf[name], text)
    result["tok512.model"] = sp_golden(tok512, text)
    (FOLDER / "tiny_unigram.model").write_bytes(tiny_unigram())
    unigram = sentencepiece.SentencePieceProcessor(model_file=str(FOLDER / "test_model.model"))
    # Between "-" "--" and "--" "-" of equal score the unigram versions decide differently.
    result["test_model.model"] = sp_golden(unigram, text.replace("-", "").replace(".", ""))
    big = {"smollm2": lambda p: hf_golden(from_gguf(read_gguf(p), True), text),
           "gpt2_gguf": lambda p: hf_golden(from_gguf(read_gguf(p), False), text),
           "mistral.model": lambda p: sp_golden(sentencepiece.SentencePieceProcessor(model_file=p), text)}
    for (name, make), path in zip(big.items(), (args.smollm2, args.gpt2, args.mistral)):
        result[name] = make(path) if path else old[name]

    renders = chat_goldens()
    dump("chats.json", {"conversations": CONVERSATIONS, "bos_eos": BOS_EOS, "renders": renders}, indent=1)
    result["chats"] = {}
    encoders = {"smollm": "smollm2", "qwen2": "qwen2_5", "prepend": "llama2", "metaspace_first": "mistral_system"}
    for variant, template in encoders.items():
        mark = "</s>" if template in BOS_EOS else "<|im_end|>"
        result["chats"][variant] = {"template": template, "chats": {
            name: chat_ids(hf[variant], turns, renders[template][name][0], mark)
            for name, turns in CONVERSATIONS.items() if name in ("user", "two_turns", "trained", "unicode")}}
    dump("ids.json", result)


if __name__ == "__main__":
    main()
