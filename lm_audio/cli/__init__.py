"""The command line: parse, call, print. A user's mistake gets one line and exit status 2."""

import os
import sys

from lm_audio.cli.catalogue import Info, Models
from lm_audio.cli.coding import Decode, Encode
from lm_audio.cli.console import parse, show_warnings
from lm_audio.cli.deprecated import RENAMED, with_new_names
from lm_audio.cli.generate import Continue, Generate, Inpaint
from lm_audio.cli.recipes import Recipes
from lm_audio.cli.serving import App, Mcp, Serve
from lm_audio.version import __version__

VERBS = {
    "generate": Generate,
    "continue": Continue,
    "inpaint": Inpaint,
    "models": Models,
    "info": Info,
    "encode": Encode,
    "decode": Decode,
    "serve": Serve,
    "app": App,
    "mcp": Mcp,
    "recipes": Recipes,
}


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"lm-audio {__version__}")
        return
    arguments = with_new_names(arguments, RENAMED.get("".join(arguments[:1]), {}))
    try:
        verb = parse(VERBS, arguments, description="Sound from text or from sound, and its tokens.")
        show_warnings()
        verb.run()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _stop(str(error))
    except (RuntimeError, OverflowError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        _stop("There is not enough memory for this; ask for shorter or fewer clips at once.")
    except KeyboardInterrupt:
        print("lm-audio: stopped; nothing more was written.", file=sys.stderr)
        sys.exit(130)


def _stop(reason: str) -> None:
    print(f"lm-audio: {' '.join(reason.split())}", file=sys.stderr)
    sys.exit(2)
