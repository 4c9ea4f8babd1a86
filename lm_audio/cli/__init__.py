"""The command line: parse, call, print. A user's mistake gets one line and exit status 2."""

import sys

# All else is imported where it runs, so that Ctrl-C gets one line even while it is imported.


def main(arguments: list[str] | None = None) -> None:
    try:
        try:
            from lm_audio.cli.verbs import run

            run(sys.argv[1:] if arguments is None else arguments)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader of the output, such as head, has ended
            import os

            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (ValueError, OSError, ModuleNotFoundError) as error:
            from lm_audio.cli.console import reason

            _stop(reason(error), 2)
        except (RuntimeError, OverflowError) as error:
            if isinstance(error.__cause__, KeyboardInterrupt):  # while a class was being made
                raise KeyboardInterrupt from None
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            _stop("Out of memory. Try a shorter duration or a smaller --batch-size.", 2)
    except KeyboardInterrupt:
        _stop("interrupted; no partial files were left behind.", 130)


def _stop(message: str, status: int) -> None:
    print(f"lm-audio: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
