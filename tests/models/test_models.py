# SPDX-License-Identifier: Apache-2.0
"""The models of this folder under SPIN: no state breaks a rule, and each rule is needed.

Responsible for running each model whole, and once for each mutation: without the rule that
the mutation leaves out the checker must find what is named here. Must not know the rules:
each model's first comment has them. A search that was cut short, or statements that it never
reached, count as failures. Broken to see it fail: by every mutation.
"""

import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MEGABYTES = 1500
DEPTH = 100_000

# Configurations that are searched whole.
WHOLE = [
    ("bell", ()),
    ("handover", ()),
    ("slot", ()),
    ("slot", ("QUIET", "KILLS=0")),
    ("blocks", ()),
    ("failure", ()),
    ("warp", ()),
]

STUCK = "invalid end state"
# Model -> mutation -> what is found first.
MUTATIONS = {
    "bell": {
        "NO_FENCE_IN_SLEEP": STUCK,
        "NO_FENCE_IN_ISSUE": STUCK,
        "NO_FENCE_IN_FINISH": STUCK,
        "NO_FENCE_IN_CANCEL": STUCK,
        "NO_FENCE_IN_WAIT": STUCK,
        "NO_LOOK_AT_TAIL": STUCK,
        "NO_LOOK_AT_HELD": STUCK,
        "NO_LOOK_AT_MAIL": STUCK,
        "FINISH_WAKES_NOBODY": STUCK,
        "CANCEL_WAKES_NOBODY": STUCK,
        "SLEEPS_AS_IDLE": STUCK,
        "AWAKE_WITHOUT_BELL": STUCK,
    },
    "handover": {
        "TAIL_RELAXED": "wrong_iocb",
        "TURN_RELAXED": "wrong_completion",
        "REMAINING_RELAXED": "share_missing",
        "TAKE_LOOKS_AHEAD": "wrong_iocb",
        "DONE_LOOKS_AHEAD": "wrong_completion",
        "QUEUE_TOO_SHORT": "wrong_iocb",
        "TURN_IS_A_BIT": STUCK,
        "WAITS_FOR_ENDED": STUCK,
        "READY_AT_ONCE": "begun_too_early",
        "START_IGNORES_CANCEL": "cancelled_and_moved",
        "CANCEL_STORES": "cancelled_and_moved",
        "EVERYBODY_COMPLETES": "share_missing",
        "PUT_UNASKED": "reused_while_held",
        "PUT_UNDER_CANCEL": "cancelled_and_moved",
    },
    "slot": {
        "UNVERIFIED": "ranks_differ",
        "GENERATION_IGNORED": "ranks_differ",
        "RECORD_IGNORED": "ranks_differ",
        "SHOWN_AT_FIRST_REPORT": "shown_too_early",
        "EVICTS_PINNED": "reused_under_read",
        "DROP_FREES_AT_ONCE": "reused_under_write",
        "STORE_ENDS_AT_ONCE": "reused_under_write",
        "RECORD_BESIDE_ERASURE": "record_overtaken",
        "EPOCH_NOT_DURABLE": "generation_twice",
        "SCAN_IGNORES_OLDEST": "reset_forgotten",
        "FIRST_RANK_DECIDES": "shown_too_early",
        "RESET_IGNORED": "void_served",
        "ERASED_NEVER_TAKEN": "leaked",
        "RESET_FORGETS_STORES": "leaked",
        "FAILED_STORE_IS_SILENT": "leaked",
    },
    "blocks": {
        "NO_FENCE": "written_under_store",
        "LOADS_UNFENCED": "written_under_store",
        "READERS_FORGOTTEN": "written_under_store",
        "FENCE_WAITS_FOR_NOTHING": "written_under_store",
        "FENCE_BEFORE_EARLY": "written_under_store",
        "CANCELLED_IS_RECORDED": "recorded_wrong",
        "FREED_UNDER_LOAD": "landed_late",
        "TIMEOUT_ENDS_LOAD": "recorded_wrong",
        "RUNS_BEFORE_LOADED": "recorded_wrong",
        "HELD_IS_GIVEN_ON": "landed_late",
        "HELD_IS_COMPUTED": "attended_early",
        "HELD_IS_FORGOTTEN": "landed_late",
        "HELD_IS_STORED": "recorded_wrong",
        "FINISH_IS_STORED": "recorded_wrong",
    },
    "failure": {
        "STORES_UNACKNOWLEDGED": "stored_bad",
        "ANY_PLAN_ACKNOWLEDGES": "stored_bad",
        "FAILURE_IS_A_FLAG": "stored_bad",
        "FINISH_IGNORES_FAILURE": "stored_bad",
        "SPOILT_STAYS_CACHED": "wrong_answer",
        "SHARER_DOES_NOT_WAIT": "wrong_answer",
        "STAYS_ON_HELD": "wrong_answer",
        "HELD_IS_NO_FAILURE": "stored_bad",
        "SALVAGE_OWES_NOTHING": "wrong_answer",
    },
    "warp": {
        "TAIL_RELAXED": "wrong_entry",
        "TURN_RELAXED": "wrong_result",
        "CQE_RELAXED": "wrong_data",
        "TAIL_LOOKS_AHEAD": "wrong_entry",
        "PHASE_LOOKS_AHEAD": "wrong_data",
        "TURN_LOOKS_AHEAD": "wrong_result",
        "NO_SYNC_BEHIND_TAIL": "wrong_entry",
        "NO_SYNC_BEHIND_COMPLETIONS": "wrong_data",
        "NO_SYNC_BEHIND_SUMS": "wrong_sum",
        "NO_SYNC_BEFORE_NEXT": "wrong_sum",
        "NO_SYNC_BEFORE_DOORBELL": "wrong_command",
        "NO_SYNC_BEFORE_TURN": "wrong_result",
        "NO_FENCE_BEFORE_DOORBELL": "wrong_command",
    },
}
# Switches that are no mutations: how much, or which part, of what can happen is searched.
BOUNDS = {"QUIET", "LIVES", "ROUNDS", "RESERVATIONS", "KILLS", "REQUESTS", "SHARES"}
# What else a mutation needs to show itself, or to be found soon.
WITH = {
    "slot": ("RESERVATIONS=2",),
    "ERASED_NEVER_TAKEN": ("QUIET", "KILLS=0"),
    "RESET_FORGETS_STORES": ("QUIET", "KILLS=0"),
    "FAILED_STORE_IS_SILENT": ("QUIET", "KILLS=0"),
    "SPOILT_STAYS_CACHED": ("SHARES",),
    "SHARER_DOES_NOT_WAIT": ("SHARES",),
}


# What compiles a verifier: one that runs long, one that is there soon.
RUNS_LONG = ("gcc", "-Og")
RUNS_SHORT = ("clang", "-O0")


def check(folder: Path, model: str, options: tuple[str, ...], compiler: tuple[str, ...]) -> str:
    """Make the verifier and run it; returns what it prints."""
    macros = [f"-D{option}" for option in options]
    for command in (
        ["spin", *macros, "-a", str(HERE / f"{model}.pml")],
        [*compiler, "-w", "-DSAFETY", "-DNOFAIR", f"-DMEMLIM={MEGABYTES}", "-opan", "pan.c"],
    ):
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
    command = ["./pan", f"-m{DEPTH}", "-w20"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def complete(output: str) -> bool:
    return not re.search(r"Search not completed|max search depth|MEMLIM bound", output)


@pytest.mark.parametrize(("model", "options"), WHOLE)
def test_no_state_breaks_a_rule(tmp_path: Path, model: str, options: tuple[str, ...]) -> None:
    output = check(tmp_path, model, options, RUNS_LONG)
    assert "errors: 0\n" in output, output
    assert complete(output), output
    unreached = re.findall(rf"{model}\.pml:\d+, state \d+, \"(?!-end-)[^\n]*", output)
    assert not unreached, unreached


@pytest.mark.parametrize(
    ("model", "mutation"), [(model, name) for model, names in MUTATIONS.items() for name in names]
)
def test_each_rule_is_needed(tmp_path: Path, model: str, mutation: str) -> None:
    options = (mutation, *WITH.get(model, ()), *WITH.get(mutation, ()))
    output = check(tmp_path, model, options, RUNS_SHORT)
    found = re.search(r"pan:1: .*", output)
    assert found is not None, output
    assert MUTATIONS[model][mutation] in found[0], output


@pytest.mark.parametrize("model", MUTATIONS)
def test_every_mutation_runs(model: str) -> None:
    """None stands in a model that no test makes."""
    text = (HERE / f"{model}.pml").read_text()
    switches = set(re.findall(r"^#ifn?def (\w+)|defined\((\w+)\)", text, re.MULTILINE))
    names = {name for pair in switches for name in pair if name}
    assert names - BOUNDS == set(MUTATIONS[model])
