"""No test here may fail because a machine is slow; the longest run only when asked."""

import pytest
from hypothesis import settings

settings.register_profile("course", deadline=None)
settings.load_profile("course")


def pytest_configure(config):
    slow = "slow: a longer version of another test; run them with -m slow"
    config.addinivalue_line("markers", slow)


def pytest_collection_modifyitems(config, items):
    if not config.option.markexpr:
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="run with -m slow"))
