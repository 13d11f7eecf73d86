"""The registry finds what is installed, and one wheel never harms another."""

from __future__ import annotations

from pathlib import Path

import pytest

from share.kernel.config import Choice
from share.kernel.errors import DuplicatePlugin, PluginLoadError, UnknownPlugin
from share.kernel.registry import Registry, load_registry
from tests.kernel.wheels import BROKEN, install, operation_plugin

GOOD = """
    from share.kernel import ConfigModel

    class GoodConfig(ConfigModel):
        size: int = 3

    class Good:
        def __init__(self, config: GoodConfig) -> None:
            self.config = config
"""


def install_good(site: Path, distribution: str = "good", name: str = "GOOD", module: str = "good") -> None:
    files = {f"{module}/plugin.py": operation_plugin(name, f"{module}.good:Good"), f"{module}/good.py": GOOD}
    install(site, distribution, files, {module: f"{module}.plugin"})


def reasons(registry: Registry) -> dict[str, str]:
    return {plugin.distribution: plugin.reason for plugin in registry.broken}


def test_a_backend_is_found_built_and_known_by_its_origin(site: Path) -> None:
    install_good(site)
    registry = load_registry()
    assert "GOOD" in registry.names("operation")
    assert registry.build(Choice("operation", "GOOD")).config.size == 3
    plugin = registry.origin("operation", "GOOD").plugin
    assert (plugin.distribution, plugin.version, plugin.state) == ("good", "1.0", "ok")
    assert plugin.file == str(site / "good/plugin.py")


def test_an_unknown_name_is_answered_with_the_nearest(site: Path) -> None:
    install_good(site)
    with pytest.raises(UnknownPlugin, match="no operation 'GOOOD'; did you mean 'GOOD'"):
        load_registry().get("operation", "GOOOD")


def test_a_kind_without_backends_says_so() -> None:
    with pytest.raises(UnknownPlugin, match="no backend of kind 'autolabeler' is installed yet"):
        load_registry().get("autolabeler", "model")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_plugin_that(kind: str, site: Path) -> None:
    """… is broken is named with distribution, version and reason, and felt by nobody else."""
    text, reason = BROKEN[kind]
    install(site, "broken-wheel", {"broken_wheel.py": text}, {"broken": "broken_wheel"}, version="0.7")
    install_good(site)
    registry = load_registry()
    assert "GOOD" in registry.names("operation")
    assert "ZOOM_IN" in registry.names("operation")
    assert reason in reasons(registry)["broken-wheel"]
    with pytest.raises(UnknownPlugin, match=r"broken-wheel 0\.7") as caught:
        registry.get("operation", "NOT_THERE")
    assert "\n" not in str(caught.value)


def test_a_missing_module_and_damaged_metadata_are_named(site: Path) -> None:
    install(site, "absent", {}, {"absent": "absent.plugin"})
    info = install(site, "damaged", {}, {"damaged": "damaged_plugin"})
    (info / "METADATA").write_bytes(b"\xff\xfe\x00 not metadata")
    info = install(site, "garbled", {}, {})
    (info / "entry_points.txt").write_text("[pixelis]\nno equals sign\n")
    install_good(site)
    registry = load_registry()
    assert reasons(registry)["absent"] == "ModuleNotFoundError: No module named 'absent'"
    for name in ("damaged", "garbled"):
        assert "its metadata cannot be read" in reasons(registry)[name]
    assert {plugin.version for plugin in registry.broken if plugin.distribution == "damaged"} == {"1.0"}
    assert "GOOD" in registry.names("operation")


def test_what_a_plugin_prints_is_not_in_a_listing_for_programs(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site, "chatty", {"chatty.py": "print('hello')\n" + operation_plugin("CHAT", "a:b")}, {"chatty": "chatty"})
    load_registry()
    assert capsys.readouterr() == ("", "hello\n")


def test_a_plugin_that_raises_midway_registers_nothing(site: Path) -> None:
    text = operation_plugin("HALF", "good.good:Good") + "\n    raise ValueError('midway')"
    install(site, "half", {"half.py": text}, {"half": "half"})
    registry = load_registry()
    assert "HALF" not in registry.names("operation")
    assert reasons(registry)["half"] == "ValueError: midway"


def test_two_origins_of_one_name_are_an_error_that_names_both_and_harms_no_other_name(site: Path) -> None:
    install_good(site, "first-wheel", "ZOOM_IN", "first_wheel")
    install_good(site, "second-wheel", "OTHER", "second_wheel")
    registry = load_registry()
    with pytest.raises(DuplicatePlugin, match=r"first-wheel 1\.0 .* and pixelis .*--block"):
        registry.get("operation", "ZOOM_IN")
    assert "ZOOM_IN" not in registry.names("operation")
    assert {"OTHER", "GET_PROPERTIES"} <= set(registry.names("operation"))
    assert "ZOOM_IN" in load_registry(block=["first-wheel"]).names("operation")


def test_two_distributions_may_name_their_entry_points_alike(site: Path) -> None:
    for distribution, name in (("one-wheel", "ONE"), ("two-wheel", "TWO")):
        module = distribution.replace("-", "_")
        files = {f"{module}/plugin.py": operation_plugin(name, f"{module}.good:Good"), f"{module}/good.py": GOOD}
        install(site, distribution, files, {"operation": f"{module}.plugin"})
    assert {"ONE", "TWO", "ZOOM_IN"} <= set(load_registry().names("operation"))


@pytest.mark.parametrize("name", ["marker-wheel", "Marker_Wheel", "marks", "marker-wheel:marks"])
def test_a_blocked_plugin_is_never_imported(name: str, site: Path) -> None:
    text = f"open({str(site / 'imported')!r}, 'w').close()\n" + operation_plugin("MARK", "a:b")
    install(site, "marker-wheel", {"marker_wheel.py": text}, {"marks": "marker_wheel"})
    registry = load_registry(block=[name])
    assert not (site / "imported").exists()
    assert [plugin.state for plugin in registry.plugins if plugin.distribution == "marker-wheel"] == ["blocked"]
    with pytest.raises(UnknownPlugin, match="blocked: marker-wheel"):
        registry.get("operation", "MARK")
    load_registry()
    assert (site / "imported").exists()


def test_with_only_what_is_ours_stays(site: Path) -> None:
    install_good(site)
    assert "GOOD" not in load_registry(only=()).names("operation")
    assert "ZOOM_IN" in load_registry(only=()).names("operation")
    assert "GOOD" in load_registry(only=("good",)).names("operation")


def test_a_missing_extra_is_a_state_with_its_remedy(site: Path) -> None:
    text = operation_plugin("HEAVY", "heavy.heavy:Heavy", extra="sam")
    install(site, "heavy", {"heavy.py": text}, {"heavy": "heavy"}, requires=("no-such-thing>=1; extra == 'sam'",))
    registry = load_registry()
    assert [plugin.state for plugin in registry.plugins if plugin.distribution == "heavy"] == ["missing extra"]
    assert "HEAVY" not in registry.names("operation")
    with pytest.raises(PluginLoadError, match=r"needs no-such-thing: pip install 'heavy\[sam\]'"):
        registry.get("operation", "HEAVY")


def test_a_target_that_cannot_be_used_is_named_with_its_distribution(site: Path) -> None:
    module = """
        from share.kernel import ConfigModel

        class Config(ConfigModel): ...

        class Raises:
            def __init__(self, config: Config) -> None:
                raise RuntimeError("in init")

        class Exits:
            def __init__(self, config: Config) -> None:
                raise SystemExit("in init")

        class Unannotated:
            def __init__(self, config): ...

        uncallable = 3
    """
    for name in ("Raises", "Exits", "Unannotated", "Absent", "uncallable", "script"):
        target = "script:main" if name == "script" else f"targets:{name}"
        files = {
            "targets.py": module,
            "script.py": "raise SystemExit(2)",
            f"p_{name}.py": operation_plugin(name, target),
        }
        install(site, f"wheel-{name.lower()}", files, {name: f"p_{name}"})
    registry = load_registry()
    for name, reason in {
        "Raises": "cannot be built: RuntimeError: in init",
        "Exits": "cannot be built: SystemExit: in init",
        "Unannotated": "must be annotated with the ConfigModel",
        "uncallable": "must be annotated with the ConfigModel",
        "Absent": "cannot be imported from targets:Absent",
        "script": "cannot be imported from script:main: SystemExit: 2",
    }.items():
        with pytest.raises(PluginLoadError, match=rf"wheel-{name.lower()} 1\.0.*{reason}"):
            registry.build(Choice("operation", name))
