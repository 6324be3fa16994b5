"""Prints the lowest versions that pyproject.toml allows, as constraints for pip.

python .ci/lowest.py > constraints.txt
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = {name: needed for name, needed in project["optional-dependencies"].items() if name != "dev"}
lowest = re.compile(r"([\w-]+)>=([\d.]+)")
found = (lowest.match(r) for needed in [project["dependencies"], *extras.values()] for r in needed)
print(*sorted({"==".join(match.groups()) for match in found if match is not None}), sep="\n")
