"""The colour of each arm, the same in every chart and table of a report, by day and by night."""

from __future__ import annotations

from collections.abc import Sequence

from mt0_tpu.reporting.document import escaped
from mt0_tpu.reporting.runs import arm_title

# (on white, on near black), after Okabe and Ito: told apart by colour-blind readers.
_BLUE, _ORANGE, _PINK = ("#0069a8", "#4fb0ea"), ("#d98a00", "#f0ad3d"), ("#bb5f95", "#dd8fbb")
_OWN = {
    "untrained": ("#a3a9b1", "#7d848e"),
    "pretrain": ("#747c87", "#aeb6c1"),
    "scratch": _PINK,
    "english": _ORANGE,
    "multilingual": _BLUE,
}
_OTHERS = (
    _BLUE,
    ("#c44e00", "#f0884a"),
    ("#00835c", "#2fbf94"),
    ("#7550bf", "#ab8eec"),
    _ORANGE,
    ("#4a9fd8", "#8ecbf5"),
    _PINK,
    ("#837300", "#cdbd3c"),
)


class Palette:
    """Gives each arm a CSS class that sets --c to its colour."""

    def __init__(self, arms: Sequence[str]):
        taken = {_OWN[arm] for arm in arms if arm in _OWN}
        free = [pair for pair in _OTHERS if pair not in taken]
        strangers = [arm for arm in arms if arm not in _OWN]
        self._pairs = {arm: _OWN.get(arm) or free[strangers.index(arm) % len(free)] for arm in arms}

    def css_class(self, arm: str) -> str:
        """Returns an arm's class."""
        return f"a{list(self._pairs).index(arm)}"

    def tag(self, arm: str, title: str | None = None) -> str:
        """Returns an arm's name (or another title for it) with its colour before it."""
        shown = escaped(arm_title(arm) if title is None else title)
        return f'<span class="arm {self.css_class(arm)}">{shown}</span>'

    def style(self) -> str:
        """Returns the CSS of all arms, for light and dark."""
        light, dark = (
            "".join(f".{self.css_class(arm)}{{--c:{pair[i]}}}" for arm, pair in self._pairs.items())
            for i in (0, 1)
        )
        return f"{light}\n@media (prefers-color-scheme:dark) {{ {dark} }}\n"
