"""The README's recipes: what a row runs is cut out of the table there, not typed again."""

import re


def read(readme):
    """By server, the commands of its recipe: that of the second column, and then those in the third."""
    found = {}
    section = readme.split("\n## Recipes\n", 1)[1].split("\n### ", 1)[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("| ") or len(cells) < 3:
            continue
        commands = re.findall(r"`([^`]+)`", cells[1])
        commands += [f"hotswap {c}" for c in re.findall(r"`(-[^`]* -- [^`]+)`", cells[2])]
        if commands:
            found[cells[0]] = commands
    return found


def command(recipes, name, changes):
    """The recipe `name`, or its further one `name/2`, with what must be different in a directory for a trial."""
    server, _, number = name.partition("/")
    line = recipes[server][int(number or 1) - 1]
    for old, new in changes:
        if old not in line:
            raise KeyError(f"{old!r} is not in the README's recipe for {server}: {line}")
        line = line.replace(old, new)
    return line
