"""What is shipped: every data file, nothing of the tests, one version, a README whose links lead somewhere."""

import configparser
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from planner import __version__

ROOT = Path(__file__).parents[1]
PACKAGES = ("formulations", "planner", "profiles", "simulator", "traces")
DATA = (".json", ".yaml", ".csv")


def sources(*endings):
    """Files of the packages, as in a clean checkout."""
    found = [file for package in PACKAGES for file in (ROOT / package).rglob("*")]
    return {
        file.relative_to(ROOT).as_posix()
        for file in found
        if file.suffix in endings and "__pycache__" not in file.parts
    }


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """Names of the files that setuptools puts into a wheel."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("needs setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "checkout"
    for package in (*PACKAGES, "tests/golden"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "tests" / "__init__.py").touch()
    for name in ("cli.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout / name)
    done = subprocess.run(
        [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q",
         "build", "--build-lib", str(folder / "lib")],
        cwd=checkout, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lib = folder / "lib"
    return {file.relative_to(lib).as_posix() for file in lib.rglob("*") if file.is_file()}


def test_every_module_and_data_file_is_shipped_and_nothing_else(shipped):
    expected = sources(".py", *DATA) | {"cli.py"}
    assert {"planner/answer.schema.json", "traces/samples/chat.csv"} < expected
    assert shipped == expected


def test_the_command_and_the_version_are_declared_once():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["version"] == "attr: planner.__version__"
    assert config["options.entry_points"]["console_scripts"].strip() == "zenith = cli:main"
    assert CliRunner().invoke(main, ["--version"]).stdout == f"zenith, version {__version__}\n"


def test_the_version_is_the_newest_of_the_changelog():
    headings = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == __version__
    assert headings == sorted(headings, key=lambda text: [int(n) for n in text.split(".")], reverse=True)


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))]
)
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", (ROOT / page).read_text())
    missing = [link for link in links if "://" not in link and not ((ROOT / page).parent / link).exists()]
    assert not missing


def test_the_readme_links_every_page():
    readme = (ROOT / "README.md").read_text()
    for file in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{file.name})" in readme
