# SPDX-License-Identifier: Apache-2.0
"""Adapters by content: what a worker says of a folder, what the scheduler makes of it."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_planning import BLOCK, Bench, Request, Thing, blocks, stored
from tutti_kv import adapters, identity, support
from tutti_kv.adapters import Loaded
from tutti_kv.metadata import Adapter, Plan, RankReport, Report

# ---- the workers' end -------------------------------------------------------------------


class Layer:
    def __init__(self, name: str, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.module_name, self.rank, self.lora_alpha, self.scaling = name, 2, 4, 2.0
        self.lora_a = torch.randn(2, 8, generator=draw)
        self.lora_b: Any = torch.randn(8, 2, generator=draw)


class Model:
    def __init__(self, number: int, seed: int) -> None:
        self.id, self.rank, self.is_3d_lora_weight = number, 2, False
        self.modules_to_save: dict[str, Any] = {}
        self.loras = {name: Layer(name, seed) for name in ("k_proj", "v_proj")}


class Manager:
    """vLLM's, as far as it is looked at: reads a folder's seed, and remembers some models."""

    def __init__(self) -> None:
        self.models: dict[int, Model] = {}
        self._adapter_manager = Thing(list_adapters=lambda: dict(self.models))
        self.reads = 0
        self.meanwhile: Callable[[], None] = lambda: None

    def _load_adapter(self, lora: Any) -> Model:
        self.reads += 1
        seed = int(Path(lora.lora_path, "adapter_model.safetensors").read_text())
        self.meanwhile()
        return Model(lora.lora_int_id, seed)

    def use(self, lora: Any) -> None:
        """As vLLM does before a step."""
        if lora.lora_int_id not in self.models or lora.load_inplace:
            self.models[lora.lora_int_id] = self._load_adapter(lora)


def lora(path: object, number: int = 1, anew: bool = False, name: str = "one") -> Any:
    return Thing(lora_name=name, lora_int_id=number, lora_path=str(path), load_inplace=anew)


def write(folder: Path, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_text(str(seed))
    return folder


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def loaded(manager: Manager) -> Loaded:
    ours = Loaded()
    worker = Thing(model_runner=Thing(lora_manager=manager))
    ours.follow(worker, Thing(compute_hash=lambda: "settings"))
    return ours


@pytest.fixture(autouse=True)
def no_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written just now are old."""
    monkeypatch.setattr(identity, "CLOCK_SLACK", 0.0)


def says(loaded: Loaded, request: Any) -> bytes | str:
    return loaded.answer([request])[adapters.question(request)]


def change_scale(model: Model) -> None:
    model.loras["k_proj"].scaling = 1.0


def change_value(model: Model) -> None:
    model.loras["v_proj"].lora_b[7, 1] += 1e-3


def change_type(model: Model) -> None:
    model.loras["v_proj"].lora_a = model.loras["v_proj"].lora_a.half()


def change_shape(model: Model) -> None:
    model.loras["v_proj"].lora_a = model.loras["v_proj"].lora_a.reshape(4, 4)


def change_place(model: Model) -> None:
    model.loras["q_proj"] = model.loras.pop("k_proj")


def change_rank(model: Model) -> None:
    model.rank = 3


def change_layout(model: Model) -> None:
    model.is_3d_lora_weight = True


@pytest.mark.parametrize(
    "change",
    [
        change_scale,
        change_value,
        change_type,
        change_shape,
        change_place,
        change_rank,
        change_layout,
    ],
)
def test_every_part_counts(change: Callable[[Model], None]) -> None:
    """Each seen to fail with that part left out of digest(); order and number do not count."""
    model = Model(7, 1)
    model.loras = dict(reversed(model.loras.items()))
    same = adapters.digest(Model(1, 1), "settings")
    assert adapters.digest(model, "settings") == same
    assert adapters.digest(model, "other") != same
    change(model)
    assert adapters.digest(model, "settings") != same


def test_unknown_parts_are_refused(loaded: Loaded, manager: Manager, tmp_path: Path) -> None:
    """Full modules, packed lists, attributes of another version."""

    def packed(model: Any) -> None:
        model.loras["k_proj"].lora_b = [model.loras["k_proj"].lora_b]

    def saved(model: Any) -> None:
        model.modules_to_save = {"score": object()}

    def newer(model: Any) -> None:
        model.loras["k_proj"].bias = object()

    def newer_still(model: Any) -> None:
        model.gate = object()

    for change in (packed, saved, newer, newer_still):
        model = Model(1, 1)
        change(model)
        with pytest.raises(adapters.UnknownParts):
            adapters.digest(model, "")
    loaded._read = lambda lora: Thing(id=1)
    request = lora(write(tmp_path / "a", 1))
    assert loaded._load(request).id == 1, "vLLM loads it all the same"
    assert says(loaded, request) == "its adapter has parts that are not known by content"


def test_a_folder_is_read_once(loaded: Loaded, manager: Manager, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", 1)
    first = says(loaded, lora(folder))
    assert isinstance(first, bytes)
    assert says(loaded, lora(folder, 2, name="two")) == first
    assert manager.reads == 1
    write(folder, 22)
    assert says(loaded, lora(folder)) != first
    assert manager.reads == 2
    assert says(loaded, lora(write(tmp_path / "b", 1))) == first


def test_young_files_are_read_again(
    loaded: Loaded, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions of a file may bear one time; seen to fail without the look at its age."""
    monkeypatch.setattr(identity, "CLOCK_SLACK", 60.0)
    folder = write(tmp_path / "a", 1)
    file = folder / "adapter_model.safetensors"
    says(loaded, lora(folder))
    seen = identity.stamp(file)
    stamp = identity.stamp
    monkeypatch.setattr(identity, "stamp", lambda path: seen if path == file else stamp(path))
    file.write_text("2")
    assert says(loaded, lora(folder)) == adapters.digest(Model(1, 2), "settings")


def test_a_file_that_changes_under_the_reader(
    loaded: Loaded, manager: Manager, tmp_path: Path
) -> None:
    """What was read is what was read; but the folder is not remembered to hold it."""
    folder = write(tmp_path / "a", 1)

    def swap() -> None:
        manager.meanwhile = lambda: None
        write(folder, 22)

    manager.meanwhile = swap
    assert says(loaded, lora(folder)) == adapters.digest(Model(1, 1), "settings")
    assert says(loaded, lora(folder)) == adapters.digest(Model(1, 22), "settings")


def test_what_is_loaded_counts(loaded: Loaded, manager: Manager, tmp_path: Path) -> None:
    """Overwritten and not loaded: not known, unless the request itself loads it anew."""
    folder = write(tmp_path / "a", 1)
    manager.use(lora(folder))
    content = says(loaded, lora(folder))
    assert isinstance(content, bytes)
    write(folder, 22)
    assert says(loaded, lora(folder)) == "its adapter's folder holds another one than is loaded"
    assert loaded.computes_with(Adapter(1, content))
    new = says(loaded, lora(folder, anew=True))
    assert isinstance(new, bytes)
    assert new != content
    manager.use(lora(folder, anew=True))
    assert not loaded.computes_with(Adapter(1, content))
    assert loaded.computes_with(Adapter(1, new))


def test_replaced_and_put_back_is_replaced_twice(
    loaded: Loaded, manager: Manager, tmp_path: Path
) -> None:
    """Equal content is no proof that nothing else was there: stores wait until it was heard of."""
    folder = write(tmp_path / "a", 1)
    manager.use(lora(folder))
    one = says(loaded, lora(folder))
    assert isinstance(one, bytes)
    assert not loaded.spoils(Adapter(1, one), {})
    manager.use(lora(folder, anew=True))
    assert loaded.replaced == {}, "the same content"
    for seed in (22, 1):
        manager.use(lora(write(folder, seed), anew=True))
    assert loaded.replaced == {1: 2}
    assert loaded.spoils(Adapter(1, one), {})
    assert loaded.spoils(Adapter(1, one), {1: 1})
    assert not loaded.spoils(Adapter(1, one), {1: 2})
    assert not loaded.spoils(Adapter(2, one), {})
    assert not loaded.spoils(None, {})


def test_forgotten_and_read_again(loaded: Loaded, manager: Manager, tmp_path: Path) -> None:
    """vLLM's memory of adapters is bounded; what it reads later may be another content."""
    folder = write(tmp_path / "a", 1)
    manager.use(lora(folder))
    one = says(loaded, lora(folder))
    manager.models.clear()
    assert says(loaded, lora(folder)) == one
    assert loaded.computes_with(Adapter(1, b"any"))
    manager.use(lora(folder))
    assert loaded.replaced == {}
    manager.models.clear()
    manager.use(lora(write(folder, 22)))
    assert loaded.replaced == {1: 1}


def test_not_in_a_folder(loaded: Loaded, tmp_path: Path) -> None:
    """A hub's name, a file that is not there, and a worker that has no adapters."""
    assert "do not lie in a folder" in str(says(loaded, lora("somebody/something")))
    assert says(loaded, lora(tmp_path)) == "its adapter can't be read"
    assert "is not found" in str(says(Loaded(), lora(tmp_path)))


def test_memory_is_bounded(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "MAX_KNOWN", 2)
    for i in range(5):
        says(loaded, lora(write(tmp_path / str(i), i)))
    assert len(loaded._folders) <= 2


def test_numbers_are_bounded(
    loaded: Loaded, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forgotten are all at once, which counts as if all had been replaced: one of them may be.

    vLLM gives each adapter that it is told of a number of its own. Seen to fail without the
    bound, and (the last line) with one that forgets and does not count.
    """
    monkeypatch.setattr(adapters, "MAX_KNOWN", 2)
    first = says(loaded, lora(write(tmp_path / "first", 22), 1))
    assert isinstance(first, bytes)
    for number in range(2, 6):
        manager.models.clear()
        manager.use(lora(write(tmp_path / str(number), number), number))
        assert len(loaded._last) <= 2
    assert loaded.replaced == {adapters.ALL: 2}
    assert loaded.spoils(Adapter(1, first), {})
    assert not loaded.spoils(Adapter(1, first), {adapters.ALL: 2})


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("enable_expert_parallel", "expert parallelism"),
        ("enable_tower_connector_lora", "image tower"),
        ("enable_mixed_moe_lora_format", "layouts"),
        ("enable_moe_shared_loras", "layouts"),
        (None, None),
    ],
)
def test_settings_that_are_refused(what: str | None, words: str | None) -> None:
    names = (
        "enable_expert_parallel",
        "enable_tower_connector_lora",
        "enable_mixed_moe_lora_format",
        "enable_moe_shared_loras",
    )
    switches = Thing(**{name: name == what for name in names})
    why = support.why_no_adapters(Thing(lora_config=switches, parallel_config=switches))
    assert (why is None) if words is None else (words in str(why))


# ---- the scheduler's end ----------------------------------------------------------------


class Asked(Request):
    """A request with an adapter, hashed as vLLM does: by name and path."""

    tokens: list[int]

    def __init__(self, name: str, tokens: list[int], adapter: Any, **fields: Any) -> None:
        super().__init__(name, tokens, cache_salt=None, **fields)
        self.lora_request = adapter
        self._hashes: list[bytes] = []
        self.update_block_hashes()

    @property
    def block_hashes(self) -> list[bytes]:
        return self._hashes

    def update_block_hashes(self) -> None:
        self._hashes.extend(hasher(self))


def hasher(request: Any) -> list[bytes]:
    """Stands in for vLLM's; a hash can be read."""
    adapter = request.lora_request
    called = f"{adapter.lora_name} {adapter.lora_path}" if adapter else ""
    salt = getattr(request, "cache_salt", None)
    have = len(request.block_hashes)
    return [
        hashlib.sha256(repr((called, salt, request.tokens[: BLOCK * (i + 1)])).encode()).digest()
        for i in range(have, len(request.tokens) // BLOCK)
    ]


class Desk(Bench):
    """A bench that answers questions. contents: number of an adapter -> its content."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.half._adapters._hasher = hasher
        self.voided = 0
        pool = blocks(used=1)
        pool.evict_blocks = self._evicted
        self.half.bind_manager(Thing(block_pool=pool))
        self.contents: dict[int, bytes | str] = {1: b"one", 2: b"two"}

    def _evicted(self, evicted: set[int]) -> None:
        self.voided += 1

    def tell(self, plan: Plan, **news: Any) -> None:
        said = {adapters.question(x): self.contents[x.lora_int_id] for x in plan.questions}
        self.answer(plan, adapters=said, **news)

    def lookup(self, request: Any) -> tuple[int | None, bool]:
        """Until it is answered."""
        while (found := self.half.matched_tokens(request, 0))[0] is None:
            self.tell(self.step({}))
        return found

    def compute(self, request: Any, **news: Any) -> Plan:
        """Looked up, admitted, computed in one step."""
        found, async_ = self.lookup(request)
        self.admit(request, found or 0, async_)
        plan = self.step({request: request.num_tokens})
        self.tell(plan, **news)
        return plan

    def end(self, request: Any) -> None:
        self.half.finished(request, self.tables[request.request_id])


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


TOKENS = list(range(10))


def test_asked_before_it_is_looked_up(desk: Desk) -> None:
    """The answer must be of a step that was planned when the request was there."""
    request = Asked("a", TOKENS, lora("/one"))
    assert desk.half.matched_tokens(request, 0) == (None, False)
    early = desk.step({})
    assert [adapters.question(x) for x in early.questions] == [(1, "/one", False)]
    late = Asked("b", TOKENS, lora("/one"))
    assert desk.half.matched_tokens(late, 0) == (None, False)
    desk.tell(early)
    assert desk.half.matched_tokens(request, 0) == (0, False)
    assert desk.half.matched_tokens(late, 0) == (None, False)
    desk.tell(desk.step({}))
    assert desk.half.matched_tokens(late, 0) == (0, False)


def test_the_content_is_in_keys_loads_and_stores(desk: Desk) -> None:
    """Another number, name and path of that content hits; another content does not."""
    one = Asked("a", TOKENS, lora("/one"))
    plan = desk.compute(one)
    assert stored(plan) == 2
    assert [store.adapter for store in plan.stores] == [Adapter(1, b"one")]
    desk.contents[3] = b"one"
    copy = Asked("b", TOKENS, lora("/copy", 3, name="copy"))
    assert desk.lookup(copy) == (8, True)
    desk.admit(copy, 8, async_=True)
    assert [load.adapter for load in desk.step({}).loads] == [Adapter(3, b"one")]
    assert desk.lookup(Asked("c", TOKENS, lora("/two", 2, name="two"))) == (0, False)
    assert desk.lookup(Request("d", TOKENS)) == (0, False)


def test_the_model_itself_is_not_asked_about(desk: Desk) -> None:
    assert desk.half.matched_tokens(Request("a", TOKENS), 0) == (0, False)
    assert desk.step({}).questions == []


@pytest.mark.parametrize("why", ["its adapter can't be read", None])
def test_what_is_not_known_is_left_alone(desk: Desk, why: str | None) -> None:
    """By the worker's word, or by the settings (then nobody is asked)."""
    desk.contents[1] = why or b""
    desk.half._adapters._why_not = None if why else "settings"
    request = Asked("a", TOKENS, lora("/one"))
    assert stored(desk.compute(request)) == 0
    desk.end(request)
    assert stored(desk.step({})) == 0
    assert desk.half.stats.data["refused_requests|lora"] == 1


def test_another_content_under_a_name(desk: Desk) -> None:
    """vLLM's own cache is emptied, who still runs is set apart, and asked again is the new one.

    Its local hit was found before: it must not be computed over that. Seen to fail with
    Adapters.settle going on at once.
    """
    old = Asked("a", [*TOKENS, 11, 12], lora("/one"))
    desk.compute(old)
    before = list(old.block_hashes)
    new = Asked("b", TOKENS, lora("/one", 2))
    desk.half.matched_tokens(new, 0)
    desk.tell(desk.step({}))
    assert desk.half.matched_tokens(new, 8) == (None, False)
    assert desk.voided == 1
    assert not set(before) & set(old.block_hashes)
    assert len(before) == len(old.block_hashes)
    assert desk.half.matched_tokens(new, 0) == (0, False)
    assert desk.voided == 1
    old.tokens += [13, 14, 15, 16]
    desk.end(old)
    assert stored(desk.step({})) == 0, "it may have been computed with either"


def test_replaced_under_a_running_request(desk: Desk) -> None:
    """What waited to be stored is given up; the rank's number is acknowledged, plans are whole."""
    ends, running = (Asked(name, [n, *TOKENS], lora("/one")) for n, name in enumerate("ab"))
    other = Asked("c", TOKENS, lora("/two", 2, name="two"))
    for request in (ends, running, other):
        assert desk.compute(request).replaced == {}
    hashes = list(running.block_hashes)
    ends.tokens += [20]
    ends.update_block_hashes()
    in_flight = desk.step({ends: 1})
    desk.end(ends)  # its third block waits for the next plan
    assert len(desk.half._stores) == 1
    desk.tell(in_flight, replaced={1: 1})
    assert len(desk.half._stores) == 0
    assert in_flight.replaced == {}, "a plan that is under way does not know"
    assert desk.voided == 1
    assert len(running.block_hashes) == len(hashes)
    assert not set(running.block_hashes) & set(hashes)
    assert other.cache_salt is None
    for request in (running, other):
        request.tokens += [30, 31, 32]
        request.update_block_hashes()
    plans = [desk.step({running: 2, other: 2})]
    desk.now += 1  # what decoding fills waits for company
    plans.append(desk.step({running: 1, other: 1}))
    assert [plan.replaced for plan in plans] == [{0: {1: 1}}] * 2
    adapters_stored = [store.adapter for plan in plans for store in plan.stores]
    assert adapters_stored == [Adapter(2, b"two")], "other adapters go on"
    desk.tell(plans[1], replaced={1: 1})
    assert desk.voided == 1


def test_a_waiting_request_is_asked_about_again(desk: Desk) -> None:
    """Nothing of it is computed yet: it goes by the new content."""
    request = Asked("a", TOKENS, lora("/one"))
    desk.lookup(request)
    desk.contents[1] = b"new"
    desk.tell(desk.step({}), replaced={1: 1})
    assert desk.half.matched_tokens(request, 0) == (None, False)
    plan = desk.compute(request)
    assert [store.adapter for store in plan.stores] == [Adapter(1, b"new")]


def test_a_preempted_request_is_asked_about_again(desk: Desk) -> None:
    request = Asked("a", TOKENS, lora("/one"))
    desk.compute(request)
    request.num_computed_tokens = 0
    assert desk.half.matched_tokens(request, 0) == (None, False)
    assert desk.lookup(request) == (8, True)


def test_names_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM holds under forgotten names is forgotten too."""
    monkeypatch.setattr(adapters, "MAX_KNOWN", 2)
    for i in range(5):
        assert desk.lookup(Asked(f"r{i}", TOKENS, lora(f"/{i}"))) == (0, False)
        assert len(desk.half._adapters._called) <= 2
    assert desk.voided == 2


def test_answers_are_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One name, loaded again and again under other numbers. Seen to fail without the bound."""
    monkeypatch.setattr(adapters, "MAX_KNOWN", 2)
    desk.contents = dict.fromkeys(range(1, 9), b"one")
    for number in range(1, 9):
        assert desk.lookup(Asked(f"r{number}", TOKENS, lora("/one", number))) == (0, False)
        assert len(desk.half._adapters._answers) <= 2
    assert desk.voided == 0


def test_a_worker_that_forgot_sets_all_apart(desk: Desk) -> None:
    """What was replaced in between is not known. Seen to fail where only numbers are compared."""
    requests = [Asked("a", TOKENS, lora("/one")), Asked("b", TOKENS, lora("/two", 2, name="two"))]
    for request in requests:
        desk.compute(request)
    salts = [request.cache_salt for request in requests]
    desk.tell(desk.step({}), replaced={adapters.ALL: 1})
    assert desk.voided == 1
    assert salts == [None, None]
    assert all(request.cache_salt for request in requests)
    assert desk.step({}).replaced == {0: {adapters.ALL: 1}}
    desk.tell(desk.step({}), replaced={adapters.ALL: 1})
    assert desk.voided == 1


def test_ranks_that_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files swapped while they read: then nothing is known. One rank's answer is none."""
    desk = Desk(monkeypatch)
    desk.half._adapters._ranks = 2
    request = Asked("a", TOKENS, lora("/one"))
    desk.half.matched_tokens(request, 0)
    plan = desk.step({})
    for rank, content in enumerate((b"one", b"two")):
        assert desk.half.matched_tokens(request, 0) == (None, False)
        said: dict[Any, bytes | str] = {adapters.question(request.lora_request): content}
        report = Report({rank: RankReport(plan.step, adapters=said)})
        desk.half.take_output(
            Thing(kv_connector_worker_meta=report, invalid_block_ids=set(), finished_recving=set())
        )
    assert desk.half.matched_tokens(request, 0) == (0, False)
    sequence = desk.half._requests["a"]
    assert sequence.skip == ("lora", "the ranks have loaded different adapters")


def test_images_without_hashes_stay_refused(desk: Desk) -> None:
    desk.half._caching = False
    request = Asked("a", TOKENS, lora("/one"), mm_features=[object()])
    assert desk.half.matched_tokens(request, 0) == (0, False)
    assert stored(desk.step({request: 10})) == 0


def test_a_session_that_is_cut(desk: Desk) -> None:
    """Its last tokens are replaced: both chains are."""
    request = Asked("a", list(range(12)), lora("/one"))
    desk.compute(request)
    sequence = desk.half._requests["a"]
    sequence.update_hashes()
    keys = bytes(sequence.hashes)
    del request.tokens[9:], request.block_hashes[2:]
    request.tokens += [90, 91, 92]
    request.update_block_hashes()
    sequence.update_hashes()
    assert len(sequence.hashes) == len(keys)
    assert sequence.hashes[:64] == keys[:64]
    assert sequence.hashes[64:] != keys[64:]
