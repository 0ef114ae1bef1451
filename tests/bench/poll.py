"""A tree without file events: how long until a change is heard, and what a minute at rest costs.

python3 tests/bench/poll.py HOTSWAP FILES POLL, such as: target/release/hotswap 50000 1s
"""

import os
import random
import subprocess
import sys
import tempfile
import time

PER_DIRECTORY = 20
AT_REST = 30
CHANGES = 8
NO_INOTIFY = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'


def until(condition):
    since = time.time()
    while not condition():
        assert time.time() < since + 60, "nothing was said for a minute"
        time.sleep(0.005)
    return time.time() - since


with tempfile.TemporaryDirectory() as home:
    program, count, poll = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    files = [f"{home}/src/{one // PER_DIRECTORY}/{one}.py" for one in range(count)]
    for path in files:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(path)
    log = f"{home}/log"
    options = ["--watch", f"{home}/src", "--poll", poll, "--control", f"{home}/control.sock"]
    line = ["unshare", "-Ur", "sh", "-c", NO_INOTIFY, "sh", program, *options, "--ready", "after:100ms"]
    with open(log, "wb") as stderr:
        hotswap = subprocess.Popen([*line, "--", "sleep", "1000"], stderr=stderr)

    def said(what):
        with open(log) as file:
            return file.read().count(what)

    def processor():
        with open(f"/proc/{hotswap.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    try:
        first = until(lambda: said("watching "))
        time.sleep(3)
        before, since = processor(), time.time()
        time.sleep(AT_REST)
        a_minute = (processor() - before) / (time.time() - since) * 60
        heard = []
        for change in range(CHANGES):
            time.sleep(random.uniform(2, 4))
            changes = said(" changed")
            with open(random.choice(files), "w") as file:
                file.write(str(change))
            heard.append(until(lambda: said(" changed") > changes))
    finally:
        hotswap.terminate()
        hotswap.wait()
    heard.sort()
    print(
        f"{count} files, --poll {poll}: first look {first:.1f} s; a change is heard after {heard[0]:.2f} to"
        f" {heard[-1]:.2f} s, median {heard[len(heard) // 2]:.2f} s; {a_minute:.1f} s of a processor a minute"
    )
