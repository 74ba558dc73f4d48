"""The file of exact versions: it meets pyproject.toml, and is what the tests ran with."""

import re
import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from support.jobs import ROOT

LOCK = ROOT / "requirements" / "cpu.lock"
NOT_FOR_CPUS = {"torchvision", "torchaudio", "torchcodec", "triton"}  # `make setup` removes them


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    pins = [re.fullmatch(r"([\w.-]+)==(\S+)", line) for line in lines]
    assert all(pins), "a line that is no exact version"
    return {plain(pin[1]): pin[2] for pin in pins if pin}


def asked_for() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    chosen = [extras[name] for name in ("cpu", "test", "docs", "gym")]
    return [Requirement(one) for one in sum(chosen, project["dependencies"])]


def test_every_version_that_the_project_asks_for_is_met():
    pins = locked()
    for one in asked_for():
        found = pins.get(plain(one.name))
        assert found, f"{one.name} is not in {LOCK.name}; run `make lock`"
        assert one.specifier.contains(found), f"{one} is not met by {found}; run `make lock`"
    assert not NOT_FOR_CPUS & pins.keys()
    makefile = (ROOT / "Makefile").read_text()
    for name, wanted in re.findall(r"([\w-]+)==([\w.+]+)", makefile):
        assert pins[plain(name)] == wanted, f"the Makefile has {name} {wanted}; run `make lock`"


def test_the_environment_is_the_locked_one():
    """An environment that was resolved later has other versions of what no line pins."""
    pins = locked()
    exact = {plain(one.name) for one in asked_for() if str(one.specifier).startswith("==")}
    others = {name: (pins[name], version(name)) for name in pins if version(name) != pins[name]}
    assert not exact & others.keys(), others
    if others:
        told = ", ".join(f"{name} {now} (locked {pin})" for name, (pin, now) in others.items())
        pytest.skip(f"this environment is newer than {LOCK.name}: {told}")
