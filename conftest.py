"""Every test has a cache folder of its own: none reads what another wrote, and none touches the user's."""

import itertools
import os
import tempfile

import pytest

_numbers = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    folder = tempfile.TemporaryDirectory(prefix="zenith-tests-")
    config.add_cleanup(folder.cleanup)
    config.stash[_FOLDER] = folder.name


_FOLDER = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    os.environ["XDG_CACHE_HOME"] = os.path.join(item.config.stash[_FOLDER], str(next(_numbers)))
