# SPDX-License-Identifier: Apache-2.0
"""Makes the small models that the demo and the serving tests run, from a seed, with no download.

Responsible for: their shapes, their random weights, and a tokenizer trained on text that every
Debian carries. Must not know: servers, pools, or what is asked of the models.

The idea: what makes a KV cache on SSD worth it is the ratio of compute time to load time per token.
Few parameters and many KV bytes give two CPU cores about the ratio that a large model gives a GPU.
The weights are drawn wide (`initializer_range` 0.12): with the usual 0.02 greedy output is a loop
that does not depend on the prompt, and "the same tokens" would prove nothing.

    python demo/model.py scale|tiny FOLDER      makes one and shows what it answers to two prompts
"""

import argparse
import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEED = 20261125
TEXT_FOLDER = Path("/usr/share/common-licenses")
STAMP = "tutti-model.json"


def library(name: str) -> Any:
    """A large library, imported when first needed; its own types are of no use here."""
    return importlib.import_module(name)


# 16 layers x 2 x 8 heads x 128 x 4 bytes = 128 KiB of KV a token in fp32.
SCALE_SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 4096,
    "max_position_embeddings": 32768,
    "initializer_range": 0.12,
}
TINY_SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "initializer_range": 0.12,
}
# No token ends an answer: random weights would choose one at random places.
NO_SPECIAL_TOKENS: dict[str, Any] = {
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}


def text_files() -> list[Path]:
    """The licence texts of this Debian, each once, in an order that does not depend on the disk."""
    files = {path.resolve() for path in TEXT_FOLDER.glob("*") if path.is_file()}
    if not files:
        raise FileNotFoundError(f"{TEXT_FOLDER}: no texts to train a tokenizer on (not a Debian?)")
    return sorted(files)


def train_tokenizer(folder: Path, vocab_size: int, max_length: int) -> None:
    """Trains a byte-level BPE on the licence texts and saves it as transformers expects it."""
    bpe = library("tokenizers")
    tokenizer = bpe.Tokenizer(bpe.models.BPE())
    tokenizer.pre_tokenizer = bpe.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = bpe.decoders.ByteLevel()
    trainer = bpe.trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=bpe.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(path) for path in text_files()], trainer)
    wrapped = library("transformers").PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length
    )
    wrapped.save_pretrained(str(folder))


def save_weights(folder: Path, shape: dict[str, Any], seed: int, dtype: str) -> None:
    """Draws the weights of a Llama of this shape and saves them with their configuration."""
    torch, transformers = library("torch"), library("transformers")
    transformers.utils.logging.disable_progress_bar()
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**shape, **NO_SPECIAL_TOKENS)
    model = transformers.LlamaForCausalLM(config)
    torch.random.set_rng_state(state)
    model.to(getattr(torch, dtype)).save_pretrained(str(folder))


def make(folder: Path, description: dict[str, Any], fill: Callable[[Path], None]) -> Path:
    """Fills `folder` unless it already holds what `description` describes; whole or not at all."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(json.dumps(description, sort_keys=True).encode())
    stamp = folder / STAMP
    wanted = {"digest": digest.hexdigest(), **description}
    if stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        fill(fresh)
        (fresh / STAMP).write_text(json.dumps(wanted, indent=2) + "\n")
        fresh.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def make_scale_model(folder: Path, *, seed: int = SEED) -> Path:
    """Makes the scale model (fp32, about 50 MB) with its tokenizer; returns `folder`."""

    def fill(fresh: Path) -> None:
        save_weights(fresh, SCALE_SHAPE, seed, "float32")
        train_tokenizer(fresh, SCALE_SHAPE["vocab_size"], SCALE_SHAPE["max_position_embeddings"])

    return make(folder, {"model": "scale", "seed": seed, "shape": SCALE_SHAPE}, fill)


def make_tiny_model(
    folder: Path,
    *,
    seed: int = SEED,
    dtype: str = "float32",
    tokenizer: bool = False,
    **overrides: Any,
) -> Path:
    """Makes the tests' model; returns `folder`.

    `overrides` replace fields of TINY_SHAPE or add others of LlamaConfig. Without a tokenizer the
    engine needs `skip_tokenizer_init=True` and prompts of token ids.
    """
    shape = {**TINY_SHAPE, **overrides}

    def fill(fresh: Path) -> None:
        save_weights(fresh, shape, seed, dtype)
        if tokenizer:
            train_tokenizer(fresh, shape["vocab_size"], shape["max_position_embeddings"])

    description = {
        "model": "tiny",
        "seed": seed,
        "dtype": dtype,
        "tokenizer": tokenizer,
        "shape": shape,
    }
    return make(folder, description, fill)


def greedy(folder: Path, prompt: list[int], count: int) -> list[int]:
    """What the model answers by transformers alone: a look at whether it says anything."""
    torch, transformers = library("torch"), library("transformers")
    model = transformers.LlamaForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]), max_new_tokens=count, do_sample=False, pad_token_id=0
        )
    return [int(token) for token in out[0][len(prompt) :]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes a small model with random weights.")
    parser.add_argument("kind", choices=["scale", "tiny"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.kind == "scale":
        make_scale_model(arguments.folder)
    else:
        make_tiny_model(arguments.folder)
    for start in (7, 8):
        answer = greedy(arguments.folder, [(start + 31 * i) % 1000 for i in range(512)], 32)
        print(f"{len(set(answer))} distinct of {len(answer)}: {answer}")


if __name__ == "__main__":
    main()
