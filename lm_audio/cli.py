"""The command line."""


def main() -> None:
    raise SystemExit("lm-audio has no verbs yet.")
