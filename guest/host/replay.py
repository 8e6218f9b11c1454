# SPDX-License-Identifier: MIT OR Apache-2.0
"""replay.py LOG IMAGE OFFSET SIZE FIRST STATES SEED [FORGET FROM TO] -- COMMAND...: what power failures would have left.

LOG is what the plugin of stores.c wrote. Only a line that was written back, or a store past the cache, is certain to be there, and
only once a fence of the same processor has followed; of all else any part may be. STATES moments are picked among the fences after
the stamp FIRST was first stored, and for each of them two states of the memory are written to IMAGE: the worst one, with nothing
that is not certain, and one with a part of what is not, cut at 8 bytes. COMMAND must succeed on each.

FORGET is the control: between those two bytes write-backs count for nothing, as in a driver that forgot them.
Prints how many states there were and how many the command refused; ends with 1 when it refused any."""
import random
import struct
import subprocess
import sys

LINE = 64
RECORD = struct.Struct("<BBHIQ16s")
ZERO_LINE = bytes(LINE)


class Memory:
    """Lines by number: what the processors see, and what is certain to outlive them."""

    def __init__(self, forget):
        self.seen = {}
        self.certain = {}
        self.waiting = {}  # by processor: what becomes certain at its next fence, in order
        self.dirty = set()
        self.forget = forget

    def forgotten(self, at):
        return self.forget[0] <= at < self.forget[1]

    def patch(self, lines, at, data):
        while data:
            number, within = divmod(at, LINE)
            part = data[: LINE - within]
            line = bytearray(lines.get(number, ZERO_LINE))
            line[within : within + len(part)] = part
            lines[number] = bytes(line)
            at, data = at + len(part), data[len(part) :]

    def store(self, cpu, at, data, past_the_cache):
        self.patch(self.seen, at, data)
        self.dirty.update((at // LINE, (at + len(data) - 1) // LINE))
        if past_the_cache and not self.forgotten(at):
            self.waiting.setdefault(cpu, []).append((at, data))

    def write_back(self, cpu, at):
        if not self.forgotten(at):
            self.waiting.setdefault(cpu, []).append((at, self.seen.get(at // LINE, ZERO_LINE)))

    def fence(self, cpu):
        for at, data in self.waiting.pop(cpu, ()):
            self.patch(self.certain, at, data)
            for number in {at // LINE, (at + len(data) - 1) // LINE}:
                if self.certain[number] == self.seen.get(number):
                    self.dirty.discard(number)

    def some_of_it(self, dice):
        """What is certain, and a part of the rest."""
        lines = {}
        for number in sorted(self.dirty):
            old, new = self.certain.get(number, ZERO_LINE), self.seen[number]
            words = [dice.choice((old, new))[at : at + 8] for at in range(0, LINE, 8)]
            lines[number] = dice.choice((old, new, b"".join(words)))
        return lines


class Image:
    """A file that is brought to one state after another."""

    def __init__(self, path, offset, size):
        self.first, self.lines = offset // LINE, size // LINE
        self.file = open(path, "w+b")
        self.file.truncate(size)
        self.now = {}

    def become(self, *states):
        wanted = {}
        for state in states:
            wanted.update(state)
        for number in wanted.keys() | self.now.keys():
            line = wanted.get(number, ZERO_LINE)
            if self.first <= number < self.first + self.lines and self.now.get(number, ZERO_LINE) != line:
                self.file.seek((number - self.first) * LINE)
                self.file.write(line)
        self.file.flush()
        self.now = wanted


def records(path):
    with open(path, "rb") as log:
        while len(raw := log.read(RECORD.size)) == RECORD.size:
            kind, cpu, size, _, at, value = RECORD.unpack(raw)
            yield chr(kind), cpu, at, value[:size]


def main():
    split = sys.argv.index("--")
    command, (log, path, *numbers) = sys.argv[split + 1 :], sys.argv[1:split]
    offset, size, first, states, seed, *forget = (int(number, 0) for number in numbers)
    stamp = struct.pack("<Q", first)

    begun, moments, total = False, 0, []
    for kind, cpu, at, data in records(log):
        begun = begun or (kind in "SN" and data[:8] == stamp and offset <= at < offset + size)
        moments += begun and kind == "F"
    dice = random.Random(seed)
    picked = set(dice.sample(range(moments), min(states, moments)))

    memory, image = Memory(forget or (0, 0)), Image(path, offset, size)
    begun, moment, tried, refused = False, 0, 0, 0
    for kind, cpu, at, data in records(log):
        begun = begun or (kind in "SN" and data[:8] == stamp and offset <= at < offset + size)
        if kind in "SN":
            memory.store(cpu, at, data, kind == "N")
        elif kind == "L":
            memory.write_back(cpu, at)
        elif kind == "F":
            if begun and moment in picked:
                for state in ((memory.certain,), (memory.certain, memory.some_of_it(dice))):
                    image.become(*state)
                    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
                    tried += 1
                    refused += out.returncode != 0
                    if out.returncode != 0 and refused <= 3:
                        print(f"before fence {moment}:", out.stdout.decode(errors="replace")[-600:])
            moment += begun
            memory.fence(cpu)
    print(f"{moments} fences, {tried} states tried, {refused} refused")
    sys.exit(refused > 0 or tried == 0)


main()
