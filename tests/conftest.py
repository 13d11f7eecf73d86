"""What every test stands on: no network, one thread, the installed registry."""

from __future__ import annotations

import os

import pytest

from share.kernel.registry import Registry, load_registry

# Before anything imports torch or huggingface_hub: on a busy machine two OpenMP threads are slower than one.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    MPLBACKEND="Agg",
)
for variable in [name for name in os.environ if name.startswith("PIXELIS_")]:
    del os.environ[variable]


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_registry()
