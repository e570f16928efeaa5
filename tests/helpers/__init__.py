"""Shared by the tests: programs started in other processes, runs read back, folders written."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "data"
