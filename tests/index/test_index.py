"""What the indexes promise beyond the contract: calibration, refusals, a choice that is told."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from share.kernel.errors import IndexUnavailable
from share.kernel.index.auto import Auto, AutoConfig
from share.kernel.index.built import load_faiss
from share.kernel.index.flat import Flat, FlatConfig
from share.kernel.index.ivf import Ivf, IvfConfig, probes_up_to
from share.kernel.index.ivfpq import Ivfpq, IvfpqConfig
from share.kernel.index.sketch import SketchBuilder, SketchConfig


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float16]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def blobs(num: int, dimension: int = 64) -> NDArray[np.float16]:
    random = np.random.default_rng(0)
    return unit(
        random.normal(size=(40, dimension))[random.integers(0, 40, num)] + 0.2 * random.normal(size=(num, dimension))
    )


def noise(num: int, dimension: int = 64) -> NDArray[np.float16]:
    return unit(np.random.default_rng(0).normal(size=(num, dimension)))


def test_inverted_lists_say_the_recall_that_was_measured() -> None:
    structured = Ivf(IvfConfig()).build(blobs(6000), np.arange(6000))
    formless = Ivf(IvfConfig()).build(noise(6000), np.arange(6000))
    assert structured.recall is not None
    assert formless.recall is not None
    assert structured.recall > 0.99
    assert formless.recall < structured.recall
    assert formless.effort.probes > structured.effort.probes
    loaded = Ivf(IvfConfig()).load(memoryview(structured.save()))
    assert (loaded.recall, loaded.effort) == (structured.recall, structured.effort)


def test_the_choice_is_made_by_size_and_structure_and_is_told() -> None:
    auto = Auto(AutoConfig())
    for vectors, chosen, is_exact in (
        (blobs(300), "flat: 300 rows", True),
        (blobs(5000, 400), "ivf: 5000 rows, recall@10", False),
        (noise(6000, 256), "flat: 6000 rows, recall@10 of ivf only", True),
    ):
        built = auto.build(vectors, np.arange(len(vectors)))
        assert auto.chosen.startswith(chosen)
        assert built.is_exact == is_exact
        loaded = auto.load(memoryview(built.save()))
        query = vectors[7].astype(np.float32)
        assert loaded.is_exact == is_exact
        assert np.array_equal(loaded.search(query, 5)[0], built.search(query, 5)[0])


@pytest.mark.skipif(
    hasattr(load_faiss(), "StandardGpuResources") and load_faiss().get_num_gpus() > 0, reason="there is a GPU here"
)
def test_a_gpu_that_is_not_there_is_refused_with_the_remedy() -> None:
    for index in (Flat(FlatConfig(device="gpu")), Ivf(IvfConfig(device="gpu"))):
        with pytest.raises(IndexUnavailable, match=r"device: 'gpu'.*pixelis\[gpu\].*device=cpu"):
            index.build(blobs(500), np.arange(500))
    kept = Flat(FlatConfig()).build(blobs(500), np.arange(500)).save()
    with pytest.raises(IndexUnavailable, match="device: 'gpu'"):
        Flat(FlatConfig(device="gpu")).load(memoryview(kept))


@pytest.mark.gpu
def test_on_a_gpu_it_finds_what_the_cpu_finds() -> None:
    vectors = blobs(6000)
    for on_gpu in (Flat(FlatConfig(device="gpu")), Ivf(IvfConfig(device="gpu"))):
        built = on_gpu.build(vectors, np.arange(6000))
        loaded = on_gpu.load(memoryview(built.save()))
        exact = Flat(FlatConfig()).build(vectors, np.arange(6000))
        for query in vectors[:50].astype(np.float32):
            wanted = set(exact.search(query, 10)[0].tolist())
            assert len(wanted & set(built.search(query, 10)[0].tolist())) >= 8
            assert len(wanted & set(loaded.search(query, 10)[0].tolist())) >= 8


def test_too_few_rows_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(IndexUnavailable, match="500 rows are too few, this index needs 1024"):
        Ivfpq(IvfpqConfig()).build(blobs(500), np.arange(500))
    with pytest.raises(IndexUnavailable, match="0 rows"):
        Flat(FlatConfig()).build(blobs(500)[:0], np.arange(0))
    with pytest.raises(IndexUnavailable, match="400 row numbers"):
        Flat(FlatConfig()).build(blobs(500), np.arange(400))


def test_an_index_of_another_kind_is_named() -> None:
    kept = Flat(FlatConfig()).build(blobs(50), np.arange(50)).save()
    with pytest.raises(IndexUnavailable, match="of kind 'flat', not ivf"):
        Ivf(IvfConfig()).load(memoryview(kept))
    with pytest.raises(IndexUnavailable, match="of kind 'flat', not sketch"):
        SketchBuilder(SketchConfig()).load(memoryview(kept))


def test_efforts_grow_and_stay_within_the_lists() -> None:
    assert probes_up_to(1) == [1]
    assert probes_up_to(100) == [1, 2, 3, 4, 6, 8, 12, 16, 24]
    assert probes_up_to(1000)[-1] == 192
