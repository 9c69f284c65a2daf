"""What a mock model says: a pseudorandom function of model digest, prompt, seed and sampling options. Pure.

Tokens are bytes, so a character may be split over two of them, as real vocabularies do. Rules: temperature 0 ignores
the seed; another model says something else; a stop string is never emitted but its tokens count.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Iterator
from typing import Any

CHARACTERS_PER_TOKEN = 4

_WORDS = (
    " the", " river", " stone", " of", " and", " light", " over", " a", " green", " hill", " we", " see", " it",
    " under", " clear", " sky", " then", " walks", " home", " by", " slow", " water", " with", " some", " bread",
    " wind", " from", " north", " takes", " leaf", " down", " path", " old", " bridge", " holds", " for", " now",
    " über", " café", " naïve",
)  # fmt: skip
_MARKS = (",", ".", ";", " -", "!", "?", "\n")
_SPLIT_CHARACTERS = ("🙂", "🌊", "漢", "é")


def count_tokens(text: str) -> int:
    """Tokens of a prompt, as this mock counts them."""
    return max(1, -(-len(text) // CHARACTERS_PER_TOKEN))


def compute_key(digest: str, prompt: str, seed: int, sampling: dict[str, Any]) -> bytes:
    """What decides a text."""
    text = json.dumps([digest, prompt, seed, sampling], sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def compute_length(key: bytes, low: int, high: int) -> int:
    """After how many tokens the model ends by itself."""
    return low + int.from_bytes(key[:4], "big") % (high - low + 1)


def iterate_tokens(key: bytes, *, diverge_at: int | None = None) -> Iterator[bytes]:
    """Endless tokens; from `diverge_at` on, those of an engine that rounded differently."""
    index = 0
    while True:
        salt = b"diverged" if diverge_at is not None and index >= diverge_at else b""
        draw = int.from_bytes(hashlib.sha256(key + salt + index.to_bytes(8, "big")).digest()[:8], "big")
        index += 1
        kind, pick = draw % 100, draw // 100
        if kind < 3:
            character = _SPLIT_CHARACTERS[pick % len(_SPLIT_CHARACTERS)].encode()
            yield character[:1]
            index += 1
            yield character[1:]
        elif kind < 14:
            yield _MARKS[pick % len(_MARKS)].encode()
        else:
            yield _WORDS[pick % len(_WORDS)].encode()


def count_said(key: bytes, beginning: str) -> int | None:
    """How many of its own first tokens a text begins with; None for somebody else's words."""
    left, count = beginning.encode("utf-8", "surrogatepass"), 0
    tokens = iterate_tokens(key)
    while left:
        token = next(tokens)
        if not left.startswith(token):
            return None
        left = left[len(token) :]
        count += 1
    return count


def compute_json_tokens(key: bytes, wanted: Any) -> list[bytes]:
    """A whole JSON answer to `format`, "json" or a JSON Schema, in tokens."""
    words = iterate_tokens(key)
    schema = wanted if isinstance(wanted, dict) else {"type": "object", "properties": {"answer": {"type": "string"}}}
    data = json.dumps(_fill(schema, words, 0), ensure_ascii=False).encode()
    return [data[start : start + CHARACTERS_PER_TOKEN] for start in range(0, len(data), CHARACTERS_PER_TOKEN)]


_SCHEMA_DEPTH_MAX = 8


def _fill(schema: Any, words: Iterator[bytes], depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _SCHEMA_DEPTH_MAX:
        return None
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties")
        return {name: _fill(item, words, depth + 1) for name, item in (properties or {}).items()}
    if kind == "array":
        return [_fill(schema.get("items"), words, depth + 1)]
    if kind in ("integer", "number"):
        return len(next(words))
    if kind == "boolean":
        return len(next(words)) % 2 == 0
    if kind == "string":
        return b"".join(next(words) for _ in range(4)).decode("utf-8", "ignore").strip()
    return None


class Detokeniser:
    """Tokens in, text out: holds back incomplete UTF-8 and whatever may become a stop string."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = tuple(text for text in stop if text)
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._held = ""
        self.stopped = False

    def feed(self, token: bytes) -> str:
        """Text that may be shown now; `stopped` turns true when a stop string is complete."""
        self._held += self._decoder.decode(token)
        found = [position for text in self._stop if (position := self._held.find(text)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((self._overlap(text) for text in self._stop), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def flush(self) -> str:
        """What was held back, at the end."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        for size in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:size]):
                return size
        return 0
