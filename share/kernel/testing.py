"""The public contract suite: what every backend of a kind must keep, ours as much as a stranger's.

Each check is a plain function that raises AssertionError with a sentence about what was broken. Call them from a test
of your own, or run `CHECKS[kind]` over registered backends with `pytest.mark.parametrize`.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from share.kernel.config import Choice, ConfigModel
from share.kernel.contracts.experience import Finding, Record, RecordType
from share.kernel.contracts.kinds import BuiltIndex, Index, Operation, Reward, Storage, Task, Voter
from share.kernel.contracts.run import Mode
from share.kernel.contracts.task import Demonstration, Prompt, Split
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.contracts.vision import PIXELS_MAX, OperationResult, Scene, Transform
from share.kernel.contracts.voting import AnswerType, Vote
from share.kernel.errors import (
    BufferCorrupt,
    BufferFenced,
    BufferProblem,
    ConfigError,
    IndexUnavailable,
    OperationError,
)
from share.kernel.experience.disk import RealDisk
from share.kernel.kernel import KIND_OF_MODE, VisionKernel
from share.kernel.media.operator import Limits, Operator, tool_schema
from share.kernel.registry import Registry, registry_of

NONSENSE: tuple[Any, ...] = (
    None,
    True,
    -1,
    1e308,
    float("nan"),
    "",
    "r99",
    [],
    [0, 0, 0, 0],
    [-5, 9, 1e9, 2],
    {},
    "\0",
)
"""Values that a policy may write for any argument."""


def example_scene(*, is_video: bool = False, num_frames: int = 12) -> Scene:
    """A scene to try operations on: one image (96 x 128), or a video, of a bright disc on a textured dark ground.

    The disc has a radius of 14 pixels; its centre is at (x=40, y=48) and moves 3 pixels to the right each frame.
    """
    y, x = np.mgrid[:96, :128]
    ground = 40 + 20 * np.sin(x / 5) * np.cos(y / 7)
    frames = []
    for frame in range(num_frames if is_video else 1):
        disc = (x - 40 - 3 * frame) ** 2 + (y - 48) ** 2 <= 14**2
        grey = np.where(disc, 200 + 20 * np.sin(x / 3 - frame), ground)
        frames.append(np.stack([grey, grey * 0.8, grey * 0.6], axis=-1).astype(np.uint8))
    scene = Scene(tuple(frames), is_video=is_video, frames_per_second=10.0 if is_video else None)
    scene.add_view(frames[0], 0, Transform())
    return scene


def run_operation(operation: Operation, arguments: Mapping[str, object], scene: Scene) -> OperationResult:
    """Call an operation as a policy would. Raises OperationError with the observation that the policy would read."""
    outcome = Operator({"OPERATION": operation}).run("OPERATION", arguments, scene)
    if outcome.result is None:
        raise OperationError(outcome.error)
    return outcome.result


def check_plugin(module: ModuleType) -> list[tuple[str, str]]:
    """A plugin module, installed or not: its hooks register, its targets import and declare their configuration.

    Returns the (kind, name) of its backends.
    """
    registry = registry_of(module)
    for plugin in registry.plugins:
        assert plugin.state in ("ok", "missing extra"), f"{plugin} is {plugin.state}: {plugin.reason}"
    found = []
    for backend in registry.backends():
        model = registry.config_model(backend.kind, backend.name)
        assert backend.summary, f"{backend.kind} {backend.name} needs a summary: listings show it"
        undescribed = [name for name, field in model.model_fields.items() if not field.description]
        assert not undescribed, f"{model.__name__}: no docstring below {', '.join(undescribed)}"
        found.append((backend.kind, backend.name))
    return found


def check_operation(
    operation: Operation, *examples: Mapping[str, object], scene: Callable[[], Scene] = example_scene
) -> None:
    """An operation describes itself, does the examples, is pure, repeats itself, and refuses nonsense politely.

    `examples` are arguments that must succeed on a fresh `scene()`. Nonsense in place of each argument must succeed or
    be refused with an OperationError; any other exception, a wrong type and a hang break the contract.
    """
    assert isinstance(operation, Operation), "an operation has `Arguments` and `run(scene, arguments)`"
    schema = tool_schema("OPERATION", operation)["function"]
    assert schema["description"], "the docstring of the operation's class tells the policy what it does"
    json.dumps(schema)
    for name, argument in schema["parameters"]["properties"].items():
        assert argument.get("description"), f"argument {name!r} needs a docstring: the policy reads it"

    for arguments in examples:
        outcomes = []
        for _ in range(2):
            stage = scene()
            natives = [native.copy() for native in stage.natives]
            before = (len(stage.views), len(stage.regions))
            parsed = operation.Arguments.model_validate(dict(arguments))
            operation.run(stage, parsed)
            assert before == (len(stage.views), len(stage.regions)), "run() must not change the scene; the caller does"
            outcome = Operator({"OPERATION": operation}).run("OPERATION", arguments, stage)
            assert outcome.result is not None, f"{dict(arguments)}: {outcome.status}: {outcome.error}"
            assert all(map(np.array_equal, natives, stage.natives)), "the native pixels must not be written to"
            outcomes.append(outcome.result)
        first, second = outcomes
        assert (first.text, dict(first.data)) == (second.text, dict(second.data)), "the same call gives the same result"

    operator = Operator({"OPERATION": operation}, Limits(timeout_s=30))
    for arguments in _nonsense(schema["parameters"]["properties"], examples):
        outcome = operator.run("OPERATION", arguments, scene())
        assert outcome.status in ("ok", "refused"), f"{arguments}: {outcome.status}: {outcome.error}"
        assert outcome.error is None or "\n" not in outcome.error, "an observation of an error is one line"


def check_reward(reward: Reward) -> None:
    """A reward component scores each trajectory of a group with a finite number or None.

    One that does not learn (has no `state_dict`) repeats itself; one that does can be put back to where it was.
    """
    prompt = Prompt("prompt-1", "example", "How bright is it?", example_scene().natives, "bright")
    call = Action("operation", "", "ZOOM_IN", {"bbox": [0, 0, 40, 40]}, "image_2: …", view="image_2", elapsed_ms=1.0)
    failed = Action("operation", "", "ZOOM_IN", {"bbox": [9, 9, 1, 1]}, error="bbox: is empty", elapsed_ms=1.0)
    right = Action("answer", "<answer>bright</answer>")
    groups = (
        (
            Trajectory("prompt-1", (right,), "bright", "answer"),
            Trajectory("prompt-1", (call, right), "bright", "answer"),
            Trajectory("prompt-1", (call, call, failed, Action("answer", "dark")), "dark", "answer"),
            Trajectory("prompt-1", (Action("invalid", "<tool_call>{"),), None, "invalid"),
            Trajectory("prompt-1", (call,), None, "turns_max"),
        ),
        (Trajectory("prompt-1", (right,), "bright", "answer"),),
    )
    for group in groups:
        scenes = [_scene_after(trajectory) for trajectory in group]
        correctness = [float(trajectory.answer == "bright") for trajectory in group]
        state = copy.deepcopy(reward.state_dict()) if hasattr(reward, "state_dict") else None
        scored = reward.score(prompt, group, scenes, correctness)
        assert isinstance(scored, list), "scores are a list"
        assert len(scored) == len(group), "one score per trajectory"
        for score in scored:
            assert score is None or (isinstance(score, int | float) and math.isfinite(score)), f"{score!r} is no score"
        if state is not None:
            reward.load_state_dict(state)  # type: ignore[attr-defined]
        assert reward.score(prompt, group, scenes, correctness) == scored, "the same group gives the same scores"


def check_task(task: Task) -> None:
    """A task source yields equal prompts for equal arguments, splits that differ, and knows its own answers."""
    splits: tuple[Split, Split] = ("train", "held_out")
    for split in splits:
        size = task.size(split)
        assert size is None or size >= 0, "a size is a number of prompts, or None without end"
        for index in range(min(3, 3 if size is None else size)):
            prompt, again = task.prompt(split, index), task.prompt(split, index)
            assert _same_prompt(prompt, again), f"{split} {index}: the same arguments give the same prompt"
            assert prompt.images, "a prompt has an image or the frames of a video"
            for image in prompt.images:
                assert image.dtype == np.uint8, "images are uint8 [height, width, 3] RGB"
                assert image.ndim == 3, "images are uint8 [height, width, 3] RGB"
                assert image.shape[2] == 3, "images are uint8 [height, width, 3] RGB"
                assert image.shape[0] * image.shape[1] <= PIXELS_MAX, f"at most {PIXELS_MAX:,} pixels"
            assert task.check(prompt, prompt.answer) == 1.0, f"{split} {index}: the ground truth must be right"
            assert 0.0 <= task.check(prompt, "no such answer \0") <= 1.0, "a check is within [0, 1]"
            assert 0.0 <= task.check(prompt, "") < 1.0, "no answer is not a right answer"
            shown = prompt.shown if prompt.shown is not None else tuple(range(len(prompt.images)))
            scene = Scene(prompt.images, prompt.is_video, prompt.frames_per_second)
            for source in shown:
                scene.add_view(prompt.images[source], source, Transform())
            demonstration = task.demonstrate(prompt, scene)
            assert demonstration is None or isinstance(demonstration, Demonstration), "a Demonstration or None"
            if demonstration is not None:
                assert task.check(prompt, demonstration.answer) == 1.0, "an expert answers rightly"
    if all(task.size(split) is None for split in splits):
        assert not _same_prompt(task.prompt("train", 0), task.prompt("held_out", 0)), "the splits share no prompt"


def check_storage(storage: Storage, directory: Path) -> None:
    """A storage keeps its records, their places and their order, whoever else reads, writes or damages them.

    `directory` must be empty. A log is checked new, reopened, read beside a writer, taken over, erased from, cut off
    at its beginning, and damaged. What only a power cut shows is not checked here.
    """
    assert isinstance(storage, Storage), "a storage has `open` and `verify`"
    _check_log(storage, directory / "kept")
    _check_takeover(storage, directory / "taken")
    _check_erasure(storage, directory / "erased")
    _check_truncation(storage, directory / "truncated")
    _check_damage(storage, directory / "damaged")


def check_index(index: Index) -> None:
    """An index finds the neighbors of structured data, under any row numbers, and again after being kept as bytes.

    Candidates of an index that is not exact are ranked exactly here, as the buffer does it.
    """
    assert isinstance(index, Index), "an index has `build` and `load`"
    for num_rows, dimension, dtype in ((3, 8, np.float32), (40, 24, np.float16), (3000, 48, np.float16)):
        vectors_ND = _blobs(num_rows, dimension).astype(dtype)
        rows_N = 1_000_000_000_000 + np.arange(num_rows) * (3 if num_rows == 40 else 1)
        try:
            built = index.build(vectors_ND, rows_N, seed=1)
        except IndexUnavailable:
            if num_rows < 3000:  # an index may need more rows than that, but not more than 3,000
                continue
            raise
        assert built.num_rows == num_rows
        _check_neighbors(built, vectors_ND, rows_N)
        content = built.save()
        loaded = index.load(memoryview(content))
        assert (loaded.num_rows, loaded.is_exact) == (built.num_rows, built.is_exact), "loaded it is what it was"
        for query_D in vectors_ND[:5].astype(np.float32):
            assert np.array_equal(loaded.search(query_D, 7)[0], built.search(query_D, 7)[0]), "loaded it finds the same"
        assert set(loaded.search(query_D, num_rows)[0]) == set(rows_N.tolist()), "asked for all rows it returns all"
    for nonsense in (b"", b"\x05", b"\x02\0\0\0{}", content[: len(content) // 3], bytes(200)):
        with _refused(IndexUnavailable, "what is not an index must be refused with IndexUnavailable"):
            index.load(memoryview(nonsense))


def check_voter(voter: Voter) -> None:
    """A voter is fair: no order matters, a source counts once, every vote is accounted for, and none is invented."""
    assert isinstance(voter, Voter), "a voter has `vote`"
    ballots: list[tuple[AnswerType, str, list[str]]] = [
        ("text", "cat", ["Cat.", "dog", " DOG ", "bird", "dog", ""]),
        ("number", "it is 3", ["three", "3.0", "4", "4", "four", "many"]),
        ("choice", "B", ["(b)", "a", "A) a cat", "c.", "c", "none of them"]),
        ("text", "", ["cat", "dog", "bird", "fish", "cow", "hen"]),
    ]
    for answer_type, own, answers in ballots:
        for confidence in (0.0, 0.6, 1.0):
            policy = Vote("policy", own, confidence)
            alone = voter.vote(policy, [], answer_type)
            assert alone.answer == own, "without others the answer is the policy's"
            assert alone.confidence == confidence, "without others the confidence is the policy's"
            others = [
                Vote(f"experience-{i}", answer, 0.3 + 0.1 * i, 0.95 - 0.17 * i, 3600.0 * i, 7, i)
                for i, answer in enumerate(answers)
            ]
            result = voter.vote(policy, others, answer_type)
            for order in (others[::-1], others[3:] + others[:3], others[::2] + others[1::2]):
                assert voter.vote(policy, order, answer_type) == result, "the order of the others does not matter"
            repeated = voter.vote(policy, [policy, *others, *others], answer_type)
            assert repeated.answer == result.answer, "a source counts once"
            assert repeated.confidence == result.confidence, "a source counts once"
            assert 0.0 <= result.confidence <= 1.0, "a confidence is a probability"
            assert result.answer in [own, *answers], "the answer is one that was given, as it was written"
            assert math.isclose(sum(result.shares.values()), 1.0), "the shares sum to one"
            assert all(0.0 < share <= 1.0 for share in result.shares.values()), "a share is a part of the weight"
            assert list(result.shares.values()) == sorted(result.shares.values(), reverse=True), "heaviest first"
            weights = [opinion.weight for opinion in result.provenance]
            assert math.isclose(sum(weights), 1.0), "the weights in the provenance sum to one"
            assert all(0.0 <= weight <= 1.0 for weight in weights), "a weight is a part of all weight"
            assert result.provenance[0].vote == policy, "the policy's vote is first in the provenance"
            cast = {opinion.vote for opinion in result.provenance}
            assert cast == {policy, *others}, "the provenance has every vote that was cast and no other"
            assert any(opinion.agrees and opinion.weight > 0.0 for opinion in result.provenance), "somebody agrees"


def check_run(registry: Registry, mode: Mode, name: str, settings: Mapping[str, Any], workdir: Path) -> None:
    """A backend that is run: it obeys a dry run and a stop, resumes, ends well, and leaves what it says it left.

    `settings` must make it short.
    """
    config = {**settings, "workdir": str(workdir)}
    planned = VisionKernel(registry).run(mode, name, config, dry_run=True)
    assert planned.status == "dry_run", f"dry run: {planned.status}: {planned.error}"

    stop = Event()
    stop.set()
    stopped = VisionKernel(registry, stop=stop).run(mode, name, config)
    assert stopped.status == "interrupted", f"stopped before it began, it is {stopped.status}: {stopped.error}"
    ended = VisionKernel(registry).resume(mode, stopped.run_context.run_dir, config, name=name)
    assert ended.status == "ok", f"resumed: {ended.status}: {ended.error}"
    for artifact, path in ended.artifacts.items():
        assert path.exists(), f"artifact {artifact!r} does not exist: {path}"


def build(registry: Registry, kind: str, name: str) -> Any:
    """A backend with its default configuration. Raises ConfigError when it cannot be had without settings."""
    model: type[ConfigModel] = registry.config_model(kind, name)
    needed = [field for field, info in model.model_fields.items() if info.is_required()]
    if needed:
        raise ConfigError(f"{kind} {name!r} needs {', '.join(needed)}")
    return registry.build(Choice(kind, name, model.model_validate({}, context={"registry": registry})))


def _check_log(storage: Storage, directory: Path) -> None:
    disk = RealDisk()
    with closing(storage.open(directory, disk, "write")) as log:
        assert log.next_sequence == 1, "the first record of a log has the sequence 1"
        assert list(log.scan()) == [], "a new log is empty"
        assert log.append([]) == [], "no record has no location"
        reader = storage.open(directory, disk, "read")
        locations = log.append([(RecordType.ADD, [b"one"])])
        parts: list[bytes | memoryview] = [memoryview(b"two"), b"", b"parts"]
        locations += log.append([(RecordType.ADD, parts), (RecordType.STATUS, [])])
        expected = [
            (1, RecordType.ADD, b"one", locations[0]),
            (2, RecordType.ADD, b"twoparts", locations[1]),
            (3, RecordType.STATUS, b"", locations[2]),
        ]
        assert len(set(locations)) == 3, "every record has a location of its own"
        assert log.next_sequence == 4, "sequences have no gaps"
        for each in (log, reader):
            assert [_told(record) for record in each.scan(until=3)] == expected, "what was appended is read, in order"
            assert [record.sequence for record in each.scan(1, until=2)] == [2], "a scan has after < sequence <= until"
            assert [_told(each.read(record[3], record[0])) for record in expected] == expected, "locations find records"
        with _refused(BufferProblem, "a log that is open to read refuses to append"):
            reader.append([(RecordType.ADD, [b""])])
        epoch = log.epoch
        appender = Thread(target=lambda: [log.append([(RecordType.ADD, [b"x" * 3000])]) for _ in range(50)])
        appender.start()
        seen = 3
        while appender.is_alive() or seen < log.next_sequence - 1:
            last = log.next_sequence - 1
            records = list(reader.scan(seen, until=last))
            assert [record.sequence for record in records] == list(range(seen + 1, last + 1)), "readers follow a writer"
            seen = last
        reader.close()
        appender.join()
        assert log.size_bytes > 50 * 3000
    with closing(storage.open(directory, disk, "write")) as log:
        assert log.next_sequence == 54, "sequences go on where they were"
        assert log.cut is None, "a log that was closed ends cleanly"
        assert log.epoch > epoch, "every writer has a greater epoch"
        assert [_told(record) for record in log.scan(until=3)] == expected, "records and locations stay"
    assert _verified(storage, directory) == [], "nothing is wrong with a sound log"


def _check_takeover(storage: Storage, directory: Path) -> None:
    disk = RealDisk()
    with (
        closing(storage.open(directory, disk, "write")) as first,
        closing(storage.open(directory, disk, "write")) as second,
    ):
        second.append([(RecordType.ADD, [b"of the second"])])
        for _ in range(2):
            with _refused(BufferFenced, "a writer that was overtaken is fenced for good"):
                first.append([(RecordType.ADD, [b"of the first"])])
        with closing(storage.open(directory, disk, "write")) as third:
            third.append([(RecordType.ADD, [b"of the third"])])
            with suppress(BufferFenced):  # or it goes where nobody reads: the lock of the buffer then tells
                second.append([(RecordType.ADD, [b"too late"])])
            third.append([(RecordType.ADD, [b"of the third"])])
    with closing(storage.open(directory, disk, "read")) as log:
        told = [bytes(record.payload) for record in log.scan()]
        assert told == [b"of the second", b"of the third", b"of the third"], "only the newest writer's records count"


def _check_erasure(storage: Storage, directory: Path) -> None:
    disk = RealDisk()
    with closing(storage.open(directory, disk, "write")) as log:
        payloads = [f"secret {number} ".encode() * 200 for number in range(1, 31)]
        locations = [log.append([(RecordType.ADD, [payload])])[0] for payload in payloads]
        dead = {3, 4, 5, 17, 30}
        num_bytes = log.compact(lambda record: record.sequence in dead)
        assert num_bytes == sum(len(payloads[sequence - 1]) for sequence in dead), "the bytes erased are told"
        assert log.compact(lambda record: record.sequence in dead) == 0, "what is erased is not asked for again"
        log.append([(RecordType.ADD, [b"after"])])
    modes: tuple[Literal["write", "read"], ...] = ("write", "read")
    for mode in modes:
        with closing(storage.open(directory, disk, mode)) as log:
            assert log.next_sequence == 32, "an erased record keeps its sequence"
            told = [record.sequence for record in log.scan()]
            assert told == [sequence for sequence in range(1, 32) if sequence not in dead], "erased ones are left out"
            for sequence, (location, payload) in enumerate(zip(locations, payloads, strict=True), 1):
                if sequence in dead:
                    with _refused(KeyError, "an erased record is not found"):
                        log.read(location, sequence)
                else:
                    assert log.read(location, sequence).payload == payload, "what is not erased stays where it is"
    content = b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())
    for sequence, payload in enumerate(payloads, 1):
        part = payload[: len(payload) // 200]
        assert (part in content) == (sequence not in dead), f"record {sequence}: erased from every file, or kept"
    assert _verified(storage, directory) == [], "nothing is wrong with a compacted log"


def _check_truncation(storage: Storage, directory: Path) -> None:
    disk = RealDisk()
    with closing(storage.open(directory, disk, "write")) as log:
        for _ in range(20):
            locations = log.append([(RecordType.ADD, [b"y" * 5000])] * 20)
        assert log.truncate(1) == 0, "nothing is before the first"
        assert log.truncate(301) >= 0
        told = [record.sequence for record in log.scan()]
        assert told == list(range(told[0], 401)), "records go from the beginning only"
        assert told[0] <= 301, "no more than was asked for goes"
        assert log.read(locations[-1], 400).sequence == 400
        log.append([(RecordType.ADD, [b"after"])])
        log.truncate(402)
    with closing(storage.open(directory, disk, "write")) as log:
        assert log.next_sequence == 402, "sequences go on, whatever was truncated"
        log.append([(RecordType.ADD, [b"and on"])])
        assert [record.sequence for record in log.scan(401)] == [402]
    assert _verified(storage, directory) == [], "nothing is wrong with a truncated log"


def _check_damage(storage: Storage, directory: Path) -> None:
    disk = RealDisk()
    with closing(storage.open(directory, disk, "write")) as log:
        payloads = [f"<{number}>".encode() * 100 for number in range(1, 21)]
        locations = [log.append([(RecordType.ADD, [payload])])[0] for payload in payloads]
    for path in sorted(directory.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if payloads[9] in content:  # perhaps more than once: a database leaves copies behind when it splits a page
            damaged = payloads[9].replace(b"<10>", b"<14>", 1)
            path.write_bytes(content.replace(payloads[9], damaged))
    assert any("10" in finding.problem and finding.is_loss for finding in _verified(storage, directory)), (
        "verify names the damaged record as lost"
    )
    with (
        _refused(BufferCorrupt, "damage to an acknowledged record is refused, not passed over"),
        closing(storage.open(directory, disk, "write")) as log,
    ):
        list(log.scan())
    with closing(storage.open(directory, disk, "write", salvage=True)) as log:
        told = [(record.sequence, record.location) for record in log.scan()]
    kept = [(sequence, location) for sequence, location in enumerate(locations, 1) if sequence != 10]
    assert told == kept, "salvage keeps all that is sound"
    with closing(storage.open(directory, disk, "write")) as log:
        assert [record.sequence for record in log.scan()] == [sequence for sequence, _ in kept], "and opens afterwards"
    assert not any(finding.is_loss for finding in _verified(storage, directory)), "nothing is left to salvage"


def _told(record: Record) -> tuple[int, RecordType, bytes, int]:
    return record.sequence, record.type, bytes(record.payload), record.location


def _verified(storage: Storage, directory: Path) -> list[Finding]:
    steps: list[tuple[int, int]] = []
    found = list(storage.verify(directory, RealDisk(), progress=lambda done, in_all: steps.append((done, in_all))))
    assert steps == sorted(steps), "progress goes forward"
    assert all(done <= in_all for done, in_all in steps), "and not beyond its end"
    return found


@contextmanager
def _refused(expected: type[Exception], otherwise: str) -> Iterator[None]:
    try:
        yield
    except expected:
        return
    raise AssertionError(otherwise)


def _blobs(num_rows: int, dimension: int) -> NDArray[np.float32]:
    """Unit vectors in 20 clusters."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(20, dimension))
    vectors_ND = centers[random.integers(0, 20, num_rows)] + 0.3 * random.normal(size=(num_rows, dimension))
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return np.asarray(vectors_ND, np.float32)


def _check_neighbors(built: BuiltIndex, vectors_ND: NDArray[Any], rows_N: NDArray[np.int64]) -> None:
    single_ND, k = vectors_ND.astype(np.float32), min(10, len(rows_N))
    found = 0
    queries = single_ND[:: max(1, len(rows_N) // 100)]
    for query_D in queries:
        rows, similarities = built.search(query_D, k)
        assert len(rows) == len(similarities) >= k, "there are k rows, so k are returned"
        assert len(np.unique(rows)) == len(rows), "no row is returned twice"
        assert (np.diff(similarities) <= 1e-6).all(), "best first"
        exact = single_ND[np.searchsorted(rows_N, rows)] @ query_D
        assert np.isin(rows, rows_N).all(), "only the numbers that it was given"
        if built.is_exact:
            assert len(rows) == k, "an exact index returns no candidates"
            assert np.allclose(similarities, exact, atol=1e-4), "it says that its similarities are exact"
        wanted = np.sort(single_ND @ query_D)[-k]
        found += min(int((exact >= wanted - 1e-4).sum()), k)
    assert found >= 0.95 * k * len(queries), f"recall@{k} of {found / k / len(queries):.3f} on structured data"


CHECKS: Mapping[str, Callable[..., None]] = {
    "buffer": check_storage,
    "index": check_index,
    "operation": check_operation,
    "reward": check_reward,
    "task": check_task,
    "voter": check_voter,
    **dict.fromkeys(KIND_OF_MODE.values(), check_run),
}
"""The check of every kind that has one."""


def _nonsense(properties: Mapping[str, Any], examples: Sequence[Mapping[str, object]]) -> Iterator[dict[str, object]]:
    """Each example, and no arguments at all, with one argument replaced by something that makes no sense."""
    yield {"no_such_argument": 1}
    for base in [{}, *examples]:
        for name in properties:
            for value in NONSENSE:
                yield {**copy.deepcopy(dict(base)), name: value}


def _scene_after(trajectory: Trajectory) -> Scene:
    scene = example_scene()
    for action in trajectory.actions:
        if action.view is not None:
            scene.add_view(scene.natives[0][:40, :40], 0, Transform())
    return scene


def _same_prompt(prompt: Prompt, other: Prompt) -> bool:
    same_images = len(prompt.images) == len(other.images) and all(map(np.array_equal, prompt.images, other.images))
    return same_images and (prompt.prompt_id, prompt.question, prompt.answer, prompt.difficulty) == (
        other.prompt_id,
        other.question,
        other.answer,
        other.difficulty,
    )


__all__ = [
    "CHECKS",
    "NONSENSE",
    "build",
    "check_index",
    "check_operation",
    "check_plugin",
    "check_reward",
    "check_run",
    "check_storage",
    "check_task",
    "check_voter",
    "example_scene",
    "run_operation",
]
