"""Fails on Python files over 500 lines and functions over 60 (a recipe's `main`: 150).

python .ci/check_size.py [ROOT]
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FILE, MAX_FUNCTION, MAX_RECIPE_MAIN = 500, 60, 150
FOLDERS = ("lm_audio", "tokenizers", "recipes")


def oversized(root: Path) -> Iterator[str]:
    """One line for each file or function that is too long."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            text, name = path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()
            num_lines = len(text.splitlines())
            if num_lines > MAX_FILE:
                yield f"{name}: {num_lines} lines, the limit is {MAX_FILE}"
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    is_main = folder == "recipes" and node.name == "main"
                    limit = MAX_RECIPE_MAIN if is_main else MAX_FUNCTION
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > limit:
                        where = f"{name}:{node.lineno}: {node.name}"
                        yield f"{where} has {length} lines, the limit is {limit}"


if __name__ == "__main__":
    found = list(oversized(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]))
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
