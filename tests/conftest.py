"""No test here may fail because a machine is slow; the longest run only when asked.

`make test` runs two files at a time (pytest-xdist), those that train first.
"""

import os

import pytest
from hypothesis import settings

from tools import ROOT
from tools.run import kernels, runner

FIRST = ("test_course", "test_robustness_kill")  # minutes each
for name in [name for name in os.environ if name.startswith("COURSE_")]:
    del os.environ[name]  # the settings of whoever runs the tests
if "PYTEST_XDIST_WORKER" in os.environ:  # two trainings with as many threads as cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # would wait for each other

settings.register_profile("course", deadline=None)
settings.load_profile("course")


def pytest_configure(config):
    slow = "slow: a longer version of another test; run them with -m slow"
    config.addinivalue_line("markers", slow)


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.module.__name__ not in FIRST)
    if not config.option.markexpr:
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="run with -m slow"))


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory):
    """A process that has imported Unsloth, from which tests fork their kernels."""
    home = tmp_path_factory.mktemp("preloaded")
    environ = runner.kernel_environment(home, offline=True)
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    with kernels.Preloaded(environ) as found:
        assert found.ready()
        yield found
