"""Prints the lowest versions that pyproject.toml allows, as constraints for pip.

python .ci/lowest.py > constraints.txt
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = {name: needed for name, needed in project["optional-dependencies"].items() if name != "dev"}
for requirement in [*project["dependencies"], *(r for needed in extras.values() for r in needed)]:
    lowest = re.match(r"([\w-]+)>=([\d.]+)", requirement)
    if lowest is not None:
        print("==".join(lowest.groups()))
