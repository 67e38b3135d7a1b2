# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters, known by their content.

Responsible for telling what a request is computed with where that is an adapter: vLLM's own
block hashes cover its name and its path. Must not know pools or slots. The one idea: an
adapter is what vLLM loaded of it, tensor for tensor, so only the workers can tell; and whoever
ran on an adapter while it was replaced leaves no block behind that another could find.

A request is asked about (the plan carries the question, the same step's report the answer)
before it is looked up. What lies in the folder must be what is loaded, for vLLM forgets
adapters and reads them again when it likes. From the answer on the adapter's content is in
the keys, in each load and in each store, and the worker compares when it carries them out.

vLLM's own prefix cache goes by name and path: where these come to mean another content, it is
emptied, and what still runs on the old one gets a salt of its own, so that nobody hits it.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from tutti_kv import identity
from tutti_kv.metadata import Adapter, Question, RankReport
from tutti_kv.sequence import Hasher, Sequence

logger = logging.getLogger("vllm.tutti_kv")

# What vLLM 0.32 reads of an adapter, and what it makes of it; others have parts we don't know.
_FILES = ("config.json", "model.safetensors", "model.bin", "model.pt")
_MODEL = {"id", "rank", "modules_to_save", "loras", "is_3d_lora_weight"}
_LAYER = {"module_name", "rank", "lora_alpha", "lora_a", "lora_b", "scaling"}
# Folders whose content is remembered, numbers and names; beyond that all is learnt anew.
MAX_KNOWN = 4096
# In the place of an adapter's number: all of them. vLLM's begin with 1.
ALL = 0
# Why a request with an adapter is left alone: labels of a metric, and a sentence.
UNKNOWN = ("lora", "its adapter is not known yet")
REPLACED = ("replaced", "its adapter was replaced while it ran")


class UnknownParts(Exception):
    """An adapter that is more than pairs of tensors."""


def question(lora: Any) -> Question:
    """What tells one question from another."""
    return lora.lora_int_id, lora.lora_path, lora.load_inplace


def digest(model: Any, settings: str) -> bytes:
    """Of everything that vLLM's LoRAModel holds, before it is merged. Raises UnknownParts.

    settings: how the engine applies adapters
    """
    import torch

    if set(vars(model)) != _MODEL or model.modules_to_save:
        raise UnknownParts(f"vLLM's LoRAModel holds {sorted(vars(model))}")
    hashed = hashlib.sha256()

    def add(*things: object) -> None:
        hashed.update(json.dumps(things).encode())

    add(settings, model.rank, model.is_3d_lora_weight)
    for name, layer in sorted(model.loras.items()):
        tensors = (layer.lora_a, layer.lora_b)
        if set(vars(layer)) != _LAYER or not all(isinstance(one, torch.Tensor) for one in tensors):
            raise UnknownParts(f"{name} is not a pair of tensors")
        add(name, layer.rank, layer.lora_alpha, layer.scaling)
        for tensor in tensors:
            add(str(tensor.dtype), tuple(tensor.shape))
            hashed.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    return hashed.digest()


def _folder(path: str) -> Path | None:
    """The folder that vLLM reads this adapter from; None where it would ask a hub."""
    folder = Path(os.path.expanduser(path))
    return folder.absolute() if folder.is_dir() else None


def _stamp(file: Path) -> list[int] | None:
    try:
        return identity.stamp(file)
    except OSError:
        return None


def _stamps(folder: Path) -> list[list[int] | None]:
    return [_stamp(folder / f"adapter_{name}") for name in _FILES]


def _untouched(folder: Path, since: float) -> bool:
    """Whether files, links and folder are as they were, so that their stamps tell them apart."""
    files = [folder / f"adapter_{name}" for name in _FILES]
    try:
        return identity.changed_since((file for file in files if file.exists()), since) is None
    except OSError:
        return False


class Loaded:
    """The workers' end: one worker's adapters.

    replaced: number of an adapter -> how often other content took its place; ALL: how often
        what had been seen of numbers was forgotten, which may have hidden such a change
    """

    def __init__(self) -> None:
        self.replaced: dict[int, int] = {}
        self._manager: Any = None
        self._settings = ""
        self._contents: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()
        self._last: dict[int, bytes | None] = {}
        self._folders: dict[Path, tuple[list[list[int] | None], bytes]] = {}

    def follow(self, worker: Any, lora_config: Any) -> None:
        """See from now on whatever vLLM's worker loads."""
        manager: Any = getattr(getattr(worker, "model_runner", None), "lora_manager", None)
        if hasattr(manager, "_load_adapter") and hasattr(manager, "_adapter_manager"):
            self._settings = lora_config.compute_hash()
            self._manager, self._read = manager, manager._load_adapter
            manager._load_adapter = self._load

    def _load(self, lora: Any) -> Any:
        """In place of vLLM's own."""
        model, content = self._read_and_digest(lora)
        if content is not None:
            self._contents[model] = content
        self._note(lora.lora_int_id, content)
        return model

    def _read_and_digest(self, lora: Any) -> tuple[Any, bytes | None]:
        """What vLLM makes of the folder now, and its content; None where it has unknown parts."""
        folder, began = _folder(lora.lora_path), time.time()
        before = _stamps(folder) if folder is not None else []
        model = self._read(lora)
        if folder is None:
            return model, None
        untouched = _untouched(folder, began)
        known = self._folders.get(folder)
        if untouched and known is not None and known[0] == before:
            return model, known[1]
        try:
            content = digest(model, self._settings)
        except Exception as error:  # vLLM may serve it, whatever it is
            logger.warning("Tutti: adapter %s is not known by content: %s", lora.lora_path, error)
            return model, None
        if untouched:
            if len(self._folders) >= MAX_KNOWN:
                self._folders.clear()
            self._folders[folder] = before, content
        return model, content

    def _note(self, number: int, content: bytes | None) -> None:
        if number not in self._last and len(self._last) >= MAX_KNOWN:  # each load has a new one
            self._last.clear()
            self.replaced = {ALL: self.replaced.get(ALL, 0) + 1}
        if self._last.setdefault(number, content) != content:
            self._last[number] = content
            self.replaced[number] = self.replaced.get(number, 0) + 1
            logger.info("Tutti: adapter %d has another content than before", number)

    def _registered(self, number: int) -> Any:
        """vLLM's LoRAModel that steps are computed with, or None: then it reads the folder."""
        if self._manager is None:
            return None
        return self._manager._adapter_manager.list_adapters().get(number)

    def answer(self, loras: list[Any]) -> dict[Question, bytes | str]:
        """What requests for these adapters would be computed with now, or why it can't be told."""
        return {question(lora): self._answer(lora) for lora in loras}

    def _answer(self, lora: Any) -> bytes | str:
        if self._manager is None:
            return "what vLLM's worker loads of adapters is not found"
        folder = _folder(lora.lora_path)
        if folder is None:
            return "adapters that do not lie in a folder of this machine are not known by content"
        known = self._folders.get(folder)
        content = known[1] if known is not None and known[0] == _stamps(folder) else None
        if content is None:
            try:
                _, content = self._read_and_digest(lora)
            except Exception as error:  # it is vLLM's to say so
                logger.warning("Tutti: adapter %s can't be read: %s", lora.lora_path, error)
                return "its adapter can't be read"
        if content is None:
            return "its adapter has parts that are not known by content"
        model = self._registered(lora.lora_int_id)
        if model is not None and not lora.load_inplace and self._contents.get(model) != content:
            return "its adapter's folder holds another one than is loaded"
        self._note(lora.lora_int_id, content)
        return content

    def computes_with(self, adapter: Adapter | None) -> bool:
        """Whether what steps compute for this adapter's requests has this content."""
        if adapter is None or (model := self._registered(adapter.number)) is None:
            return True
        return self._contents.get(model) == adapter.content

    def spoils(self, adapter: Adapter | None, known: dict[int, int]) -> bool:
        """Whether KV of such requests may be of another content.

        known: what was replaced, as far as the scheduler's half has dealt with it
        """
        if adapter is None:
            return False
        unheard = any(self.replaced.get(n, 0) != known.get(n, 0) for n in (adapter.number, ALL))
        return unheard or not self.computes_with(adapter)


class Adapters:
    """The scheduler's end: all of an engine's requests with adapters.

    why_not: what is against adapters altogether
    void: makes vLLM's prefix cache forget everything
    """

    def __init__(
        self,
        ranks: int,
        sequences: dict[str, Sequence],
        hasher: Hasher,
        why_not: str | None,
        void: Callable[[], None],
    ) -> None:
        self._replaced: dict[int, dict[int, int]] = {}
        self._ranks = ranks
        self._sequences = sequences
        self._hasher = hasher
        self._why_not = why_not
        self._void = void
        self._questions: dict[Question, Any] = {}
        self._answers: dict[Question, dict[int, tuple[int, bytes | str]]] = {}
        self._called: dict[tuple[str, str], bytes | str] = {}  # by name and path, as vLLM does

    def take(self) -> tuple[list[Any], dict[int, dict[int, int]]]:
        """This step's questions, and what was dealt with: for the plan."""
        asked, self._questions = list(self._questions.values()), {}
        return asked, dict(self._replaced)

    def settle(self, sequence: Sequence, step: int) -> bool:
        """Whether it is known what a request would be computed with; False: ask again next step.

        step: the last that was planned; what a worker says in a later one holds for a request
            that is here now
        """
        sequence.admitted = False
        lora = sequence.request.lora_request
        if lora is None or (sequence.skip and sequence.skip[0] != UNKNOWN[0]):
            return True
        if self._why_not is not None:
            sequence.skip = (UNKNOWN[0], self._why_not)
            return True
        if sequence.asked_in is None:
            sequence.asked_in = step
        content = self._answer(question(lora), sequence.asked_in)
        if content is None:
            self._questions[question(lora)] = lora
            return False
        called = lora.lora_name, lora.lora_path
        if called not in self._called and len(self._called) >= MAX_KNOWN:
            self._set_apart(lambda other: True, sequence)
            self._called.clear()
            self._answers.clear()
            return False
        if self._called.setdefault(called, content) != content:
            self._called[called] = content
            self._set_apart(lambda other: (other.lora_name, other.lora_path) == called, sequence)
            return False  # what vLLM has found of its own may be of the other content
        sequence.skip = (UNKNOWN[0], content) if isinstance(content, str) else None
        adapter = None if isinstance(content, str) else Adapter(lora.lora_int_id, content)
        sequence.run_on(adapter, self._hasher)
        return True

    def _answer(self, asked: Question, since: int) -> bytes | str | None:
        said = self._answers.get(asked, {})
        if len(said) < self._ranks or any(step <= since for step, _ in said.values()):
            return None
        contents = {content for _, content in said.values()}
        if len(contents) > 1:
            return "the ranks have loaded different adapters"
        return contents.pop()

    def hear(self, rank: int, news: RankReport) -> None:
        """A rank's news of one step."""
        known = self._replaced.get(rank, {})
        numbers = {n for n, count in news.replaced.items() if count != known.get(n, 0)}
        if numbers:
            self._replaced[rank] = dict(news.replaced)
            self._set_apart(lambda lora: ALL in numbers or lora.lora_int_id in numbers)
        if len(self._answers.keys() | news.adapters.keys()) > MAX_KNOWN:
            # what is asked now stays; who waits for another asks again
            self._answers = {q: a for q, a in self._answers.items() if q in news.adapters}
        for asked, content in news.adapters.items():
            self._answers.setdefault(asked, {})[rank] = news.step, content

    def _set_apart(self, runs_on: Callable[[Any], bool], spared: Sequence | None = None) -> None:
        """These adapters are not what they were: nobody hits what was computed with them."""
        self._void()
        for sequence in self._sequences.values():
            request = sequence.request
            if sequence is spared or request.lora_request is None:
                continue
            if not runs_on(request.lora_request):
                continue
            sequence.run_on(None, self._hasher)
            sequence.asked_in = None
            sequence.skip = UNKNOWN
            if sequence.admitted:
                sequence.skip = REPLACED
                request.cache_salt = os.urandom(16).hex()
                request.block_hashes.clear()
                request.update_block_hashes()
