"""What every module of the package imports, read from its syntax tree.

Imports inside functions and under TYPE_CHECKING count like any other.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "adderc"


def modules(package=PACKAGE):
    """Dotted module name to its file, `adderc` itself included."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name, path, known):
    """The modules among `known` that module `name` imports, anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {longest(alias.name, known) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                base = ".".join(filter(None, [*parts[: len(parts) - node.level + 1], base]))
            for alias in node.names:
                if (base, alias.name) != ("adderc", "__version__"):
                    found.add(longest(f"{base}.{alias.name}", known))
    return found - {None, name}


def longest(dotted, known):
    """The longest prefix of a dotted name that is a module."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in known:
            return ".".join(parts[:end])
    return None


def graph(package=PACKAGE):
    """Module name to the set of the package's modules that it imports."""
    known = modules(package)
    return {name: imported(name, path, known) for name, path in known.items()}


def room(module):
    """`errors`, `format`, `lang`, …: the first name under the package; app_x belongs to app."""
    parts = module.split(".")
    if len(parts) == 1:
        return "adderc"
    return "app" if parts[1].startswith("app") or parts[1] == "__main__" else parts[1]
