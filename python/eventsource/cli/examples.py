"""Lines that somebody would type, for the end of each verb's help."""

from __future__ import annotations

_TENANT = "7c9e6679-7425-40de-944b-e07fc1f90ae7"

#: Of each verb, without the name of the program. A test parses every one of them.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "init": ("init --check", "init"),
    "tenants": ("tenants shared --limit 5",),
    "plan": (f"plan {_TENANT} --to dedicated-a",),
    "layouts": ("layouts marten", "layouts shop --whole shared"),
    "run": (
        f"run {_TENANT} --to dedicated-a --rehearse",
        f"run {_TENANT} --to dedicated-a --yes --keep-way-back 7d",
    ),
    "move": (f"move {_TENANT} --to dedicated-a --until 05:00",),
    "start": (f"start {_TENANT} --to dedicated-a",),
    "work": ("work --metrics 127.0.0.1:9187",),
    "status": ("status", "status 0ebf7686 --watch"),
    "list": (f"list --tenant {_TENANT}",),
    "lag": ("lag 0ebf7686",),
    "routers": ("routers 0ebf7686", "routers 0ebf7686 --leave-out host-a:4711"),
    "verify": (f"verify {_TENANT} --level full --state verified.state",),
    "cutover": ("cutover 0ebf7686 --rehearse", "cutover 0ebf7686 --max-pause 0.5"),
    "pause": ("pause 0ebf7686",),
    "resume": (f"resume --tenant {_TENANT}",),
    "throttle": ("throttle 0ebf7686 5000", f"throttle --tenant {_TENANT} none"),
    "abort": ("abort 0ebf7686 --reason 'postponed to Monday'",),
    "repair": ("repair", "repair --put-back --export stranded.txt"),
    "rebind": ("rebind 0ebf7686 --store dedicated-a",),
    "audit": ("audit 0ebf7686",),
    "report": ("report 0ebf7686 --html move.html", "report --check move.html"),
    "return": ("return 0ebf7686 --keep-way-back 7d",),
    "way-back status": ("way-back status", "way-back status 0ebf7686"),
    "way-back close": ("way-back close 0ebf7686",),
    "cleanup": ("cleanup 0ebf7686 --dry-run", "cleanup --all --older-than 30d --backed-up"),
    "subscriptions plan": ("subscriptions plan 0ebf7686",),
    "subscriptions migrate": (
        "subscriptions migrate 0ebf7686",
        f"subscriptions migrate --tenant {_TENANT} Billing --from-start",
    ),
    "fleet plan": (
        "fleet plan night --largest 20 --to dedicated-a",
        "fleet plan night --file big.txt --window '22:00-05:00 Europe/Berlin'",
    ),
    "fleet start": ("fleet start night",),
    "fleet work": ("fleet work --at-once 4 --until-done",),
    "fleet status": ("fleet status night --watch",),
    "fleet stop": ("fleet stop night --reason 'the night is over'",),
    "fleet resume": ("fleet resume night",),
    "fleet retry": ("fleet retry night",),
    "fleet report": ("fleet report night",),
    "fleet page": ("fleet page --port 8080",),
    "demo": ("demo --events 2000 --seconds 0.5",),
}

_ALSO = (
    "The options of `eventsource-migrate --help` may be given too: --json, --config, --set,"
    " --operator, --log-format, -v, -q."
)


def epilog_of(verb: str) -> str:
    """What the help of a verb, or of a group of them, ends with."""
    # The sign keeps the lines as they are.
    lines = "".join(f"\n  eventsource-migrate {line}" for line in EXAMPLES.get(verb, ()))
    return f"\b\nExamples:{lines}\n\n{_ALSO}" if lines else _ALSO
