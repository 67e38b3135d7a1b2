# SPDX-License-Identifier: Apache-2.0
"""Serves a model in real vLLM with its KV cache on disk, kills the server, and asks again.

Responsible for: the order of the lives, what is measured in each, and the verdict. Must not know:
how the connector works; it sees what a user sees: answers, times, and the page at /metrics.

The idea: one question about a long document, asked in four lives of the server. Life 1 computes
the answer (and gives it once more from vLLM's own prefix cache) and leaves the KV cache on disk,
then dies by `kill -9`. Life 2 answers from disk. Life 3
has a copy of the pool in memory, to say what the disk costs. Life 4 finds the pool on disk with one
byte flipped, must notice, and must give the same answer. Every life first answers an unrelated,
shorter question, so that what vLLM initialises lazily is in no time shown.
"""

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from lives import Lives
from model import make_scale_model
from progress import Progress
from question import make_question
from report import Result, closing_line, draw_picture, machine, show_table
from rich.console import Console

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / "build" / "demo"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Shows a KV cache that survives kill -9, in real vLLM.",
        epilog="example: demo/demo.py --model /models/mine --document report.txt",
    )
    parser.add_argument("--model", type=Path, help="a model folder of your own")
    parser.add_argument("--document", type=Path, help="a text file of your own")
    parser.add_argument("--tokens", type=int, default=8192, help="length of the prompt (8192)")
    parser.add_argument("--answer", type=int, default=32, help="tokens of each answer (32)")
    parser.add_argument("--memory", type=int, default=2, help="vLLM's KV memory, GiB (2)")
    parser.add_argument("--pool", type=Path, default=WORK / "pool", help="where the pool is made")
    parser.add_argument("--size", default="4GiB", help="size of the pool on disk (4GiB)")
    parser.add_argument(
        "--sooner", type=float, help="least speed-up to pass (10; 1 with a model of your own)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the pool where it is")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--picture", type=Path, help="draw the result into this SVG file")
    parser.add_argument("--dry", action="store_true", help=argparse.SUPPRESS)  # no connector
    return parser.parse_args()


def run(options: argparse.Namespace, progress: Progress) -> Result:
    """Goes through the lives and returns what they showed."""
    if options.model is None:
        with progress.step("making the scale model and its tokenizer") as step:
            model = make_scale_model(WORK / "scale-model")
            step.done(str(model))
    else:
        model = options.model.resolve()
    with progress.step("cutting the document") as step:
        question = make_question(model, options.document, options.tokens)
        step.done(f"{question.tokens:,} tokens, from {question.source} on")
    lives = Lives(
        progress=progress,
        question=question,
        model=model,
        dtype="float32" if options.model is None else "auto",
        pool=options.pool.resolve(),
        size=options.size,
        answer_tokens=options.answer,
        memory_gib=options.memory,
        work=WORK,
        connector=not options.dry,
    )
    result = Result(
        layers=layers_of(model),
        block_size=lives.block_size,
        prompt_tokens=question.tokens,
        exact=options.model is None,
        least_sooner=options.sooner or (10.0 if options.model is None else 1.0),
        dry=options.dry,
    )
    lives.prepare()
    try:
        result.recompute, result.own = lives.compute_and_store()
        result.disk, result.raw_s = lives.answer_from_disk()
        if not options.dry:
            result.memory, result.memory_note = lives.answer_from_memory()
            result.damaged = lives.answer_from_damaged_disk()
    finally:
        if not options.keep:
            lives.remove_pools()
    return result


def layers_of(model: Path) -> int:
    """How many layers the model has, as its configuration says."""
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    return int(config.get("text_config", config)["num_hidden_layers"])


def main() -> int:
    options = arguments()
    console = Console(soft_wrap=True)
    if shutil.which("fio") is None:
        console.print("demo: FAIL fio is missing: run setup/install")
        return 1
    # A demo that is told to end takes its server with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result = run(options, Progress(console))
    except KeyboardInterrupt:
        console.print("demo: FAIL interrupted")
        return 130
    except Exception as error:  # whatever it was, the last line says so
        console.print(str(error), markup=False, highlight=False)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        console.print(f"demo: FAIL {reason}", markup=False, highlight=False)
        return 1
    show_table(console, result, options.pool)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {"machine": machine(), **result.as_dict()}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if options.picture is not None and not options.dry:
        draw_picture(result, options.picture)
    passed, line = closing_line(result)
    console.print(line, markup=False, highlight=False)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
