"""The commands of `lm-audio`, by name."""

from collections.abc import Sequence

from lm_audio.cli.arguments import Verbs, parse
from lm_audio.cli.catalogue import Info, Models
from lm_audio.cli.coding import Decode, Encode
from lm_audio.cli.console import show_warnings
from lm_audio.cli.deprecated import RENAMED, with_new_names
from lm_audio.cli.generate import Continue, Generate, Inpaint, Vary
from lm_audio.cli.recipes import RECIPES
from lm_audio.cli.serving import App, Mcp, Serve
from lm_audio.cli.transfer import Transfer
from lm_audio.cli.upsample import Upsample
from lm_audio.version import __version__

VERBS: Verbs = {
    "generate": Generate,
    "continue": Continue,
    "inpaint": Inpaint,
    "vary": Vary,
    "encode": Encode,
    "decode": Decode,
    "transfer": Transfer,
    "upsample": Upsample,
    "models": Models,
    "info": Info,
    "serve": Serve,
    "app": App,
    "mcp": Mcp,
    "recipes": RECIPES,
}
DESCRIPTION = "Generate audio from text or existing audio."


def run(arguments: Sequence[str]) -> None:
    if list(arguments) == ["--version"]:
        print(f"lm-audio {__version__}")
        return
    arguments = with_new_names(arguments, RENAMED.get("".join(arguments[:1]), {}))
    verb = parse(VERBS, arguments, program="lm-audio", description=DESCRIPTION)
    show_warnings()
    verb.run()
