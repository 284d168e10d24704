"""Fixtures of the system tests, for packages."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from system.conftest import (bench, directory, pytest_runtest_call,  # noqa: E402, F401
                             pytest_runtest_makereport, pytest_sessionfinish)
