#!/usr/bin/env python3
"""Of the cases that libFuzzer has merged, picks the few that reach most: fuzz/pick.py CONTROL_FILE FOLDER COUNT.

libFuzzer keeps a case for every place in the code, hundreds a target, most for one word of one message. A kept corpus is for
being replayed with every run of the tests, so of each target the cases are taken that together reach most places, one after the
other, the shorter of two equal ones; they are copied to FOLDER under the beginning of their SHA-256.
"""

import hashlib
import heapq
import sys
from pathlib import Path


def main():
    control, folder, count = sys.argv[1:]
    lines = Path(control).read_text(encoding="utf-8").splitlines()
    files = int(lines[0])
    paths = [Path(line) for line in lines[2:2 + files]]
    reached = {}
    for line in lines[2 + files:]:
        kind, *numbers = line.split()
        if kind == "FT":
            reached[int(numbers[0])] = set(numbers[1:])
    left = set().union(*reached.values())
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # What a case adds only shrinks: the first of the heap that is still worth what was thought is the best.
    heap = [(-len(places), paths[at].stat().st_size, at) for at, places in reached.items()]
    heapq.heapify(heap)
    picked = 0
    while heap and picked < int(count):
        thought, size, at = heapq.heappop(heap)
        worth = len(reached[at] & left)
        if worth < -thought:
            if worth:
                heapq.heappush(heap, (-worth, size, at))
            continue
        left -= reached[at]
        case = paths[at].read_bytes()
        (folder / hashlib.sha256(case).hexdigest()[:12]).write_bytes(case)
        picked += 1
    everything = len(set().union(*reached.values()))
    print(f"{folder}: {picked} cases reach {everything - len(left)} of {everything} places")


main()
