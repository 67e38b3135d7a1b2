# SPDX-License-Identifier: Apache-2.0
"""Two tensor-parallel ranks: they hold what both hold, and drift apart over nothing."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Lives, prompt
from tutti_kv import _tutti

from engine import Answer, Engine, LifeError, damage

P = prompt(31, 500)
TWO: dict[str, Any] = {
    "tensor_parallel_size": 2,
    "distributed_executor_backend": "mp",
    "environment": {"VLLM_CPU_OMP_THREADS_BIND": "0|1"},
}


def ask(engine: Engine) -> Answer:
    return engine.ask(P)


def again(engine: Engine) -> Answer:
    engine.drop_local()
    answer = engine.ask(P)
    stats = engine.half.directory_stats()
    assert engine.half._off is None, engine.half._off
    assert stats["pinned"] == 0
    engine.half._directory.audit()
    return answer


def open_when_free(pool: Path) -> _tutti.Pool:
    """Rank 0's members: workers whose engine was killed end a moment later."""
    until = time.monotonic() + 20
    while True:
        try:
            return _tutti.Pool.open(str(pool), rank=0, ranks=2)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def test_two_ranks(lives: Lives, tmp_path: Path) -> None:
    """Case 11: warm, restart, a bad slot on one rank, epochs apart, another TP size."""
    with lives(**TWO) as life:
        cold = life.run(ask)
        warm = life.run(again)
        first = life.run(lambda engine: int(engine.slots(P)[4]["slot"]))
        life.kill()
    assert (cold.external, warm.external) == (0, 480)
    assert warm.tokens == cold.tokens
    pool = tmp_path / "pool"
    assert sorted(path.name for path in pool.glob("*.tutti")) == [
        "rank0.member0.tutti",
        "rank1.member0.tutti",
    ]

    # A crash between the two ranks' epochs: rank 0 has made one durable that rank 1 never saw.
    member = open_when_free(pool)
    info = member.info()
    member.begin_epoch(info["epoch"] + 3, 0, info["identity"])
    placement = member.placement()
    member.close()
    # And one of rank 1's objects is damaged.
    damage(str(pool / "rank1.member0.tutti"), placement.object_place(first, 2)[1] + 10)

    with lives(**TWO) as life:
        assert life.run(lambda engine: engine.half._epoch) == info["epoch"] + 4
        bad = life.run(ask)
        good = life.run(again)
    assert bad.external == 480  # promised; rank 1 found it bad, so it was computed
    assert bad.tokens == cold.tokens
    assert good.external == 480
    assert good.tokens == cold.tokens

    with pytest.raises(LifeError, match="Tutti can't serve"), lives():
        pass
    with lives(extra={"on_error": "disable"}) as life:
        assert life.run(ask).external == 0
        assert "Tutti serves nothing" in life.log.read_text()
    with lives(**TWO) as life:  # what two ranks hold is there for two ranks
        back = life.run(ask)
    assert back.external == 480
    assert back.tokens == cold.tokens


def test_one_path_for_two_ranks_is_refused(lives: Lives, tmp_path: Path) -> None:
    """Nothing is written where two ranks would share a member."""
    member = tmp_path / "shared.tutti"
    with (
        pytest.raises(LifeError, match="ranks would share"),
        lives(extra={"members": [str(member)]}, **TWO),
    ):
        pass
    assert not os.path.exists(member)
