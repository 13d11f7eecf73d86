"""The slab: tensors come out as they went in, and slots are used again only when nobody can be reading them."""

from __future__ import annotations

import gc
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from share.kernel.errors import SlabFull, TensorTooLarge, TransportError
from share.kernel.transport.memory import SharedMemoryInfo, SharedMemoryManager, SharedMemoryReconstructor
from share.kernel.transport.slab import Slab

DTYPES = [
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
]


class TickingClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def manager() -> Iterator[SharedMemoryManager]:
    manager = SharedMemoryManager(num_slots=4, slot_bytes=4096)
    yield manager
    manager.close()


@pytest.fixture(scope="module", autouse=True)
def no_slab_is_left_open() -> Iterator[None]:
    before = open_slabs()
    yield
    gc.collect()  # a mapping goes with the last tensor that shows it
    assert open_slabs() == before


def open_slabs() -> int:
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum("pixelis-slab" in link for link in links)


def random_tensor(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Random bits, so not-a-numbers of every kind among them; a bool has only two values."""
    generator = torch.Generator().manual_seed(7)
    high = 2 if dtype is torch.bool else 256
    last = shape[-1] * dtype.itemsize
    return torch.randint(0, high, (*shape[:-1], last), dtype=torch.uint8, generator=generator).view(dtype)


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def both_ends(manager: SharedMemoryManager, info: SharedMemoryInfo) -> list[torch.Tensor]:
    reconstructor = SharedMemoryReconstructor(manager.fd, manager.slot_bytes)
    return [manager.reconstruct_tensor(info), reconstructor.reconstruct_tensor_from_info(info)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_tensor_comes_out_bit_by_bit_as_it_went_in(manager: SharedMemoryManager, dtype: torch.dtype) -> None:
    tensor = random_tensor(dtype, 3, 5, 8)
    for given_tensor in (tensor, tensor.transpose(0, 2), tensor[:, ::2, 1:6:3], tensor[1, 2, 3], tensor[:, :0]):
        info = manager.create_shared_tensor(given_tensor)
        for seen in both_ends(manager, info):
            assert seen.dtype == dtype
            assert seen.shape == given_tensor.shape
            assert bits(seen) == bits(given_tensor)
        assert info.size_bytes == given_tensor.numel() * dtype.itemsize
        manager.mark_cleaned(info.name)


@given(shape=st.lists(st.integers(0, 6), max_size=4), seed=st.integers(0, 1000))
def test_any_permuted_strided_shape_survives(shape: list[int], seed: int) -> None:
    manager = SharedMemoryManager(num_slots=3, slot_bytes=4096)
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn([2 * size for size in shape], generator=generator)
    tensor = tensor.permute(torch.randperm(len(shape), generator=generator).tolist())[
        (slice(None, None, 2),) * len(shape)
    ]
    seen = manager.reconstruct_tensor(manager.create_shared_tensor(tensor))
    assert seen.shape == tensor.shape
    assert torch.equal(seen, tensor)
    manager.close()


@pytest.mark.parametrize("size", [65_536, 65_537, 524_288, 524_289, 1_500_000])
def test_a_tensor_of_several_pieces_arrives_whole_and_is_checked_to_its_end(size: int) -> None:
    manager = SharedMemoryManager(num_slots=1, slot_bytes=1_500_000)
    tensor = random_tensor(torch.uint8, size)
    info = manager.create_shared_tensor(tensor)
    assert info.checksum == xxhash.xxh3_64_intdigest(bits(tensor))
    seen = manager.reconstruct_tensor(info)
    assert torch.equal(seen, tensor)
    seen[-1] ^= 1
    with pytest.raises(TransportError, match="not those that were put in"):
        manager.reconstruct_tensor(info)
    manager.close()


def test_a_conjugated_view_and_one_with_gradients_are_shared_by_value(manager: SharedMemoryManager) -> None:
    number = torch.tensor([1 + 2j, 3 - 4j]).conj()
    weight = torch.nn.Parameter(torch.ones(3))
    assert manager.reconstruct_tensor(manager.create_shared_tensor(number)).tolist() == [1 - 2j, 3 + 4j]
    assert manager.reconstruct_tensor(manager.create_shared_tensor(weight)).tolist() == [1.0, 1.0, 1.0]


def test_weights_that_do_not_lie_in_a_row_are_shared_without_their_gradients(manager: SharedMemoryManager) -> None:
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    infos = [manager.create_shared_tensor(tensor) for tensor in (weight.T, weight.to(torch.complex64).mH, weight[:, 1])]
    seen = [tensor for info in infos for tensor in both_ends(manager, info)]
    assert [tensor.real.tolist() for tensor in seen[::2]] == [
        [[0, 3], [1, 4], [2, 5]],
        [[0, 3], [1, 4], [2, 5]],
        [1, 4],
    ]
    assert not any(tensor.requires_grad for tensor in seen)


def test_a_sparse_tensor_is_refused(manager: SharedMemoryManager) -> None:
    with pytest.raises(TransportError, match="make it dense first"):
        manager.create_shared_tensor(torch.eye(3).to_sparse())
    assert manager.get_status().free_slots == 4


def test_a_large_tensor_takes_neighboring_slots(manager: SharedMemoryManager) -> None:
    small = manager.create_shared_tensor(torch.zeros(1))
    large = manager.create_shared_tensor(random_tensor(torch.uint8, 3 * 4096))
    assert (small.slot, large.slot) == (0, 1)
    manager.mark_cleaned(small.name)
    assert manager.get_status().written_slots == 3
    with pytest.raises(SlabFull, match="no 2 neighboring slots of 4096 bytes are free"):
        manager.create_shared_tensor(torch.zeros(4097, dtype=torch.uint8))
    with pytest.raises(TensorTooLarge, match="raise num_slots or slot_bytes"):
        manager.create_shared_tensor(torch.zeros(4 * 4096 + 1, dtype=torch.uint8))


def test_a_slot_that_is_used_again_has_another_name(manager: SharedMemoryManager) -> None:
    first = manager.create_shared_tensor(torch.tensor([1.0]))
    manager.mark_cleaned(first.name)
    second = manager.create_shared_tensor(torch.tensor([2.0]))
    assert first.slot == second.slot
    assert second.generation == first.generation + 1
    manager.mark_cleaned(first.name)  # a confirmation that comes late frees nobody else's slot
    assert manager.reconstruct_tensor(second).tolist() == [2.0]
    with pytest.raises(TransportError, match="was cleaned up"):
        manager.reconstruct_tensor(first)


def test_changed_bytes_are_found_by_both_ends(manager: SharedMemoryManager) -> None:
    info = manager.create_shared_tensor(torch.arange(10))
    manager.reconstruct_tensor(info)[3] += 1
    with pytest.raises(TransportError, match="not those that were put in"):
        both_ends(manager, info)
    with pytest.raises(TransportError, match="not those that were put in"):
        SharedMemoryReconstructor(manager.fd, manager.slot_bytes).reconstruct_tensor_from_info(info)


def test_wherever_a_byte_changes_and_whichever_blocks_are_swapped_it_is_found() -> None:
    manager = SharedMemoryManager(num_slots=1, slot_bytes=200_000)
    tensor = random_tensor(torch.uint8, 150_000)
    info = manager.create_shared_tensor(tensor)
    seen = manager.reconstruct_tensor(info)
    for place in (0, 32_767, 32_768, 100_000, 131_071, 131_072, 149_999):
        seen[place] ^= 1
        with pytest.raises(TransportError, match="not those that were put in"):
            manager.reconstruct_tensor(info)
        seen[place] ^= 1
    for distance in (1, 2, 8, 64, 4096, 65_536):
        seen[:8192], seen[distance : distance + 8192] = tensor[distance : distance + 8192], tensor[:8192]
        with pytest.raises(TransportError, match="not those that were put in"):
            manager.reconstruct_tensor(info)
        seen.copy_(tensor)
    seen[65_536:].zero_()
    with pytest.raises(TransportError, match="not those that were put in"):
        manager.reconstruct_tensor(info)
    seen.copy_(tensor)
    seen[8:16], seen[16:24] = tensor[16:24], tensor[8:16]  # two neighboring words change places
    with pytest.raises(TransportError, match="not those that were put in"):
        manager.reconstruct_tensor(info)
    seen.copy_(tensor)
    assert torch.equal(manager.reconstruct_tensor(info), tensor)
    manager.close()


def test_only_the_engine_can_write_to_the_slab(manager: SharedMemoryManager) -> None:
    with pytest.raises(PermissionError):
        mmap.mmap(manager.fd, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def test_the_reader_copies_nothing(manager: SharedMemoryManager) -> None:
    reconstructor = SharedMemoryReconstructor(manager.fd, manager.slot_bytes)
    infos = [manager.create_shared_tensor(torch.zeros(8)) for _ in range(2)]
    first, second = (reconstructor.reconstruct_tensor_from_info(info) for info in infos)
    assert second.data_ptr() - first.data_ptr() == manager.slot_bytes


def test_what_a_living_worker_may_read_is_never_stale() -> None:
    clock = TickingClock()
    manager = SharedMemoryManager(60.0, num_slots=4, slot_bytes=4096, clock=clock)
    written, sent, kept, _ = (manager.create_shared_tensor(torch.zeros(1)).name for _ in range(4))
    manager.mark_sent(sent)
    manager.keep(kept)
    clock.now = 59.0
    assert manager.cleanup_stale_segments(worker_alive=False) == []
    clock.now = 61.0
    assert written in manager.cleanup_stale_segments(worker_alive=True)
    assert manager.cleanup_stale_segments(worker_alive=True) == []
    assert manager.cleanup_stale_segments(worker_alive=False) == [sent]
    assert manager.get_status().written_slots == 1
    assert manager.get_status().tensors_stale == 3
    manager.close()


def test_the_status_counts_slots_by_state(manager: SharedMemoryManager) -> None:
    infos = [manager.create_shared_tensor(torch.zeros(1)) for _ in range(3)]
    manager.mark_sent(infos[0].name)
    manager.mark_sent(infos[1].name)
    manager.mark_written(infos[1].name)
    manager.mark_cleaned(infos[2].name)
    status = manager.get_status()
    assert (status.free_slots, status.written_slots, status.sent_slots) == (2, 1, 1)
    assert (status.tensors, status.tensors_created, status.tensors_cleaned) == (2, 3, 1)
    assert infos[0].age_seconds() >= 0.0


def test_a_closed_slab_takes_nothing(manager: SharedMemoryManager) -> None:
    manager.close()
    manager.close()
    with pytest.raises(TransportError, match="closed"):
        manager.create_shared_tensor(torch.zeros(1))


def test_a_slab_that_is_closed_while_a_tensor_comes_is_not_written_to() -> None:
    slab = Slab(4096)
    slab.close()
    with pytest.raises(TransportError, match="closed"):
        slab.put(torch.zeros(1), 0)
