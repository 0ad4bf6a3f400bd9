"""The parts of a Markdown page that tests read: links, headings, code blocks."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for folder in ("", "docs", "docs/dev") for p in (ROOT / folder).glob("*.md"))


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each fenced block, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)


def prose(text: str) -> str:
    """The page without its code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def links(text: str) -> list[str]:
    """Targets of links and pictures, without titles."""
    return [t.split()[0] for t in re.findall(r"\]\(([^)\n]+)\)", prose(text))]


def anchors(text: str) -> set[str]:
    """What a heading of the page may be linked by, as GitHub makes it."""
    found, seen = set(), dict[str, int]()
    for line in re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S).splitlines():
        if heading := re.match(r"#{1,6} +(.*?) *#*$", line):
            plain = re.sub(r"[^\w\- ]", "", heading[1].lower()).replace(" ", "-")
            n = seen.get(plain, 0)
            seen[plain] = n + 1
            found.add(f"{plain}-{n}" if n else plain)
    return found


def commands(block: str) -> list[str]:
    """The commands of a block: continued lines joined, comments and `&` dropped, `&&` split."""
    text = re.sub(r" *\\\n\s*", " ", block)
    lines = (re.sub(r"(^|\s)#.*$", "", line).rstrip(" &") for line in text.splitlines())
    return [part.strip() for line in lines for part in line.split("&&") if part.strip()]
