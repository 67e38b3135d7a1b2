# SPDX-License-Identifier: Apache-2.0
"""What is installed is what is in the repository: a module once was not listed for the build."""

from pathlib import Path

import tutti_kv

SOURCES = Path(__file__).resolve().parents[2] / "python" / "tutti_kv"


def test_every_module_is_installed() -> None:
    installed = {path.name for path in Path(tutti_kv.__file__).parent.iterdir()}
    written = {path.name for path in SOURCES.iterdir() if path.suffix in (".py", ".pyi", ".typed")}
    assert written
    assert written <= installed
