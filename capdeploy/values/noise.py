"""How busy the machine was with other things while it measured."""

from __future__ import annotations

from pydantic import Field

from capdeploy.values.noun import Noun

# Rows measured alone on a virtual machine of two cores: 0.0 to 0.6 %. With one more busy process
# beside them: 58 to 100 %, and a p99 of 4.3 ms instead of 0.3.
PRESSURE_PCT = 5.0
# A hypervisor takes a core away for milliseconds at a time, longer than many an inference.
STEAL_PCT = 2.0
# On the same machine 3 to 9 alone, to the kernel's own threads and for microseconds; 70 to 120
# beside another busy process, to which each gives the core for some 4 ms.
SWITCHES_PER_SECOND = 30.0
# Only where the kernel tells no pressure: above 1, some task waits for a core on average.
LOAD_PER_CORE = 1.0
# A difference of 5 % is the smallest that a gate looks for unless told otherwise.
AA_HALF_WIDTH = 0.05


class Noise(Noun):
    """What disturbed a measurement, and how much; None is what this system does not tell."""

    seconds: float = Field(ge=0, description="how long was watched")
    load1: float | None = Field(default=None, ge=0, description="mean tasks that run or wait")
    cores: int | None = Field(default=None, ge=1, description="cores allowed")
    pressure_some_pct: float | None = Field(
        default=None, ge=0, description="time in which some task of the machine waited for a core"
    )
    steal_pct: float | None = Field(
        default=None, ge=0, description="time of all cores that the hypervisor gave to others"
    )
    involuntary_switches: int | None = Field(
        default=None, ge=0, description="of this process and its ended children"
    )
    aa_half_width: float | None = Field(
        default=None, ge=0, description="share by which a network may differ from itself"
    )

    @property
    def trusted(self) -> bool:
        """True if nothing that is known disturbed the measurement."""
        return not self._doubts()

    @property
    def sentence(self) -> str:
        """Say in one sentence whether the numbers can be trusted, and why not."""
        doubts = self._doubts()
        if doubts:
            return (
                f"noise: read these numbers with care: in {self.seconds:.3g} s {_join(doubts)}; "
                "stop what else runs here and measure again"
            )
        signs = self._signs()
        if not signs:
            return (
                "noise: this system does not tell how busy it was, so measure twice before you "
                "trust these numbers"
            )
        return f"noise: nothing disturbed these numbers: in {self.seconds:.3g} s {_join(signs)}"

    def _judged(self) -> list[tuple[bool, str, str]]:
        """List what is known: whether it disturbs, what was found, and what would be quiet."""
        load = rate = None
        if self.pressure_some_pct is None and self.load1 is not None and self.cores is not None:
            load = self.load1 / self.cores
        if self.involuntary_switches is not None and self.seconds > 0:
            rate = self.involuntary_switches / self.seconds
        signs = (
            (self.pressure_some_pct, PRESSURE_PCT, "{:.1f} %",
             "some task waited for a core {} of the time"),
            (load, LOAD_PER_CORE, "{:.1f}", "{} tasks ran or waited for each core"),
            (self.steal_pct, STEAL_PCT, "{:.1f} %", "the hypervisor took {} of the cores"),
            (rate, SWITCHES_PER_SECOND, "{:.3g}", "the benchmark lost its core {} times a second"),
            (self.aa_half_width, AA_HALF_WIDTH, "{:.1%}", "a network differed from itself by {}"),
        )  # fmt: skip
        return [
            (value > limit, what.format(form.format(value)), f"quiet: {form.format(limit)}")
            for value, limit, form, what in signs
            if value is not None
        ]

    def _doubts(self) -> list[str]:
        return [f"{what} ({quiet})" for doubtful, what, quiet in self._judged() if doubtful]

    def _signs(self) -> list[str]:
        return [what for _, what, _ in self._judged()]


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
