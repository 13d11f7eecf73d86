"""A fresh environment with real wheels: one that works, made by `new-plugin`, and six that misbehave in seven ways."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from share.kernel.testing import example_scene
from tests.kernel.wheels import install, operation_plugin

ROOT = Path(__file__).parent.parent.parent

OPERATION = '''
"""An operation that misbehaves when it runs."""
from __future__ import annotations

import time

from share.kernel import ConfigModel


class Config(ConfigModel):
    pass


class Arguments(ConfigModel):
    size: int = 1
    """Nothing"""


class Operation:
    """Does not do what an operation does."""

    Arguments = Arguments

    def __init__(self, config: Config) -> None:
        pass

    def run(self, scene, arguments, /):
        {body}
'''

MISBEHAVING = {
    "raises": "raise KeyError('inside the operation')",
    "wrong-type": "return 'not an OperationResult'",
    "sleeps": "time.sleep(30)",
}


@dataclass(frozen=True)
class Environment:
    """A virtual environment beside Pixelis; `photo` is an image of 128 x 96 pixels."""

    python: Path
    project: Path
    photo: Path

    def run(self, *argv: str, check: bool = False, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.python, *argv], capture_output=True, text=True, check=check, cwd=cwd, timeout=500)

    def kernel(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "share.kernel", *argv)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    root = tmp_path_factory.mktemp("plugins")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True)
    python = root / "venv" / "bin" / "python"
    # What Pixelis needs is taken from the environment that the tests run in; installing it again takes minutes.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    parent = sysconfig.get_paths()["purelib"]
    shared = root / "venv" / "lib" / version / "site-packages" / "parent.pth"
    shared.write_text(f"import site; site.addsitedir({parent!r})\n")

    project = root / "pixelis-brightness"
    command = [python, "-m", "share.kernel", "new-plugin", project, "--operation", "BRIGHTNESS"]
    subprocess.run(command, check=True, capture_output=True)
    wheels = root / "wheels"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, project], check=True)
    build_misbehaving(root / "build", wheels)
    built = sorted(wheels.glob("*.whl"))
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", *built], check=True)

    Image.fromarray(example_scene().natives[0]).save(root / "photo.png")
    return Environment(python, project, root / "photo.png")


def build_misbehaving(build: Path, wheels: Path) -> None:
    def wheel(distribution: str, files: dict[str, str], entry_point: str, module: str) -> None:
        site = build / distribution
        install(site, distribution, files, {entry_point: module}, version="0.2")
        pack(site, wheels / f"{distribution.replace('-', '_')}-0.2-py3-none-any.whl")

    wheel("import-fails", {"import_fails.py": "import no_such_module"}, "import-fails", "import_fails")
    wheel("name-taken", {"name_taken.py": operation_plugin("READ_TEXT", "a:b")}, "name-taken", "name_taken")
    newer = "pixelis_hook_api = 99\n" + operation_plugin("NEWER", "a:b")
    wheel("newer-api", {"newer_api.py": newer}, "newer-api", "newer_api")
    for number, (name, body) in enumerate(MISBEHAVING.items()):
        module = name.replace("-", "_")
        files = {
            f"{module}/__init__.py": "",
            f"{module}/plugin.py": operation_plugin(module.upper(), f"{module}.operation:Operation"),
            f"{module}/operation.py": OPERATION.replace("{body}", body),
        }
        # Two of them share the name of their entry point, with each other and with one of Pixelis.
        wheel(name, files, "operation" if number < 2 else name, f"{module}.plugin")


def pack(site: Path, wheel: Path) -> None:
    """Make the installed tree below `site` a wheel file."""
    (info,) = site.glob("*.dist-info")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    files = sorted(path for path in site.rglob("*") if path.is_file())
    (info / "RECORD").write_text("".join(f"{path.relative_to(site)},,\n" for path in files))
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(site))
