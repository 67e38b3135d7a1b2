#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Breaks a copy of the product, one rule at a time, and counts the seeds until it is seen.

    tests/sim/mutants.py [--most SEEDS] [NAME ...]

Needs a build folder's worth of disk under the system's temporary folder. Ends with 1
when a mutant lives, or when a line that it changes is no longer there.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """Replacements (file, old, new) that break one rule."""

    name: str
    changes: tuple[tuple[str, str, str], ...]


MUTANTS = (
    Mutant(
        "records compared without key and generation",
        (
            (
                "src/layout/record.h",
                "record->slot != slot || record->generation != generation ||\n"
                "        !tutti_key_equal(record->key, key))",
                "record->slot != slot)",
            ),
            (
                "src/engine/check.c",
                "(r->generation != item->generation || !tutti_key_equal(r->key, item->key))",
                "r->slot != item->slot",
            ),
        ),
    ),
    Mutant(
        "records compared without generation",
        (
            ("src/layout/record.h", " || record->generation != generation ||", " ||"),
            (
                "src/engine/check.c",
                "(r->generation != item->generation || !tutti_key_equal(r->key, item->key))",
                "!tutti_key_equal(r->key, item->key)",
            ),
        ),
    ),
    Mutant(
        "a layer counts without its checksum",
        (("src/engine/check.c", "    if (!map->verify)\n", "    if (map->verify)\n"),),
    ),
    Mutant(
        "a slot is free before every rank has reported",
        (("src/directory/tree.c", "s->pins != 0 || d->pending[slot] != 0", "s->pins != 0"),),
    ),
    Mutant(
        "a slot is visible when one rank has reported",
        (
            (
                "src/directory/directory.c",
                "d->pending[n] &= ~(UINT64_C(1) << rank);",
                "d->pending[n] = 0;",
            ),
        ),
    ),
    Mutant(
        "reports compared without generation",
        (
            (
                "src/directory/directory.c",
                "rank >= d->options.ranks || d->slot[n].generation != generation ||",
                "rank >= d->options.ranks ||",
            ),
        ),
    ),
    Mutant(
        "a pinned slot is evicted",
        (("src/directory/evict.c", "s->pins == 0 && slot != d->guard", "slot != d->guard"),),
    ),
    Mutant(
        "a pinned slot is free when it is dropped",
        (
            (
                "src/directory/tree.c",
                "s->child != NONE || s->pins != 0 || d->pending",
                "s->child != NONE || d->pending",
            ),
        ),
    ),
    Mutant(
        "a fence waits for nobody",
        (("src/serve/store.c", "    if (!read)\n", "    if (read || !read)\n"),),
    ),
    Mutant(
        "a fence cancels and does not wait",
        (
            (
                "src/serve/store.c",
                "if (s->cancelled && session_wait(",
                "if (s->cancelled && deadline == 0 && session_wait(",
            ),
        ),
    ),
    Mutant(
        "a record does not wait for an erasure before it",
        (
            (
                "src/serve/session.c",
                "(s->collected < s->steps - 1 || erasure_pending(s))",
                "s->collected < s->steps - 1",
            ),
        ),
    ),
    Mutant(
        "a record does not wait for its data",
        (
            (
                "src/serve/session.c",
                "(s->collected < s->steps - 1 || erasure_pending(s))",
                "erasure_pending(s)",
            ),
        ),
    ),
    Mutant(
        "what was not written counts",
        (
            (
                "src/engine/check.c",
                "if (!batch_is_bad(b, i) && map_status(map, b->first + i) == 0)\n            draft",
                "if (b->count)\n            draft",
            ),
            (
                "src/engine/check.c",
                "        if (batch_is_bad(b, i))\n            report(m, b, i, b->error);",
                "        if (b->count > 64)\n            report(m, b, i, b->error);",
            ),
        ),
    ),
    Mutant(
        "an epoch is not flushed",
        (
            (
                "src/pool/superblock.c",
                "if (rc == 0 && fdatasync(b->fd) < 0)",
                "if (rc == 0 && b->fd < 0)",
            ),
        ),
    ),
    Mutant(
        "a reset is not written",
        (("src/pool/epoch.c", "    pool->superblock.oldest_epoch = oldest_epoch;\n", ""),),
    ),
    Mutant(
        "a reset voids nothing",
        (
            (
                "src/directory/directory.c",
                "d->void_before = epoch << TUTTI_EPOCH_SHIFT;",
                "d->void_before = 0;",
            ),
        ),
    ),
    Mutant(
        "an epoch before the oldest counts in a scan",
        (
            (
                "src/pool/scan.c",
                "return tutti_generation_counts(s, r->generation) ? 0 : -ESTALE;",
                "return r->generation != 0 ? 0 : -ESTALE;",
            ),
        ),
    ),
    Mutant(
        "one rank's records are enough",
        (
            (
                "src/directory/load.c",
                "if (l->agreed[n] == d->options.ranks) {",
                "if (l->agreed[n] > 0) {",
            ),
        ),
    ),
    Mutant(
        "slots of another identity are taken over",
        (
            (
                "src/directory/load.c",
                "if (memcmp(e->identity, d->options.identity, TUTTI_IDENTITY_BYTES) != 0) {",
                "if (e->slot == UINT32_MAX) {",
            ),
        ),
    ),
    Mutant(
        "a completion wakes nobody who waits in a ring that is full",
        (
            (
                "src/ring/ring.c",
                "if (tutti_compare_swap(&c->asleep, &asleep, AWAKE)) {",
                "if (tutti_compare_swap(&c->asleep, &asleep, AWAKE) && least == ASLEEP_HOLDING) {",
            ),
        ),
    ),
    Mutant(
        "staging is not given back after a failed batch",
        (
            (
                "src/engine/batch.c",
                "    if (b->staging)\n        staging_give",
                "    if (b->staging && !b->error)\n        staging_give",
            ),
        ),
    ),
    Mutant(
        "a fenced member is given commands",
        (
            (
                "src/engine/task.c",
                "m->closing || fence_closed(m) || tutti_ring",
                "m->closing || tutti_ring",
            ),
        ),
    ),
    Mutant(
        "errors fence no member",
        (
            (
                "src/engine/health.c",
                "    h->in_row += event == HEALTH_ERROR;\n",
                "    h->in_row = 0;\n",
            ),
            (
                "src/engine/health.c",
                "h->errors >= (uint64_t)h->bound",
                "h->errors / 64 >= (uint64_t)h->bound",
            ),
        ),
    ),
    Mutant(
        "what lies on a fenced member is found",
        (
            (
                "src/directory/fence.c",
                "if (slot_fenced(d, n))",
                "if (slot_fenced(d, n) && n == NONE)",
            ),
        ),
    ),
    Mutant(
        "what lies behind a fenced member is found",
        (
            (
                "src/directory/fence.c",
                "n != NONE; n = d->slot[n].parent",
                "n != NONE && slot_fenced(d, n); n = d->slot[n].parent",
            ),
        ),
    ),
    Mutant(
        "slots of a fenced member are given out",
        (
            (
                "src/directory/runs.c",
                "if (d->fenced >> member & 1)\n",
                "if (d->fenced >> member & 1 && member > 31)\n",
            ),
            ("src/directory/runs.c", "|| (d->fenced >> member & 1))", ")"),
        ),
    ),
    Mutant(
        "a member that is enabled stays fenced",
        (
            (
                "src/engine/fence.c",
                "if (m->gate == GATE_CLOSED)\n        tutti_store_relaxed(&m->gate, GATE_OPENING",
                "if (m->gate == GATE_OPEN)\n        tutti_store_relaxed(&m->gate, GATE_OPENING",
            ),
        ),
    ),
    Mutant(
        "errors are not forgotten when a member comes back",
        (("src/engine/fence.c", "        health_reset(&m->health);\n", ""),),
    ),
    Mutant(
        "a switch is thrown anew after it was taken back",
        (
            (
                "src/serve/members.c",
                "        serve->switched[m] = true; /* whoever",
                "        serve->switched[m] = serve->switched[m]; /* whoever",
            ),
        ),
    ),
    Mutant(
        "a scrub leaves the last layer out",
        (
            (
                "src/serve/scrub.c",
                "++s->layer == s->map.placement->layers",
                "++s->layer + 1 >= s->map.placement->layers",
            ),
        ),
    ),
    Mutant(
        # two defences: a second try reads the record again, and so verifies what was stored
        "a scrub tells of what is stored meanwhile",
        (
            (
                "src/serve/scrub.c",
                "        if (s->disturbed[i])\n",
                "        if (s->disturbed[i] && i == MAP_SLOTS)\n",
            ),
            (
                "src/engine/check.c",
                "t->kind == READ_RECORDS || t->map->verify;",
                "t->kind == READ_RECORDS || t->map->items[b->first].generation != 0;",
            ),
        ),
    ),
    Mutant(
        "a scrub of a pool drops what verifies",
        (("src/pool/check.c", "p->object_bytes) !=\n", "p->object_bytes) + (layer == 0) !=\n"),),
    ),
)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def apply(copy: Path, mutant: Mutant) -> bool:
    for file, old, new in mutant.changes:
        text = (copy / file).read_text()
        if text.count(old) != 1:
            print(f"{mutant.name}: {file} does not hold once: {old!r}", flush=True)
            return False
        (copy / file).write_text(text.replace(old, new))
    return True


def seeds_until_found(copy: Path, most: int) -> str | None:
    """What was found and after how many seeds, or None."""
    ninja = run(["ninja", "-C", "build", "tests/sim/sim"], copy)
    if ninja.returncode:
        return "does not compile: " + ninja.stdout[-600:]
    sim = run([str(copy / "build/tests/sim/sim"), "1", str(most)], copy)
    if sim.returncode == 0:
        return None
    last = sim.stderr.strip().splitlines()[-1] if sim.stderr.strip() else f"{sim.returncode}"
    seed = re.match(r"seed (\d+), operation \d+, profile \d: (.*)", last)
    return f"{seed[1]} seeds: {seed[2]}" if seed else last


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=5000, help="seeds before a mutant lives")
    parser.add_argument("names", nargs="*", help="only mutants whose name holds one of these")
    arguments = parser.parse_args()
    lives = 0
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns("build*", ".git"))
        made = run(["meson", "setup", "build", "--buildtype=debugoptimized"], copy)
        if made.returncode:
            print(made.stdout)
            return 1
        for mutant in MUTANTS:
            if arguments.names and not any(name in mutant.name for name in arguments.names):
                continue
            found = seeds_until_found(copy, arguments.most) if apply(copy, mutant) else None
            print(f"{mutant.name}: {found or 'LIVES'}", flush=True)
            lives += found is None
            for file, _, _ in mutant.changes:
                (copy / file).write_text((ROOT / file).read_text())
    return 1 if lives else 0


if __name__ == "__main__":
    sys.exit(main())
