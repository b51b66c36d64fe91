"""What a command line that asks for a plan means."""


def words_of_planned_run(words: list[str]) -> list[str]:
    """Let `plan=true`, or any setting of a plan, stand for one on the device at hand: a group has no choice `true`."""
    chosen = [word for word in words if word.startswith("plan=")]
    asked = any(word.startswith("plan.") for word in words)
    words = ["plan=here" if word == "plan=true" else word for word in words if word != "plan=false"]
    return words if chosen or not asked else [*words, "plan=here"]
