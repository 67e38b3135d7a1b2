# SPDX-License-Identifier: Apache-2.0
"""Cuts a document so that the question about it has as many tokens as the demo wants.

Responsible for: the prompts. Must not know: servers, or where KV caches are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import model as models

ASK = "\n\nQuestion: what does the document above demand of whoever passes it on?\nAnswer:"
UNRELATED = (
    "A harbour at first light. The ferry is late, the gulls are not. A woman with a red umbrella "
    "counts the lamps along the quay, and loses count, and begins again from the other end. "
)


@dataclass(frozen=True)
class Question:
    """A prompt about a document, and one of another text that warms a fresh server up."""

    prompt: str
    warm_up: str
    tokens: int
    source: str


def make_question(model: Path, document: Path | None, tokens: int) -> Question:
    """The question about `document` (default: licence texts), cut to at most `tokens` tokens."""
    tokenizer = models.library("transformers").AutoTokenizer.from_pretrained(str(model))

    def count(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    if document is None:
        files = sorted(models.text_files(), key=lambda path: -path.stat().st_size)
        text, source = "\n".join(path.read_text(errors="replace") for path in files), files[0].name
    else:
        text, source = document.read_text(errors="replace"), document.name
    prompt = cut(text, tokens, lambda part: count(f"Document:\n\n{part}{ASK}"))
    warm_up = cut(UNRELATED * 200, max(64, tokens // 8), count)
    whole = f"Document:\n\n{prompt}{ASK}"
    return Question(whole, warm_up, count(whole), source)


def cut(text: str, tokens: int, count: Callable[[str], int]) -> str:
    """The longest beginning of `text` (to a few characters) that counts at most `tokens`."""
    low, high = 0, min(len(text), tokens * 16)
    if count(text[:high]) <= tokens:
        return text[:high]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(text[:middle]) <= tokens else (low, middle)
    return text[:low]
