#!/usr/bin/env python3
"""Runs the demo on a pseudo terminal, kills the primary once, and writes what the screen showed (see record-demo.sh)."""

import argparse
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import time
from fcntl import ioctl
from html import escape
from termios import TIOCSWINSZ

COLUMNS, LINES = 80, 24
# Seconds: how long the recording shows the healthy cluster before the kill, and how long it shows the result.
BEFORE, AFTER = 4, 6
DEADLINE = 240


class Screen:
    """The few control sequences that demo.sh writes: clear, home, erase to the end of the line or of the screen."""

    def __init__(self):
        self.rows = [""] * LINES
        self.row = self.column = 0
        self.rest = ""

    def feed(self, text):
        text = self.rest + text
        self.rest = ""
        position = 0
        while position < len(text):
            character = text[position]
            if character == "\x1b":
                sequence = re.match(r"\x1b\[([0-9;?]*)([A-Za-z])", text[position:])
                if not sequence:
                    self.rest = text[position:]
                    return
                self.control(sequence.group(2), sequence.group(1))
                position += sequence.end()
                continue
            if character == "\n":
                self.row = min(self.row + 1, LINES - 1)
            elif character == "\r":
                self.column = 0
            elif character >= " ":
                row = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = row[: self.column] + character + row[self.column + 1 :]
                self.column += 1
            position += 1

    def control(self, letter, argument):
        if letter == "H":
            self.row = self.column = 0
        elif letter == "K":
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif letter == "J":
            first = 0 if argument == "2" else self.row
            self.rows[first] = "" if argument == "2" else self.rows[first][: self.column]
            self.rows[first + 1 :] = [""] * (LINES - first - 1)

    def text(self):
        return "\n".join(row.rstrip() for row in self.rows)


def members(text):
    """Role and state of each member in the table on the screen."""
    found = re.findall(r"^(pg\d)\s+\S+\s+(Leader|Replica)\s+(\S+)", text, re.MULTILINE)
    return {name: (role, state) for name, role, state in found}


def leader(text):
    return next((name for name, (role, _) in members(text).items() if role == "Leader"), None)


def healthy(text):
    states = sorted(members(text).values())
    return states == [("Leader", "running")] + [("Replica", "streaming")] * 2


def record(script):
    """A list of (seconds, output, caption): the caption is the command that was run in another terminal."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm"
        os.execvp(script, [script])
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    screen, output, begin = Screen(), [], time.monotonic()
    killed = since = None
    caption = ""
    stopping = False
    while True:
        now = time.monotonic() - begin
        if now > DEADLINE:
            os.kill(child, signal.SIGINT)
            sys.exit(f"record-demo: no failover and return within {DEADLINE} s; the screen was:\n{screen.text()}")
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if ready:
            try:
                data = os.read(terminal, 65536)
            except OSError:
                break
            if not data:
                break
            text = data.decode("ascii", errors="replace")
            screen.feed(text)
            if not stopping:
                output.append((now, text, caption))
        text = screen.text()
        done = healthy(text) and (killed is None or leader(text) != killed)
        # `ctl why` can explain the failover some seconds after it.
        done = done and (killed is None or "no writes for" in text)
        since = since or now if done else None
        if stopping or since is None:
            continue
        command = re.search(r"(kill -9 \d+ \d+)", text)
        if killed is None and command and now - since >= BEFORE:
            killed = leader(text)
            caption = f"$ {command.group(1)}    # {killed}: the primary and its agent"
            output.append((now, "", caption))
            subprocess.run(command.group(1).split(), check=True)
            since = None
        elif killed is not None and now - since >= AFTER:
            os.write(terminal, b"\x03")
            stopping = True
    _, status = os.waitpid(child, 0)
    if status != 0 or killed is None:
        sys.exit(f"record-demo: the demo ended with status {status}; the screen was:\n{screen.text()}")
    return output


def shorten(output):
    """The recording from the first screen on which the client writes; before that etcd and PostgreSQL are starting."""
    screen = Screen()
    for index, (at, text, _) in enumerate(output):
        screen.feed(text)
        if healthy(screen.text()) and "takes writes" in screen.text():
            first = screen.text().replace("\n", "\r\n")
            rest = [(later - at, text, caption) for later, text, caption in output[index + 1 :]]
            return [(0.0, "\x1b[2J\x1b[H" + first, "")] + rest
    sys.exit("record-demo: the client never wrote")


def write_cast(output, file):
    with open(file, "w", encoding="utf-8") as cast:
        header = {"version": 2, "width": COLUMNS, "height": LINES + 1, "title": "Tamada: the primary is killed"}
        cast.write(json.dumps(header) + "\n")
        for at, text, caption in output:
            # The caption stands in the line below the demo's own screen.
            line = f"\x1b7\x1b[{LINES + 1};1H\x1b[K{caption}\x1b8" if caption else ""
            cast.write(json.dumps([round(at, 3), "o", text + line]) + "\n")


STYLE = """
  svg { background: #ffffff; }
  text { font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1f2328; white-space: pre; }
  .leader { fill: #1a7f37; font-weight: bold; }
  .event { fill: #0550ae; }
  .caption { fill: #cf222e; font-weight: bold; }
  .frame { visibility: hidden; animation-name: show; animation-iteration-count: infinite; animation-timing-function: step-end; }
  @media (prefers-reduced-motion: reduce) { .frame { animation: none; } .last { visibility: visible; } }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117; }
    text { fill: #e6edf3; }
    .leader { fill: #3fb950; }
    .event { fill: #79c0ff; }
    .caption { fill: #ff7b72; }
  }"""


def frames(output):
    """Screens that differ, with the time from which each is shown."""
    screen, found = Screen(), []
    for at, text, caption in output:
        screen.feed(text)
        rows = screen.text().split("\n") + [caption]
        if not found or rows != found[-1][1]:
            # A screen that is written in several pieces is one frame.
            if found and at - found[-1][0] < 0.1:
                found[-1] = (found[-1][0], rows)
            else:
                found.append((at, rows))
    return found


def row_class(row, number):
    if number == LINES:
        return ' class="caption"'
    if re.match(r"pg\d\s+\S+\s+Leader", row):
        return ' class="leader"'
    if re.match(r"\d\d:\d\d:\d\d  |failover:|no writes for", row):
        return ' class="event"'
    return ""


def write_svg(output, file):
    shown = frames(output)
    total = shown[-1][0] + AFTER
    width, height, step = COLUMNS * 7.9 + 24, (LINES + 1) * 18 + 20, 18
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" role="img">',
        "<title>make demo: the primary is killed, a replica takes over, the former primary comes back as a replica</title>",
        f"<!-- Written by scripts/record-demo.sh. --><style>{STYLE}",
    ]
    ends = [at for at, _ in shown[1:]] + [total]
    for number, ((begin, _), end) in enumerate(zip(shown, ends)):
        a, b = 100 * begin / total, 100 * end / total
        before = "0% { visibility: hidden; } " if number else ""
        after = f"{b:.3f}% {{ visibility: hidden; }}" if number < len(shown) - 1 else ""
        lines.append(f"  @keyframes f{number} {{ {before}{a:.3f}% {{ visibility: visible; }} {after} }}")
    lines.append("</style>")
    for number, (_, rows) in enumerate(shown):
        last = " last" if number == len(shown) - 1 else ""
        lines.append(f'<g class="frame{last}" style="animation-name: f{number}; animation-duration: {total:.2f}s">')
        for index, row in enumerate(rows):
            if row.strip():
                y = 22 + index * step
                lines.append(f'<text x="12" y="{y}" xml:space="preserve"{row_class(row, index)}>{escape(row.rstrip())}</text>')
        lines.append("</g>")
    lines.append("</svg>")
    with open(file, "w", encoding="utf-8") as svg:
        svg.write("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("script")
    parser.add_argument("--cast", default="docs/demo.cast")
    parser.add_argument("--svg", default="docs/demo.svg")
    arguments = parser.parse_args()
    output = shorten(record(os.path.abspath(arguments.script)))
    write_cast(output, arguments.cast)
    write_svg(output, arguments.svg)
    print(f"{arguments.cast}, {arguments.svg}: {len(frames(output))} screens in {output[-1][0]:.0f} s")


main()
