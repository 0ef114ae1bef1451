"""The recipes: what a row runs is cut out of the table in tests/servers/README.md, not typed again."""

import re


def read(text):
    """The commands by the server's name: that of the second column, and as `name/2` and so on those in the third."""
    found = {}
    section = text.split("\n## Commands\n", 1)[1].split("\n## ", 1)[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("| ") or len(cells) < 3:
            continue
        commands = re.findall(r"`([^`]+)`", cells[1])
        commands += [f"hotswap {c}" for c in re.findall(r"`(-[^`]* -- [^`]+)`", cells[2])]
        for number, command in enumerate(commands, 1):
            found[cells[0] if number == 1 else f"{cells[0]}/{number}"] = command
    return found


def command(recipes, name, changes):
    """The recipe of that name, with what must be different in a directory for a trial."""
    line = recipes[name]
    for old, new in changes:
        if old not in line:
            raise KeyError(f"{old!r} is not in the recipe for {name}: {line}")
        line = line.replace(old, new)
    return line
