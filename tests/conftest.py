"""What every test stands on: no network, one thread, the installed registry; and the soak beside all of them."""

from __future__ import annotations

import os

import pytest

from share.kernel.registry import Registry, load_registry
from tests.online.soaking import Soaking

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


SOAK = "tests/online/test_soak.py"
_SOAKING = pytest.StashKey[Soaking]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The test that waits for the soak is the last one."""
    items.sort(key=lambda item: item.nodeid.startswith(SOAK))


def pytest_collection_finish(session: pytest.Session) -> None:
    """The soak begins before all other tests, when it is wanted at all, and goes on beside them."""
    is_wanted = any(item.nodeid.startswith(SOAK) for item in session.items)
    if is_wanted and not session.config.option.collectonly:
        session.config.stash[_SOAKING] = Soaking()


def pytest_unconfigure(config: pytest.Config) -> None:
    """However the session ended, nothing of it stays."""
    soaking = config.stash.get(_SOAKING, None)
    if soaking is not None:
        soaking.end()


@pytest.fixture(scope="session")
def soaking(pytestconfig: pytest.Config) -> Soaking:
    """The soak of this session."""
    return pytestconfig.stash[_SOAKING]
